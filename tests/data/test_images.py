"""Pictures of every kind become RGB, bad ones become one clear error, and nothing is ever stretched (D1, D2, D5)."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from toile.data.images import (
    ImageError,
    contact_sheet,
    images_from_pixels,
    open_image,
    pad_to,
    pixels_from_images,
    pixels_of,
)
from toile.errors import ToileError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def only_colour(image: Image.Image) -> tuple[int, ...]:
    pixels = pixels_of(image).reshape(-1, 3)
    assert (pixels == pixels[0]).all()
    return tuple(int(value) for value in pixels[0])


def test_alpha_is_laid_over_white() -> None:
    assert only_colour(open_image(encoded(Image.new("RGBA", (4, 3), (255, 0, 0, 0))))) == (255, 255, 255)
    half = only_colour(open_image(encoded(Image.new("LA", (4, 3), (0, 128)))))
    assert half == pytest.approx((127, 127, 127), abs=1)


def test_palette_with_a_transparent_entry() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    pixels = pixels_of(open_image(encoded(picture, transparency=0)))
    assert pixels.tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_cmyk_white_stays_white() -> None:
    opened = open_image(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"))
    assert opened.mode == "RGB"
    assert min(only_colour(opened)) >= 254


def test_16_bits_are_scaled_not_cut() -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    pixels = pixels_of(open_image(encoded(Image.fromarray(values))))
    assert pixels[0, :, 0].tolist() == [0, 100, 255]
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_floating_point_pictures_are_refused_with_advice() -> None:
    with pytest.raises(ImageError, match="floating point.*8 or 16 bits"):
        open_image(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert only_colour(open_image(data)) == (255, 0, 0)


def test_exif_rotation_is_applied() -> None:
    picture = Image.new("RGB", (16, 8), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert open_image(encoded(picture, "JPEG", exif=exif)).size == (8, 16)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_truncated_pictures_are_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ImageError):
        open_image(data[: len(data) // 2])


@given(st.binary(max_size=200))
def test_any_bytes_give_a_picture_or_an_image_error(data: bytes) -> None:
    for content in (data, b"\x89PNG\r\n\x1a\n" + data, b"\xff\xd8\xff" + data, b"GIF89a" + data):
        try:
            assert open_image(content).mode == "RGB"
        except ImageError as error:
            assert "\n" not in str(error)


def test_empty_bytes_and_missing_files_are_one_line(tmp_path) -> None:
    with pytest.raises(ImageError, match="0 bytes"):
        open_image(b"")
    with pytest.raises(ImageError, match="nowhere.png"):
        open_image(tmp_path / "nowhere.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (10_001, 10_000), (2**31 - 1, 2**31 - 1)])
def test_giant_pictures_are_refused_from_their_header(width: int, height: int) -> None:
    with pytest.raises(ImageError, match="100,000,000 pixels"):
        open_image(png_header(width, height))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_at_the_limit_is_not_refused_for_its_size() -> None:
    with pytest.raises(ImageError) as caught:  # it holds no data, which is another complaint
        open_image(png_header(10_000, 10_000))
    assert "100,000,000" not in str(caught.value)


@given(*[st.integers(1, 90)] * 4)
def test_padding_never_stretches(width: int, height: int, to_width: int, to_height: int) -> None:
    padded = pixels_of(pad_to(Image.new("RGB", (width, height)), to_width, to_height))
    assert padded.shape == (to_height, to_width, 3)
    dark = np.argwhere(padded[..., 0] < 128)
    rows, columns = dark.max(axis=0) - dark.min(axis=0) + 1
    ratio = min(1.0, to_width / width, to_height / height)
    assert abs(columns - width * ratio) <= 1 and abs(rows - height * ratio) <= 1
    border = padded[..., 0] >= 128
    assert (padded[border] == 255).all()


def test_padding_is_centred_and_enlarges_only_when_asked() -> None:
    small = Image.new("RGB", (10, 20), "black")
    pixels = pixels_of(pad_to(small, 40, 40))
    assert (pixels[10:30, 15:25] == 0).all() and (pixels == 0).sum() == 10 * 20 * 3
    grown = pixels_of(pad_to(small, 40, 40, enlarge=True))
    assert (grown[:, 10:30] == 0).all() and (grown == 0).sum() == 20 * 40 * 3
    with pytest.raises(ToileError, match="0x40"):
        pad_to(small, 0, 40)


def test_every_pixel_value_survives_the_round_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
    images = images_from_pixels(pixels)
    assert images.shape == (1, 3, 16, 16) and images.dtype == torch.float32
    assert images.min() == -1.0 and images.max() == 1.0
    assert torch.equal(pixels_from_images(images), pixels)


def test_values_outside_are_clamped_and_shapes_checked() -> None:
    pixels = pixels_from_images(torch.tensor([-3.0, 3.0, 0.001]).reshape(1, 3, 1, 1))
    assert pixels.flatten().tolist() == [0, 255, 128]
    with pytest.raises(ToileError, match="uint8"):
        images_from_pixels(torch.zeros(1, 2, 2, 3))
    with pytest.raises(ToileError, match="images must be"):
        pixels_from_images(torch.zeros(3, 2, 2))


def test_contact_sheet_shows_every_picture_and_its_caption() -> None:
    pictures = [Image.new("RGB", (20, 30), colour) for colour in ("red", "lime", "blue")]
    plain = pixels_of(contact_sheet(pictures, columns=2))
    for colour in ([255, 0, 0], [0, 255, 0], [0, 0, 255]):
        assert (plain == colour).all(axis=-1).sum() == 20 * 30
    assert (plain[0] == 255).all() and (plain[:, 0] == 255).all()
    captioned = pixels_of(contact_sheet(pictures, columns=2, captions=["red", "green and long " * 20, "\u8863 \0 b"]))
    assert captioned.shape[0] > plain.shape[0] and captioned.shape[1] == plain.shape[1]
    text = (captioned != 255).any(axis=-1).sum() - 3 * 20 * 30
    assert text > 50
    doubled = pixels_of(contact_sheet(pictures, columns=2, scale=2))
    assert doubled.shape == (2 * plain.shape[0], 2 * plain.shape[1], 3)


def test_contact_sheet_refuses_what_it_cannot_lay_out() -> None:
    with pytest.raises(ToileError, match="got none"):
        contact_sheet([])
    with pytest.raises(ToileError, match="1 captions for 2"):
        contact_sheet([Image.new("RGB", (2, 2))] * 2, captions=["one"])


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (4, 2), (8, 4), (16, 4), (64, 8)])
def test_default_sheets_are_full(count: int, columns: int) -> None:
    sheet = contact_sheet([Image.new("RGB", (10, 10))] * count)
    assert sheet.size == (columns * 14 + 4, count // columns * 14 + 4)


def test_reading_pictures_does_not_import_torch() -> None:
    code = "import sys, toile.data.sources, toile.data.captions, toile.data.split; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_no_picture_is_told_without_addresses(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nonsense")
    for source in (b"nonsense", tmp_path / "a.png"):
        with pytest.raises(ImageError, match=r"cannot be read as a picture \(it is of no known kind\)$"):
            open_image(source)
