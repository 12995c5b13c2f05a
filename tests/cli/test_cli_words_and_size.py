"""What people type: words the model must read first are told, and pictures come in the size that was asked for."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from toile.cli.main import run
from toile.picture_recipe import read_recipe
from toile.text.word_tables import ArticleCounts, WordTables

TABLES = WordTables(
    known={"maroon": 9, "dress": 9, "belt": 9, "for": 9, "women": 9},
    meanings={
        "colour": {"maroon": ("maroon",), "burgundy": ("maroon",)},
        "article": {"dress": ("dress",), "frock": ("dress",), "belt": ("belt",)},
        "people": {"women": ("women",), "wife": ("women",)},
    },
    articles={
        "dress": ArticleCounts("Dresses", "Apparel", 10, {}, {}, {}),
        "belt": ArticleCounts("Belts", "Accessories", 10, {}, {}, {}),
    },
    silent=("a", "my", "for"),
    no_slips=(),
)
TYPED, READ = "a comfy burgundy frock for my wife", "maroon dress for women"
TOLD = f"read as: {READ} (unknown: comfy)"
Output = Any


@pytest.fixture(scope="module")
def folder(enlarging_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an upscaler, and with tables of words."""
    folder = tmp_path_factory.mktemp("words") / "tiny"
    shutil.copytree(enlarging_folder, folder)
    (folder / "words.json").write_text(json.dumps(asdict(TABLES)), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def generate(folder: Path, capsys: Output, *arguments: str) -> tuple[list[Path], str]:
    """The pictures, and what was told."""
    assert run(["generate", *arguments, "--model", str(folder), "--device", "cpu", "--json"]) == 0
    printed = capsys.readouterr()
    return [Path(picture["path"]) for picture in json.loads(printed.out)["pictures"]], printed.err


def test_what_was_read_is_told_and_kept(folder: Path, capsys: Output) -> None:
    [path], told = generate(folder, capsys, TYPED, "--seed", "1")
    assert TOLD in told.splitlines()
    recipe = read_recipe(path)
    assert (recipe.prompt, recipe.reading) == (TYPED, READ)
    assert run(["replay", str(path)]) == 0
    assert "identical" in capsys.readouterr().out
    [path], told = generate(folder, capsys, TYPED, "--seed", "1", "--as-written", "--out", "plain")
    assert read_recipe(path).reading is None and "as written (unknown: comfy, burgundy" in told


def test_an_edit_reads_both_prompts(folder: Path, capsys: Output) -> None:
    [path], _ = generate(folder, capsys, TYPED, "--seed", "1")
    assert run(["edit", str(path), "a burgundy belt for my wife", "--out", "edited", "--json"]) == 0
    printed = capsys.readouterr()
    assert "read as: maroon belt for women" in printed.err
    recipe = read_recipe(Path(json.loads(printed.out)["path"]))
    assert (recipe.original, recipe.reading) == (READ, "maroon belt for women")


def test_series_tell_each_reading_once(folder: Path, capsys: Output) -> None:
    arguments = ["grid", TYPED, "--x", "steps=1,2", "--seed", "1", "--model", str(folder), "--device", "cpu"]
    assert run(arguments) == 0
    assert capsys.readouterr().err.splitlines().count(TOLD) == 1


def test_sizes(folder: Path, capsys: Output) -> None:
    large, small = (48, 80), (24, 32)
    asked = ((), large), (("--no-upscale",), small), (("--size", "48x80"), large), (("--size", "24x28"), (24, 28))
    for number, (flags, size) in enumerate(asked):
        [path], _ = generate(folder, capsys, "belt", "--seed", "1", *flags, "--out", str(number))
        assert Image.open(path).size == size
    assert run(["generate", "belt", "--model", str(folder), "--size", "24x28", "--upscale"]) == 2
    assert "upscaler makes 48x80 of 24x32" in capsys.readouterr().err


def test_a_picture_to_begin_with_may_be_large(folder: Path, capsys: Output) -> None:
    [path], _ = generate(folder, capsys, "belt", "--seed", "1")
    mask = Image.new("L", (48, 80))
    mask.paste(255, (0, 40, 48, 80))
    mask.save("mask.png")
    [again], _ = generate(folder, capsys, "dress", "--image", str(path), "--mask", "mask.png", "--out", "masked")
    before, after = Image.open(path).convert("RGB"), Image.open(again).convert("RGB")
    upper = (0, 0, 48, 40)
    assert after.size == (48, 80) and after.crop(upper).tobytes() == before.crop(upper).tobytes()
