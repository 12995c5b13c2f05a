"""An image folder (or a zip of one): pictures with `metadata.jsonl`, `metadata.csv` or `.txt` files beside them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from toile.data.records import DropCounter, Record
from toile.data.roots import Root, decode_text, identity_of, is_picture_name, member_name, open_root
from toile.errors import ToileError

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
FILE_COLUMN = "file_name"
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt")
SIDECAR_SUFFIXES = (".txt", ".caption")
MAX_REPEATS = 10_000
_KOHYA_FOLDER = re.compile(r"(\d{1,5})_(\S.*)")


class ImageFolder:
    """Pictures with captions written by people; implements Source.

    path: a folder or zip. A metadata file names pictures relative to itself in the column `file_name`; its columns
    text, caption, captions and prompt become captions, the others fields. A `.txt` file of a picture's name holds one
    caption a line. Several rows for one picture become one record with several captions.
    In folders named like `10_red dress`, as kohya's scripts have them, pictures are shown ten times, and those without
    words of their own are called "red dress"; `.caption` files count as `.txt` files do.
    caption: of pictures without words of their own; None leaves them out.
    Raises ToileError when no picture has words.
    """

    def __init__(self, path: Path, caption: str | None = None) -> None:
        self._root: Root = open_root(path)
        self.identity = identity_of(self._root)
        drops = DropCounter()
        records: dict[str, Record] = {}
        for name in sorted(self._root.members):
            if PurePosixPath(name).name.lower() in METADATA_NAMES:
                _read_metadata(self._root, name, records, drops)
        named = set(records)
        for name in sorted(filter(is_picture_name, self._root.members)):
            if name not in named:
                _read_sidecar(self._root, name, caption, records, drops)
        self.records: tuple[Record, ...] = tuple(records.values())
        self.report = drops.report(len(self.records))
        if not self.records:
            raise ToileError(f"{path} has no usable picture: {self.report.summary()}")

    def read_picture(self, index: int) -> bytes:
        """The encoded bytes of one picture."""
        return self._root.read(self.records[index].key)

    def title(self, index: int) -> str:
        """The value of a `title` column, empty if there is none."""
        return self.records[index].fields.get("title", "")


def has_words(root: Root) -> bool:
    """Whether a root has a metadata file, a picture with a .txt file of its name, or one in a folder of kohya's."""
    return any(
        PurePosixPath(name).name.lower() in METADATA_NAMES
        or (is_picture_name(name) and (_sidecar(name, root) is not None or _of_kohya(name)[1] is not None))
        for name in root.members
    )


def _sidecar(picture: str, root: Root) -> str | None:
    names = (str(PurePosixPath(picture).with_suffix(suffix)) for suffix in SIDECAR_SUFFIXES)
    return next((name for name in names if name in root.members), None)


def _read_sidecar(
    root: Root, picture: str, caption: str | None, records: dict[str, Record], drops: DropCounter
) -> None:
    sidecar = _sidecar(picture, root)
    repeats, named = _of_kohya(picture)
    if sidecar is None:
        if caption is None and named is None:
            drops.drop("pictures without words", picture)
        else:
            records[picture] = Record(picture, {}, (named or caption or "",), repeats)
        return
    lines = [" ".join(line.split()) for line in decode_text(root.read(sidecar)).splitlines()]
    captions = tuple(line for line in lines if line)
    if captions:
        records[picture] = Record(picture, {}, captions, repeats)
    else:
        drops.drop("blank captions", picture)


def _of_kohya(picture: str) -> tuple[int, str | None]:
    """How often a picture is shown, and what its folder calls it: `10_red dress/1.png` -> 10, "red dress"."""
    match = _KOHYA_FOLDER.fullmatch(PurePosixPath(picture).parent.name)
    if match is None or not 1 <= int(match.group(1)) <= MAX_REPEATS:
        return 1, None
    return int(match.group(1)), " ".join(match.group(2).split())


def _read_metadata(root: Root, metadata: str, records: dict[str, Record], drops: DropCounter) -> None:
    folder = PurePosixPath(metadata).parent
    for row in _rows(metadata, decode_text(root.read(metadata)), drops):
        given = str(row.get(FILE_COLUMN) or "").strip()
        if not given:
            drops.drop("rows without file_name", f"{metadata}: {str(dict(row))[:60]}")
            continue
        try:
            picture = str(folder / member_name(given))
        except ToileError:
            drops.drop("paths outside the data root", given)
            continue
        captions, fields = words_of_row(row)
        if picture not in root.members or not is_picture_name(picture):
            drops.drop("missing pictures", given)
        elif picture in records:
            drops.repair("rows joined to the first of the same picture")
            known = records[picture]
            records[picture] = Record(
                picture, {**fields, **known.fields}, tuple(dict.fromkeys(known.captions + captions))
            )
        elif not captions and not fields:
            drops.drop("blank captions", given)
        else:
            records[picture] = Record(picture, fields, captions)


def _rows(name: str, text: str, drops: DropCounter) -> Iterator[Mapping[str, object]]:
    if name.lower().endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="")
        columns = reader.fieldnames or ()
        if FILE_COLUMN not in columns:
            raise ToileError(f"{name} has no column {FILE_COLUMN}; its columns are {', '.join(columns)[:80]!r}")
        try:
            yield from reader
        except csv.Error as error:
            raise ToileError(f"{name} line {reader.line_num} cannot be read ({error}); check its quotes") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            drops.drop("unreadable metadata lines", f"{name} line {number}")


def words_of_row(row: Mapping[str, object]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The captions and the fields of a row; nested values other than lists of captions are left out."""
    captions: list[str] = []
    fields: dict[str, str] = {}
    for column, value in row.items():
        if column.lower() in CAPTION_COLUMNS:
            texts = value if isinstance(value, list) else [value]
            captions += [" ".join(text.split()) for text in texts if isinstance(text, str) and text.strip()]
        elif column and column != FILE_COLUMN and isinstance(value, str | int | float) and str(value).strip():
            fields[column] = " ".join(str(value).split())
    return tuple(dict.fromkeys(captions)), fields
