"""Pictures and words for training: a source, its split and its pixels in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toile.data.captions import CaptionWriter
from toile.data.images import images_from_pixels
from toile.data.records import Record
from toile.data.sources import (
    MOST_ENLARGED,
    LoadedBuckets,
    LoadedPictures,
    bucket_sizes,
    find_data,
    load_buckets,
    load_pictures,
    open_masks,
    open_source,
)
from toile.data.split import split_by_content
from toile.errors import ToileError
from toile.training.records import DataRecord

_SHOWN_PICTURES = 12
_MOST_REPEATS = 8
_TASKS_OF_WHOLE_PICTURES = ("vae", "clip", "classifier", "cvae", "text_autoencoder", "upscaling")


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, at which size, and how they are divided.

    Attributes:
        source: a known name ("products", "fashion-mnist", "monet"), or "owner/name" of a data set on the hub that
            `toile data get` has fetched; looked for in the folder TOILE_DATA, unless `path` is given.
        path: a zip or folder of any known layout.
        width, height: of the pictures in pixels; smaller ones are padded with white.
        buckets: let pictures keep their shapes: each is scaled to cover, and cut evenly to, the size of most like shape
            among those of about width x height pixels (see `toile.data.sources.bucket_sizes`).
        bucket_step: sides of these sizes are multiples of it, and so must width and height be. It must be a multiple
            of what autoencoder and U-Net shrink by: 64 suits Stable Diffusion, 16 the bundled model.
        masks: what of the pictures counts: a folder or zip with a grey picture of the same name for each (white counts,
            black does not), or "alpha" for their own transparency.
        split_seed: of the 90/5/5 split by content.
        limit: use only the first so many records (for trials and tests).
        caption: of pictures without words of their own, in image folders.
        trigger: a word put before every caption, which then calls up what was learnt.
        keep: a file with the keys of the records to use, one a line, as `toile data check --fix` writes it.
        only: use only records with one of these values in these fields, such as `season = ["Winter"]`.
        words: use only records whose full caption has all of these words.
        train_share, train_seed: learn from this share of the training side, drawn at random. What is held out stays the
            same, so judges that learnt from different parts can judge the same pictures.
        balance: how far pictures of rarer article types are repeated on the training side: 0 is not at all, 1 until all
            types are equally frequent, but none more than eight times, or rare ones would be learnt by heart.
        unseen: colours and article types that are not learnt together, such as "Pink Ties": their pictures are left
            out of the training side, and stay on the held-out sides.
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
    buckets: bool = False
    bucket_step: int = 64
    masks: Path | None = None
    train_share: float = 1.0
    train_seed: int = 0
    unseen: tuple[str, ...] = ()
    balance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1:
            raise ToileError(f"data.balance {self.balance:g}: 0 to 1")
        if not 0 < self.train_share <= 1:
            raise ToileError(f"data.train_share {self.train_share:g}: above 0, at most 1")
        if self.width < 1 or self.height < 1 or (self.limit is not None and self.limit < 1):
            raise ToileError(f"data: width {self.width}, height {self.height}, limit {self.limit}: at least 1")
        if self.buckets and len(bucket_sizes(self.width, self.height, self.bucket_step)) == 1:
            raise ToileError(
                f"data.bucket_step {self.bucket_step}: {self.width}x{self.height} is then the only size there is, "
                "to which all pictures would be cut: give a smaller step, or leave out data.buckets"
            )

    def check_use(self, task: str, *, sharded: bool, compiles: bool) -> None:
        """Refuses what cannot go together, before anything is read.

        Args:
            task: what learns from the pictures, as in a recipe.
            sharded: whether processes hold parts of the weights, which they must all use equally often.
            compiles: whether networks are compiled, which happens for each shape and number of pictures.

        Raises:
            ToileError: buckets, masks or a balance that the task cannot use.
        """
        if self.balance and task == "upscaling":
            raise ToileError("data.balance: an upscaler learns from every true picture equally often: leave it out")
        for is_set, key in ((self.buckets, "data.buckets"), (self.masks is not None, "data.masks")):
            if is_set and task in _TASKS_OF_WHOLE_PICTURES:
                raise ToileError(f"{key}: task {task!r} takes pictures of one shape, whole: leave it out")
        if self.buckets and sharded:
            raise ToileError("loop.sharded=true needs pictures of one shape: leave out one of it and data.buckets")
        if self.buckets and compiles:
            raise ToileError(
                "objective.compile=true compiles anew for each number of pictures of each shape: "
                "leave out one of it and data.buckets"
            )


class PictureSet:
    """Pictures of one source with their records, divided into train, validation and test positions.

    Attributes:
        width, height: as configured.
        bucket_step: as configured, where pictures have several shapes; None where all are width x height.
        sizes: (width, height) of the shapes there are.
        places: where pictures have several shapes, for each the number of its shape and its row there, (N, 2) int64.
        masks: for each shape (n, H, W) uint8, 255 = counts; None without masks.
        records: one for each picture.
        train, validation, test: positions, int64 arrays; in `train` as often as a record is to be repeated.
        identity: changes when the data, the size, the split, the masks or what is learnt of the training side change.
        pixels_identity: the same but for the masks and what is learnt: all who share it hold out the same pictures.
        summary: what was read and dropped, for people.
    """

    def __init__(self, config: DataConfig) -> None:
        source = open_source(find_data(config.source, config.path), config.caption)
        indices = chosen_records(source.records, config)[: config.limit]
        mask_of = None
        if config.masks is not None:
            mask_of = open_masks(config.masks, [source.records[index].key for index in indices])
        self.width, self.height = config.width, config.height
        self.places: np.ndarray | None = None
        self.bucket_step: int | None = None
        shapes = ""
        loaded: LoadedPictures | LoadedBuckets
        pixels: tuple[np.ndarray, ...]
        masks: tuple[np.ndarray, ...] | None
        if config.buckets:
            sizes = bucket_sizes(config.width, config.height, config.bucket_step)
            loaded = in_buckets = load_buckets(source, sizes, indices, mask_of)
            pixels, masks = in_buckets.pixels, in_buckets.masks
            self.sizes, self.places, self.bucket_step = in_buckets.sizes, in_buckets.places, config.bucket_step
            shapes = _in_shapes(in_buckets)
        else:
            loaded = plain = load_pictures(source, config.width, config.height, indices, mask_of)
            pixels = (np.ascontiguousarray(plain.pixels),)
            masks = None if plain.masks is None else (np.ascontiguousarray(plain.masks),)
            self.sizes = ((config.width, config.height),)
        if not len(loaded.kept):
            raise ToileError(f"{config.path or config.source}: no pictures")
        titles = [source.title(int(index)) for index in loaded.kept]
        split = split_by_content(loaded.hashes, titles, seed=config.split_seed)
        self._pixels = tuple(map(torch.from_numpy, pixels))
        self.masks = None if masks is None else tuple(map(torch.from_numpy, masks))
        self.records: tuple[Record, ...] = tuple(source.records[int(index)] for index in loaded.kept)
        self.trigger = config.trigger
        repeats = np.array([record.repeats for record in self.records])
        learnt = learnt_of(split.train, self.records, config)
        if config.balance:
            repeats[learnt] *= balancing_repeats([self.records[position].fields for position in learnt], config.balance)
        self.train = np.repeat(learnt, repeats[learnt])
        self.validation, self.test = split.validation, split.test
        identity = f"{source.identity}:{config.width}x{config.height}:{config.split_seed}:{len(self.records)}"
        if config.keep is not None or config.only or config.words:
            chosen = hashlib.sha256(" ".join(record.key for record in self.records).encode()).hexdigest()
            identity += f":{chosen[:16]}"
        if config.buckets:
            identity += f":buckets of {config.bucket_step}"
        self.pixels_identity = self.identity = identity
        if masks is not None:
            digest = hashlib.sha256()
            for of_shape in masks:
                digest.update(of_shape.data)
            self.identity += f":masks {digest.hexdigest()[:16]}"
        if len(learnt) < len(split.train):
            digest = hashlib.sha256(" ".join(self.records[position].key for position in learnt).encode())
            self.identity += f":learnt {digest.hexdigest()[:16]}"
        if config.balance:
            self.identity += f":balanced {config.balance:g}"
        told = dict.fromkeys((source.report.summary(), loaded.report.summary()))  # once, where they say the same
        self.summary = f"{' '.join(told)}{shapes}"

    @property
    def pixels(self) -> Tensor:
        """(N, H, W, 3) uint8, where all pictures are of one shape.

        Raises:
            ToileError: they are in buckets.
        """
        if self.places is not None:
            raise ToileError("data.buckets: these pictures have several shapes; leave it out where one is needed")
        return self._pixels[0]

    def images(self, positions: np.ndarray) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], channels_last.

        Raises:
            ToileError: they are of several shapes.
        """
        pixels, rows = self._pixels[0], positions
        if self.places is not None:
            numbers, rows = self.places[positions].T
            if len(set(numbers.tolist())) != 1:
                raise ToileError("data.buckets: pictures of several shapes make no batch; leave it out")
            pixels = self._pixels[numbers[0]]
        images = images_from_pixels(pixels[torch.from_numpy(rows)])
        return images.contiguous(memory_format=torch.channels_last)

    def tell(self, sentence: str) -> None:
        """Adds to what people are told of the data when a run begins; "" adds nothing."""
        self.summary = f"{self.summary} {sentence}".rstrip()


