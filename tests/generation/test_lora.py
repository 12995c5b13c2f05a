"""Pictures under LoRAs: as with changed weights, alone or together, and no trace of them afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.generation.pictures import GenerateStep, Picture, generate
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.lora import LORAS, load_lora, lora_targets, merge_loras
from toile.nn.lora import LowRank
from toile.text.lora_tags import LoRAUse
from toile.weights.lora_file import write_lora

Write = Callable[..., Path]


def make(model: LatentDiffusion, *prompts: str, **fields: object) -> list[Picture]:
    request = GenerateRequest(prompts, seed=3, **fields)  # type: ignore[arg-type]
    return [event for event in generate(model, request) if isinstance(event, Picture)]


def pixels(model: LatentDiffusion, *prompts: str, **fields: object) -> list[bytes]:
    return [picture.pixels.tobytes() for picture in make(model, *prompts, **fields)]


@pytest.fixture
def write(tmp_path: Path, tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a LoRA of large random changes into the folder of LoRAs."""
    folder = tmp_path / "loras"
    folder.mkdir()
    monkeypatch.setenv(LORAS.variable, str(folder))

    def write(name: str, seed: int = 0, contains: str = "") -> Path:
        draws = torch.Generator().manual_seed(seed)
        changes = {
            path: LowRank(
                torch.randn(2, *shape[1:], generator=draws) * 0.2,
                torch.randn(shape[0], 2, *[1] * (len(shape) - 2), generator=draws) * 0.2,
                alpha=2.0,
            )
            for path, shape in lora_targets(tiny_model).items()
            if contains in path
        }
        path = folder / f"{name}.safetensors"
        write_lora(path, changes, "kohya", {}, dtype=torch.float32)
        return path

    return write


def test_unloading_is_bit_identical(tiny_model: LatentDiffusion, write: Write) -> None:
    write("lace")
    before = pixels(tiny_model, "red dress")
    weights = {name: value.clone() for name, value in tiny_model.unet.state_dict().items()}
    assert pixels(tiny_model, "red dress <lora:lace>") != before
    assert pixels(tiny_model, "red dress") == before
    after = tiny_model.unet.state_dict()
    assert list(after) == list(weights) and all(torch.equal(after[name], value) for name, value in weights.items())


def test_a_caller_between_two_steps_finds_the_model_as_it_was(tiny_model: LatentDiffusion, write: Write) -> None:
    write("lace")
    before = pixels(tiny_model, "red dress")
    events = generate(tiny_model, GenerateRequest(("red dress <lora:lace>",), seed=3))
    assert isinstance(next(events), GenerateStep)
    assert pixels(tiny_model, "red dress") == before
    events.close()


@pytest.mark.parametrize("contains", ["unet", "text_encoder"])
def test_attached_equals_merged(tiny_folder: Path, tiny_model: LatentDiffusion, write: Write, contains: str) -> None:
    path = write("lace", contains=contains)
    merged = LatentDiffusion.load(tiny_folder, "cpu", "float32")
    merge_loras(merged, [(load_lora(str(path), merged), 0.7)])
    [attached] = make(tiny_model, "red dress", loras=(LoRAUse(str(path), 0.7),))
    [expected] = make(merged, "red dress")
    [plain] = make(tiny_model, "red dress")
    assert np.abs(attached.pixels.astype(int) - expected.pixels).max() <= 1
    assert np.abs(attached.pixels.astype(int) - plain.pixels).max() > 10


def test_strength_0_changes_nothing(tiny_model: LatentDiffusion, write: Write) -> None:
    write("lace")
    assert pixels(tiny_model, "red dress <lora:lace:0>") == pixels(tiny_model, "red dress")


def test_a_picture_whose_noise_was_chosen_is_enlarged_with_words_without_loras(
    ranked_model: LatentDiffusion, enlarging_folder: Path, write: Write, tmp_path: Path
) -> None:
    """Although its sketches were made with them; a replay makes no sketches."""
    assert ranked_model.origin is not None
    folder = Path(shutil.copytree(ranked_model.origin, tmp_path / "model"))
    shutil.copytree(enlarging_folder / "upscaler", folder / "upscaler")
    model = LatentDiffusion.load(folder, "cpu", "float32")
    write("lace", contains="text_encoder")
    [picture] = make(model, "red dress <lora:lace>", noise_candidates=2, steps=2)
    picture.save(tmp_path / "a.png")
    assert picture.recipe.chosen_noises and replay(tmp_path / "a.png", model).identical


