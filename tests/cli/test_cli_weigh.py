"""toile weigh, as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from toile.cli.main import run
from toile.cli.weigh import weights_between
from toile.picture_recipe import read_recipe

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def weigh(folder: Path, *arguments: str) -> int:
    return run(["weigh", "a red dress", "--model", str(folder), "--device", "cpu", "--dtype", "float32", *arguments])


def test_a_strip_of_pictures_and_what_the_weight_did(tiny_folder: Path, capsys: Output) -> None:
    arguments = ["--word", "red", "--from", "0", "--to", "2", "--stops", "3", "-n", "2", "--seed", "4", "--json"]
    assert weigh(tiny_folder, *arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["weights"] == [0.0, 1.0, 2.0]
    assert facts["change"][1] == 0.0 and facts["change"][0] > 0 and facts["change"][2] > 0
    recipes = [read_recipe(Path(path)) for path in facts["pictures"]]
    assert [recipe.prompt for recipe in recipes[::2]] == ["a (red:0.0) dress", "a red dress", "a (red:2.0) dress"]
    assert [recipe.seed for recipe in recipes] == [4, 5] * 3
    assert {recipe.settings.word_weights for recipe in recipes} == {"attention"}
    with Image.open(facts["sheet"]) as sheet:
        assert sheet.width > sheet.height


def test_without_a_judge_the_change_of_pixels_is_told(tiny_folder: Path, capsys: Output) -> None:
    assert weigh(tiny_folder, "--word", "red", "--stops", "2", "--word-weights", "embedding") == 0
    assert "weight    -1: pixels differ by" in capsys.readouterr().out


def test_weights() -> None:
    assert weights_between(-1, 2, 7) == (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
    assert weights_between(0, 3, 2) == (0.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--word", "blue"], "is not in the prompt"),
        (["--word", "red", "--from", "2", "--to", "1"], "from < to"),
        (["--word", "red", "--stops", "1"], "at least 2 stops"),
        (["--word", "red", "--to", "1000"], "a weight in the prompt"),
        (["--word", "red", "--judge", "absent"], "absent"),
    ],
)
def test_wrong_input_is_refused(tiny_folder: Path, capsys: Output, arguments: list[str], message: str) -> None:
    assert weigh(tiny_folder, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
