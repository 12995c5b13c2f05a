"""toile lora, and --lora, as people type them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toile.cli.main import run
from toile.latent_diffusion import LatentDiffusion
from toile.lora import LORAS, lora_targets
from toile.nn.lora import LowRank
from toile.picture_recipe import read_recipe
from toile.weights.files import load_tensors, read_metadata, save_tensors
from toile.weights.lora_file import write_lora

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def lace(tmp_path: Path, tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LoRA in the folder of LoRAs; the present folder is empty."""
    loras, work = tmp_path / "loras", tmp_path / "work"
    loras.mkdir()
    work.mkdir()
    monkeypatch.setenv(LORAS.variable, str(loras))
    monkeypatch.chdir(work)
    draws = torch.Generator().manual_seed(0)
    changes = {
        path: LowRank(
            torch.randn(2, *shape[1:], generator=draws) * 0.3,
            torch.randn(shape[0], 2, *[1] * (len(shape) - 2), generator=draws) * 0.3,
            alpha=1.0,
        )
        for path, shape in lora_targets(tiny_model).items()
        if "attn" in path
    }
    path = loras / "lace.safetensors"
    write_lora(path, changes, "kohya", {"ss_output_name": "lace"})
    return path


def generate(folder: Path, *arguments: str) -> int:
    return run(["generate", "--model", str(folder), "--device", "cpu", "--dtype", "float32", "--seed", "3", *arguments])


def only_picture(folder: str) -> np.ndarray:
    [path] = [path for path in Path(folder).glob("*.png") if path.name != "sheet.png"]
    return np.asarray(Image.open(path))


def test_flag_and_tag_make_the_same_picture_and_replay_finds_it(tiny_folder: Path, lace: Path, capsys: Output) -> None:
    assert generate(tiny_folder, "red dress", "--lora", "lace:0.8", "--out", "flag") == 0
    assert generate(tiny_folder, "red dress <lora:lace:0.8>", "--out", "tag") == 0
    assert generate(tiny_folder, "red dress", "--lora", f"{lace}:0.8", "--out", "path") == 0
    assert generate(tiny_folder, "red dress", "--out", "plain") == 0
    flag, plain = only_picture("flag"), only_picture("plain")
    assert np.array_equal(only_picture("tag"), flag) and np.array_equal(only_picture("path"), flag)
    assert not np.array_equal(flag, plain)
    [saved] = [path for path in Path("flag").glob("*.png") if path.name != "sheet.png"]
    capsys.readouterr()
    assert run(["replay", str(saved), "--model", str(tiny_folder)]) == 0
    assert "identical" in capsys.readouterr().out
    assert generate(tiny_folder, "--like", str(saved), "--out", "like") == 0
    assert np.array_equal(only_picture("like"), flag)
    assert run(["edit", str(saved), "blue dress", "--model", str(tiny_folder), "--out", "edited"]) == 0


def test_a_lora_that_is_not_there_is_said_in_one_line(tiny_folder: Path, capsys: Output) -> None:
    assert generate(tiny_folder, "red dress", "--lora", "linen") == 2
    assert "there is no LoRA 'linen'" in capsys.readouterr().err
    assert not Path("pictures").exists() or not list(Path("pictures").iterdir())


def test_doctor_tells_what_is_inside_and_what_it_does(tiny_folder: Path, capsys: Output) -> None:
    assert run(["lora", "doctor", "lace", "--model", str(tiny_folder), "--prompt", "red dress"]) == 0
    told = capsys.readouterr().out
    for words in ("LoRA in the dialect kohya", "rank 2", "alpha 1", "ss_output_name: lace", "unet attn1.to_q", "p = "):
        assert words in told
    assert run(["lora", "doctor", "lace", "--model", str(tiny_folder), "--no-pictures", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["effect"] is None and result["unmatched"] == []
    assert all(0 < layer["relative"] < 10 for layer in result["layers"])


def test_doctor_names_what_fits_nothing(tiny_folder: Path, lace: Path, capsys: Output) -> None:
    tensors = load_tensors(lace)
    [pair, *_] = [name.removesuffix(".alpha") for name in tensors if name.endswith(".alpha")]
    odd = {name.replace(pair, "lora_unet_no_such_layer"): value for name, value in tensors.items()}
    save_tensors(lace, odd, read_metadata(lace))
    assert run(["lora", "doctor", "lace", "--model", str(tiny_folder)]) == 1
    assert "FITS NOTHING in this model" in capsys.readouterr().out


def test_merging_makes_a_model_that_needs_no_lora(tiny_folder: Path, capsys: Output) -> None:
    command = ["lora", "merge", "lace:0.8", "--model", str(tiny_folder), "--out", "merged", "--dtype", "float32"]
    assert run(command) == 0
    assert generate(Path("merged"), "red dress", "--out", "one") == 0
    assert generate(tiny_folder, "red dress", "--lora", "lace:0.8", "--out", "other") == 0
    assert np.abs(only_picture("one").astype(int) - only_picture("other")).max() <= 1
    assert run(command) == 2
    assert "merged exists" in capsys.readouterr().err


@pytest.mark.parametrize("dialect", ["diffusers", "kohya"])
def test_converting_keeps_every_number(tiny_folder: Path, lace: Path, dialect: str, capsys: Output) -> None:
    model = ["--model", str(tiny_folder)]
    assert run(["lora", "convert", "lace", "there.safetensors", "--dialect", dialect, *model]) == 0
    assert run(["lora", "convert", "there.safetensors", "back.safetensors", *model]) == 0
    first, back = load_tensors(lace), load_tensors(Path("back.safetensors"))
    assert first.keys() == back.keys() and all(torch.equal(back[name], value) for name, value in first.items())
    assert run(["lora", "convert", "lace", "there.safetensors", *model]) == 2
    assert "there.safetensors exists" in capsys.readouterr().err


def test_a_grid_like_a_picture_has_its_loras(tiny_folder: Path, lace: Path, capsys: Output) -> None:
    assert generate(tiny_folder, "red dress", "--lora", "lace:0.8", "--out", "one") == 0
    [like] = [str(path) for path in Path("one").glob("*.png") if path.name != "sheet.png"]
    capsys.readouterr()
    grid = ["grid", "red dress", "--x", "seed=3,4", "--like", like, "--model", str(tiny_folder), "--device", "cpu"]
    assert run([*grid, "--dtype", "float32", "--out", "grid", "--json"]) == 0
    first = Path(json.loads(capsys.readouterr().out)["pictures"][0])
    assert [(lora.name, lora.strength) for lora in read_recipe(first).loras] == [("lace", 0.8)]
    assert np.array_equal(np.asarray(Image.open(first)), only_picture("one"))
