"""Data sets with known faults."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def scene(seed: int, width: int = 96, height: int = 128) -> Image.Image:
    """A smooth picture of coarse random colours, unlike that of any other seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **settings: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def huge_png() -> bytes:
    """A PNG whose header says 50,000 x 50,000; there is next to nothing behind it."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.fixture
def sick_folder(tmp_path: Path) -> Path:
    """Pictures with .txt files; the names say what is the matter."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    whole = encoded(scene(1))
    pictures = {
        "good-1.png": (whole, "a red dress for women"),
        "good-2.png": (encoded(scene(2)), "a blue shirt\nan elegant shirt for men"),
        "copy-of-1.png": (whole, "a red dress"),
        "small-copy-of-2.jpg": (encoded(scene(2).resize((72, 96)), "JPEG", quality=70), "a blue shirt"),
        "truncated.png": (encoded(scene(3))[:900], "a hat"),
        "empty.png": (b"", "a cap"),
        "huge.png": (huge_png(), "a coat"),
        "tiny.png": (encoded(scene(4, 20, 30)), "a belt"),
        "none.png": (encoded(scene(5)), "None"),
        "half-none.png": (encoded(scene(6)), "nan\na green coat"),
        "hole.png": (encoded(scene(7)), "a None shirt"),
        "articles.png": (encoded(scene(8)), "a shoes"),
        "long.png": (encoded(scene(9)), "red " * 40),
        "several.png": (encoded(scene(10)), "pack of 3 t-shirts"),
        "wordless.png": (encoded(scene(11)), None),
        "blank.png": (encoded(scene(12)), "  \n"),
        "cmyk.jpg": (encoded(scene(13).convert("CMYK"), "JPEG"), "a yellow scarf"),
        "palette.png": (encoded(scene(14).quantize(32)), "a grey tie"),
    }
    for name, (data, caption) in pictures.items():
        (folder / name).write_bytes(data)
        if caption is not None:
            (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    return folder
