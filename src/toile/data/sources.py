"""Opening and loading sources of pictures: one door for product tables, image folders, tar shards and idx files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL.Image import Image, Resampling

from toile.data.folder import ImageFolder, has_words
from toile.data.idx import IdxFiles, has_idx_files
from toile.data.images import ImageError, cover, open_alpha, open_image, pad_to, pixels_of
from toile.data.places import find_data
from toile.data.products import ProductTable, find_table
from toile.data.records import DropCounter, DropReport, Record, Source
from toile.data.roots import Root, is_picture_name, open_root
from toile.data.shards import TarShards
from toile.data.tar_root import is_shard_name
from toile.errors import ToileError

__all__ = [
    "DropReport", "LoadedBuckets", "LoadedPictures", "Record", "Source", "bucket_sizes", "find_data", "load_buckets",
    "load_pictures", "nearest_size", "open_masks", "open_source",
]  # fmt: skip

MAX_BAD_FRACTION = 0.01
MOST_ENLARGED = 2.0
ALPHA = "alpha"

MaskReader = Callable[[str, bytes, Image], Image]
"""The mask of a picture, of its size: from its record's key, its encoded bytes, and the picture they hold."""


def open_source(path: Path, caption: str | None = None) -> Source:
    """Opens whatever is at the path: a product table, Fashion-MNIST idx files, an image folder (or zip of one), or tar
    shards.

    caption: of pictures that have no words of their own; without one they are left out.
    Raises ToileError that says what was looked for when it is none of them.
    """
    if not path.exists():
        raise ToileError(f"data path {path} does not exist; give an existing zip or folder")
    if path.is_file() and is_shard_name(path.name):
        return TarShards(path, caption)
    if path.is_dir() and has_idx_files(path):
        return IdxFiles(path)
    root = open_root(path)
    if find_table(root) is not None:
        return ProductTable(path)
    # Beside shards there may be metadata of their making, which names no picture.
    if path.is_dir() and any(map(is_shard_name, root.members)) and not any(map(is_picture_name, root.members)):
        return TarShards(path, caption)
    if has_words(root) or (caption is not None and any(map(is_picture_name, root.members))):
        return ImageFolder(path, caption)
    raise ToileError(
        f"{path} is no known kind of data; looked for styles.csv, idx files (*-images-idx3-ubyte[.gz]), "
        "metadata.jsonl, metadata.csv, pictures with a .txt file of the same name, and .tar shards; "
        f"pictures alone need a caption{_hint(root)}"
    )


def _hint(root: Root) -> str:
    """What else there is that a person may have meant."""
    zips = sorted(name for name in root.members if name.lower().endswith(".zip"))
    if zips:
        return f"; it holds {', '.join(zips[:3])}: give one of these"
    if any(name.lower().endswith(".parquet") for name in root.members):
        return "; parquet files are not read"
    return ""


@dataclass(frozen=True)
class LoadedPictures:
    """Pictures in memory.

    pixels: uint8 (N, H, W, 3). kept: int64 (N,), the source index of each. hashes: sha256 of each picture's bytes.
    masks: uint8 (N, H, W), 255 = counts; None without masks.
    """

    pixels: np.ndarray
    kept: np.ndarray
    hashes: tuple[str, ...]
    report: DropReport
    masks: np.ndarray | None = None


@dataclass(frozen=True)
class LoadedBuckets:
    """Pictures of several sizes in memory.

    sizes: (width, height) of those that pictures went to. pixels: for each size uint8 (n, H, W, 3).
    places: int64 (N, 2), for each picture the number of its size and its row there; rows follow the order of pictures.
    kept, hashes, report: as of LoadedPictures. masks: for each size uint8 (n, H, W); None without masks.
    padded: how many pictures were too small to cover their size.
    """

    sizes: tuple[tuple[int, int], ...]
    pixels: tuple[np.ndarray, ...]
    places: np.ndarray
    kept: np.ndarray
    hashes: tuple[str, ...]
    report: DropReport
    masks: tuple[np.ndarray, ...] | None
    padded: int


