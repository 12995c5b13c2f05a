"""toile edit and toile blend, and the flags of generate that steer, as people type them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toile.cli.main import run
from toile.picture_recipe import Toward, read_recipe, write_png

Output = pytest.CaptureFixture[str]
PLAIN = ["--device", "cpu", "--dtype", "float32", "--seed", "4"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def result(capsys: Output, *arguments: str) -> dict[str, object]:
    assert run([*arguments, "--json"]) == 0
    facts: dict[str, object] = json.loads(capsys.readouterr().out)
    return facts


def pixels(path: object) -> np.ndarray:
    return np.array(Image.open(str(path)))


def test_an_edit_of_a_saved_picture_and_its_replay(tiny_folder: Path, capsys: Output) -> None:
    made = result(capsys, "generate", "red dress", "--model", str(tiny_folder), *PLAIN, "--steps", "4")
    [picture] = made["pictures"]  # type: ignore[misc]
    edited = result(capsys, "edit", picture["path"], "red belt", "--cross", "0.5", "--self", "0.25")
    recipe = read_recipe(Path(str(edited["path"])))
    assert (recipe.prompt, recipe.original, recipe.seed) == ("red belt", "red dress", 4)
    assert (recipe.settings.steps, recipe.settings.edit_cross, recipe.settings.edit_self) == (4, 0.5, 0.25)
    assert Path(str(edited["sheet"])).name == "edit.png"
    assert run(["replay", str(edited["path"])]) == 0
    assert run(["edit", str(edited["path"]), "blue belt"]) == 2
    assert "made from words alone" in capsys.readouterr().err


def test_an_edit_begins_as_the_picture_did_whatever_the_model_would_choose(tiny_folder: Path, capsys: Output) -> None:
    searched = ["--init-noise", "search:4", "--steps", "2", "--model", str(tiny_folder)]
    [made] = result(capsys, "generate", "red dress", *PLAIN, *searched)["pictures"]  # type: ignore[misc]
    recipe = read_recipe(Path(made["path"]))
    other = ((recipe.chosen_noises[0] + 1) % 4,)
    write_png(Path("other.png"), pixels(made["path"]), replace(recipe, chosen_noises=other))
    edited = result(capsys, "edit", "other.png", "red belt")
    assert read_recipe(Path(str(edited["path"]))).chosen_noises == other


def test_a_blend_ends_at_the_two_pictures(tiny_folder: Path, capsys: Output) -> None:
    model = ["--model", str(tiny_folder), *PLAIN]
    blend = result(capsys, "blend", "red dress", "black belt", "--frames", "3", "--to-seed", "9", *model)
    [first] = result(capsys, "generate", "red dress", *model)["pictures"]  # type: ignore[misc]
    [last] = result(capsys, "generate", "black belt", *model[:-1], "9")["pictures"]  # type: ignore[misc]
    paths = blend["pictures"]
    assert isinstance(paths, list) and len(paths) == 3
    assert np.array_equal(pixels(paths[0]), pixels(first["path"]))
    assert np.array_equal(pixels(paths[2]), pixels(last["path"]))
    assert read_recipe(Path(paths[1])).toward == Toward("black belt", 9, 0.5)
    assert not np.array_equal(pixels(paths[1]), pixels(paths[0]))


def test_variations_second_pass_and_maps(tiny_folder: Path, capsys: Output) -> None:
    flags = ["--variation", "0.3", "--variation-seed", "7", "--hires", "1.5", "--hires-strength", "0.6", "--maps"]
    made = result(capsys, "generate", "red dress", "-n", "2", "--model", str(tiny_folder), *PLAIN, *flags)
    entries = made["pictures"]
    assert isinstance(entries, list)
    recipes = [read_recipe(Path(entry["path"])) for entry in entries]
    assert [recipe.toward for recipe in recipes] == [Toward("red dress", 7, 0.3), Toward("red dress", 8, 0.3)]
    assert {recipe.settings.hires_scale for recipe in recipes} == {1.5}
    assert pixels(entries[0]["path"]).shape == (48, 36, 3)
    assert Path(entries[0]["maps"]).name == "maps-0001-red-dress-s4.png"
    assert Path(entries[0]["maps"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blend", "red"], "give a second prompt"),
        (["blend", "red", "blue", "--frames", "1"], "frames is 1"),
        (["generate", "red", "--variation-seed", "3"], "add --variation"),
        (["generate", "red", "--variation", "2"], "share of the other end is 2"),
        (["generate", "red", "--hires", "9"], "hires_scale is 9"),
        (["edit", "absent.png", "red"], "absent.png"),
    ],
)
def test_wrong_input_is_refused_in_one_line(capsys: Output, arguments: list[str], message: str) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
    assert not Path("pictures").exists()
