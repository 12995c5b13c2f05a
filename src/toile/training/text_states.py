"""States of texts of a text encoder that does not learn: each computed once, those known beforehand kept on disk.

Shapes: B batch, N texts, L tokens, D width.

A run that is resumed must see the same states, to the last bit, as one that was never stopped, whether the file is
there or not, and whatever was asked for before. Two rules make them so. Texts known beforehand are computed in batches
that are a function of the set of them. Others are computed one by one, because how kernels add depends on the size of a
batch. The two differ by rounding, as do batches of two sizes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from toile.models.clip import CLIPTextModel
from toile.user_folders import cache_folder
from toile.weights.files import WeightsError, is_finite, load_tensors, read_metadata, save_tensors

_TEXTS_KEPT = 4096  # states of Stable Diffusion's texts take half a gigabyte
_MOST_BYTES = 2 * 2**30
_TOGETHER = 64


class TextStates:
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
        """(B, L) int64 -> (B, L, D); those not prepared are computed, and kept for the next time."""
        found = [self._state(text, row) for text, row in zip(_texts(token_ids), token_ids, strict=True)]
        return torch.stack(found)

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
        path = cache_folder() / f"text-states-{self._content_hash(wanted)}.safetensors"
        note = ""
        if path.exists():
            try:
                self._hold(wanted, _load(path, wanted))
                return note
            except WeightsError as error:
                note = f"States of texts in the cache were damaged and are computed anew: {error}."
        states = torch.cat([self._encode(rows) for rows in wanted.split(_TOGETHER)])
        if is_finite(states):
            tensors = {"token_ids": wanted, "states": states}
            save_tensors(path, tensors, {"digest": _digest(tensors["token_ids"], tensors["states"])})
            states = load_tensors(path)["states"]  # whose memory the system may take back
        self._hold(wanted, states)
        return note

    def _hold(self, token_ids: Tensor, states: Tensor) -> None:
        self._rows = {text: row for row, text in enumerate(_texts(token_ids))}
        self._prepared = states

    def _state(self, text: bytes, row: Tensor) -> Tensor:
        """(L, D)."""
        if text in self._rows:
            return self._prepared[self._rows[text]].to(row.device)
        if text not in self._seen:
            if len(self._seen) >= _TEXTS_KEPT:
                self._seen.clear()
            self._seen[text] = self._encode(row[None])[0]
        return self._seen[text]

    @torch.no_grad()
    def _encode(self, token_ids: Tensor) -> Tensor:
        with torch.autocast(token_ids.device.type, enabled=False):
            return self._encoder(token_ids)

    def _content_hash(self, token_ids: Tensor) -> str:
        weights = {name: value for name, value in self._encoder.state_dict().items() if isinstance(value, Tensor)}
        learned = self._encoder.text_model.embeddings.learned
        if learned is not None:
            weights["learned"] = learned
        digest = hashlib.sha256(f"{self._encoder.config}:{_digest(token_ids)}".encode())
        for name, weight in sorted(weights.items()):
            digest.update(f"{name}:{weight.dtype}:{tuple(weight.shape)}:".encode())
            digest.update(_bytes_of(weight))
        return digest.hexdigest()[:32]


def _load(path: Path, token_ids: Tensor) -> Tensor:
    """The states of these texts, mapped from a file.

    Raises:
        WeightsError: it does not hold what was written into it.
    """
    found = load_tensors(path)
    if set(found) != {"token_ids", "states"} or not torch.equal(found["token_ids"], token_ids):
        raise WeightsError(f"{path} holds states of other texts")
    if read_metadata(path).get("digest") != _digest(found["token_ids"], found["states"]):
        raise WeightsError(f"{path} is not what was written")
    return found["states"]


def _texts(token_ids: Tensor) -> list[bytes]:
    return [row.numpy().tobytes() for row in token_ids.cpu()]


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
