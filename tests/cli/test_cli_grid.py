"""toile grid, as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toile.cli.main import run
from toile.generation.grid_axes import parse_axis
from toile.picture_recipe import read_recipe

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def grid(folder: Path, *arguments: str) -> int:
    return run(["grid", "red dress", "--model", str(folder), "--device", "cpu", "--seed", "4", *arguments])


def test_a_grid_of_two_settings(tiny_folder: Path, capsys: Output) -> None:
    assert grid(tiny_folder, "--x", "steps=2,3", "--y", "sampler=ddim,unipc,euler", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    settings = [read_recipe(Path(path)).settings for path in facts["pictures"]]
    assert [(each.steps, each.sampler) for each in settings] == [
        (steps, sampler) for sampler in ("ddim", "unipc", "euler") for steps in (2, 3)
    ]
    assert facts["captions"][1] == "steps 3, sampler ddim"
    assert Path(facts["sheet"]).name == "grid.png"


def test_prompts_and_seeds_are_axes_too(tiny_folder: Path, capsys: Output) -> None:
    assert grid(tiny_folder, "--x", "prompt=red dress, long|blue belt", "--y", "seed=1,2", "--json") == 0
    recipes = [read_recipe(Path(path)) for path in json.loads(capsys.readouterr().out)["pictures"]]
    assert [(recipe.prompt, recipe.seed) for recipe in recipes[:2]] == [("red dress, long", 1), ("blue belt", 1)]


def test_values_have_the_type_of_their_setting() -> None:
    assert parse_axis("guidance = 1, 2.5").values == (1.0, 2.5)
    assert parse_axis("hires-scale=1.5").values == (1.5,)
    assert parse_axis("word-weights=embedding,attention").values == ("embedding", "attention")


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["--x", "steps"], "for example steps=10,20,30"),
        (["--x", "stepz=1"], "no setting of a grid"),
        (["--x", "steps=few"], "type int"),
        (["--x", "steps=0"], "steps is 0"),
        (["--x", "steps=1,2", "--y", "steps=3"], "give two settings"),
        (["--x", "seed=" + ",".join(map(str, range(1001)))], "more than 1000"),
    ],
)
def test_wrong_axes_are_refused(tiny_folder: Path, capsys: Output, axes: list[str], message: str) -> None:
    assert grid(tiny_folder, *axes) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
    assert not Path("pictures").exists()
