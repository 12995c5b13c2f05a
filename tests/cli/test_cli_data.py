"""toile data, as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toile.cli.main import run

Output = pytest.CaptureFixture[str]


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures, two of them equal, one without words."""
    monkeypatch.chdir(tmp_path)
    folder = Path("pictures")
    folder.mkdir()
    for number, name in enumerate(["a [red]", "b", "copy of b", "c"]):
        colours = np.random.default_rng(min(number, 1 if number < 3 else 9)).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((66, 80), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
        if name != "c":
            (folder / f"{name}.txt").write_text("a orange [bold]dress[/bold] for women", encoding="utf-8")
    return folder


def test_a_table_a_page_and_a_cleaned_list(pictures: Path, tiny_folder: Path, capsys: Output) -> None:
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    assert run(["data", "check", str(pictures), "--fix", "--model", str(tiny_folder)]) == 0
    shown = capsys.readouterr().out
    assert "4 of 4 records looked at" in shown and "a [red].png" in shown
    assert "cleaned list of 3 records" in shown and "check/index.html" in shown
    assert Path("check/kept.txt").read_text(encoding="utf-8") == "a [red].png\nb.png\nc.png\n"
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before


def test_the_result_for_programs(pictures: Path, tiny_folder: Path, capsys: Output) -> None:
    arguments = ["data", "check", str(pictures), "--json", "--out", "elsewhere", "--model", str(tiny_folder)]
    assert run(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["records"] == facts["checked"] == 4 and facts["kept"] == 3
    counts = facts["counts"]
    assert (counts["same-picture"], counts["wrong-article"], counts["no-words"]) == (1, 3, 1)
    assert facts["files"]["kept"] is None and not Path("elsewhere/kept.txt").exists()
    assert Path(facts["files"]["page"]).is_file() and Path(facts["files"]["findings"]).is_file()


def test_a_caption_for_pictures_without_words(pictures: Path, tiny_folder: Path, capsys: Output) -> None:
    assert run(["data", "check", str(pictures), "--json", "--caption", "a hat", "--model", str(tiny_folder)]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["no-words"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "nowhere"], "nowhere does not exist"),
        (["check", "pictures", "--limit", "0"], "limit 0"),
        (["check", "pictures", "--radius", "99"], "radius 99"),
        (["check", "pictures", "--model", "nowhere"], "nowhere"),
        (["check", "pictures", "--clip", "pictures"], "no tokenizer"),
        (["check", "pictures", "--out", "pictures/check"], "inside the data"),
        (["check", "products"], "TOILE_DATA"),
        (["check", "empty"], "no known kind of data"),
        (["show", "pictures", "-n", "0"], "--num 0"),
        (["show", "pictures", "--size", "big"], "big"),
        (["show", "pictures", "--out", "pictures"], "inside the data"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, arguments: list[str], said: str
) -> None:
    monkeypatch.delenv("TOILE_DATA", raising=False)
    Path("empty").mkdir()
    before = sorted(Path().rglob("*"))
    assert run(["data", *arguments]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_a_sheet_as_a_model_would_see_it(pictures: Path, tiny_folder: Path, capsys: Output) -> None:
    (pictures / "b.txt").write_text("red " * 20, encoding="utf-8")
    arguments = ["data", "show", str(pictures), "--json", "--caption", "a hat", "--model", str(tiny_folder)]
    assert run(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    by_key = {picture["key"]: picture for picture in facts["pictures"]}
    assert list(by_key) == sorted(["a [red].png", "b.png", "copy of b.png", "c.png"])
    assert by_key["c.png"]["caption"] == "a hat" and by_key["c.png"]["cut"] == ""
    # Rows of 16 tokens, two of them for start and end.
    assert by_key["b.png"]["caption"] == " ".join(["red"] * 14) and by_key["b.png"]["cut"] == " ".join(["red"] * 6)
    with Image.open(facts["sheet"]) as sheet:
        assert sheet.width > 2 * 24 and sheet.height > 2 * 32


def test_which_pictures_are_shown_depends_on_the_seed_only(pictures: Path, tiny_folder: Path, capsys: Output) -> None:
    def drawn(seed: int) -> list[str]:
        assert (
            run(["data", "show", str(pictures), "-n", "2", "--seed", str(seed), "--json", "--model", str(tiny_folder)])
            == 0
        )
        return [picture["key"] for picture in json.loads(capsys.readouterr().out)["pictures"]]

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(6)}) > 1
    assert len(list(Path("check").glob("data*.png"))) == 8
