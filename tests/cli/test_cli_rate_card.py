"""toile rate and toile card, as people type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toile.cli.main import run

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def rating(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page of four pairs: of a model, and of a folder of pictures that the same model made."""
    folder = tmp_path_factory.mktemp("rated")
    prompts, made, out = folder / "prompts.txt", folder / "made", folder / "rating"
    prompts.write_text("red dress\nwhite t-shirt\nblue belt\n<b>black</b> shirt\n", encoding="utf-8")
    flags = ["--device", "cpu", "--seed", "5"]
    asked = ["--prompts-file", str(prompts), "--model", str(tiny_folder), "--out", str(made)]
    assert run(["generate", *asked, *flags]) == 0
    assert run(["rate", f"{tiny_folder} steps=1 name=quick", str(made), "--out", str(out), *flags]) == 0
    return out


def answers_of(rating: Path, rater: str, choose: str) -> Path:
    """A file of answers of one who always wants the maker "a" or "b" in the first question, and says same else."""
    key = json.loads((rating / "key.json").read_text(encoding="utf-8"))
    side = {(True, "a"): "left", (False, "a"): "right", (True, "b"): "right", (False, "b"): "left"}
    answers = [
        {"trial": number, "real": side[trial["a_left"], choose], "words": "same"}
        for number, trial in enumerate(key["trials"])
    ]
    content = {"format": "toile-answers/1", "session": key["session"], "rater": rater, "answers": answers}
    path = rating / f"answers-{rater}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_page_a_key_and_what_the_answers_say(rating: Path, capsys: Output) -> None:
    key = json.loads((rating / "key.json").read_text(encoding="utf-8"))
    assert (key["name_a"], key["name_b"]) == ("quick", "made")
    assert sorted(key["prompts"]) == ["<b>black</b> shirt", "blue belt", "red dress", "white t-shirt"]
    page = (rating / "rate.html").read_text(encoding="utf-8")
    assert key["session"] in page and "<b>black" not in page
    assert "quick" not in page and "a_left" not in page and "toile-rating-key" not in page

    paths = [str(answers_of(rating, name, choose)) for name, choose in (("Ada", "b"), ("Bo", "b"), ("Cy", "a"))]
    assert run(["rate", "--read", *paths, "--key", str(rating / "key.json")]) == 0
    told = capsys.readouterr().out
    assert "quick against made: 4 pairs, 3 people" in told
    assert "pairs: 0 for quick, 0 ties, 4 for made; sign test without ties p = 0.125" in told
    assert "which fits the words better: all 4 pairs are ties" in told
    assert "Ada: 6 answered, the same answer again in 4 of 4" in told
    assert run(["rate", "--read", *paths, "--key", str(rating / "key.json"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [rater["name"] for rater in facts["raters"]] == ["Ada", "Bo", "Cy"]
    assert facts["questions"][0]["answers"] == {"wins": 4, "ties": 0, "losses": 8}
    assert facts["questions"][0]["alpha"] < 0.1


def test_wrong_input_is_one_line_and_a_key_is_never_written_over(
    rating: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    made, before = str(rating.parent / "made"), (rating / "key.json").read_bytes()
    broken = Path("broken.json")
    broken.write_bytes(b"\x00\xff")
    key = ["--key", str(rating / "key.json")]
    for arguments, message in (
        ([made], "give two makers of pictures"),
        ([made, made, "--out", "x"], "two contestants are called"),
        (
            [made, f"{made} name=other", "--out", "x", "--prompts-file", str(rating.parent / "prompts.txt")],
            "leave out prompts",
        ),
        ([made, f"{made} name=other", "--out", "x", "-n", "0"], "allowed: 1 to 500"),
        ([made, f"{made} name=other", "--out", str(rating)], "rate.html is there already"),
        (["--read", str(broken)], "--read needs --key"),
        ([made, "--read", str(broken), *key], "either two makers"),
        (["--read", str(broken), *key], "not UTF-8 text"),
        (["--read", str(answers_of(rating, "Ada", "a")), "--key", str(broken)], "not UTF-8 text"),
    ):
        assert run(["rate", *arguments]) == 2, arguments
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1, arguments
    assert not Path("x").exists()
    assert (rating / "key.json").read_bytes() == before


def test_a_card_is_written_and_nothing_else_replaced(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run(["card", str(tiny_folder), "--no-pictures"]) == 0
    assert "card of" in capsys.readouterr().out
    text = Path("model-card.md").read_text(encoding="utf-8")
    assert text.startswith("<!-- written by toile card -->\n# tiny: model card") and "| unet |" in text
    Path("mine.md").write_text("mine", encoding="utf-8")
    assert run(["card", str(tiny_folder), "--no-pictures", "--out", "mine.md"]) == 2
    assert "mine.md exists and is no card of toile" in capsys.readouterr().err
    assert Path("mine.md").read_text(encoding="utf-8") == "mine"
    Path("evaluation.json").write_text("{}", encoding="utf-8")
    assert run(["card", str(tiny_folder), "--no-pictures", "--evaluation", "evaluation.json"]) == 2
    assert "is no evaluation of the format" in capsys.readouterr().err
