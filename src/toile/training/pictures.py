"""Pictures and words for training: a source, its split and its pixels in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toile.data.captions import CaptionWriter
from toile.data.images import images_from_pixels
from toile.data.records import Record
from toile.data.sources import find_data, load_pictures, open_source
from toile.data.split import split_by_content
from toile.errors import ToileError


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, at which size, and how they are divided.

    Attributes:
        source: a known name ("products", "fashion-mnist"), found through TOILE_DATA, unless `path` is given.
        path: a zip or folder of any known layout.
        width, height: of the pictures in pixels; smaller ones are padded with white.
        split_seed: of the 90/5/5 split by content.
        limit: use only the first so many records (for trials and tests).
        caption: of pictures without words of their own, in image folders.
        trigger: a word put before every caption, which then calls up what was learnt.
        keep: a file with the keys of the records to use, one a line, as `toile data check --fix` writes it.
        only: use only records with one of these values in these fields, such as `season = ["Winter"]`.
        words: use only records whose full caption has all of these words.
    """

    width: int
    height: int
    source: str = "products"
    path: Path | None = None
    split_seed: int = 0
    limit: int | None = None
    caption: str | None = None
    trigger: str = ""
    keep: Path | None = None
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or (self.limit is not None and self.limit < 1):
            raise ToileError(f"data: width {self.width}, height {self.height}, limit {self.limit}: at least 1")


class PictureSet:
    """Pictures of one source with their records, divided into train, validation and test positions.

    Attributes:
        pixels: (N, H, W, 3) uint8.
        records: one for each picture.
        train, validation, test: positions, int64 arrays; in `train` as often as a record is to be repeated.
        identity: changes when the data, the size or the split change.
        summary: what was read and dropped, for people.
    """

    def __init__(self, config: DataConfig) -> None:
        source = open_source(find_data(config.source, config.path), config.caption)
        indices = chosen_records(source.records, config)[: config.limit]
        loaded = load_pictures(source, config.width, config.height, indices)
        if not len(loaded.kept):
            raise ToileError(f"{config.path or config.source}: no pictures")
        titles = [source.title(int(index)) for index in loaded.kept]
        split = split_by_content(loaded.hashes, titles, seed=config.split_seed)
        self.pixels = torch.from_numpy(np.ascontiguousarray(loaded.pixels))
        self.records: tuple[Record, ...] = tuple(source.records[int(index)] for index in loaded.kept)
        self.trigger = config.trigger
        repeats = np.array([record.repeats for record in self.records])
        self.train = np.repeat(split.train, repeats[split.train])
        self.validation, self.test = split.validation, split.test
        self.identity = f"{source.identity}:{config.width}x{config.height}:{config.split_seed}:{len(self.records)}"
        if config.keep is not None or config.only or config.words:
            chosen = hashlib.sha256(" ".join(record.key for record in self.records).encode()).hexdigest()
            self.identity += f":{chosen[:16]}"
        self.summary = f"{source.report.summary()} {loaded.report.summary()}"

    def images(self, positions: np.ndarray) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], channels_last."""
        images = images_from_pixels(self.pixels[torch.from_numpy(positions)])
        return images.contiguous(memory_format=torch.channels_last)


def chosen_records(records: Sequence[Record], config: DataConfig) -> list[int]:
    """Numbers of the records that `keep`, `only` and `words` leave.

    Raises:
        ToileError: a field that no record has, a list that cannot be read or is of other data, or nothing is left.
    """
    kept = None if config.keep is None else read_kept(config.keep, records)
    for name in config.only:
        if not any(name in record.fields for record in records):
            known = sorted({known for record in records[:1000] for known in record.fields})
            raise ToileError(f"data: only.{name}: no record has this field; they have {', '.join(known) or 'none'}")
    writer, wanted = CaptionWriter(), {word.lower() for word in config.words}
    chosen = [
        number
        for number, record in enumerate(records)
        if (kept is None or record.key in kept)
        and all(record.fields.get(name) in values for name, values in config.only.items())
        and (not wanted or wanted <= set(writer.full(record).lower().split()))
    ]
    if not chosen:
        raise ToileError(f"data: no record is left by only = {dict(config.only)} and words = {list(config.words)}")
    return chosen


def read_kept(path: Path, records: Sequence[Record]) -> set[str]:
    """The keys in a list of records.

    Raises:
        ToileError: it cannot be read, or names records that are not there.
    """
    try:
        keys = {line for line in path.read_text(encoding="utf-8").splitlines() if line}
    except (OSError, UnicodeDecodeError) as error:
        raise ToileError(f"data: keep: {path}: {error}") from error
    unknown = sorted(keys - {record.key for record in records})
    if unknown:
        raise ToileError(
            f"data: keep: {path} names {len(unknown):,} records that are not there, such as {unknown[0]!r}"
        )
    return keys
