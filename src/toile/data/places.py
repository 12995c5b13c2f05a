"""Where data is: the folder for it, the published sets that have a name, and what was fetched into it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from toile.errors import ToileError
from toile.user_folders import user_folder

DATA_VARIABLE = "TOILE_DATA"
RECORD_NAME = "toile-data.json"
"""The file in a fetched folder that says where it is from; it is written last."""
_HUB_FOLDER = "hub"
_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class KnownData:
    """A published data set.

    names: it may have inside the data folder. folder: of these, the one that `toile data get` makes.
    by_hand: how to get it otherwise.
    """

    names: tuple[str, ...]
    folder: str
    by_hand: str


KNOWN_DATA = {
    "products": KnownData(
        ("fashion-product-images-small.zip", "fashion-product-images-small", "styles.csv", "archive.zip"),
        "fashion-product-images-small",
        "download `paramagarwal/fashion-product-images-small` from Kaggle as fashion-product-images-small.zip",
    ),
    "fashion-mnist": KnownData(
        ("fashion-mnist",),
        "fashion-mnist",
        "download the four idx.gz files of Zalando's Fashion-MNIST into a folder named fashion-mnist",
    ),
    "monet": KnownData(
        ("monet.zip", "monet"),
        "monet",
        "download the folder monet_jpg of Kaggle's contest `gan-getting-started` as a folder or zip named monet",
    ),
}


def data_folder() -> Path:
    """Where data is looked for and fetched to: TOILE_DATA, else `toile/data` in the user's data folder."""
    return user_folder(DATA_VARIABLE, "data")


def is_id(name: str) -> bool:
    """Whether a name is that of a repository on the hub, "owner/name"."""
    return _ID.fullmatch(name) is not None


def folder_of(name: str, inside: Path) -> Path:
    """The folder into which data of this name is fetched: a known name, or "owner/name" on the hub.

    Raises ToileError for any other name.
    """
    if name in KNOWN_DATA:
        return inside / KNOWN_DATA[name].folder
    if is_id(name):
        return inside / _HUB_FOLDER / name
    raise ToileError(
        f"{name!r} is no data that can be fetched; known are {', '.join(KNOWN_DATA)}, and OWNER/NAME of a data set on "
        "the hub"
    )


def has_name(name: str) -> bool:
    """Whether `find_data` may find data by this name: a known one, or one that was fetched from the hub."""
    return name in KNOWN_DATA or _is_fetched(name)


def _is_fetched(name: str) -> bool:
    return is_id(name) and (folder_of(name, data_folder()) / RECORD_NAME).is_file()


def find_data(name: str, explicit: Path | None = None) -> Path:
    """Where a data set is: the explicit path, else inside the folder for data (see `data_folder`).

    name: "products", "fashion-mnist", "monet", or "owner/name" of what was fetched from the hub.
    Raises ToileError that says what is missing and how to get it; nothing else is searched.
    """
    if explicit is not None:
        if not explicit.exists():
            raise ToileError(f"data path {explicit} does not exist; give an existing zip or folder")
        return explicit
    folder = data_folder()
    if _is_fetched(name):
        return folder_of(name, folder)
    if is_id(name):
        raise ToileError(f"{name} is not in {folder}; `toile data get {name}` fetches it from the hub, or give a path")
    if name not in KNOWN_DATA:
        raise ToileError(
            f"unknown data {name!r}; known are {', '.join(KNOWN_DATA)} and OWNER/NAME as fetched; or give a path"
        )
    known = KNOWN_DATA[name]
    for candidate in known.names:
        path = folder / candidate
        if path.exists():
            return path.parent if candidate == "styles.csv" else path
    unset = "" if os.environ.get(DATA_VARIABLE) else f"; {DATA_VARIABLE} is not set"
    raise ToileError(
        f"no {name} data in {folder} (looked for {', '.join(known.names)}{unset}); `toile data get {name}` fetches it; "
        f"or {known.by_hand}, and set {DATA_VARIABLE} to the folder it is in"
    )
