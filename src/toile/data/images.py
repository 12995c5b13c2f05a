"""The only place where pictures in files, PIL images, uint8 pixels and float images turn into each other.

Shape legend: B pictures, C = 3 colour channels, H rows, W columns.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from toile.errors import ToileError

# torch is imported inside the two functions that need it: reading a picture must not cost its start-up
if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 100_000_000
WHITE = (255, 255, 255)
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_T = TypeVar("_T")

# What Pillow's decoders raise on damaged files; anything else is a programming error and must be seen.
_DECODER_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, NotImplementedError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


class ImageError(ToileError):
    """A picture that cannot be read: damaged, empty, of an unknown kind or too large."""


def open_image(source: bytes | Path) -> Image.Image:
    """Reads a picture as RGB: turned as its EXIF says, transparency over white, 16 bits scaled to 8, first frame.

    source: the bytes of an encoded picture, or a file.
    Raises ImageError when it is truncated, empty, unreadable or has more than 100 million pixels (known from the
    header, before anything is decoded).
    """
    return _decode(source, _to_rgb)


def open_alpha(source: bytes | Path) -> Image.Image | None:
    """Reads how opaque a picture is, as grey (255 = wholly), turned as its EXIF says; None where it does not say.

    source, errors: see `open_image`, whose picture it fits.
    """
    return _decode(source, _to_alpha)


def _decode(source: bytes | Path, convert: Callable[[Image.Image, str], _T]) -> _T:
    """What a function makes of a picture and its name for messages; errors: see `open_image`."""
    name = str(source) if isinstance(source, Path) else f"picture of {len(source):,} bytes"
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            _check_header(image, name)
            image.load()
            return convert(ImageOps.exif_transpose(image), name)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels; make it smaller first") from error
    except UnidentifiedImageError as error:  # whose own words are the address of the bytes in memory
        raise ImageError(f"{name} cannot be read as a picture (it is of no known kind)") from error
    except _DECODER_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"{name} cannot be read as a picture ({reason})") from error


def _check_header(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} is {width}x{height}, more than the {MAX_PIXELS:,} pixels allowed; make it smaller first"
        )


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ImageError(f"{name} holds floating point values of unknown range; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        return _from_16_bit(image, name)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (*WHITE, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_alpha(image: Image.Image, name: str) -> Image.Image | None:
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        return image.convert("RGBA").getchannel("A")
    return None


def _from_16_bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name} holds values outside 0..65535; save it with 8 or 16 bits a channel")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def pad_to(image: Image.Image, width: int, height: int, enlarge: bool = False) -> Image.Image:
    """Centres a picture on a white canvas of width x height, shrunk to fit if larger, never stretched.

    enlarge: also grow a smaller picture until it touches two sides.
    """
    if width < 1 or height < 1:
        raise ToileError(f"size {width}x{height} is not possible; both must be at least 1")
    if image.size == (width, height):
        return image if image.mode == "RGB" else image.convert("RGB")
    ratio = min(width / image.width, height / image.height)
    if ratio < 1 or (enlarge and ratio > 1):
        size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        image = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (width, height), WHITE)
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def cover(image: Image.Image, width: int, height: int, most: float = math.inf) -> Image.Image:
    """Scales a picture until it covers width x height and cuts off evenly what is over, never stretched.

    most: it grows at most so many times; what is then still bare is white, as `pad_to` leaves it.
    """
    ratio = min(max(width / image.width, height / image.height), most)
    shown = (min(width, round(image.width * ratio)), min(height, round(image.height * ratio)))
    # The part that is seen, in the picture's own pixels: fractions of a pixel are neither lost nor stretched.
    part_width, part_height = min(shown[0] / ratio, image.width), min(shown[1] / ratio, image.height)
    left, top = (image.width - part_width) / 2, (image.height - part_height) / 2
    box = (left, top, left + part_width, top + part_height)
    scaled = image.convert("RGB").resize(shown, Image.Resampling.LANCZOS, box=box)
    return scaled if shown == (width, height) else pad_to(scaled, width, height)


def pixels_of(image: Image.Image) -> np.ndarray:
    """The uint8 pixels (H, W, 3) of a picture."""
    return np.array(image.convert("RGB"), dtype=np.uint8)


def images_from_pixels(pixels: Tensor) -> Tensor:
    """Turns uint8 pixels (B, H, W, 3) into float32 images (B, 3, H, W) in [-1, 1]."""
    import torch

    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ToileError(f"pixels must be uint8 (B, H, W, 3); got {pixels.dtype} {tuple(pixels.shape)}")
    return pixels.permute(0, 3, 1, 2).to(torch.float32).contiguous() / 127.5 - 1.0


def pixels_from_images(images: Tensor) -> Tensor:
    """Turns float images (B, 3, H, W) in [-1, 1] into uint8 pixels (B, H, W, 3); values outside are clamped."""
    import torch

    if images.ndim != 4 or images.shape[1] != 3:
        raise ToileError(f"images must be float (B, 3, H, W); got {tuple(images.shape)}")
    scaled = (images.detach().to(torch.float32).clamp(-1.0, 1.0) + 1.0) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def contact_sheet(
    pictures: Sequence[Image.Image],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    scale: int = 1,
) -> Image.Image:
    """Lays pictures out in rows on white, each with its caption underneath.

    columns: pictures in a row; by default about a square with few empty places.
    captions: one for each picture; wrapped to three lines, then cut with an ellipsis.
    scale: whole-number enlargement of every picture.
    """
    if not pictures:
        raise ToileError("a contact sheet needs at least one picture; got none")
    if captions is not None and len(captions) != len(pictures):
        raise ToileError(f"got {len(captions)} captions for {len(pictures)} pictures; give one for each")
    if scale < 1 or (columns is not None and columns < 1):
        raise ToileError(f"scale and columns must be at least 1; got scale {scale}, columns {columns}")
    columns = min(columns or _balanced_columns(len(pictures)), len(pictures))
    rows = math.ceil(len(pictures) / columns)
    gap = 4 * scale
    cell_width = max(picture.width for picture in pictures) * scale
    cell_height = max(picture.height for picture in pictures) * scale
    font = ImageFont.load_default()
    texts = [_wrap(caption, font, cell_width) for caption in captions] if captions else []
    line_height = math.ceil(sum(map(abs, font.getbbox("Ag")[1::2]))) + 2
    text_height = max((len(lines) for lines in texts), default=0) * line_height
    step_x, step_y = cell_width + gap, cell_height + text_height + gap
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), WHITE)
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        left, top = gap + index % columns * step_x, gap + index // columns * step_y
        size = (picture.width * scale, picture.height * scale)
        big = picture.convert("RGB") if scale == 1 else picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        sheet.paste(big, (left + (cell_width - big.width) // 2, top + (cell_height - big.height) // 2))
        for number, line in enumerate(texts[index] if texts else []):
            draw.text((left, top + cell_height + number * line_height), line, fill=(60, 60, 60), font=font)
    return sheet


def _balanced_columns(count: int) -> int:
    """The number of columns near the square that leaves the fewest empty places."""
    square = math.ceil(math.sqrt(count))
    return min(range(square, 2 * square), key=lambda columns: (-count % columns, columns))


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int, max_lines: int = 3) -> list[str]:
    lines: list[str] = []
    for word in text[:500].split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > max_lines:
        lines = lines[:max_lines]
        lines[-1] += "..."
    return [_elide(line, font, width) for line in lines]


def _elide(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    kept = line.removesuffix("...")
    while len(kept) > 1 and font.getlength(kept + "...") > width:
        kept = kept[:-1]
    return kept + "..."
