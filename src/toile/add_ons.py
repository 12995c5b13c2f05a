"""Files that people keep beside models and name in requests: LoRAs and learned words, a folder for each kind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from toile.errors import ToileError

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
        if named := os.environ.get(self.variable):
            return Path(named)
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
        return data / "toile" / self.folder_name

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
        known = sorted(path.stem for path in folder.glob("*") if path.suffix in SUFFIXES or path.is_dir())
        there = f"it holds {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}" if known else "it is empty"
        raise ToileError(
            f"there is no {self.noun} {source!r}: give a path, or a name in {folder} ({self.variable}); {there}"
        )
