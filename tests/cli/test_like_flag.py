"""toile generate --like: settings from a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from toile.cli.main import run
from toile.picture_recipe import read_recipe

Output = pytest.CaptureFixture[str]
FOREIGN = (
    "red dress\nNegative prompt: blue\n"
    "Steps: 5, Sampler: Euler a, CFG scale: 4.5, Seed: 11, Size: 28x36, Model: something else, Clip skip: 2"
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def generate(folder: Path, capsys: Output, *arguments: str) -> Path:
    assert run(["generate", "--model", str(folder), "--device", "cpu", "--dtype", "float32", "--json", *arguments]) == 0
    return Path(json.loads(capsys.readouterr().out)["pictures"][0]["path"])


def test_like_a_picture_of_ours_is_that_picture(tiny_folder: Path, capsys: Output) -> None:
    flags = ["--steps", "4", "--sampler", "dpmpp_2m", "--guidance", "2.5", "--seed", "8", "--hires", "1.5"]
    first = generate(tiny_folder, capsys, "a (red:1.3) dress", *flags)
    again = generate(tiny_folder, capsys, "--like", str(first))
    assert np.array_equal(np.array(Image.open(first)), np.array(Image.open(again)))
    other = read_recipe(generate(tiny_folder, capsys, "belt", "--like", str(first), "--steps", "3"))
    assert (other.prompt, other.seed, other.settings.steps, other.settings.guidance) == ("belt", 8, 3, 2.5)


def test_like_a_picture_of_another_program(tiny_folder: Path, capsys: Output) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", FOREIGN)
    Image.new("RGB", (28, 36)).save("theirs.png", pnginfo=chunks)
    recipe = read_recipe(generate(tiny_folder, capsys, "--like", "theirs.png"))
    settings = recipe.settings
    assert (recipe.prompt, recipe.seed, settings.negative) == ("red dress", 11, "blue")
    assert (settings.steps, settings.sampler, settings.guidance) == (5, "euler_ancestral", 4.5)
    assert (settings.width, settings.height) == (28, 36)


def test_what_could_not_be_used_is_said(tiny_folder: Path, capsys: Output) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", FOREIGN)
    Image.new("RGB", (28, 36)).save("theirs.png", pnginfo=chunks)
    assert run(["generate", "--model", str(tiny_folder), "--device", "cpu", "--like", "theirs.png"]) == 0
    captured = capsys.readouterr()
    assert "theirs.png was made by A1111" in captured.err + captured.out
    assert "not used: Clip skip: 2" in captured.err + captured.out


def test_a_picture_that_says_nothing_is_refused(tiny_folder: Path, capsys: Output) -> None:
    Image.new("RGB", (8, 8)).save("bare.png")
    assert run(["generate", "--model", str(tiny_folder), "--like", "bare.png"]) == 2
    assert "holds no settings" in capsys.readouterr().err
