"""Pictures in their true size, of products that there are small pictures of: files named by the product's key."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from toile.data.images import ImageError, open_image, pixels_of
from toile.data.places import DATA_VARIABLE, data_folder
from toile.data.records import DropCounter, DropReport
from toile.data.roots import Root, identity_of, is_picture_name, open_root
from toile.errors import ToileError

_NAMES = ("fashion-product-images-224.zip", "fashion-product-images-224")
_MAX_BAD_FRACTION = 0.01


class TruePictures:
    """A zip or folder of pictures named by the keys of products, such as `images/10000.jpg`, or as small pictures are.

    They may have been squeezed to another shape: each is scaled to the size that is asked for, sides apart.

    path: the zip or folder; None for the published one in the folder TOILE_DATA.
    Raises ToileError when it is not there or holds no picture.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path if path is not None else _find()
        if not self.path.exists():
            raise ToileError(f"true pictures: {self.path} does not exist; give an existing zip or folder")
        self._root: Root = open_root(self.path)
        names = sorted(name for name in self._root.members if is_picture_name(name))
        self._members = {_stem(name): name for name in names}
        if not self._members:
            raise ToileError(f"true pictures: {self.path} holds no picture; they are to be named by their product's id")
        self.identity = identity_of(self._root)

    def __contains__(self, key: str) -> bool:
        return _stem(key) in self._members

    def load(self, keys: Sequence[str], width: int, height: int) -> tuple[np.ndarray, np.ndarray, DropReport]:
        """Reads pictures of these products, scaled by Lanczos; unreadable ones are left out and counted.

        Returns pixels uint8 (n, height, width, 3), the place in `keys` of each, int64 (n,), and what was left out.
        Raises ToileError when more than one in a hundred is unreadable.
        """
        pixels = np.empty((len(keys), height, width, 3), dtype=np.uint8)
        kept: list[int] = []
        drops = DropCounter()
        for place, key in enumerate(keys):
            try:
                picture = open_image(self._root.read(self._members[_stem(key)]))
            except ImageError as error:
                drops.drop("unreadable true pictures", key)
                if drops.report(len(kept)).dropped > _MAX_BAD_FRACTION * len(keys):
                    raise ToileError(
                        f"true pictures: too many in {self.path} cannot be read; the last: {error}"
                    ) from error
                continue
            pixels[len(kept)] = pixels_of(picture.resize((width, height), Image.Resampling.LANCZOS))
            kept.append(place)
        return pixels[: len(kept)], np.array(kept, dtype=np.int64), drops.report(len(kept))


def _stem(name: str) -> str:
    """Of a picture's path its file name without ending; of other keys all."""
    return PurePosixPath(name).stem if is_picture_name(name) else name


def _find() -> Path:
    folder = data_folder()
    for name in _NAMES:
        if (folder / name).exists():
            return folder / name
    unset = "" if os.environ.get(DATA_VARIABLE) else f"; {DATA_VARIABLE} is not set"
    raise ToileError(
        f"no true pictures in {folder} (looked for {', '.join(_NAMES)}{unset}): put a zip of pictures named by their "
        "product's id there, or say in the recipe where it is"
    )
