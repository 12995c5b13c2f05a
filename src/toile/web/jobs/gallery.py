"""Pictures and maps of words on disk. Names of files are a job's id and a number, nothing that people write."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from toile.web.jobs.errors import NoSuchJobError
from toile.web.jobs.messages import WordMapsOf
from toile.weights.files import write_atomically

_ID = re.compile(r"[0-9a-f]{24}")


class Gallery:
    """The files of all jobs, in folders of two letters below one.

    Args:
        folder: made when the first picture comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, job: str, number: int, png: bytes, maps: WordMapsOf | None) -> None:
        """Writes a picture, and the maps of its words; each wholly or not at all.

        Raises:
            ToileError: the disk refuses.
        """
        if maps is not None:
            file = io.BytesIO()
            np.savez_compressed(file, words=np.array(maps.words), heat=maps.heat)
            write_atomically(self._path(job, number, ".npz"), file.getvalue())
        write_atomically(self._path(job, number, ".png"), png)

    def picture(self, job: str, number: int) -> Path:
        """The PNG file of a picture.

        Raises:
            NoSuchJobError: there is none, or a link stands in its place.
        """
        return self._existing(job, number, ".png")

    def maps(self, job: str, number: int) -> WordMapsOf:
        """The maps of a picture's words.

        Raises:
            NoSuchJobError: there are none.
        """
        with np.load(self._existing(job, number, ".npz"), allow_pickle=False) as content:
            return WordMapsOf(tuple(str(word) for word in content["words"]), content["heat"])

    def remove(self, job: str, numbers: Iterable[int]) -> None:
        """Deletes what there is of these pictures of a job."""
        for number in numbers:
            for suffix in (".png", ".npz"):
                path = self._path(job, number, suffix)
                if not path.parent.is_symlink():
                    path.unlink(missing_ok=True)

    def _path(self, job: str, number: int, suffix: str) -> Path:
        if not _ID.fullmatch(job) or number < 0:
            raise NoSuchJobError("there is no such picture")
        return self.folder / job[:2] / f"{job}-{number}{suffix}"

    def _existing(self, job: str, number: int, suffix: str) -> Path:
        path = self._path(job, number, suffix)
        if path.parent.is_symlink() or path.is_symlink() or not path.is_file():
            raise NoSuchJobError("there is no such picture")
        return path
