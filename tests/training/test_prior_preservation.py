"""Keeping a class: its pictures are the base's own, and they pull at the loss as configured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toile.errors import ToileError
from toile.training.denoising_objective import DenoisingObjective
from toile.training.prior_preservation import PriorConfig, PriorPreservation, prior_latents
from toile.training.recipes import LoRARecipe, load_recipe
from toile.training.run import run_recipe
from toile.training.run_folder import read_log
from toile.user_folders import CACHE_VARIABLE, cache_folder

Build = Callable[..., DenoisingObjective]
CONFIG = PriorConfig("red box", num=5, steps=2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def test_the_class_is_as_the_base_draws_it_and_made_once(build_denoising: Build) -> None:
    objective = build_denoising()
    made = prior_latents(objective, CONFIG, "base")
    assert made.shape == (5, 3, 8, 8) and len({row.numpy().tobytes() for row in made}) == 5
    with torch.no_grad():
        objective.networks.unet.conv_in.bias.add_(1.0)
    assert torch.equal(prior_latents(objective, CONFIG, "base"), made)
    assert not torch.equal(prior_latents(objective, CONFIG, "another base"), made)
    assert len(list(cache_folder().iterdir())) == 2


def test_the_loss_is_the_sum_of_both(build_denoising: Build) -> None:
    objective = build_denoising()
    prior = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    keeping = PriorPreservation(objective, prior, PriorConfig("red box", weight=0.5))
    batch = keeping.batch(range(6))
    own, kept = objective.loss(objective.batch(range(6)), 0).total, objective.loss(batch.prior, 0).total
    loss = keeping.loss(batch, 0)
    torch.testing.assert_close(loss.total, own + 0.5 * kept)
    torch.testing.assert_close(torch.stack([loss.parts["own"], loss.parts["prior"]]), torch.stack([own, kept]).detach())
    assert {row.numpy().tobytes() for row in batch.prior.latents} <= {row.float().numpy().tobytes() for row in prior}
    [words] = {tuple(row.tolist()) for row in batch.prior.token_ids}
    assert words == tuple(objective.tokenizer.batch(["red box"])[0][0].tolist())
    assert torch.equal(batch.prior.timesteps, batch.own.timesteps)
    assert not torch.equal(batch.prior.noise, batch.own.noise)
    part, whole = keeping.batch(range(2, 4)).prior, batch.prior
    for name, value in vars(part).items():
        assert torch.equal(value, vars(whole)[name][2:4]), "a draw depends on the example's number alone"


def test_held_out_losses_are_of_what_is_learnt(build_denoising: Build) -> None:
    objective = build_denoising()
    keeping = PriorPreservation(objective, torch.zeros(1, 3, 8, 8), CONFIG)
    objective.module.eval()
    for batch, expected in zip(keeping.validation_batches(), objective.validation_batches(), strict=True):
        assert torch.equal(keeping.loss(batch, 0).total, objective.loss(expected, 0).total)


def test_a_run_keeps_a_class(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "lora.toml"
    recipe.write_text(
        f"""
task = "lora"
base = "{tiny_folder}"
[data]
path = "{picture_folder}"
width = 16
height = 16
[prior]
prompt = "blue box"
num = 3
steps = 2
[loop]
steps = 2
batch_size = 2
learning_rate = 1e-3
""",
        encoding="utf-8",
    )
    read = load_recipe(recipe)
    assert isinstance(read, LoRARecipe) and read.prior == PriorConfig("blue box", num=3, steps=2)
    list(run_recipe(read, tmp_path / "run"))
    steps = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "step"]
    assert all({"own", "prior"} <= set(line["parts"]) for line in steps)


@pytest.mark.parametrize("changes", [{"weight": 0.0}, {"num": 0}, {"steps": 0}])
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ToileError, match="prior"):
        PriorConfig("red box", **changes)


def test_the_loss_is_computed_where_the_networks_are(
    build_denoising: Build, learns_elsewhere: Callable[..., None]
) -> None:
    prior = torch.zeros(5, 3, 8, 8, dtype=torch.float16)
    learns_elsewhere(PriorPreservation(build_denoising(), prior, PriorConfig("red box")))
