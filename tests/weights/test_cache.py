"""What can be computed anew: kept, made again when it was damaged, and used where it cannot be kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toile.user_folders import CACHE_VARIABLE
from toile.weights.cache import cached, tensors_digest
from toile.weights.files import load_tensors, read_metadata, save_tensors


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Makes three tensors of several types, and counts how often."""

    def __init__(self, half: float = 0.5) -> None:
        self.made, self.half = 0, half

    def __call__(self) -> dict[str, Tensor]:
        self.made += 1
        halves = torch.full((2, 3), self.half, dtype=torch.float16)
        return {"halves": halves, "pixels": torch.arange(12, dtype=torch.uint8), "none": torch.zeros(0, 4)}


def test_made_once_for_each_identity(folder: Path) -> None:
    make = Maker()
    found = [cached("some things", "abc", make) for _ in range(3)]
    assert make.made == 1 and [path.name for path in folder.iterdir()] == ["some-things-abc.safetensors"]
    for one in found:
        assert one.note == "" and set(one.tensors) == set(make())
        assert all(torch.equal(one.tensors[name], value) for name, value in make().items())
    cached("some things", "abd", other := Maker(0.25))
    assert other.made == 1 and len(list(folder.iterdir())) == 2


def rewrite(path: Path, **changes: Tensor) -> None:
    """Whole and of the right digest as files go, but not what was written."""
    save_tensors(path, {**load_tensors(path), **changes}, read_metadata(path))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-5] + b"\x01" + path.read_bytes()[-4:]),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<html>"),
        lambda path: rewrite(path, pixels=torch.zeros(12, dtype=torch.uint8)),
        lambda path: rewrite(path, more=torch.zeros(1)),
        lambda path: save_tensors(path, load_tensors(path), {}),
        lambda path: shutil.copy(path.with_name("some-things-other.safetensors"), path),
    ],
    ids=["a byte", "cut off", "empty", "a web page", "changed", "more", "no digest", "of something else"],
)
def test_damaged_is_made_anew_and_that_is_said_once(folder: Path, damage: Callable[[Path], object]) -> None:
    make = Maker()
    cached("some things", "other", make)
    cached("some things", "abc", make)
    path = folder / "some-things-abc.safetensors"
    content = path.read_bytes()
    damage(path)
    found = cached("some things", "abc", make)
    assert make.made == 3 and torch.equal(found.tensors["halves"], make()["halves"])
    assert found.note.startswith("In the cache, some things were damaged and are computed anew: ")
    assert str(path) in found.note and path.read_bytes() == content
    assert cached("some things", "abc", make).note == ""


def test_a_cache_that_cannot_be_written_costs_only_time(folder: Path) -> None:
    folder.write_text("a file where the folder should be", encoding="utf-8")
    make = Maker()
    for times in (1, 2):
        found = cached("some things", "abc", make)
        assert make.made == times and torch.equal(found.tensors["pixels"], torch.arange(12, dtype=torch.uint8))
        assert found.note.startswith("The cache does not keep some things: cannot write ")


def test_what_is_not_finite_is_not_kept(folder: Path) -> None:
    found = cached("some things", "abc", make := Maker(float("nan")))
    assert found.tensors["halves"].isnan().all() and make.made == 1 and not folder.exists()


def test_a_digest_knows_names_types_and_shapes_but_no_order() -> None:
    one, two = torch.arange(6), torch.ones(2)
    known = tensors_digest("start", {"one": one, "two": two})
    assert tensors_digest("start", {"two": two, "one": one.clone()}) == known
    others = (
        ("other", {"one": one, "two": two}),
        ("start", {"one": one.view(2, 3), "two": two}),
        ("start", {"one": one.int(), "two": two}),
        ("start", {"two": one, "one": two}),
        ("start", {"one": one}),
    )
    assert len({known, *(tensors_digest(start, tensors) for start, tensors in others)}) == 6
