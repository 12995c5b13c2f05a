"""Files that people keep beside models and name in requests: LoRAs and learned words, a folder for each kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from toile.errors import ToileError
from toile.user_folders import user_folder

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class AddOns:
    """A kind of such files.

    Attributes:
        noun: what people call one.
        variable: the environment variable that may name their folder.
        folder_name: of their folder, in `toile/` of the user's data folder, where the variable is not set.
        folder_marker: a file that makes a folder one of them; empty where only files are.
    """

    noun: str
    variable: str
    folder_name: str
    folder_marker: str = ""

    @property
    def folder(self) -> Path:
        """Where they are looked for by name."""
        return user_folder(self.variable, self.folder_name)

    def names(self) -> tuple[str, ...]:
        """Of all that are in `folder`."""
        there = sorted(self.folder.glob("*"))
        folders = [path.name for path in there if self.folder_marker and (path / self.folder_marker).is_file()]
        return tuple(sorted([*folders, *(path.stem for path in there if path.suffix in SUFFIXES and path.is_file())]))

    def find(self, source: str) -> Path:
        """The file or folder of one.

        Args:
            source: a name in `folder`, or a path.

        Raises:
            ToileError: there is none.
        """
        folder = self.folder
        named = [folder / f"{source}{suffix}" for suffix in ("", *SUFFIXES)]
        for path in (*(named if Path(source).name == source else []), Path(source)):
            if path.is_file() or (self.folder_marker and (path / self.folder_marker).is_file()):
                return path
        known = self.names()
        there = f"it holds {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}" if known else "it is empty"
        raise ToileError(
            f"there is no {self.noun} {source!r}: give a path, or a name in {folder} ({self.variable}); {there}"
        )


class UsedFile(Protocol):
    """One of them that a picture was made with: its name, and where it was."""

    @property
    def name(self) -> str:
        """Of the file, without suffix."""

    @property
    def path(self) -> str:
        """Absolute."""


def whereabouts(file: UsedFile) -> str:
    """Where to look for it: where it was, if there is something still, else by its name."""
    return file.path if Path(file.path).exists() else file.name
