"""What --style, --styles-file, --wildcards and --word-weights do to the words that pictures are made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toile.cli.main import EXIT_WRONG_INPUT, run
from toile.cli.prompt_flags import Wording, read_wording
from toile.errors import ToileError
from toile.generation.request import GenerateRequest
from toile.picture_recipe import read_recipe
from toile.text.styles import Style
from toile.text.wildcards import resolve_wildcards

COLOURS = {"colour": ("red", "navy blue", "black")}
FILM = Style("Film", "{prompt}, grainy", "digital")
PLAIN = Style("Plain", "plain")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("styles.csv").write_text("name,prompt,negative_prompt\nFilm,__colour__ {prompt},belt\n")
    Path("words").mkdir()
    Path("words/colour.txt").write_text("red\nnavy blue\nblack\n")
    return tmp_path


def generate(tiny_folder: Path, *arguments: str) -> int:
    return run(["generate", "--model", str(tiny_folder), "--device", "cpu", *arguments])


def test_without_flags_a_request_is_as_it_was() -> None:
    request = GenerateRequest(("red (dress:1.2)", "__init__ {a}"), seed=3, num_images=2)
    assert Wording((), None).of(request, "blurry") == request


def test_every_image_makes_its_own_choices_by_its_seed() -> None:
    request = GenerateRequest(("__colour__ dress", "{long|short} belt"), seed=3, num_images=5)
    changed = Wording((), COLOURS).of(request)
    expected = [resolve_wildcards(image.prompt, image.seed, COLOURS) for image in request.images()]
    made = [(image.prompt, image.seed) for image in changed.images()]
    assert made == [(text, 3 + index) for index, text in enumerate(expected)]
    assert len(set(expected)) > 3


def test_styles_are_applied_in_order_and_to_the_negative_prompt() -> None:
    wording = Wording((PLAIN, FILM), None)
    changed = wording.of(GenerateRequest(("dress", "belt"), negative="blurry"), "unused")
    assert changed.prompts == ("dress, plain, grainy", "belt, plain, grainy")
    assert changed.negative == "blurry, digital"
    assert wording.of(GenerateRequest(("dress",)), "logo").negative == "logo, digital"
    assert Wording((PLAIN,), None).of(GenerateRequest(("dress",)), "logo").negative is None


def test_choices_in_the_negative_prompt_are_made_by_the_first_seed() -> None:
    request = GenerateRequest(("dress",), seed=9, num_images=3, negative="__colour__")
    assert Wording((), COLOURS).of(request).negative == resolve_wildcards("__colour__", 9, COLOURS)


def test_styles_need_a_file() -> None:
    with pytest.raises(ToileError, match="--styles-file"):
        read_wording(["Film"], None, None)


def test_the_resolved_prompt_is_recorded(tiny_folder: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--style", "Film", "--styles-file", "styles.csv", "--wildcards", "words", "--word-weights", "attention"]
    assert generate(tiny_folder, "(dress:1.3)", "-n", "3", "--seed", "1", "--json", *flags) == 0
    result = json.loads(capsys.readouterr().out)
    pictures = result["pictures"]
    for picture in pictures:
        recipe = read_recipe(Path(picture["path"]))
        wanted = resolve_wildcards("__colour__ (dress:1.3)", recipe.seed, COLOURS)
        assert recipe.prompt == picture["prompt"] == wanted
        assert (recipe.settings.negative, recipe.settings.word_weights) == ("belt", "attention")
    assert [picture["seed"] for picture in pictures] == [1, 2, 3]


def test_a_prompt_of_several_rows_says_so(tiny_folder: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(tiny_folder, "belt " * 20, "--seed", "1") == 0
    assert "prompt 1: 20 tokens in 2 rows of up to 14" in capsys.readouterr().err
    assert generate(tiny_folder, "belt", "--seed", "1") == 0
    assert "tokens" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["belt", "--word-weights", "strong"], "embedding, attention"),
        (["(belt:1e9)(belt:999)"], "weight in the prompt is 999"),
        (["belt", "--style", "Fil", "--styles-file", "styles.csv"], "near it: Film"),
        (["belt", "--styles-file", "absent.csv"], "cannot read absent.csv"),
        (["belt", "--wildcards", "absent"], "absent is no folder"),
        (["__colours__", "--wildcards", "words"], "near it: colour"),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    tiny_folder: Path, files: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert generate(tiny_folder, *arguments) == EXIT_WRONG_INPUT
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
