"""States of texts on disk: computed once, the same to the last bit whether the file is there or not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toile.latent_diffusion import LatentDiffusion
from toile.models.clip import CLIPTextModel
from toile.models.learned_words import with_words
from toile.models.unet import UNet
from toile.training import known_text_states
from toile.training.denoising_objective import DenoisingObjective, TextConditionedUNet, compile_networks
from toile.training.known_text_states import KnownTextStates
from toile.training.recipes import load_recipe
from toile.training.records import DataRecord, Record, StepRecord, ValidationRecord
from toile.training.run import run_recipe
from toile.training.run_folder import MODEL_FOLDER
from toile.user_folders import CACHE_VARIABLE, cache_folder
from toile.weights.files import load_tensors

RECIPE = """
task = "lora"
base = "{base}"
[data]
path = "{data}"
width = 16
height = 16
trigger = "zxc"
[lora]
rank = 2
[objective]
uncond_share = 0.1
sample_prompts = ["red belt", "blue dress"]
sample_steps = 2
[loop]
steps = 6
batch_size = 4
learning_rate = 1e-2
warmup_steps = 1
ema_widths = [0.1]
validate_every = 3
sample_every = 3
save_every = 2
"""
TEXTS = ["", "red belt", "blue box", "green bar", "black belt in red"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture
def encoder(tiny_folder: Path) -> CLIPTextModel:
    return LatentDiffusion.load(tiny_folder, "cpu", "float32").text_encoder.requires_grad_(False)


@pytest.fixture
def ids(tiny_model: LatentDiffusion) -> Tensor:
    return tiny_model.tokenizer.batch(TEXTS)[0]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that any text encoder takes from now on."""
    sizes: list[int] = []
    forward = CLIPTextModel.forward

    def counted(self: CLIPTextModel, token_ids: Tensor, *arguments: Any) -> Tensor:
        sizes.append(len(token_ids))
        return forward(self, token_ids, *arguments)

    monkeypatch.setattr(CLIPTextModel, "forward", counted)
    return sizes


def files() -> list[Path]:
    return sorted(cache_folder().glob("text-states-*"))


NONE = torch.empty(0, 16, dtype=torch.int64)

# ---------------------------------------------------------------------------------------------------- states


def test_prepared_states_are_those_of_one_batch(encoder: CLIPTextModel, ids: Tensor, passes: list[int]) -> None:
    rows = torch.unique(ids, dim=0)
    with torch.no_grad():  # as it is computed
        direct = encoder(rows)
    states = KnownTextStates(encoder)
    assert states.prepare(ids.flip(0), ids[:3]) == ""
    del passes[:]
    assert torch.equal(states(rows), direct) and torch.equal(states(rows[[3, 1]]), direct[[3, 1]])
    again = KnownTextStates(encoder)
    assert again.prepare(ids, NONE) == "" and torch.equal(again(rows), direct)
    assert not passes and len(files()) == 1


def test_other_weights_precision_words_or_texts_have_a_file_of_their_own(encoder: CLIPTextModel, ids: Tensor) -> None:
    for number, (network, texts) in enumerate(
        (
            (encoder, ids),
            (encoder, ids[1:]),
            (with_words(encoder, torch.ones(2, 16)), ids),
            (with_words(encoder, torch.zeros(2, 16)), ids),
            (copy.deepcopy(encoder).bfloat16(), ids),
        )
    ):
        states = KnownTextStates(network)
        states.prepare(texts, NONE)
        assert states(texts).dtype == next(network.parameters()).dtype
        assert len(files()) == number + 1
    with torch.no_grad():
        encoder.text_model.final_layer_norm.bias.add_(1.0)
    KnownTextStates(encoder).prepare(ids, NONE)
    assert len(files()) == 6


def spoil_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_a_damaged_file_is_made_anew_and_that_is_said_once(encoder: CLIPTextModel, ids: Tensor) -> None:
    first = KnownTextStates(encoder)
    first.prepare(ids, NONE)
    expected, [path] = first(ids).clone(), files()
    spoil_byte(path)
    second, third = KnownTextStates(encoder), KnownTextStates(encoder)
    assert "text states were damaged" in second.prepare(ids, NONE)
    assert torch.equal(second(ids), expected)
    assert third.prepare(ids, NONE) == "" and torch.equal(third(ids), expected)


