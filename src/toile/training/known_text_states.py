"""States of texts of a text encoder that does not learn: each computed once, those known beforehand kept on disk.

Shapes: B batch, N texts, L tokens, D width.

A run that is resumed must see the same states, to the last bit, as one that was never stopped, whether the file is
there or not, and whatever was asked for before. Two rules make them so. Texts known beforehand are computed in batches
that are a function of the set of them. Others are computed one by one, because how kernels add depends on the size of a
batch. The two differ by rounding, as do batches of two sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toile.models.clip import CLIPTextModel
from toile.training.placing import device_of
from toile.weights.cache import cached, tensors_digest

_TEXTS_KEPT = 4096  # states of Stable Diffusion's texts take half a gigabyte
_MOST_BYTES = 2 * 2**30
_TOGETHER = 64


class KnownTextStates:
    """What a text encoder makes of texts, in the precision of its weights whatever autocast says.

    Args:
        text_encoder: its weights must not change.
    """

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        self._encoder = text_encoder
        self._seen: dict[bytes, Tensor] = {}
        self._rows: dict[bytes, int] = {}
        self._prepared = torch.empty(0)

    def __call__(self, token_ids: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, D) on the CPU; those not prepared are computed, and kept for the next time."""
        token_ids = token_ids.cpu()
        return torch.stack([self._state(text, row) for text, row in zip(_texts(token_ids), token_ids, strict=True)])

    def prepare(self, token_ids: Tensor, more: Tensor) -> str:
        """Reads the states of texts from the cache; if they are not there, computes and stores them.

        The name in the cache is a hash of the weights, their precision and the texts as the tokenizer reads them, so it
        cannot be stale.

        Args:
            token_ids: (N, L) int64.
            more: (M, L) int64; left out where they would take more than two gigabytes.

        Returns:
            what people should know: that a file was damaged; mostly "".
        """
        wanted = torch.unique(torch.cat([token_ids, more]), dim=0)  # sorted, so that the order does not matter
        weight = next(self._encoder.parameters())
        if wanted.numel() * self._encoder.config.hidden_size * weight.element_size() > _MOST_BYTES:
            wanted = torch.unique(token_ids, dim=0)

        def make() -> dict[str, Tensor]:
            return {"states": torch.cat([self._encode(rows) for rows in wanted.split(_TOGETHER)])}

        found = cached("text states", self._identity(wanted), make)
        self._rows = {text: row for row, text in enumerate(_texts(wanted))}
        self._prepared = found.tensors["states"]
        return found.note

    def _state(self, text: bytes, row: Tensor) -> Tensor:
        """(L, D), on the CPU."""
        if text in self._rows:
            return self._prepared[self._rows[text]]
        if text not in self._seen:
            if len(self._seen) >= _TEXTS_KEPT:
                self._seen.clear()
            self._seen[text] = self._encode(row[None])[0]
        return self._seen[text]

    @torch.no_grad()
    def _encode(self, token_ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, D), on the CPU."""
        device = device_of(self._encoder)
        with torch.autocast(device.type, enabled=False):
            return self._encoder(token_ids.to(device)).cpu()

    def _identity(self, token_ids: Tensor) -> str:
        weights = {name: value for name, value in self._encoder.state_dict().items() if isinstance(value, Tensor)}
        learned = self._encoder.text_model.embeddings.learned
        if learned is not None:
            weights["learned"] = learned
        where = device_of(self._encoder).type  # whose kernels round as they do
        return tensors_digest(f"{self._encoder.config}:{where}", {**weights, "token_ids": token_ids})


def _texts(token_ids: Tensor) -> list[bytes]:
    return [row.numpy().tobytes() for row in token_ids]
