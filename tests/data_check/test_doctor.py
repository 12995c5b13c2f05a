"""The whole check on a folder with one fault of each kind, and on the published data."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from toile.data.sources import open_source
from toile.data_check.doctor import CheckConfig, Progress, check_source
from toile.data_check.findings import Diagnosis
from toile.data_check.reader import ModelReader, load_reader
from toile.errors import ToileError


@pytest.fixture(scope="module")
def reader(tiny_folder: Path) -> ModelReader:
    return load_reader(str(tiny_folder))


def diagnose(folder: Path, reader: ModelReader, config: CheckConfig | None = None) -> Diagnosis:
    *before, last = check_source(open_source(folder, ""), reader, config)
    fractions = [event.fraction for event in before if isinstance(event, Progress)]
    assert len(fractions) == len(before) and fractions == sorted(fractions) and fractions[-1] == 1.0
    assert isinstance(last, Diagnosis)
    return last


def names(diagnosis: Diagnosis, kind: str) -> list[tuple[str, ...]]:
    finding = diagnosis.finding(kind)
    assert finding.count == len(finding.cases)
    return [case.names for case in finding.cases]


def test_every_fault_is_found_once_and_under_its_name(sick_folder: Path, reader: ModelReader) -> None:
    before = {path: path.read_bytes() for path in sick_folder.iterdir()}
    found = diagnose(sick_folder, reader)
    assert names(found, "unreadable") == [("empty.png",), ("huge.png",), ("truncated.png",)]
    assert "100,000,000 pixels" in found.finding("unreadable").cases[1].note
    assert "training would stop" in found.finding("unreadable").meaning
    assert names(found, "tiny") == [("tiny.png",)] and found.finding("tiny").cases[0].note == "20x30"
    assert sorted(names(found, "same-picture")[0]) == ["copy-of-1.png", "good-1.png"]
    assert names(found, "near-duplicate") == [("good-2.png", "small-copy-of-2.jpg")]
    assert names(found, "left-out: blank captions") == [("blank.png",)]
    assert names(found, "no-words") == [("wordless.png",)]
    assert names(found, "blank-caption") == [("half-none.png",), ("none.png",)]
    assert names(found, "placeholder") == [("hole.png",)]
    assert names(found, "wrong-article") == [("articles.png",)]
    assert names(found, "too-long") == [("long.png",)]
    assert "40 tokens" in found.finding("too-long").cases[0].note
    assert names(found, "several-in-words") == [("several.png",)]
    assert names(found, "leak-same-picture") == [] == names(found, "leak-same-title")
    assert {path: path.read_bytes() for path in sick_folder.iterdir()} == before


def test_what_stays_is_what_a_model_can_learn_from(sick_folder: Path, reader: ModelReader) -> None:
    source = open_source(sick_folder, "")
    kept = {source.records[index].key for index in diagnose(sick_folder, reader).kept}
    copies = {"good-1.png", "copy-of-1.png"}
    assert len(kept & copies) == 1
    assert kept - copies == {
        "good-2.png", "half-none.png", "hole.png", "articles.png", "long.png", "several.png", "wordless.png",
        "cmyk.jpg", "palette.png",
    }  # fmt: skip


def test_a_fit_picture_stays_before_an_unfit_copy_of_it(sick_folder: Path, reader: ModelReader) -> None:
    (sick_folder / "good-2.txt").write_text("nan", encoding="utf-8")
    source = open_source(sick_folder, "")
    kept = {source.records[index].key for index in diagnose(sick_folder, reader).kept}
    assert "small-copy-of-2.jpg" in kept and "good-2.png" not in kept


def test_a_zip_is_checked_like_its_folder(sick_folder: Path, tmp_path: Path, reader: ModelReader) -> None:
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as file:
        for path in sick_folder.iterdir():
            file.write(path, path.name)
    ours, zipped = diagnose(sick_folder, reader), diagnose(tmp_path / "pictures.zip", reader)
    assert ours.findings == zipped.findings and ours.kept == zipped.kept


def test_the_lines_can_be_drawn_elsewhere(sick_folder: Path, reader: ModelReader) -> None:
    assert names(diagnose(sick_folder, reader, CheckConfig(min_size=73)), "tiny") == [
        ("small-copy-of-2.jpg",),
        ("tiny.png",),
    ]
    assert diagnose(sick_folder, reader, CheckConfig(tolerance=0)).finding("near-duplicate").count == 0
    some = diagnose(sick_folder, reader, CheckConfig(limit=3))
    assert some.num_checked == 3 and some.num_records == 17 and max(some.kept) < 3


def test_small_pictures_are_no_fault_of_a_data_set_of_small_pictures(tmp_path: Path, reader: ModelReader) -> None:
    from PIL import Image

    for number in range(5):
        Image.new("RGB", (28 if number else 13, 28), (40 * number, 90, 10)).save(tmp_path / f"{number}.png")
    found = diagnose(tmp_path, reader)
    assert names(found, "tiny") == [("0.png",)] and found.facts["min_size"] == 14
    assert "5 of 5" in found.finding("tiny").meaning


def test_leaks_between_the_folders_of_the_data_are_told(sick_folder: Path, reader: ModelReader) -> None:
    for side, name in (("train", "good-1.png"), ("test", "copy-of-1.png"), ("val", "small-copy-of-2.jpg")):
        (sick_folder / side).mkdir()
        (sick_folder / name).rename(sick_folder / side / name)
    (sick_folder / "good-2.png").rename(sick_folder / "train" / "good-2.png")
    found = diagnose(sick_folder, reader)
    assert names(found, "own-leak-same-picture") == [("train/good-1.png", "test/copy-of-1.png")]
    near = names(found, "own-leak-near-duplicate")
    assert ("train/good-2.png", "val/small-copy-of-2.jpg") in near and len(near) == 2


def test_near_duplicates_on_two_sides_of_the_split_of_training_are_told(tmp_path: Path, reader: ModelReader) -> None:
    import numpy as np
    from PIL import Image

    for number in range(60):
        colours = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        image = Image.fromarray(colours).resize((64, 80), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{number}-a.png")
        image.save(tmp_path / f"{number}-b.jpg", quality=80)
    found = diagnose(tmp_path, reader)
    assert found.finding("near-duplicate").count == 60
    # 60 pairs whose files lie on sides of their own: 1 - (0.9^2 + 2 * 0.05^2) of them are torn apart on average.
    assert 3 <= found.finding("leak-near-duplicate").count <= 25
    assert len(found.kept) == 60


def test_nothing_readable_is_a_finding_and_no_crash(tmp_path: Path, reader: ModelReader) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    found = diagnose(tmp_path, reader)
    assert found.kept == () and found.finding("unreadable").count == 1


@pytest.mark.parametrize(
    "settings", [{"limit": 0}, {"min_size": 0}, {"radius": 17}, {"tolerance": -1.0}, {"num_mismatches": 0}]
)
def test_impossible_lines_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ToileError, match=next(iter(settings))):
        CheckConfig(**settings)


@pytest.mark.realdata
def test_published_products(shared_data: Path, reader: ModelReader) -> None:
    source = open_source(shared_data / "fashion-product-images-small.zip", "")
    found = [event for event in check_source(source, reader, CheckConfig(limit=3000)) if isinstance(event, Diagnosis)]
    assert ("1165", "5062") in names(found[0], "same-picture")
    assert ("4198", "4721") in names(found[0], "near-duplicate")
    for kind in ("unreadable", "tiny", "wrong-article", "placeholder", "blank-caption", "leak-same-title"):
        assert found[0].finding(kind).count == 0
