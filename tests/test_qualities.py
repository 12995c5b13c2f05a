"""Named sets of settings: in a model's files, chosen in Python and at the command line, gone in recipes."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toile.cli.main import run
from toile.errors import ToileError
from toile.generation.pictures import plan_pictures, remake
from toile.generation.request import GenerateRequest
from toile.generation_settings import GenerationSettings, ModelSettings
from toile.latent_diffusion import LatentDiffusion
from toile.model_conversion import convert_model
from toile.model_description import describe_model
from toile.model_folder import find_model
from toile.picture_recipe import read_recipe
from toile.weights.files import read_json

Output = pytest.CaptureFixture[str]
QUALITIES = {"draft": {"steps": 1, "guidance": 1.0}, "best": {"steps": 5, "sampler": "dpmpp_2m", "spacing": "trailing"}}


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a draft and a best quality; its defaults are 3 steps of ddim, guidance 2."""
    copied = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("qualities") / "model"))
    path = copied / "toile.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "qualities": QUALITIES}))
    return copied


@pytest.fixture(scope="module")
def model(folder: Path) -> LatentDiffusion:
    return LatentDiffusion.load(folder, device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings_of_pictures(capsys: Output, *arguments: str) -> list[GenerationSettings]:
    assert run([*arguments, "--device", "cpu", "--dtype", "float32", "--json"]) == 0
    pictures = json.loads(capsys.readouterr().out)["pictures"]
    return [read_recipe(Path(entry["path"] if isinstance(entry, dict) else entry)).settings for entry in pictures]


def test_a_quality_is_the_defaults_but_for_what_it_says(model: LatentDiffusion) -> None:
    assert model.settings_of(None) == model.defaults
    assert model.settings_of("draft") == replace(model.defaults, steps=1, guidance=1.0)
    assert model.settings_of("best") == replace(model.defaults, steps=5, sampler="dpmpp_2m", spacing="trailing")


def test_what_is_asked_for_wins_over_the_quality_and_it_over_the_defaults(model: LatentDiffusion) -> None:
    def settings(**given: Any) -> tuple[int, str, float]:
        planned = plan_pictures(model, GenerateRequest(("red dress",), **given)).settings
        return planned.steps, planned.sampler, planned.guidance

    assert settings() == (3, "ddim", 2.0)
    assert settings(quality="best") == (5, "dpmpp_2m", 2.0)
    assert settings(quality="best", steps=4, guidance=3.0) == (4, "dpmpp_2m", 3.0)


def test_files_of_every_layout_keep_qualities(folder: Path, model: LatentDiffusion, tmp_path: Path) -> None:
    model.save(tmp_path / "saved")
    convert_model(folder, tmp_path / "converted")
    convert_model(folder, tmp_path / "single.safetensors")
    assert model.qualities
    for name in ("saved", "converted", "single.safetensors"):
        again = LatentDiffusion.load(tmp_path / name, device="cpu", dtype="float32")
        assert (again.defaults, again.qualities) == (model.defaults, model.qualities)
    assert read_json(tmp_path / "saved" / "toile.json")["qualities"] == QUALITIES


def test_a_model_without_qualities_has_none_in_its_file(tiny_model: LatentDiffusion) -> None:
    content = ModelSettings(tiny_model.defaults).as_json()
    assert "qualities" not in content
    assert ModelSettings.from_json(content, "here") == ModelSettings(tiny_model.defaults)


@pytest.mark.parametrize(
    ("qualities", "message"),
    [
        ({"draft": {"stepz": 1}}, r"toile.json: quality 'draft': unknown key 'stepz'; did you mean 'steps'"),
        ({"draft": {"steps": "few"}}, r"toile.json: quality 'draft': steps: expected int"),
        ({"draft": {"steps": 0}}, r"toile.json: quality 'draft': steps is 0; allowed: whole numbers from 1"),
        ({"draft": {"width": 32}}, r"toile.json: quality 'draft' sets width; a quality may set steps, guidance"),
        ({" ": {}}, r"toile.json: a quality is named ' '"),
        ({"draft": 8}, r"toile.json: qualities must hold settings by name"),
        (["draft"], r"toile.json: qualities must hold settings by name"),
    ],
)
def test_wrong_qualities_in_a_file_are_refused(qualities: Any, message: str) -> None:
    with pytest.raises(ToileError, match=message):
        ModelSettings.from_json({"steps": 3, "qualities": qualities}, "toile.json")


def test_generate_in_a_quality_and_replay_without_one(folder: Path, capsys: Output) -> None:
    assert run(["generate", "red dress", "--model", str(folder), "--device", "cpu", "--seed", "1", "--json"]) == 0
    usual = read_recipe(Path(json.loads(capsys.readouterr().out)["pictures"][0]["path"])).settings
    arguments = ["generate", "red dress", "--model", str(folder), "--seed", "1", "--quality", "draft"]
    [draft] = settings_of_pictures(capsys, *arguments)
    assert draft == replace(usual, steps=1, guidance=1.0)
    [flagged] = settings_of_pictures(capsys, *arguments, "--steps", "2")
    assert flagged == replace(draft, steps=2)
    drafts = [path for path in Path("pictures").glob("0*.png") if read_recipe(path).settings == draft]
    assert run(["replay", str(drafts[0])]) == 0
    assert "identical" in capsys.readouterr().out


def test_recipes_hold_settings_and_no_name(folder: Path, tiny_model: LatentDiffusion, capsys: Output) -> None:
    settings_of_pictures(capsys, "generate", "belt", "--model", str(folder), "--seed", "1", "--quality", "best")
    [path] = Path("pictures").glob("0*.png")
    recipe = read_recipe(path)
    assert (recipe.settings.steps, recipe.settings.sampler) == (5, "dpmpp_2m")
    made_without_qualities = remake(tiny_model, recipe)
    assert made_without_qualities.recipe.settings == replace(recipe.settings, batch_size=1)


def test_a_quality_wins_over_the_picture_it_should_be_like(folder: Path, capsys: Output) -> None:
    flags = ["--steps", "2", "--sampler", "unipc", "--size", "32x32", "--negative", "blue"]
    settings_of_pictures(capsys, "generate", "belt", "--model", str(folder), "--seed", "1", *flags)
    [first] = Path("pictures").glob("0*.png")
    like = ["generate", "--model", str(folder), "--like", str(first), "--out", "others"]
    [same] = settings_of_pictures(capsys, *like)
    assert (same.steps, same.sampler, same.width, same.negative) == (2, "unipc", 32, "blue")
    [better] = settings_of_pictures(capsys, *like, "--quality", "best")
    assert (better.steps, better.sampler, better.width, better.negative) == (5, "dpmpp_2m", 32, "blue")
    grid = ["grid", "belt", "--model", str(folder), "--like", str(first), "--x", "quality=draft,best", "--out", "grid"]
    cells = settings_of_pictures(capsys, *grid)
    assert [(cell.steps, cell.sampler, cell.width) for cell in cells] == [(1, "ddim", 32), (5, "dpmpp_2m", 32)]


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "red dress"],
        ["grid", "red dress", "--x", "seed=1,2"],
        ["grid", "red dress", "--x", "quality=finest,best"],
        ["blend", "red dress", "blue dress", "--frames", "2"],
        ["weigh", "red dress", "--word", "red"],
    ],
)
def test_unknown_qualities_list_what_there_is(
    folder: Path, tiny_folder: Path, capsys: Output, command: list[str]
) -> None:
    named = [] if "quality=finest,best" in command else ["--quality", "finest"]
    assert run([*command, *named, "--model", str(folder), "--device", "cpu"]) == 2
    [*_, line] = capsys.readouterr().err.splitlines()
    assert line == "toile: quality is 'finest'; allowed for this model: draft, best"
    assert run([*command, *named, "--model", str(tiny_folder), "--device", "cpu"]) == 2
    [*_, line] = capsys.readouterr().err.splitlines()
    assert line.startswith("toile: quality is 'finest', but this model names no qualities; say steps")
    assert not list(Path().rglob("*.png"))


def test_describe_shows_qualities(folder: Path, tiny_folder: Path, capsys: Output) -> None:
    assert run(["describe", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "quality draft: steps 1, guidance 1.0" in lines
    assert "quality best: steps 5, sampler 'dpmpp_2m', spacing 'trailing'" in lines
    assert run(["describe", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["qualities"]["draft"]["steps"] == 1
    assert describe_model(tiny_folder).qualities == {}


def test_the_bundled_model_has_the_three_that_are_documented() -> None:
    path = find_model("fashion") / "toile.json"
    settings = ModelSettings.from_json(read_json(path), str(path))
    assert list(settings.qualities) == ["draft", "standard", "best"]
    draft, standard, best = settings.qualities.values()
    assert standard == settings.defaults
    assert draft.steps < standard.steps < best.steps
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert re.search(r"--quality draft", readme)