def load_pictures(
    source: Source,
    width: int,
    height: int,
    indices: Sequence[int] | np.ndarray | None = None,
    mask_of: MaskReader | None = None,
) -> LoadedPictures:
    """Reads pictures of a source, each padded with white (never stretched) to width x height pixels.

    indices: which records, default all. Unreadable pictures are skipped and counted.
    mask_of: see `open_masks`; a mask is scaled and padded as its picture, so what is padded counts.
    Raises ToileError as soon as more than one in a hundred is unreadable, or when a mask is not there or all black.
    """
    wanted = range(len(source.records)) if indices is None else [int(index) for index in indices]
    pixels = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
    masks = None if mask_of is None else np.empty((len(wanted), height, width), dtype=np.uint8)
    kept: list[int] = []
    hashes: list[str] = []
    drops = DropCounter()
    for index, data, picture in _readable(source, wanted, drops):
        pixels[len(kept)] = pixels_of(pad_to(picture, width, height))
        if mask_of is not None and masks is not None:
            key = source.records[index].key
            masks[len(kept)] = _grey(pad_to(mask_of(key, data, picture).convert("RGB"), width, height), key)
        kept.append(index)
        hashes.append(hashlib.sha256(data).hexdigest())
    return LoadedPictures(
        pixels[: len(kept)],
        np.array(kept, dtype=np.int64),
        tuple(hashes),
        drops.report(len(kept)),
        None if masks is None else masks[: len(kept)],
    )


def load_buckets(
    source: Source,
    sizes: Sequence[tuple[int, int]],
    indices: Sequence[int] | np.ndarray | None = None,
    mask_of: MaskReader | None = None,
) -> LoadedBuckets:
    """Reads pictures of a source, each scaled to cover the (width, height) of most like shape, and cut evenly to it.

    None grows more than `MOST_ENLARGED` times; what a smaller one leaves bare is padded with white.

    indices, mask_of, errors: as of `load_pictures`.
    """
    wanted = range(len(source.records)) if indices is None else [int(index) for index in indices]
    pixels: dict[tuple[int, int], list[np.ndarray]] = {size: [] for size in sizes}
    masks: dict[tuple[int, int], list[np.ndarray]] = {size: [] for size in sizes}
    rows: list[tuple[tuple[int, int], int]] = []
    kept: list[int] = []
    hashes: list[str] = []
    drops, padded = DropCounter(), 0
    for index, data, picture in _readable(source, wanted, drops):
        size = nearest_size(picture.size, sizes)
        if mask_of is not None:
            key = source.records[index].key
            masks[size].append(_grey(cover(mask_of(key, data, picture), *size, MOST_ENLARGED), key))
        rows.append((size, len(pixels[size])))
        pixels[size].append(pixels_of(cover(picture, *size, MOST_ENLARGED)))
        padded += max(size[0] / picture.width, size[1] / picture.height) > MOST_ENLARGED
        kept.append(index)
        hashes.append(hashlib.sha256(data).hexdigest())
    used = tuple(size for size in sizes if pixels[size])
    return LoadedBuckets(
        used,
        tuple(np.stack(pixels.pop(size)) for size in used),
        np.array([(used.index(size), row) for size, row in rows], dtype=np.int64).reshape(-1, 2),
        np.array(kept, dtype=np.int64),
        tuple(hashes),
        drops.report(len(kept)),
        None if mask_of is None else tuple(np.stack(masks.pop(size)) for size in used),
        padded,
    )


