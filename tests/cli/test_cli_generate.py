"""toile generate, replay and describe, as people type them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toile.cli.main import run
from toile.cli.picture_folder import PICTURES_PER_SHEET, free_path, slug
from toile.picture_recipe import read_recipe

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def generate(folder: Path, *arguments: str) -> int:
    return run(["generate", "--model", str(folder), "--device", "cpu", *arguments])


def refusal(capsys: Output, *arguments: str) -> str:
    """The one line that a wrong command line is answered with."""
    before = sorted(Path().rglob("*"))
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sorted(Path().rglob("*")) == before, "nothing may be written"
    [line] = captured.err.splitlines()
    assert line.startswith("toile: ")
    return line


def test_pictures_recipes_and_sheet(tiny_folder: Path, capsys: Output) -> None:
    assert generate(tiny_folder, "Navy blue, checked shirt!", "-n", "3", "--seed", "7", "--out", "pictures") == 0
    names = sorted(path.name for path in Path("pictures").iterdir())
    assert names == [
        "0001-navy-blue-checked-shirt-s7.png",
        "0002-navy-blue-checked-shirt-s8.png",
        "0003-navy-blue-checked-shirt-s9.png",
        "sheet.png",
    ]
    recipe = read_recipe(Path("pictures") / names[1])
    assert (recipe.prompt, recipe.seed) == ("Navy blue, checked shirt!", 8)
    with Image.open("pictures/sheet.png") as sheet:
        assert sheet.width > 3 * 24
    assert "3 pictures in pictures" in capsys.readouterr().out


def test_all_flags_reach_the_recipe(tiny_folder: Path) -> None:
    flags = "--seed 5 --steps 4 --guidance 3.5 --guidance-interval 0.5 20 --guidance-rescale 0.3 --sampler euler_a"
    flags = (
        flags.replace("euler_a", "DDIM") + " --spacing linspace --eta 0.25 --size 28x36 --dtype float32 --sharpness 0.2"
    )
    assert generate(tiny_folder, "-p", "belt", "--negative", "red", "--batch-size", "2", *flags.split()) == 0
    recipe = read_recipe(Path("pictures/0001-belt-s5.png"))
    settings = recipe.settings
    assert (settings.steps, settings.guidance, settings.guidance_interval) == (4, 3.5, (0.5, 20.0))
    assert (settings.guidance_rescale, settings.sampler, settings.spacing) == (0.3, "ddim", "linspace")
    assert settings.sharpness == 0.2
    assert (settings.eta, settings.width, settings.height, settings.negative) == (0.25, 28, 36, "red")
    assert (settings.batch_size, recipe.machine.dtype, recipe.machine.device) == (2, "float32", "cpu")
    for flag, expected in (("--vae-bands", True), ("--no-vae-bands", False)):
        assert generate(tiny_folder, "-p", "belt", "--out", f"with{flag}", "--seed", "5", flag) == 0
        assert read_recipe(Path(f"with{flag}", "0001-belt-s5.png")).settings.vae_bands is expected


def test_without_seed_one_is_drawn_and_printed(tiny_folder: Path, capsys: Output) -> None:
    seeds = []
    for _ in range(2):
        assert generate(tiny_folder, "belt", "--json") == 0
        captured = capsys.readouterr()
        seeds.append(json.loads(captured.out)["seed"])
        assert f"seed {seeds[-1]}" in captured.err
    assert seeds[0] != seeds[1]


def test_json_tells_all(tiny_folder: Path, capsys: Output) -> None:
    assert generate(tiny_folder, "blue " * 140, "-n", "2", "--seed", "1", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [Path(picture["path"]).exists() for picture in result["pictures"]] == [True, True]
    assert [picture["seed"] for picture in result["pictures"]] == [1, 2]
    assert "did not fit" in result["pictures"][0]["warnings"][0]
    assert result["sheets"] == ["pictures/sheet.png"]
    assert result["settings"]["steps"] == 3
    assert result["dtype"] in ("float32", "bfloat16")


def test_nothing_is_overwritten(tiny_folder: Path) -> None:
    Path("pictures").mkdir()
    Path("pictures/0041-mine.png").write_bytes(b"mine")
    Path("pictures/sheet.png").write_bytes(b"mine too")
    for _ in range(2):
        assert generate(tiny_folder, "belt", "--seed", "1") == 0
    names = sorted(path.name for path in Path("pictures").iterdir())
    assert names == [
        "0041-mine.png",
        "0042-belt-s1.png",
        "0043-belt-s1.png",
        "sheet-2.png",
        "sheet-3.png",
        "sheet.png",
    ]
    assert Path("pictures/0041-mine.png").read_bytes() == b"mine"
    assert Path("pictures/0042-belt-s1.png").read_bytes() == Path("pictures/0043-belt-s1.png").read_bytes()


def test_a_file_of_prompts_makes_batches_and_pages(tiny_folder: Path, capsys: Output) -> None:
    count = PICTURES_PER_SHEET + 3
    lines = "".join(f"shirt {number}\r\n\n" for number in range(count))
    Path("prompts.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    arguments = ["--prompts-file", "prompts.txt", "--seed", "0", "--batch-size", "32", "--steps", "1"]
    assert generate(tiny_folder, *arguments) == 0
    assert len(list(Path("pictures").glob("[0-9]*.png"))) == count
    assert sorted(path.name for path in Path("pictures").glob("sheet*")) == ["sheet-2.png", "sheet.png"]
    last = read_recipe(Path(f"pictures/{count:04d}-shirt-{count - 1}-s{count - 1}.png"))
    assert last.prompt == f"shirt {count - 1}"
    assert (last.batch_rows, last.batch_row) == (3, 2)
    assert f"{count} pictures in pictures" in capsys.readouterr().out


@pytest.mark.parametrize("prompt", ["", "../../x", "שמלה", "👗", "a\0b", "\udcff", "x" * 5000, "-1", "CON"])
def test_any_prompt_makes_a_safe_file(tiny_folder: Path, prompt: str) -> None:
    assert generate(tiny_folder, "--seed", "1", "--out", "pictures", "--", prompt) == 0
    [path] = Path("pictures").glob("0001-*.png")
    assert re.fullmatch(r"0001-[a-z0-9-]{1,60}-s1\.png", path.name)
    assert read_recipe(path).prompt == prompt


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate"], "prompt"),
        (["generate", "red", "dress"], "quotes"),
        (["generate", "a", "--prompts-file", "x"], "either"),
        (["generate", "--prompts-file", "absent.txt"], "absent.txt"),
        (["generate", "a", "--size", "64"], "64x80"),
        (["generate", "a", "--size", "0x80"], "width is 0"),
        (["generate", "a", "--size=-8x80"], "width is -8"),
        (["generate", "a", "--size", "1000000000x80"], "width is 1000000000"),
        (["generate", "a", "--size", "513x512"], "width is 513"),
        (["generate", "a", "--steps", "0"], "steps is 0"),
        (["generate", "a", "--steps", "1000000"], "1 to 1000"),
        (["generate", "a", "--guidance", "nan"], "guidance is nan"),
        (["generate", "a", "--seed", "-1"], "seed is -1"),
        (["generate", "a", "--seed", str(2**64)], str(2**64 - 1)),
        (["generate", "a", "--batch-size", "100000"], "batch_size"),
        (["generate", "a", "--size", "8192x8192", "--batch-size", "1024"], "GB"),
        (["generate", "a", "--sampler", "eulr"], "euler"),
        (["generate", "a", "--stpes", "3"], "--steps"),
        (["generate", "a", "--device", "toaster"], "toaster"),
        (["generate", "a", "--dtype", "int4"], "int4"),
        (["generat", "a"], "generate"),
        (["replay", "absent.png"], "absent.png"),
        (["describe", "absent"], "absent"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    tiny_folder: Path, capsys: Output, arguments: list[str], named: str
) -> None:
    model = ["--model", str(tiny_folder)] if arguments[0] == "generate" else []
    assert named in refusal(capsys, *arguments, *model)


def test_an_out_that_is_a_file_is_refused(tiny_folder: Path, capsys: Output) -> None:
    Path("taken").write_text("mine")
    assert "taken is a file" in refusal(capsys, "generate", "a", "--model", str(tiny_folder), "--out", "taken")


def test_a_file_without_prompts_is_refused(tiny_folder: Path, capsys: Output) -> None:
    Path("blank.txt").write_text("\n \n")
    assert "no prompt" in refusal(capsys, "generate", "--prompts-file", "blank.txt", "--model", str(tiny_folder))
    Path("latin.txt").write_bytes("é".encode("latin-1"))
    assert "UTF-8" in refusal(capsys, "generate", "--prompts-file", "latin.txt", "--model", str(tiny_folder))


def test_replay_says_identical(tiny_folder: Path, capsys: Output) -> None:
    assert generate(tiny_folder, "red dress", "-n", "3", "--seed", "7") == 0
    capsys.readouterr()
    for path in sorted(Path("pictures").glob("0*.png")):
        assert run(["replay", str(path)]) == 0
        assert capsys.readouterr().out == "identical: all 768 pixels\n"


def test_replay_says_what_differs_and_saves(tiny_folder: Path, capsys: Output) -> None:
    assert generate(tiny_folder, "red dress", "--seed", "7", "--dtype", "bfloat16") == 0
    capsys.readouterr()
    assert run(["replay", "pictures/0001-red-dress-s7.png", "--dtype", "float32", "--out", "again"]) == 1
    text = capsys.readouterr().out
    assert re.search(r"differs: \d+ of 768 pixels, by at most \d+ of 255", text)
    assert "dtype: was bfloat16, now float32" in text
    assert read_recipe(Path("again/0001-red-dress-s7.png")).machine.dtype == "float32"
    assert run(["replay", "pictures/0001-red-dress-s7.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identical"] is True


def test_replay_without_the_model_asks_for_it(tiny_folder: Path, capsys: Output) -> None:
    assert generate(tiny_folder, "red dress", "--seed", "7") == 0
    capsys.readouterr()
    path = "pictures/0001-red-dress-s7.png"
    assert "nowhere" in refusal(capsys, "replay", path, "--model", "nowhere")
    assert run(["replay", path, "--model", str(tiny_folder)]) == 0


def test_describe_adds_up(tiny_folder: Path, capsys: Output) -> None:
    assert run(["describe", str(tiny_folder)]) == 0
    text = capsys.readouterr().out
    parts = re.search(r"parameters: text_encoder ([\d,]+) \+ unet ([\d,]+) \+ vae ([\d,]+) = ([\d,]+)", text)
    assert parts is not None
    *terms, total = (int(number.replace(",", "")) for number in parts.groups())
    assert sum(terms) == total
    assert "557 tokens known" in text and "v_prediction" in text and "16x4x3x3" in text
    assert run(["describe", str(tiny_folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == total


def test_help_is_quick_and_names_every_command() -> None:
    program = [sys.executable, "-c", "from toile.cli.main import main; main()", "--help"]
    seconds = []
    for _ in range(3):
        before = os.times()
        result = subprocess.run(program, capture_output=True, text=True, check=True)
        after = os.times()
        seconds.append(after.children_user - before.children_user + after.children_system - before.children_system)
    for name in ("generate", "replay", "describe", "train"):
        assert name in result.stdout
    assert min(seconds) < 0.3  # of processor time, which other work on the machine does not stretch


def test_interrupted_it_keeps_what_is_finished(tiny_folder: Path) -> None:
    program = [sys.executable, "-c", "from toile.cli.main import main; main()", "generate", "belt", "--seed", "1"]
    program += ["-n", "5000", "--batch-size", "4", "--model", str(tiny_folder), "--device", "cpu"]
    process = subprocess.Popen(
        program,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )
    deadline = time.monotonic() + 120
    while len(list(Path("pictures").glob("0*.png"))) < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "toile: stopped" in err and "Traceback" not in err
    assert list(Path("pictures").glob("sheet*.png"))
    for path in Path("pictures").glob("0*.png"):
        with Image.open(path) as image:
            assert np.array(image).shape == (32, 24, 3)


def test_names_of_files() -> None:
    assert slug("Café: robe d'été, 100% soie") == "cafe-robe-d-ete-100-soie"
    assert slug("a" * 59 + " b") == "a" * 59
    Path("sheet.png").touch()
    Path("sheet-2.png").touch()
    assert free_path(Path("sheet.png")) == Path("sheet-3.png")