def data_record(pictures: PictureSet) -> DataRecord:
    """What a run is to learn from, with its first pictures and their words."""
    writer = CaptionWriter()
    first = list(dict.fromkeys(pictures.train.tolist()))[:_SHOWN_PICTURES]
    captions = (f"{pictures.trigger} {writer.full(pictures.records[position])}".strip() for position in first)
    images = tuple(pictures.images(np.array([position]))[0] for position in first)
    return DataRecord(0, pictures.summary, len(pictures.train), len(pictures.validation), tuple(captions), images)


def _in_shapes(loaded: LoadedBuckets) -> str:
    most_first = sorted(zip(map(len, loaded.pixels), loaded.sizes, strict=True), reverse=True)
    text = f" Shapes: {', '.join(f'{count:,} of {width}x{height}' for count, (width, height) in most_first)}."
    if loaded.padded:
        text += f" {loaded.padded:,} are too small for theirs: enlarged {MOST_ENLARGED:g} times and padded with white."
    return text


def learnt_of(train: np.ndarray, records: Sequence[Record], config: DataConfig) -> np.ndarray:
    """The positions of the training side that are learnt, in their order.

    Args:
        train: positions of the training side, int64.
        records: of all pictures.

    Raises:
        ToileError: an `unseen` pair that no record has, or nothing is left.
    """
    pairs = [colour_and_article(record.fields) for record in records]
    if unknown := sorted(set(config.unseen) - set(pairs)):
        raise ToileError(f"data.unseen: no record is of {unknown[0]!r}; write colour and article type as the data does")
    kept = np.array([position for position in train if pairs[position] not in config.unseen], dtype=np.int64)
    if config.train_share < 1:
        order = np.random.default_rng(config.train_seed).permutation(len(kept))
        kept = kept[np.sort(order[: round(config.train_share * len(kept))])]
    if len(train) and not len(kept):
        raise ToileError("data: train_share and unseen leave no picture to learn from")
    return kept


def balancing_repeats(fields: Sequence[Mapping[str, str]], balance: float) -> np.ndarray:
    """How often each record is to be repeated so that article types are more alike in number.

    Args:
        fields: of N records; those without an article type are a type of their own.
        balance: as in `DataConfig`.

    Returns:
        (N,) int64, 1 to 8.

    Raises:
        ToileError: no record has an article type.
    """
    if not any("articleType" in record for record in fields):
        raise ToileError("data.balance: no record has a field articleType: leave it out")
    types = [record.get("articleType", "") for record in fields]
    counts = Counter(types)
    most = max(counts.values())
    of_type = {name: min(_MOST_REPEATS, round((most / count) ** balance)) for name, count in counts.items()}
    return np.array([of_type[name] for name in types], dtype=np.int64)


def colour_and_article(fields: Mapping[str, str]) -> str:
    """Such as "Pink Ties", of a record's fields; "" where one of them is not known."""
    colour, article = fields.get("baseColour"), fields.get("articleType")
    return f"{colour} {article}" if colour and article else ""


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
