"""Which pictures are offered, and what may be uploaded: by content, with names that lead nowhere, up to a size."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from toile.errors import ToileError
from toile.training.pictures import DataConfig, PictureSet
from toile.web.training.picture_sets import PictureSets
from toile.web.training.places import NoSuchPlaceError


@pytest.fixture
def sets(tmp_path: Path, picture_folder: Path) -> PictureSets:
    root = tmp_path / "offered"
    shutil.copytree(picture_folder, root / "shapes")
    (root / "notes").mkdir()
    (root / "notes" / "a.txt").write_text("no picture")
    (root / ".hidden").mkdir()
    return PictureSets((root,), tmp_path / "own", 100_000)


def file_of(colour: tuple[int, int, int] = (200, 30, 30), kind: str = "PNG", side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind)
    return file.getvalue()


def zip_of(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


def test_folders_with_pictures_are_offered_and_links_that_lead_away_are_not(
    sets: PictureSets, tmp_path: Path, picture_folder: Path
) -> None:
    (tmp_path / "offered" / "away").symlink_to(picture_folder)
    (tmp_path / "offered" / "wrong.zip").write_bytes(b"no zip")
    (tmp_path / "offered" / "right.zip").write_bytes(zip_of(a__png=file_of()))
    found = {known.name: known for known in sets.all().values()}
    assert list(found) == ["right.zip", "shapes"]
    assert (found["shapes"].num_pictures, found["shapes"].has_words, found["shapes"].is_own) == (90, True, False)
    assert not found["right.zip"].has_words
    shutil.copy(tmp_path / "offered" / "shapes" / "0.bmp", tmp_path / "offered")
    assert [known.name for known in sets.all().values()] == ["offered", "right.zip", "shapes"]


@pytest.mark.parametrize("place", ["", "shapes", "../offered/shapes", "/etc", "%2e%2e", "\0"])
def test_nothing_is_found_but_by_its_id(sets: PictureSets, place: str) -> None:
    with pytest.raises(NoSuchPlaceError):
        sets.find(place)


def test_uploaded_pictures_can_be_learnt_from(sets: PictureSets, tmp_path: Path) -> None:
    kinds = ("PNG", "JPEG", "WEBP")
    for number, kind in enumerate(kinds):
        known = sets.add_picture("My linen", file_of((number * 80, 30, 30), kind), f"a  patch\n{number}")
    again = sets.add_picture("My linen", file_of((0, 30, 30), "PNG"), "a patch 0")
    assert again == known and known.num_pictures == 3 and known.is_own and known.has_words
    read = PictureSet(DataConfig(16, 16, path=known.path))
    assert {record.captions[0] for record in read.records} == {"a patch 0", "a patch 1", "a patch 2"}
    sets.remove(known.id)
    assert not (tmp_path / "own" / "My linen").exists()
    [shapes] = sets.all().values()
    with pytest.raises(ToileError, match="not uploaded here"):
        sets.remove(shapes.id)
    assert shapes.path.is_dir()


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", "a\\b", "/a", ".a", "a.", " a", "a\0b", "a" * 61, "<img>"])
def test_names_of_sets_are_no_paths(sets: PictureSets, tmp_path: Path, name: str) -> None:
    for add in (lambda: sets.add_picture(name, file_of(), ""), lambda: sets.add_zip(name, zip_of(a__png=file_of()))):
        with pytest.raises(ToileError, match="name is"):
            add()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["offered"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='x'/>",
        b"<html></html>",
        file_of(kind="BMP"),
        file_of()[:60],
    ],
)
def test_what_is_no_picture_is_refused_by_its_content(sets: PictureSets, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ToileError, match="no picture that can be read"):
        sets.add_picture("set", content, "")
    assert not (tmp_path / "own").exists()


def test_a_zip_is_kept_as_it_is_and_only_with_pictures(sets: PictureSets, tmp_path: Path) -> None:
    known = sets.add_zip("box", zip_of(a__png=file_of(), a__txt=b"red patch"))
    assert known.num_pictures == 1 and known.has_words and known.path.name == "box.zip"
    for content, says in (
        (b"PK", "no zip"),
        (zip_of(a__txt=b"x"), "no picture"),
        (zip_of(**{"../a__png": b"x"}), "no pict"),
    ):
        with pytest.raises(ToileError, match=says):
            sets.add_zip("other", content)
    with pytest.raises(ToileError, match="already"):
        sets.add_zip("box", zip_of(a__png=file_of()))
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["box.zip"]


def test_uploads_have_an_end(sets: PictureSets) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(200_000))
    with pytest.raises(ToileError, match="would unpack to"):
        sets.add_zip("bomb", packed.getvalue())
    with pytest.raises(ToileError, match="may have 0.0 GB in all"):
        sets.add_zip("large", bytes(100_001))
    with pytest.raises(ToileError, match="2,001 characters"):
        sets.add_picture("set", file_of(), "a" * 2001)
