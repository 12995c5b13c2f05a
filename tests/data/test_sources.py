"""Finding and opening data, and loading pictures with exact counts of the bad ones (D1, D5)."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toile.data.folder import ImageFolder
from toile.data.idx import IdxFiles
from toile.data.products import ProductTable
from toile.data.roots import member_name
from toile.data.sources import find_data, load_pictures, open_source
from toile.errors import ToileError


def png(colour: tuple[int, int, int], size: tuple[int, int] = (6, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def table(folder: Path, pictures: dict[str, bytes]) -> ProductTable:
    """A product table of these pictures by id; a good one of 200 leaves room for two bad."""
    (folder / "images").mkdir(parents=True)
    rows = ["id,articleType"]
    for key, data in pictures.items():
        (folder / "images" / f"{key}.png").write_bytes(data)
        rows.append(f"{key},Shirts")
    (folder / "styles.csv").write_text("\n".join(rows))
    return ProductTable(folder)


def test_bad_pictures_are_skipped_with_exact_counts(tmp_path: Path) -> None:
    pictures = {str(number): png((number, 0, 0)) for number in range(200)}
    pictures["50"], pictures["120"] = b"", pictures["120"][:40]
    loaded = load_pictures(table(tmp_path / "data", pictures), 8, 8)
    assert dict(loaded.report.counts) == {"unreadable pictures": 2}
    assert loaded.report.examples["unreadable pictures"] == ("50", "120")
    assert loaded.pixels.shape == (198, 8, 8, 3) and loaded.pixels.dtype == np.uint8
    assert loaded.kept.dtype == np.int64
    expected = [number for number in range(200) if number not in (50, 120)]
    assert loaded.kept.tolist() == expected
    assert loaded.pixels[:, 4, 4, 0].tolist() == expected
    assert (loaded.pixels[:, :, 0] == 255).all() and (loaded.pixels[:, :, -1] == 255).all()
    assert loaded.hashes[7] == hashlib.sha256(pictures["7"]).hexdigest()


def test_over_one_in_a_hundred_bad_stops(tmp_path: Path) -> None:
    pictures = {str(number): png((0, 0, 0)) for number in range(200)}
    for key in ("3", "4", "5"):
        pictures[key] = b"\x89PNG"
    with pytest.raises(ToileError, match=r"3 of 200 pictures cannot be read \(over 1%\).*3 unreadable pictures"):
        load_pictures(table(tmp_path / "data", pictures), 8, 8)


def test_only_the_wanted_indices_are_read(tmp_path: Path) -> None:
    source = table(tmp_path / "data", {"1": png((1, 0, 0)), "2": b"broken", "3": png((3, 0, 0))})
    loaded = load_pictures(source, 6, 8, np.array([2, 0]))
    assert loaded.kept.tolist() == [2, 0] and loaded.pixels[:, 0, 0, 0].tolist() == [3, 1]


def test_a_damaged_zip_member_is_counted_not_fatal(tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("styles.csv", "id\n" + "\n".join(map(str, range(100))))
        for number in range(100):
            archive.writestr(f"images/{number}.png", png((number, 0, 0)))
    data = bytearray(path.read_bytes())
    data[data.index(b"\x89PNG") + 30] ^= 0xFF
    path.write_bytes(data)
    assert dict(load_pictures(ProductTable(path), 6, 8).report.counts) == {"unreadable files": 1}


def test_open_source_recognises_each_kind(tmp_path: Path) -> None:
    table(tmp_path / "table", {"1": png((0, 0, 0))})
    assert isinstance(open_source(tmp_path / "table"), ProductTable)
    words = tmp_path / "words"
    words.mkdir()
    (words / "a.png").write_bytes(png((0, 0, 0)))
    with pytest.raises(ToileError, match=r"styles.csv, idx files.*metadata.jsonl.*\.txt"):
        open_source(words)
    (words / "a.txt").write_text("a square")
    assert isinstance(open_source(words), ImageFolder)
    idx = tmp_path / "idx"
    idx.mkdir()
    (idx / "t10k-images-idx3-ubyte").write_bytes(bytes((0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9)))
    (idx / "t10k-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 1, 3)))
    assert isinstance(open_source(idx), IdxFiles)
    with pytest.raises(ToileError, match="does not exist"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(ToileError, match="cannot be read as a zip"):
        open_source(words / "a.png")


def test_find_data_says_what_is_missing_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOILE_DATA", raising=False)
    with pytest.raises(ToileError, match="TOILE_DATA is not set.*paramagarwal/fashion-product-images-small"):
        find_data("products")
    assert find_data("products", tmp_path) == tmp_path
    with pytest.raises(ToileError, match="does not exist"):
        find_data("products", tmp_path / "nowhere")
    monkeypatch.setenv("TOILE_DATA", str(tmp_path))
    with pytest.raises(ToileError, match="looked for fashion-product-images-small.zip"):
        find_data("products")
    with pytest.raises(ToileError, match="unknown data 'shoes'"):
        find_data("shoes")
    (tmp_path / "styles.csv").touch()
    assert find_data("products") == tmp_path
    (tmp_path / "fashion-product-images-small.zip").touch()
    assert find_data("products") == tmp_path / "fashion-product-images-small.zip"
    (tmp_path / "fashion-mnist").mkdir()
    assert find_data("fashion-mnist") == tmp_path / "fashion-mnist"


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "\\\\host\\x", "C:\\x", "c:x", "a\0b", "", " ", ".", "./", "..\\x"]
)
def test_unsafe_member_names_are_refused(name: str) -> None:
    with pytest.raises(ToileError, match="not allowed"):
        member_name(name)


def test_member_names_are_normalised() -> None:
    assert member_name(".\\images\\\\a b.jpg") == "images/a b.jpg"