def test_each_prompt_has_its_own_loras(tiny_model: LatentDiffusion, write: Write) -> None:
    write("lace")
    write("silk", seed=1)
    prompts = ("red dress", "red dress <lora:lace>", "red dress <lora:lace:0.5> <lora:silk:-1>")
    together = pixels(tiny_model, *prompts)
    assert len(set(together)) == 3
    for number, prompt in enumerate(prompts):
        request = GenerateRequest((prompt,), seed=3 + number)
        [alone] = [event for event in generate(tiny_model, request) if isinstance(event, Picture)]
        assert alone.pixels.tobytes() == together[number]


def test_a_flag_and_a_tag_are_the_same(tiny_model: LatentDiffusion, write: Write) -> None:
    path = write("lace")
    by_tag = pixels(tiny_model, "red dress <lora:lace:0.8>")
    assert pixels(tiny_model, "red dress", loras=(LoRAUse("lace", 0.8),)) == by_tag
    assert pixels(tiny_model, "red dress", loras=(LoRAUse(str(path), 0.8),)) == by_tag


def test_a_lora_goes_with_every_mode(tiny_model: LatentDiffusion, write: Write) -> None:
    write("lace")
    for fields in (
        {"hires_scale": 2.0},
        {"noise_candidates": 2},
        {"deepcache": 2},
        {"tgate": 0.5},
        {"original": "blue dress"},
        {"maps": True},
    ):
        assert pixels(tiny_model, "red dress <lora:lace>", **fields) != pixels(tiny_model, "red dress", **fields)


def test_the_recipe_names_it_and_replay_finds_it(tiny_model: LatentDiffusion, write: Write, tmp_path: Path) -> None:
    path = write("lace")
    [picture] = make(tiny_model, "red dress <lora:lace:0.8>", loras=(LoRAUse(str(path), 0.1),))
    assert [(lora.name, lora.strength) for lora in picture.recipe.loras] == [("lace", 0.1), ("lace", 0.8)]
    assert 'Lora hashes: "lace: ' in picture.recipe.parameters()
    saved = tmp_path / "picture.png"
    picture.save(saved)
    assert replay(saved, tiny_model).identical
    moved = path.rename(path.with_name("moved.safetensors"))
    with pytest.raises(ToileError, match="no LoRA 'lace'"):
        replay(saved, tiny_model)
    moved.rename(path)
    write("lace", seed=5)
    found = replay(saved, tiny_model)
    assert not found.identical and any(line.startswith("LoRA lace: was ") for line in found.circumstances)


def test_what_cannot_be_is_refused_at_once(tiny_model: LatentDiffusion, write: Write, tmp_path: Path) -> None:
    write("lace")
    with pytest.raises(ToileError, match="no LoRA 'linen'.*it holds lace"):
        generate(tiny_model, GenerateRequest(("red dress <lora:linen>",)))
    with pytest.raises(ToileError, match="negative prompt names a LoRA"):
        GenerateRequest(("red dress",), negative="<lora:lace>")
    with pytest.raises(ToileError, match="must name the same LoRAs"):
        GenerateRequest(("red dress",), original="blue dress <lora:lace>")
    other = tmp_path / "other.safetensors"
    write_lora(other, {"unet.conv_in": LowRank(torch.zeros(1, 9, 3, 3), torch.zeros(16, 1, 1, 1), 1.0)}, "kohya", {})
    with pytest.raises(ToileError, match="conv_in"):
        generate(tiny_model, GenerateRequest(("red dress",), loras=(LoRAUse(str(other)),)))


def test_merging_into_half_precision_is_refused(tiny_folder: Path, write: Write) -> None:
    path = write("lace")
    model = LatentDiffusion.load(tiny_folder, "cpu", "bfloat16")
    with pytest.raises(ToileError, match="float32"):
        merge_loras(model, [(load_lora(str(path), model), 1.0)])
