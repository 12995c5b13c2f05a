"""Sets of pictures that a training may learn from: those of the folders named at the start, and uploaded ones."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from toile.data.folder import has_words
from toile.data.images import open_image
from toile.data.roots import ZipRoot, is_picture_name, open_root
from toile.data.tar_root import is_shard_name
from toile.errors import ToileError
from toile.web.training.places import found_in, is_within, place_id
from toile.weights.files import ASIDE_SUFFIX, write_atomically, write_text_atomically

NAME = re.compile(r"\w[\w .-]{0,58}\w|\w")
# By their content; others that Pillow knows run programs, hold other formats, or are seldom what people want to send.
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
_LONGEST_CAPTION = 2000
_MOST_UPLOADED = 20_000


@dataclass(frozen=True)
class PictureSet:
    """Pictures that can be learnt from.

    Attributes:
        id: what requests call it.
        name: of its folder or file.
        path: where it is.
        num_pictures: how many it has, as far as names tell; shards of tar count as none.
        has_words: whether some pictures have captions; else one caption must be given for all.
        is_own: it was uploaded, and can be deleted.
    """

    id: str
    name: str
    path: Path
    num_pictures: int
    has_words: bool
    is_own: bool


class PictureSets:
    """All that are offered now. May be used from any thread.

    Args:
        folders: each is offered itself, if pictures lie in it, with its folders and zips.
        own: folder of what is uploaded.
        most_bytes: of all that is uploaded.
    """

    def __init__(self, folders: Sequence[Path], own: Path, most_bytes: int) -> None:
        self._folders, self._own, self._most_bytes = tuple(folders), own, most_bytes
        self._lock = threading.Lock()

    def all(self) -> Mapping[str, PictureSet]:
        """By id, those of the folders first."""
        found: dict[str, PictureSet] = {}
        for folder in (*self._folders, self._own):
            if not folder.is_dir():
                continue
            inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
            places = [path for path in inside if is_within(path, folder)]
            if folder != self._own and any(path.is_file() and _is_data(path.name) for path in places):
                places.insert(0, folder)
            for path in places:
                if path.is_dir() or path.suffix.lower() == ".zip":
                    known = _known(path, folder == self._own)
                    if known is not None:
                        found[known.id] = known
        return found

    def find(self, set_id: str) -> PictureSet:
        """One of them.

        Raises:
            NoSuchPlaceError: there is none.
        """
        return found_in(self.all(), set_id, "set of pictures")

    def add_picture(self, name: str, content: bytes, caption: str) -> PictureSet:
        """Puts a picture into an uploaded set, which is made if it is not there.

        Args:
            name: of the set.
            content: a PNG, JPEG or WebP file, looked at by its content.
            caption: its words; "" for none.

        Raises:
            ToileError: no such picture, too long a caption, no good name, or no room.
        """
        folder = self._own / checked_name(name)
        if len(caption) > _LONGEST_CAPTION:
            raise ToileError(f"caption has {len(caption):,} characters; allowed: {_LONGEST_CAPTION:,}")
        suffix = _suffix_of(content)
        stem = hashlib.sha256(content).hexdigest()[:24]
        with self._lock:
            self._check_room(len(content))
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"{stem}{suffix}", content)
            if words := " ".join(caption.split()):
                write_text_atomically(folder / f"{stem}.txt", words + "\n")
        return self.find(place_id(folder))

    def add_zip(self, name: str, content: bytes) -> PictureSet:
        """Keeps a zip of pictures as an uploaded set; it is read where it lies and never unpacked.

        Raises:
            ToileError: no zip, none or too much in it, no good name, one that is taken, or no room.
        """
        path = self._own / f"{checked_name(name)}.zip"
        aside = path.with_name(f".{path.name}{ASIDE_SUFFIX}")
        with self._lock:
            if path.exists():
                raise ToileError(f"there is a set {name!r} already; delete it, or choose another name")
            self._check_room(len(content))
            self._own.mkdir(parents=True, exist_ok=True)
            try:
                aside.write_bytes(content)
                self._check_zip(aside)
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)
        return self.find(place_id(path))

    def remove(self, set_id: str) -> None:
        """Deletes an uploaded set.

        Raises:
            NoSuchPlaceError: there is none.
            ToileError: it was not uploaded here.
        """
        known = self.find(set_id)
        if not known.is_own:
            raise ToileError(f"{known.name} was not uploaded here, so it is not deleted here")
        with self._lock:
            if known.path.is_dir():
                shutil.rmtree(known.path)
            else:
                known.path.unlink(missing_ok=True)

    def _check_room(self, more: int) -> None:
        files = [path for path in self._own.rglob("*") if path.is_file()] if self._own.is_dir() else []
        used = sum(path.stat().st_size for path in files)
        if used + more > self._most_bytes or len(files) >= _MOST_UPLOADED:
            raise ToileError(
                f"uploaded pictures may have {self._most_bytes / 1e9:.1f} GB in all; delete some, or start the studio "
                "with --pictures FOLDER"
            )

    def _check_zip(self, path: Path) -> None:
        try:
            root = ZipRoot(path)
        except ToileError as error:
            raise ToileError("this is no zip file that can be read") from error
        sizes = [int(mark.split()[1]) for mark in root.members.values()]
        if not any(map(is_picture_name, root.members)):
            raise ToileError("there is no picture in this zip file")
        if sum(sizes) > self._most_bytes:
            raise ToileError(f"the zip file would unpack to {sum(sizes) / 1e9:.1f} GB")


def checked_name(name: str) -> str:
    """A name that is fit for a file or folder.

    Raises:
        ToileError: it is not.
    """
    if not NAME.fullmatch(name):
        raise ToileError(
            f"name is {name[:80]!r}; allowed: up to 60 letters, digits, spaces, '-', '_' and '.', with a letter or "
            "digit first and last"
        )
    return name


def _is_data(name: str) -> bool:
    return is_picture_name(name) or is_shard_name(name)


def _known(path: Path, is_own: bool) -> PictureSet | None:
    """What is at a path; None for no pictures."""
    with contextlib.suppress(ToileError, OSError):
        root = open_root(path)
        num = sum(map(is_picture_name, root.members))
        if num or any(map(is_shard_name, root.members)):
            return PictureSet(place_id(path), path.stem if is_own else path.name, path, num, has_words(root), is_own)
    return None


def _suffix_of(content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content), formats=tuple(_SUFFIXES)) as image:
            suffix = _SUFFIXES[str(image.format)]
        open_image(content)
    except Exception as error:  # decoders raise all kinds on files made to hurt them
        raise ToileError("this is no picture that can be read; allowed: PNG, JPEG and WebP files") from error
    return suffix
