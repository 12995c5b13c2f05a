"""How well captions match their pictures, in the opinion of a CLIP that was given for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from toile.data.images import open_image, pad_to, pixels_of
from toile.data.records import Source
from toile.model_files.clip_pair import ClipPair

_BATCH_SIZE = 64


@torch.no_grad()
def similarities(
    pair: ClipPair, source: Source, indices: Sequence[int], captions: Sequence[str]
) -> Iterator[float | np.ndarray]:
    """The cosine of each picture's and its caption's place in the shared space; yields the share done, then all.

    Args:
        indices: positions in the source of N pictures that can be read; each is padded to the tower's size with white.
        captions: N, one for each.

    Yields:
        shares, and at last (N,) float32 from -1 to 1.
    """
    height, width = pair.height_width
    found: list[Tensor] = []
    for first in range(0, len(indices), _BATCH_SIZE):
        yield first / len(indices)
        some = slice(first, first + _BATCH_SIZE)
        pictures = [open_image(source.read_picture(index)) for index in indices[some]]
        pixels = np.stack([pixels_of(pad_to(picture, width, height, enlarge=True)) for picture in pictures])
        images, words = pair.encode_pixels(torch.from_numpy(pixels)), pair.encode_captions(captions[some])
        found.append((images * words).sum(dim=1).float())
    yield torch.cat(found).numpy() if found else np.empty(0, dtype=np.float32)
