"""The flags that name a picture to begin with, read."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from toile.data.images import open_image
from toile.errors import ToileError
from toile.generation.source import extend_canvas


def open_source(
    image: Path | None, mask: Path | None, extend: tuple[int, int, int, int] | None, strength: float | None
) -> tuple[Image.Image, Image.Image | None, bool] | None:
    """The picture and the mask that the flags name, and whether the canvas was extended; None without a picture.

    Raises:
        ToileError: flags that need --image without it, --mask together with --extend, or files that cannot be read.
    """
    if image is None:
        for flag, value in (("--mask", mask), ("--extend", extend), ("--strength", strength)):
            if value is not None:
                raise ToileError(f"{flag} needs a picture to begin with: add --image FILE")
        return None
    opened = open_image(image)
    if extend is None:
        return opened, None if mask is None else open_image(mask), False
    if mask is not None:
        raise ToileError("give either --mask or --extend: the mask of an extended picture is its margin")
    return *extend_canvas(opened, *extend), True
