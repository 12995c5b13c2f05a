"""Tensors that can be computed anew, kept on disk so that they seldom need to be."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from toile.device import drop_pages
from toile.user_folders import cache_folder
from toile.weights.files import WeightsError, is_finite, load_tensors, read_metadata, save_tensors


@dataclass(frozen=True, eq=False)
class Cached:
    """tensors: by name, mapped from the file where there is one; note: what people should know, mostly ""."""

    tensors: Mapping[str, Tensor]
    note: str = ""


def cached(kind: str, identity: str, make: Callable[[], Mapping[str, Tensor]]) -> Cached:
    """Tensors from the cache; if they are not there, or damaged, they are made and stored.

    What cannot be stored (the disk is full or may not be written to) is used all the same, and so is what holds NaN or
    infinity, which is not stored.

    Args:
        kind: what they are, in lower case, as in "caption words"; the file's name begins with it.
        identity: of all that they hang on, a hash; what is stored under it cannot be stale.
        make: computes them, on the CPU.
    """
    path = cache_folder() / f"{kind.replace(' ', '-')}-{identity}.safetensors"
    note = ""
    if os.path.exists(path):  # which is false, and no error, in a folder that may not be looked into
        try:
            tensors = load_tensors(path)
            if read_metadata(path).get("digest") != tensors_digest(identity, tensors):
                raise WeightsError(f"{path} is not what was written")
            for tensor in tensors.values():
                drop_pages(tensor)
            return Cached(tensors)
        except WeightsError as error:
            note = f"In the cache, {kind} were damaged and are computed anew: {error}."
    made = make()
    if not all(map(is_finite, made.values())):
        return Cached(made, note)
    try:
        save_tensors(path, made, {"digest": tensors_digest(identity, made)})
        return Cached(load_tensors(path), note)  # whose memory the system may take back
    except WeightsError as error:
        return Cached(made, f"{note} The cache does not keep {kind}: {error}.".strip())


def tensors_digest(start: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text and of tensors with their names, dtypes and shapes, whatever their order."""
    digest = hashlib.sha256(start.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f":{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
