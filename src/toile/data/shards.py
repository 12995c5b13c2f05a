"""Tar shards in the convention of WebDataset: `000017.jpg`, `000017.txt` and `000017.json` are one picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

from toile.data.folder import words_of_row
from toile.data.records import DropCounter, Record
from toile.data.roots import PICTURE_SUFFIXES, decode_text, identity_of
from toile.data.tar_root import TarRoot
from toile.errors import ToileError

# Where a sample has several, the first of these is its picture.
PICTURE_EXTENSIONS = tuple(suffix[1:] for suffix in PICTURE_SUFFIXES)
CAPTION_EXTENSIONS = ("txt", "caption")
CLASS_EXTENSION, FIELDS_EXTENSION = "cls", "json"
MAX_WORDS_BYTES = 1 << 20
_NOT_A_SAMPLE = re.compile(r"(?:^|/)(?:\.|__[^/]*__(?:$|/)|__MACOSX/)")


class TarShards:
    """The pictures of a tar file or of a folder of tar files, with the words beside them; implements Source.

    Members whose names agree up to the first dot of their last part are one sample. Its picture is in `.jpg`, `.jpeg`,
    `.png`, `.webp` and others that image folders may have; `.txt` and `.caption` hold one caption a line; of `.json`
    text, caption, captions and prompt become captions and the rest fields; `.cls` becomes the field `cls`, and the
    caption where there is no other and it is no number. What else a sample has is not looked at.

    path: a `.tar` file, or a folder with some at any depth.
    caption: of pictures without words of their own; None leaves them out.
    Raises ToileError when a file is compressed, damaged or cut off, or when no picture has words.
    """

    def __init__(self, path: Path, caption: str | None = None) -> None:
        self._root = TarRoot(path)
        self.identity = identity_of(self._root)
        drops = DropCounter()
        for reason, name in self._root.left_out:
            drops.drop(reason, name)
        records: list[Record] = []
        for key, members in _samples(self._root, drops).items():
            record = _record(self._root, key, members, caption, drops)
            if record is not None:
                records.append(record)
        self.records: tuple[Record, ...] = tuple(records)
        self.report = drops.report(len(records))
        if not records:
            raise ToileError(f"{path} has no usable picture: {self.report.summary()}")

    def read_picture(self, index: int) -> bytes:
        """The encoded bytes of one picture."""
        return self._root.read(self.records[index].key)

    def title(self, index: int) -> str:
        """The field `title`, empty if there is none."""
        return self.records[index].fields.get("title", "")


def sample_name(member: str) -> tuple[str, str]:
    """The key and the extension of a member: `a.b/17.seg.png` -> `a.b/17`, `seg.png`; the latter in small letters."""
    folder, slash, base = member.rpartition("/")
    key, _, extension = base.partition(".")
    return f"{folder}{slash}{key}", extension.lower()


def _samples(root: TarRoot, drops: DropCounter) -> dict[str, dict[str, str]]:
    """Key -> extension -> member, in the order of the shards."""
    samples: dict[str, dict[str, str]] = {}
    for member in root.members:
        if _NOT_A_SAMPLE.search(member):
            continue
        key, extension = sample_name(member)
        members = samples.setdefault(key, {})
        if extension in members:
            drops.drop("members named twice", member)
        else:
            members[extension] = member
    return samples


def _record(root: TarRoot, key: str, members: dict[str, str], caption: str | None, drops: DropCounter) -> Record | None:
    """The record of a sample; None, and counted, where it makes none."""
    pictures = [members[extension] for extension in PICTURE_EXTENSIONS if extension in members]
    if not pictures:
        drops.drop("samples without a picture", key)
        return None
    for further in pictures[1:]:
        drops.drop("further pictures of a sample", further)
    captions: list[str] = []
    for extension in CAPTION_EXTENSIONS:
        lines = _text(root, members.get(extension), drops).splitlines()
        captions += [" ".join(line.split()) for line in lines if line.strip()]
    fields: dict[str, str] = {}
    if text := _text(root, members.get(FIELDS_EXTENSION), drops):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            more, fields = words_of_row(row)
            captions += more
        else:
            drops.repair("samples without their .json, which cannot be read")
    if name := " ".join(_text(root, members.get(CLASS_EXTENSION), drops).split()):
        fields.setdefault(CLASS_EXTENSION, name)
        if not captions and not name.lstrip("+-").isdigit():
            captions.append(name)
    if not captions:
        if caption is None:
            drops.drop("pictures without words", pictures[0])
            return None
        captions.append(caption)
    return Record(pictures[0], fields, tuple(dict.fromkeys(captions)))


def _text(root: TarRoot, member: str | None, drops: DropCounter) -> str:
    """The text of a member; empty where there is none, or one that is too long to be words."""
    if member is None:
        return ""
    if root.size(member) > MAX_WORDS_BYTES:
        drops.repair(f"samples without a text of more than {MAX_WORDS_BYTES:,} bytes")
        return ""
    return decode_text(root.read(member))
