"""Image folders: metadata files and sidecars, safe paths, exact counts (D3)."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from toile.data.folder import ImageFolder
from toile.data.sources import open_source
from toile.errors import ToileError


def picture(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)


def lines(*rows: object) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


def test_jsonl_with_captions_fields_and_every_fault(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("a.png", "sub/b.png", "c.png", "blank.png", "lonely.png"):
        picture(data, name)
    picture(tmp_path, "outside.png")
    (data / "link.png").symlink_to(tmp_path / "outside.png")
    (data / "metadata.jsonl").write_text(
        lines(
            {"file_name": "a.png", "text": " a  poppy\nfield ", "year": 1873, "artist": "", "nested": {"x": 1}},
            {"file_name": ".\\sub\\b.png", "captions": ["one", "two", "", 3]},
            {"file_name": "c.png", "colour": "red"},
            {"file_name": "a.png", "caption": "poppies"},
            {"file_name": "blank.png", "text": "  "},
            {"file_name": "../outside.png", "text": "x"},
            {"file_name": str(tmp_path / "outside.png"), "text": "x"},
            {"file_name": "link.png", "text": "x"},
            {"file_name": "missing.png", "text": "x"},
            {"text": "no name"},
            "{broken",
            "[1]",
            "",
        )
    )
    source = ImageFolder(data)
    found = {record.key: record for record in source.records}
    assert set(found) == {"a.png", "sub/b.png", "c.png"}
    assert found["a.png"].captions == ("a poppy field", "poppies") and dict(found["a.png"].fields) == {"year": "1873"}
    assert found["sub/b.png"].captions == ("one", "two")
    assert dict(found["c.png"].fields) == {"colour": "red"}
    assert dict(source.report.counts) == {
        "blank captions": 1, "paths outside the data root": 2, "missing pictures": 2, "rows without file_name": 1,
        "unreadable metadata lines": 2, "pictures without words": 2,
    }  # fmt: skip
    assert dict(source.report.repaired) == {"rows joined to the first of the same picture": 1}
    assert source.report.total_read == source.report.kept + source.report.dropped == 13


def test_csv_in_subfolders_of_a_zip(tmp_path: Path) -> None:
    for name in ("train/a.png", "test/a.png"):
        picture(tmp_path, name)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for side in ("train", "test"):
            archive.write(tmp_path / side / "a.png", f"{side}/a.png")
            archive.writestr(f"{side}/metadata.csv", f'file_name,text,title\na.png,"a {side}, quoted",T {side}\n')
    source = ImageFolder(tmp_path / "set.zip")
    assert {record.key: record.captions for record in source.records} == {
        "test/a.png": ("a test, quoted",), "train/a.png": ("a train, quoted",),
    }  # fmt: skip
    assert source.title(0) == "T test"
    assert source.read_picture(0) == (tmp_path / "test" / "a.png").read_bytes()


def test_sidecars_hold_one_caption_a_line(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path, name)
    (tmp_path / "a.txt").write_text("a red square\n\nsquare, red\n")
    (tmp_path / "b.txt").write_text(" \n")
    source = ImageFolder(tmp_path)
    assert [record.captions for record in source.records] == [("a red square", "square, red")]
    assert dict(source.report.counts) == {"blank captions": 1, "pictures without words": 1}


def test_a_csv_without_file_names_is_refused(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("name,text\na.png,x\n")
    with pytest.raises(ToileError, match="no column file_name"):
        ImageFolder(tmp_path)


def test_identity_changes_with_the_words(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("red")
    first = ImageFolder(tmp_path).identity
    assert ImageFolder(tmp_path).identity == first
    (tmp_path / "a.txt").write_text("blue")
    assert ImageFolder(tmp_path).identity != first


def test_pictures_without_words_take_the_caption_that_is_given(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path, name)
    (tmp_path / "a.txt").write_text("poppies")
    assert [r.captions for r in ImageFolder(tmp_path, "a painting").records] == [("poppies",), ("a painting",)]
    assert [r.key for r in ImageFolder(tmp_path).records] == ["a.png"]
    (tmp_path / "a.txt").unlink()
    assert {r.captions for r in open_source(tmp_path, "a painting").records} == {("a painting",)}
    with pytest.raises(ToileError, match="pictures alone need a caption"):
        open_source(tmp_path)


def test_folders_of_kohyas_scripts_say_how_often_and_what(tmp_path: Path) -> None:
    for name in (
        "10_red  dress/a.png",
        "10_red  dress/b.png",
        "2_belt/c.png",
        "plain/d.png",
        "0_none/e.png",
        "99999999_x/f.png",
    ):
        picture(tmp_path, name)
    (tmp_path / "10_red  dress" / "b.caption").write_text("red dress with lace")
    found = {record.key: (record.captions, record.repeats) for record in open_source(tmp_path).records}
    assert found == {
        "10_red  dress/a.png": (("red dress",), 10),
        "10_red  dress/b.png": (("red dress with lace",), 10),
        "2_belt/c.png": (("belt",), 2),
    }
