"""Fashion-MNIST in its published idx files: 28x28 grey pictures whose class names are the captions."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from toile.data.records import DropCounter, Record
from toile.errors import ToileError

CLASS_NAMES = (
    "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
SPLITS = {"train": "train", "t10k": "test"}
MAX_BYTES = 1 << 30
_UNSIGNED_BYTES = 0x08


class IdxFiles:
    """The pictures of a folder of idx files, plain or gzipped; implements Source.

    path: a folder with train-images-idx3-ubyte[.gz] and train-labels-idx1-ubyte[.gz], the same for t10k, or one pair.
    Each record's field `split` says train or test as published. Raises ToileError when a header and its file disagree.
    """

    def __init__(self, path: Path) -> None:
        drops = DropCounter()
        records: list[Record] = []
        kept: list[np.ndarray] = []
        digest = hashlib.sha256()
        for prefix, split in SPLITS.items():
            if _find(path, f"{prefix}-images-idx3-ubyte") is None:
                continue
            pictures = read_idx(_needed(path, f"{prefix}-images-idx3-ubyte"), dimensions=3)
            labels = read_idx(_needed(path, f"{prefix}-labels-idx1-ubyte"), dimensions=1)
            if len(pictures) != len(labels):
                raise ToileError(f"{path} has {len(pictures)} {prefix} pictures but {len(labels)} labels")
            digest.update(f"{split} {pictures.shape}".encode() + pictures.tobytes() + labels.tobytes())
            for number, label in enumerate(labels.tolist()):
                if label >= len(CLASS_NAMES):
                    drops.drop("unknown labels", f"{split}/{number}: {label}")
                    continue
                name = CLASS_NAMES[label]
                records.append(Record(f"{split}/{number}", {"articleType": name, "split": split}, (name,)))
            kept += list(pictures[labels < len(CLASS_NAMES)])
        if not records:
            raise ToileError(f"{path} holds no idx pictures; looked for train-images-idx3-ubyte[.gz] and t10k-...")
        self._pictures = kept
        self.records: tuple[Record, ...] = tuple(records)
        self.report = drops.report(len(records))
        self.identity = digest.hexdigest()

    def read_picture(self, index: int) -> bytes:
        """One picture as PNG."""
        buffer = io.BytesIO()
        Image.fromarray(self._pictures[index]).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def title(self, index: int) -> str:
        """Always empty: these pictures have no titles."""
        return ""


def has_idx_files(path: Path) -> bool:
    """Whether a folder holds idx pictures under their published names."""
    return any(_find(path, f"{prefix}-images-idx3-ubyte") is not None for prefix in SPLITS)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads an idx file of unsigned bytes with this number of dimensions.

    The header (two zero bytes, type, number of dimensions, big-endian sizes) is checked before the values are read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if header[:4] != bytes((0, 0, _UNSIGNED_BYTES, dimensions)) or len(header) < 4 + 4 * dimensions:
                raise ToileError(f"{path} is not an idx file of bytes with {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = int(np.prod(shape, dtype=object))
            if size > MAX_BYTES:
                raise ToileError(f"{path} claims {size:,} bytes of pictures; at most {MAX_BYTES:,} are read")
            values = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ToileError(f"{path} cannot be read ({error})") from error
    if len(values) != size:
        given = "more" if len(values) > size else f"only {len(values):,}"
        raise ToileError(f"{path} says it holds {size:,} values but holds {given}; download it again")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _find(path: Path, name: str) -> Path | None:
    return next((path / full for full in (name, f"{name}.gz") if (path / full).is_file()), None)


def _needed(path: Path, name: str) -> Path:
    found = _find(path, name)
    if found is None:
        raise ToileError(f"{path} has no {name}[.gz]; pictures and labels are both needed")
    return found
