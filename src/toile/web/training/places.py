"""How requests name files and folders: by ids out of lists of what is offered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from toile.errors import ToileError

T = TypeVar("T")


def place_id(path: Path) -> str:
    """What requests call a file or folder: it tells nothing of where it is, and leads nowhere but by a list."""
    return hashlib.sha256(str(path.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:20]


class NoSuchPlaceError(ToileError):
    """Nothing that is offered has this id."""


def found_in(places: Mapping[str, T], place: str, noun: str) -> T:
    """What has an id.

    Raises:
        NoSuchPlaceError: nothing has.
    """
    if place not in places:
        raise NoSuchPlaceError(f"there is no such {noun}")
    return places[place]


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, stays inside a folder."""
    return path.resolve().is_relative_to(folder.resolve())
