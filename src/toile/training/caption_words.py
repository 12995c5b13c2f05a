"""Captions for models that read the words of a text as a whole, each encoded once and kept on disk.

Each picture has a few captions, written with fixed draws; which of them an example shows depends on its number alone.
So all there will ever be are known beforehand, and runs with other seeds, and other baselines, use the same.
Shapes: N captions, D width of the words, P pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from toile.data.captions import CaptionWriter
from toile.models.clip import CLIPTextModel
from toile.one_shot import encode_words
from toile.text.tokenizer import Tokenizer
from toile.training.denoising_objective import with_trigger
from toile.training.draws import seed_of
from toile.training.pictures import PictureSet
from toile.weights.cache import cached, tensors_digest

_CAPTIONS_EACH = 4
_CAPTION_SEED = 0


class CaptionWords:
    """Words of the captions of a set of pictures, from an encoder that does not learn.

    Args:
        text_encoder, tokenizer: make the words.
        pictures: have the captions.
        seed: of the run; decides which caption an example shows.
    """

    def __init__(self, text_encoder: CLIPTextModel, tokenizer: Tokenizer, pictures: PictureSet, seed: int) -> None:
        self.text_encoder, self.tokenizer, self.seed = text_encoder, tokenizer, seed
        writer, records, trigger = CaptionWriter(), pictures.records, pictures.trigger
        rows: dict[str, int] = {}
        self._written = np.full((len(records), _CAPTIONS_EACH), -1, dtype=np.int64)  # row of each caption, (P, 4)
        for position in np.unique(pictures.train):
            for draw in range(_CAPTIONS_EACH):
                caption = writer.write(records[position], _CAPTION_SEED, draw, int(position))
                self._written[position, draw] = rows.setdefault(with_trigger(trigger, caption), len(rows))
        self._full = np.full(len(records), -1, dtype=np.int64)
        for position in pictures.validation:
            caption = with_trigger(trigger, writer.full(records[position]))
            self._full[position] = rows.setdefault(caption, len(rows))
        self._words = self._of_captions(list(rows), pictures)

    @property
    def words_dim(self) -> int:
        """D."""
        return self._words.shape[1]

    def written(self, positions: np.ndarray, examples: Sequence[int]) -> Tensor:
        """(B, D): of the captions that these examples show of the training pictures at these positions."""
        draws = [seed_of(self.seed, "caption", example) % _CAPTIONS_EACH for example in examples]
        return self._rows(self._written[positions, draws])

    def full(self, positions: np.ndarray) -> Tensor:
        """(B, D): of the full captions of the validation pictures at these positions."""
        return self._rows(self._full[positions])

    def _rows(self, rows: np.ndarray) -> Tensor:
        assert (rows >= 0).all(), "pictures of the other side have no such captions here"
        return self._words[torch.from_numpy(rows)]

    def _of_captions(self, captions: list[str], pictures: PictureSet) -> Tensor:
        """(N, D) float32, from the cache if they are there."""
        token_ids = self.tokenizer.batch(captions)[0]
        identity = tensors_digest(
            f"{self.text_encoder.config}", {**self.text_encoder.state_dict(), "token_ids": token_ids}
        )
        found = cached(
            "caption words",
            identity,
            lambda: {"words": encode_words(self.text_encoder, self.tokenizer, captions).float()},
        )
        pictures.tell(found.note)
        return found.tensors["words"]
