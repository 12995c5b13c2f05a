"""toile generate with a picture to begin with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toile.cli.main import run
from toile.generation.source import read_source
from toile.picture_recipe import read_recipe

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_a_folder_with_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)).save("photo.png")
    Image.new("L", (48, 64), 0).save("nothing.png")
    Image.new("RGB", (20, 32), (200, 30, 30)).save("narrow.png")


def generate(folder: Path, *arguments: str) -> int:
    return run(["generate", "red dress", "--model", str(folder), "--device", "cpu", "--seed", "1", *arguments])


def the_picture(capsys: Output) -> Path:
    return Path(json.loads(capsys.readouterr().out)["pictures"][0]["path"])


def test_image_to_image_and_its_replay(tiny_folder: Path, capsys: Output) -> None:
    assert generate(tiny_folder, "--image", "photo.png", "--strength", "0.4", "--json") == 0
    path = the_picture(capsys)
    assert read_recipe(path).settings.strength == 0.4
    source = read_source(path)
    assert source is not None and source.size == (24, 32) and source.mask is None
    assert run(["replay", str(path)]) == 0
    assert "identical" in capsys.readouterr().out


def test_a_mask_that_covers_nothing_gives_the_picture_back(tiny_folder: Path, capsys: Output) -> None:
    assert generate(tiny_folder, "--image", "photo.png", "--mask", "nothing.png", "--size", "48x64", "--json") == 0
    path = the_picture(capsys)
    assert np.array_equal(np.array(Image.open(path)), np.array(Image.open("photo.png")))
    assert read_recipe(path).settings.strength == 1.0


def test_an_extended_canvas_has_the_picture_in_it(tiny_folder: Path, capsys: Output) -> None:
    assert generate(tiny_folder, "--image", "narrow.png", "--extend", "4", "0", "8", "0", "--json") == 0
    pixels = np.array(Image.open(the_picture(capsys)))
    assert pixels.shape == (32, 32, 3)
    assert (pixels[:, 4:24] == (200, 30, 30)).all()
    assert not (pixels[:, :4] == (200, 30, 30)).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--strength", "0.5"], "--strength needs a picture"),
        (["--mask", "nothing.png"], "--mask needs a picture"),
        (["--extend", "1", "1", "1", "1"], "--extend needs a picture"),
        (["--image", "photo.png", "--strength", "0"], "strength is 0"),
        (["--image", "photo.png", "--strength", "1.5"], "strength is 1.5"),
        (["--image", "photo.png", "--fit", "tile"], "fit is 'tile'"),
        (
            ["--image", "photo.png", "--mask", "nothing.png", "--extend", "1", "1", "1", "1"],
            "either --mask or --extend",
        ),
        (["--image", "absent.png"], "absent.png"),
        (["--image", "photo.png", "--size", "23x32"], "width is 23"),
    ],
)
def test_wrong_flags_are_refused(tiny_folder: Path, capsys: Output, flags: list[str], message: str) -> None:
    assert generate(tiny_folder, *flags) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not Path("pictures").exists()
