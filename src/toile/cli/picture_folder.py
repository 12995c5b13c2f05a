"""Where pictures of one command go: numbered PNG files and contact sheets, beside what is already there."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from toile.data.images import contact_sheet
from toile.errors import ToileError
from toile.generation.pictures import Picture
from toile.weights.files import write_atomically

PICTURES_PER_SHEET = 64
_SLUG_LENGTH = 60
_CELL_WIDTH = 160


class PictureFolder:
    """Writes pictures as they come, never over a file that was there before.

    Args:
        folder: made if absent.

    Raises:
        ToileError: the path is a file.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise ToileError(f"{folder} is a file; --out needs a folder")
        self.folder = folder
        self.sheets: list[Path] = []
        self._next_number = 1 + max((_number(path) for path in folder.glob("*.png")), default=0)
        self._waiting: list[tuple[Image.Image, str]] = []

    def add(self, picture: Picture, on_sheet: bool = True) -> Path:
        """Writes a picture, and a contact sheet whenever there are enough for one."""
        recipe = picture.recipe
        path = self.folder / f"{self._next_number:04d}-{slug(recipe.prompt)}-s{recipe.seed}.png"
        picture.save(path)
        self._next_number += 1
        if on_sheet:
            self._waiting.append((Image.fromarray(picture.pixels), recipe.prompt))
        if len(self._waiting) == PICTURES_PER_SHEET:
            self.finish_sheet()
        return path

    def finish_sheet(self) -> None:
        """Writes the contact sheet of the pictures that are on none yet."""
        if not self._waiting:
            return
        pictures, prompts = zip(*self._waiting, strict=True)
        self.write_sheet(pictures, prompts)
        self._waiting = []

    def write_sheet(
        self, pictures: Sequence[Image.Image], captions: Sequence[str], columns: int | None = None, name: str = "sheet"
    ) -> Path:
        """Writes pictures side by side, with captions, under a name that is free."""
        scale = max(1, round(_CELL_WIDTH / max(picture.width for picture in pictures)))
        sheet = contact_sheet(pictures, columns, [_printable(caption) for caption in captions], scale=scale)
        self.sheets.append(self.write_image(sheet, name))
        return self.sheets[-1]

    def write_image(self, image: Image.Image, name: str) -> Path:
        """Writes a picture without a recipe, under a name that is free."""
        file = io.BytesIO()
        image.save(file, "PNG")
        path = free_path(self.folder / f"{name}.png")
        write_atomically(path, file.getvalue())
        return path


def free_path(path: Path) -> Path:
    """The path, or with -2, -3, ... before its suffix if that exists."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def slug(prompt: str) -> str:
    """A prompt as a part of a file name: lower-case ASCII letters, digits and hyphens, at most 60."""
    plain = unicodedata.normalize("NFKD", prompt[:1000]).encode("ascii", errors="ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:_SLUG_LENGTH].strip("-") or "picture"


def _number(path: Path) -> int:
    match = re.match(r"(\d{4,9})-", path.name)
    return int(match[1]) if match else 0


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)