def bucket_sizes(width: int, height: int, step: int) -> tuple[tuple[int, int], ...]:
    """Sizes (width, height) of pictures of many shapes and about one area, wide ones last.

    Sides are multiples of the step, between half and twice that of a square of this area; areas are at most this one.
    The given size is always one of them.
    Raises ToileError where its sides are no multiples of the step.
    """
    if step < 1 or width % step or height % step:
        raise ToileError(
            f"{width}x{height} is no multiple of the buckets' step, {step}: width and height must be, "
            "so choose another size, or another step"
        )
    area, found = width * height, {(width, height)}
    side = math.sqrt(area)
    least, most = math.ceil(side / 2 / step) * step, math.floor(2 * side / step) * step
    for one in range(least, most + 1, step):
        other = min(most, area // one // step * step)
        if other >= least:
            found |= {(one, other), (other, one)}
    return tuple(sorted(found, key=lambda size: (size[0] / size[1], size)))


def nearest_size(size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of several sizes (width, height) the one of most like shape, so that least is cut off; of such, the largest."""
    shape = math.log(size[0] / size[1])
    return min(sizes, key=lambda one: (round(abs(math.log(one[0] / one[1]) - shape), 9), -one[0] * one[1], one))


def open_masks(given: Path, keys: Sequence[str]) -> MaskReader:
    """Masks of pictures: white where a picture counts, black where it does not, grey where it does partly.

    given: a folder or zip with a picture of the same name (whatever its suffix) for each; or `ALPHA`, the pictures' own
        transparency. Masks are found by their path, else by their name alone where that is the only one.
    keys: of the records whose masks will be asked for.
    Raises ToileError when it cannot be opened or a record has no mask. What it returns raises ToileError for a mask
    that cannot be read, is of another shape than its picture (of another size it is scaled), or for a picture without
    transparency.
    """
    if str(given) == ALPHA:
        return _mask_of_alpha
    if not given.exists():
        raise ToileError(f"masks: {given} does not exist; give a folder or zip of pictures, or {ALPHA!r}")
    root = open_root(given)
    by_path = {_without_suffix(name): name for name in sorted(root.members) if is_picture_name(name)}
    by_name = _only_ones((PurePosixPath(path).name, name) for path, name in by_path.items())
    own = _only_ones((PurePosixPath(_without_suffix(key)).name, key) for key in keys)
    found: dict[str, str] = {}
    missing = []
    for key in keys:
        path = _without_suffix(key)
        name = PurePosixPath(path).name
        member = by_path.get(path) or (by_name.get(name) if own.get(name) == key else None)
        if member is None:
            missing.append(key)
        else:
            found[key] = member
    if missing:
        raise ToileError(
            f"masks: {len(missing):,} of {len(keys):,} pictures have none in {given}, such as {missing[0]!r}: "
            f"add {PurePosixPath(_without_suffix(missing[0])).name}.png, or leave the picture out"
        )

    def mask_of(key: str, data: bytes, picture: Image) -> Image:
        where = f"masks: {found[key]} in {given}"
        try:
            mask = open_image(root.read(found[key]))
        except ToileError as error:
            raise ToileError(f"{where}: {error}") from error
        across, down = mask.width * picture.height, mask.height * picture.width
        if abs(across - down) > max(picture.size):  # by which rounding a side to whole pixels moves them
            raise ToileError(
                f"{where} is {mask.width}x{mask.height}, its picture {picture.width}x{picture.height}: "
                "draw it on the picture, so that both are of one shape"
            )
        return mask if mask.size == picture.size else mask.resize(picture.size, Resampling.LANCZOS)

    return mask_of


def _mask_of_alpha(key: str, data: bytes, picture: Image) -> Image:
    alpha = open_alpha(data)
    if alpha is None:
        raise ToileError(f"masks: {key} says nothing of transparency: save it with an alpha channel, or leave it out")
    return alpha


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if is_picture_name(name) else name


def _only_ones(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names that stand for one thing only."""
    found: dict[str, list[str]] = {}
    for name, thing in pairs:
        found.setdefault(name, []).append(thing)
    return {name: things[0] for name, things in found.items() if len(things) == 1}


def _grey(mask: Image, key: str) -> np.ndarray:
    """uint8 (H, W); ToileError for a mask that is black everywhere."""
    grey = np.array(mask.convert("L"))
    if not grey.any():
        raise ToileError(f"masks: that of {key!r} is all black where its picture is seen: nothing of it would count")
    return grey


def _readable(source: Source, wanted: Sequence[int], drops: DropCounter) -> Iterator[tuple[int, bytes, Image]]:
    """Index, encoded bytes and picture of the records that can be read; the others are counted as dropped."""
    kept = 0
    for index in wanted:
        try:
            data = source.read_picture(index)
            picture = open_image(data)
        except ToileError as error:
            reason = "unreadable pictures" if isinstance(error, ImageError) else "unreadable files"
            drops.drop(reason, source.records[index].key)
            _stop_if_too_bad(drops.report(kept), len(wanted), error)
            continue
        kept += 1
        yield index, data, picture


def _stop_if_too_bad(report: DropReport, wanted: int, last: ToileError) -> None:
    if report.dropped > MAX_BAD_FRACTION * wanted:
        raise ToileError(
            f"stopped: {report.dropped:,} of {wanted:,} pictures cannot be read (over {MAX_BAD_FRACTION:.0%}); "
            f"after {report.total_read:,}: {report.summary()} Last: {last}"
        )