def test_texts_seen_first_in_training_have_one_state_whoever_is_in_their_batch(
    encoder: CLIPTextModel, ids: Tensor, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, alone = KnownTextStates(encoder), KnownTextStates(encoder)
    expected = torch.cat([alone(row[None]) for row in ids])
    del passes[:]
    assert torch.equal(together(ids), expected) and passes == [1] * len(ids)
    assert torch.equal(together(ids.flip(0)), expected.flip(0)) and len(passes) == len(ids)
    torch.testing.assert_close(expected, encoder(ids))
    monkeypatch.setattr(known_text_states, "_TEXTS_KEPT", 2)
    few = KnownTextStates(encoder)
    for some in (ids, ids[[0, 1]], ids[[1, 0, 4]]):  # more than are kept, and some that are
        assert torch.equal(few(some), torch.cat([alone(row[None]) for row in some]))
    assert not files()


def test_autocast_does_not_change_them(encoder: CLIPTextModel, ids: Tensor) -> None:
    plain, casting = KnownTextStates(encoder), KnownTextStates(encoder)
    with torch.autocast("cpu", torch.bfloat16):
        found = casting(ids)
    assert found.dtype == torch.float32 and torch.equal(found, plain(ids))


def test_too_many_texts_are_left_to_be_seen(
    encoder: CLIPTextModel, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_text_states, "_MOST_BYTES", 4 * 16 * 16 * 4)  # four texts
    KnownTextStates(encoder).prepare(ids[:2], ids[2:4])
    KnownTextStates(encoder).prepare(ids[:2], ids[2:])
    assert sorted(len(load_tensors(path)["states"]) for path in files()) == [2, 4]


# ---------------------------------------------------------------------------------------------------- the objective


def test_what_does_not_change_is_prepared(
    build_denoising: Callable[..., DenoisingObjective], passes: list[int]
) -> None:
    objective = build_denoising(train_text_encoder=False, sample_prompts=("green bar", "something else"))
    objective.prepare_texts()
    del passes[:]
    objective.batch(range(5))
    for some in (objective.batch(range(200)), *objective.validation_batches()):
        objective.networks.states(some.token_ids)
    objective.networks.states(objective.tokenizer.batch(["green bar", "something else", ""])[0])
    assert not passes
    objective.networks.states(objective.tokenizer.batch(["a new one"])[0])
    assert passes == [1]


def test_texts_that_learn_are_not_kept(build_denoising: Callable[..., DenoisingObjective]) -> None:
    objective = build_denoising(train_text_encoder=True)
    objective.prepare_texts()
    ids = objective.batch(range(3)).token_ids
    before = objective.networks.states(ids)
    with torch.no_grad():
        objective.networks.text_encoder.text_model.final_layer_norm.bias.add_(1.0)
    torch.testing.assert_close(objective.networks.states(ids), before + 1.0)
    assert not cache_folder().exists()


def test_learned_words_that_learn_are_not_kept(encoder: CLIPTextModel, tiny_model: LatentDiffusion) -> None:
    word = torch.nn.Parameter(torch.zeros(1, 16))
    assert TextConditionedUNet(tiny_model.unet, with_words(encoder, word)).learns_texts
    assert not TextConditionedUNet(tiny_model.unet, with_words(encoder, torch.zeros(1, 16))).learns_texts


@pytest.mark.parametrize("learns", [False, True])
def test_compiled_networks_are_one_graph(
    build_denoising: Callable[..., DenoisingObjective], monkeypatch: pytest.MonkeyPatch, learns: bool
) -> None:
    """Without code generation, which takes minutes: a break of the graph is an error all the same."""
    original, compiled = torch.compile, []

    def whole_graphs(module: torch.nn.Module, dynamic: bool) -> Callable[..., Tensor]:
        function = original(module, dynamic=dynamic, backend="eager", fullgraph=True)
        return lambda *arguments: (compiled.append(type(module)), function(*arguments))[1]

    monkeypatch.setattr(torch, "compile", whole_graphs)
    objective = build_denoising(train_text_encoder=learns)
    networks, batch = objective.networks, objective.batch(range(2))
    arguments = (batch.latents, batch.timesteps, batch.token_ids)
    found = compile_networks(networks)(*arguments)
    torch.testing.assert_close(found, networks(*arguments))
    assert compiled == [TextConditionedUNet if learns else UNet]
    monkeypatch.setattr(objective, "_compiled", compile_networks(networks))
    objective.loss(batch, 0).total.backward()
    assert networks.unet.conv_in.weight.grad is not None


# ---------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def recipe(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "lora.toml"
    path.write_text(RECIPE.format(base=tiny_folder, data=picture_folder), encoding="utf-8")
    return path


def follow(recipe: Path, folder: Path, *overrides: str, resume: bool = False) -> list[Record]:
    return list(run_recipe(load_recipe(recipe, overrides), folder, resume=resume))


def losses_of(records: list[Record]) -> list[object]:
    return [
        record.loss if isinstance(record, StepRecord) else record.losses
        for record in records
        if isinstance(record, StepRecord | ValidationRecord)
    ]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_second_run_needs_no_text_encoder(recipe: Path, tmp_path: Path, passes: list[int], precision: str) -> None:
    first = follow(recipe, tmp_path / "first", f"loop.precision={precision}")
    assert passes
    del passes[:]
    second = follow(recipe, tmp_path / "second", f"loop.precision={precision}")
    assert not passes and losses_of(second) == losses_of(first)


@pytest.mark.parametrize("state", ["there", "gone", "damaged"])
def test_resuming_equals_going_on_whatever_became_of_the_file(recipe: Path, tmp_path: Path, state: str) -> None:
    whole = follow(recipe, tmp_path / "whole")
    records = run_recipe(load_recipe(recipe), tmp_path / "parts")
    for record in records:
        if isinstance(record, StepRecord) and record.step == 3:
            records.close()
            break
    [path] = files()
    if state == "gone":
        path.unlink()
    if state == "damaged":
        spoil_byte(path)
    rest = follow(recipe, tmp_path / "parts", resume=True)
    said = [record.summary for record in rest if isinstance(record, DataRecord)]
    assert ("damaged" in said[0]) == (state == "damaged")
    steps = {r.step: r.loss for r in whole if isinstance(r, StepRecord)}
    assert {r.step: r.loss for r in rest if isinstance(r, StepRecord)} == {step: steps[step] for step in (4, 5, 6)}
    models = [tmp_path / name / MODEL_FOLDER / "lora.safetensors" for name in ("whole", "parts")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_lora_of_the_text_encoder_leaves_no_file(recipe: Path, tmp_path: Path) -> None:
    follow(recipe, tmp_path / "run", 'lora.targets=["attention","text_attention"]', "loop.steps=1")
    assert not files() and list(cache_folder().glob("latents-*"))
