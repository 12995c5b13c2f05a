"""Finding, opening and loading sources of pictures: one door for product tables, image folders and idx files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toile.data.folder import ImageFolder, has_words
from toile.data.idx import IdxFiles, has_idx_files
from toile.data.images import ImageError, open_image, pad_to, pixels_of
from toile.data.products import ProductTable, find_table
from toile.data.records import DropCounter, DropReport, Record, Source
from toile.data.roots import is_picture_name, open_root
from toile.errors import ToileError

__all__ = ["DropReport", "LoadedPictures", "Record", "Source", "find_data", "load_pictures", "open_source"]

DATA_VARIABLE = "TOILE_DATA"
MAX_BAD_FRACTION = 0.01


@dataclass(frozen=True)
class KnownData:
    """A published data set: the names it may have inside the data folder, and how to get it."""

    names: tuple[str, ...]
    how_to_get: str


KNOWN_DATA = {
    "products": KnownData(
        ("fashion-product-images-small.zip", "fashion-product-images-small", "styles.csv", "archive.zip"),
        "download `paramagarwal/fashion-product-images-small` from Kaggle as fashion-product-images-small.zip",
    ),
    "fashion-mnist": KnownData(
        ("fashion-mnist",),
        "download the four idx.gz files of Zalando's Fashion-MNIST into a folder named fashion-mnist",
    ),
}


def find_data(name: str, explicit: Path | None = None) -> Path:
    """Where a known data set is: the explicit path, else inside the folder that TOILE_DATA names.

    name: "products" or "fashion-mnist".
    Raises ToileError that says what is missing and how to get it; nothing else is searched.
    """
    if explicit is not None:
        if not explicit.exists():
            raise ToileError(f"data path {explicit} does not exist; give an existing zip or folder")
        return explicit
    if name not in KNOWN_DATA:
        raise ToileError(f"unknown data {name!r}; known are {', '.join(KNOWN_DATA)}, or give a path")
    known = KNOWN_DATA[name]
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        raise ToileError(
            f"no data: the environment variable {DATA_VARIABLE} is not set and no path was given; "
            f"{known.how_to_get}, then set {DATA_VARIABLE} to the folder it is in"
        )
    for candidate in known.names:
        path = Path(folder, candidate)
        if path.exists():
            return path.parent if candidate == "styles.csv" else path
    raise ToileError(f"no {name} data in {folder} (looked for {', '.join(known.names)}); {known.how_to_get} into it")


def open_source(path: Path, caption: str | None = None) -> Source:
    """Opens whatever is at the path: a product table, Fashion-MNIST idx files, or an image folder (or zip of one).

    caption: of the pictures in an image folder that have no words of their own; without one they are left out.
    Raises ToileError that says what was looked for when it is none of them.
    """
    if not path.exists():
        raise ToileError(f"data path {path} does not exist; give an existing zip or folder")
    if path.is_dir() and has_idx_files(path):
        return IdxFiles(path)
    root = open_root(path)
    if find_table(root) is not None:
        return ProductTable(path)
    if has_words(root) or (caption is not None and any(map(is_picture_name, root.members))):
        return ImageFolder(path, caption)
    raise ToileError(
        f"{path} is no known kind of data; looked for styles.csv, idx files (*-images-idx3-ubyte[.gz]), "
        "metadata.jsonl, metadata.csv, and pictures with a .txt file of the same name; pictures alone need a caption"
    )


@dataclass(frozen=True)
class LoadedPictures:
    """Pictures in memory.

    pixels: uint8 (N, H, W, 3). kept: int64 (N,), the source index of each. hashes: sha256 of each picture's bytes.
    """

    pixels: np.ndarray
    kept: np.ndarray
    hashes: tuple[str, ...]
    report: DropReport


def load_pictures(
    source: Source, width: int, height: int, indices: Sequence[int] | np.ndarray | None = None
) -> LoadedPictures:
    """Reads pictures of a source, each padded with white (never stretched) to width x height pixels.

    indices: which records, default all. Unreadable pictures are skipped and counted.
    Raises ToileError as soon as more than one in a hundred is unreadable.
    """
    wanted = range(len(source.records)) if indices is None else [int(index) for index in indices]
    pixels = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
    kept: list[int] = []
    hashes: list[str] = []
    drops = DropCounter()
    for index in wanted:
        try:
            data = source.read_picture(index)
            pixels[len(kept)] = pixels_of(pad_to(open_image(data), width, height))
        except ToileError as error:
            reason = "unreadable pictures" if isinstance(error, ImageError) else "unreadable files"
            drops.drop(reason, source.records[index].key)
            _stop_if_too_bad(drops.report(len(kept)), len(wanted), error)
            continue
        kept.append(index)
        hashes.append(hashlib.sha256(data).hexdigest())
    return LoadedPictures(pixels[: len(kept)], np.array(kept, dtype=np.int64), tuple(hashes), drops.report(len(kept)))


def _stop_if_too_bad(report: DropReport, wanted: int, last: ToileError) -> None:
    if report.dropped > MAX_BAD_FRACTION * wanted:
        raise ToileError(
            f"stopped: {report.dropped:,} of {wanted:,} pictures cannot be read (over {MAX_BAD_FRACTION:.0%}); "
            f"after {report.total_read:,}: {report.summary()} Last: {last}"
        )
