"""Files of learned words (textual inversion, Gal et al. 2022): vectors for the text encoder, in place of a token's.

- diffusers: each tensor is named by its word, `<monet>`; the file is safetensors or torch.save.
- A1111: one tensor, `emb_params` or `string_to_param.*`; the word is the file's name.

Shapes: n vectors of a word, D width of the text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from toile.weights.checkpoint import WORDS, open_checkpoint
from toile.weights.files import WeightsError, file_sha256, save_tensors

_OF_A1111 = ("emb_params", f"{WORDS}.*")
_OF_OTHERS = {"clip_g": "Stable Diffusion XL", "t5xxl": "Stable Diffusion 3", "clip_l": "several text encoders"}
MAX_WORDS = 64


@dataclass(frozen=True, eq=False)
class Embedding:
    """A file of learned words.

    Attributes:
        name: of the file, without suffix.
        path: where it was read, absolute.
        hash: SHA-256 of its content.
        words: what each is read as: (n, D) float32.
    """

    name: str
    path: str
    hash: str
    words: Mapping[str, Tensor]


def read_embedding(path: Path) -> Embedding:
    """Reads learned words in either dialect.

    Raises:
        WeightsError: it is damaged, unsafe, holds no vectors of one width, or those of a family that is not read.
    """
    path = Path(path)
    checkpoint = open_checkpoint(path)
    for name, family in _OF_OTHERS.items():
        if name in checkpoint.shapes:
            raise WeightsError(f"{path} holds words for {family}; Stable Diffusion 1.x and 2.x are read")
    shapes = checkpoint.shapes
    if (
        not shapes
        or len(shapes) > MAX_WORDS
        or any(len(shape) not in (1, 2) or 0 in shape for shape in shapes.values())
    ):
        raise WeightsError(f"{path} holds no learned words: these are one tensor of vectors a word, and nothing else")
    if len({shape[-1] for shape in shapes.values()}) > 1:
        raise WeightsError(f"{path} holds vectors of several widths")
    tensors = checkpoint.load(shapes)  # refuses what is not finite
    words = {
        path.stem if name in _OF_A1111 else name: torch.atleast_2d(tensor).float().clone()
        for name, tensor in tensors.items()
    }
    return Embedding(path.stem, str(path.resolve()), file_sha256(path), words)


def write_embedding(path: Path, word: str, vectors: Tensor, header: Mapping[str, str]) -> None:
    """Writes a learned word as diffusers does; A1111 takes such a file too, under the file's name.

    Args:
        path: replaced if it exists.
        word: what stands for it in prompts.
        vectors: (n, D).
        header: texts beside it.
    """
    save_tensors(path, {word: vectors.detach().float().cpu().contiguous()}, header)
