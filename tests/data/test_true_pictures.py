"""True pictures: found by their product's key, scaled, and counted where they cannot be read."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toile.data.places import DATA_VARIABLE
from toile.data.true_pictures import TruePictures
from toile.errors import ToileError


def encoded(colour: tuple[int, int, int]) -> bytes:
    data = BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "PNG")
    return data.getvalue()


def write_zip(path: Path, damaged: int = 0, sound: int = 3) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(sound):
            file.writestr(f"images/{number}.png", encoded((number, 10, 20)))
        for number in range(sound, sound + damaged):
            file.writestr(f"images/{number}.png", encoded((1, 2, 3))[:40])
        file.writestr("notes.txt", "no picture")
    return path


def test_pictures_are_found_by_key_and_scaled(tmp_path: Path) -> None:
    found = TruePictures(write_zip(tmp_path / "true.zip"))
    assert "2" in found and "3" not in found and "notes" not in found
    pixels, kept, report = found.load(["2", "0"], width=6, height=4)
    assert pixels.shape == (2, 4, 6, 3) and kept.tolist() == [0, 1] and report.dropped == 0
    assert (pixels == np.array([[2, 10, 20], [0, 10, 20]], dtype=np.uint8)[:, None, None]).all()
    assert found.identity != TruePictures(write_zip(tmp_path / "more.zip", sound=4)).identity


def test_damaged_pictures_are_left_out_and_counted_up_to_one_in_a_hundred(tmp_path: Path) -> None:
    found = TruePictures(write_zip(tmp_path / "true.zip", damaged=1, sound=120))
    pixels, kept, report = found.load([str(number) for number in range(120, -1, -1)], 4, 4)
    assert len(pixels) == 120 and kept.tolist() == list(range(1, 121)) and report.dropped == 1
    with pytest.raises(ToileError, match="too many in .*true.zip cannot be read"):
        found.load([str(number) for number in range(100, 121)], 4, 4)


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToileError, match="nowhere.zip does not exist"):
        TruePictures(tmp_path / "nowhere.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ToileError, match="holds no picture"):
        TruePictures(tmp_path / "empty")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(ToileError, match="no true pictures in .*fashion-product-images-224.zip"):
        TruePictures()
    write_zip(tmp_path / "fashion-product-images-224.zip")
    assert "1" in TruePictures()
