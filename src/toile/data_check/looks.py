"""One look at every picture: its size, its content hash, and thumbnails by which near-duplicates are told.

Shapes: N pictures, S x S the thumbnail.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from toile.data.images import open_image, pixels_of
from toile.data.records import Source
from toile.errors import ToileError

THUMB_SIDE = 16
_HASHED_SIDE = 32
_HASHED_WAVES = 8
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # luma of ITU-R BT.601
_PICTURES_BETWEEN_REPORTS = 64
# Pillow names the file it was given, which here is a place in memory that means nothing to anyone.
_NOT_OF_THE_PICTURE = re.compile(r" <_io\.BytesIO object at 0x[0-9A-Fa-f]+>")


@dataclass(frozen=True, eq=False)
class Looks:
    """What is known of the pictures that can be read.

    Attributes:
        indices: (N,) int64, ascending positions in the source.
        sizes: (N, 2) int64, width and height in pixels.
        contents: sha256 of each picture's bytes.
        hashes: (N,) uint64, see `perceptual_hash`.
        thumbs: (N, S, S, 3) uint8 with S = 16, squeezed to a square.
        unreadable: position in the source -> why it cannot be read.
    """

    indices: np.ndarray
    sizes: np.ndarray
    contents: tuple[str, ...]
    hashes: np.ndarray
    thumbs: np.ndarray
    unreadable: dict[int, str]


def look_at(source: Source, indices: Sequence[int]) -> Iterator[float | Looks]:
    """Reads every picture once; yields the share that is done, and at last what was seen.

    Args:
        source: where the pictures are.
        indices: ascending positions in it.
    """
    kept: list[int] = []
    contents: list[str] = []
    unreadable: dict[int, str] = {}
    sizes = np.empty((len(indices), 2), dtype=np.int64)
    hashes = np.empty(len(indices), dtype=np.uint64)
    thumbs = np.empty((len(indices), THUMB_SIDE, THUMB_SIDE, 3), dtype=np.uint8)
    for number, index in enumerate(indices):
        if number % _PICTURES_BETWEEN_REPORTS == 0:
            yield number / len(indices)
        try:
            data = source.read_picture(index)
            image = open_image(data)
        except ToileError as error:
            unreadable[index] = _NOT_OF_THE_PICTURE.sub("", str(error))
            continue
        place = len(kept)
        square = small_square(image)
        sizes[place], hashes[place], thumbs[place] = image.size, perceptual_hash(square), thumb_of(square)
        kept.append(index)
        contents.append(hashlib.sha256(data).hexdigest())
    number = len(kept)
    yield 1.0
    yield Looks(
        np.array(kept, dtype=np.int64), sizes[:number], tuple(contents), hashes[:number], thumbs[:number], unreadable
    )


def small_square(image: Image.Image) -> np.ndarray:
    """The picture squeezed to (32, 32, 3) uint8, so that one and the same picture in two sizes looks alike."""
    size = (_HASHED_SIDE, _HASHED_SIDE)
    return pixels_of(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def thumb_of(square: np.ndarray) -> np.ndarray:
    """(32, 32, 3) uint8 -> (16, 16, 3) uint8, means of two by two."""
    means = square.reshape(THUMB_SIDE, 2, THUMB_SIDE, 2, 3).mean(axis=(1, 3))
    return np.rint(means).astype(np.uint8)


def perceptual_hash(square: np.ndarray) -> int:
    """64 bits of a picture's low frequencies (Zauner 2010, sec. 3.2.1): which of 8x8 are above their median.

    Args:
        square: (32, 32, 3) uint8.
    """
    waves = np.rint(_COSINES @ (square @ _GREY) @ _COSINES.T).ravel()
    # The first is the brightness, far above all others; a flat picture has nothing else, and gets no bits of noise.
    above = waves > np.median(waves[1:])
    return int.from_bytes(np.packbits(above).tobytes(), "big")


def _cosines() -> np.ndarray:
    """The first 8 rows of the orthonormal discrete cosine transform (type II) of 32 values."""
    places, waves = np.arange(_HASHED_SIDE) + 0.5, np.arange(_HASHED_WAVES)[:, None]
    rows = np.cos(np.pi / _HASHED_SIDE * places * waves) * np.sqrt(2 / _HASHED_SIDE)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


_COSINES = _cosines()
