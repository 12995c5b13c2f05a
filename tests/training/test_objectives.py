"""The objectives: each learns, each setting matters, and a batch is a function of its examples' numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from toile.diffusion.schedule import ScheduleConfig
from toile.text.tokenizer import Tokenizer
from toile.training.clip_objective import CLIPObjective, train_tokenizer
from toile.training.denoising_objective import DenoisingObjective
from toile.training.objective import Objective
from toile.training.pictures import PictureSet
from toile.training.vae_objective import VAEObjective


def overfit(objective: Objective[Any], num_examples: int, num_steps: int, rate: float) -> tuple[float, float]:
    """The loss of one batch before and after so many steps on it."""
    batch = objective.batch(range(num_examples))
    optimizer = torch.optim.AdamW((p for p in objective.module.parameters() if p.requires_grad), lr=rate)
    losses = []
    for step in range(num_steps):
        optimizer.zero_grad()
        loss = objective.loss(batch, step)
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
        assert all(not part.requires_grad for part in loss.parts.values())
    return losses[0], losses[-1]


def assert_same(batch: object, other: object, rows: slice) -> None:
    """Every tensor of a batch, cut to the rows, equals that of the other."""
    assert vars(batch).keys() == vars(other).keys()
    for name, value in vars(batch).items():
        assert torch.equal(value[rows], vars(other)[name]), name


# ---------------------------------------------------------------------------------------------------- learning


def test_the_autoencoder_overfits_one_batch(build_vae: Callable[..., VAEObjective]) -> None:
    objective = build_vae()
    first, last = overfit(objective, 8, 60, 5e-3)
    assert last < 0.4 * first
    parts = objective.loss(objective.batch(range(8)), 0).parts
    assert float(parts["psnr"]) > 14.0


def test_the_towers_overfit_one_batch(build_clip: Callable[..., CLIPObjective]) -> None:
    objective = build_clip()
    first, last = overfit(objective, 6, 40, 3e-3)
    assert last < 0.6 * first


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_the_denoiser_overfits_one_batch(
    build_denoising: Callable[..., DenoisingObjective], prediction_type: str
) -> None:
    schedule = ScheduleConfig(prediction_type=prediction_type)
    first, last = overfit(build_denoising(schedule=schedule), 8, 60, 5e-3)
    assert last < 0.6 * first


# ---------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("builder", ["build_vae", "build_clip", "build_denoising"])
def test_a_batch_is_a_function_of_its_numbers(builder: str, request: pytest.FixtureRequest) -> None:
    build = request.getfixturevalue(builder)
    whole = build().batch(range(80, 100))  # over the end of an epoch
    torch.manual_seed(99)
    assert_same(whole, build().batch(range(85, 90)), slice(5, 10))
    other = build(seed=1).batch(range(80, 100))
    assert not any(torch.equal(value, vars(other)[name]) for name, value in vars(whole).items())


@pytest.mark.parametrize("builder", ["build_vae", "build_clip", "build_denoising"])
def test_held_out_batches_are_fixed_and_held_out(
    builder: str, request: pytest.FixtureRequest, pictures: PictureSet, latents: Tensor
) -> None:
    objective = request.getfixturevalue(builder)()
    once, twice = list(objective.validation_batches()), list(objective.validation_batches())
    for first, second in zip(once, twice, strict=True):
        assert_same(first, second, slice(None))
    name, everything = ("latents", latents) if builder == "build_denoising" else ("images", None)
    held_out = torch.cat([getattr(batch, name) for batch in once])
    if builder == "build_denoising":
        assert len(held_out) == 64, "few pictures are looked at several times"
        held_out = held_out[: len(pictures.validation)]
    expected = pictures.images(pictures.validation) if everything is None else everything[pictures.validation].float()
    assert torch.equal(held_out, expected)
    assert not set(pictures.validation) & set(pictures.train)


def test_held_out_pictures_are_encoded_without_noise(build_vae: Callable[..., VAEObjective]) -> None:
    assert all(not batch.noise.any() for batch in build_vae().validation_batches())


# ---------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("field", ["gradient_weight", "square_weight", "kl_weight"])
def test_each_weight_of_the_autoencoder_matters(build_vae: Callable[..., VAEObjective], field: str) -> None:
    without, plain, double = (
        float(objective.loss(objective.batch(range(4)), 0).total.detach())
        for objective in (build_vae(**{field: value}) for value in (0.0, 0.5, 1.0))
    )
    assert without < plain < double
    assert double - plain == pytest.approx(plain - without, rel=1e-3)


def test_the_terms_of_the_autoencoder(build_vae: Callable[..., VAEObjective]) -> None:
    objective = build_vae(gradient_weight=0.0, square_weight=0.0, kl_weight=1.0)
    batch = objective.batch(range(4))
    with torch.no_grad():
        loss = objective.loss(batch, 0)
        posterior = objective.module.posterior(batch.images)
        made = objective.module.reconstruct(posterior.sample(batch.noise))
    kl = posterior.kl().mean() / (3 * 16 * 16)
    torch.testing.assert_close(loss.total, (made - batch.images).abs().mean() + kl)
    error = ((made.clamp(-1, 1) - batch.images) / 2).square().mean()
    torch.testing.assert_close(loss.parts["psnr"], -10 * error.log10())
    assert float(posterior.log_variance.mean()) < -4.0


# ---------------------------------------------------------------------------------------------------- losses


def test_the_temperature_is_capped_in_training_and_held_out_losses_change_nothing(
    build_clip: Callable[..., CLIPObjective],
) -> None:
    objective = build_clip()
    batch = objective.batch(range(4))
    with torch.no_grad():
        objective.module.logit_scale.fill_(7.0)
    objective.module.eval()
    before = {name: value.clone() for name, value in objective.module.state_dict().items()}
    objective.loss(batch, 0)
    assert all(torch.equal(value, before[name]) for name, value in objective.module.state_dict().items())
    objective.module.train()
    assert float(objective.loss(batch, 0).parts["scale"]) == pytest.approx(100.0, abs=0.01)
    assert float(objective.module.logit_scale.detach()) == pytest.approx(4.6052, abs=1e-5)


def test_a_fresh_pair_of_towers_guesses(build_clip: Callable[..., CLIPObjective]) -> None:
    objective = build_clip()
    loss = objective.loss(objective.batch(range(32)), 0)
    assert float(loss.total.detach()) == pytest.approx(np.log(32), abs=1.0)
    assert 0.0 <= float(loss.parts["right"]) < 0.5


def test_a_vocabulary_comes_from_training_captions(pictures: PictureSet, tokenizer: Tokenizer) -> None:
    assert tokenizer.max_length == 10
    assert "red</w>" in tokenizer.vocab and "belt</w>" in tokenizer.vocab
    again = train_tokenizer(pictures, 560, 10, seed=0)
    assert (again.vocab, again.merges) == (tokenizer.vocab, tokenizer.merges)


def test_samples_show_held_out_pictures_over_their_reconstructions(
    build_vae: Callable[..., VAEObjective], pictures: PictureSet
) -> None:
    objective, count = build_vae(), min(16, len(pictures.validation))
    with torch.no_grad():
        sheet = objective.samples()
    assert sheet.shape == (2 * count, 3, 16, 16)
    assert torch.equal(sheet[:count], pictures.images(pictures.validation[:16]))
    assert not torch.equal(sheet[count:], sheet[:count])


def test_losses_are_computed_where_the_networks_are(
    build_vae: Callable[..., VAEObjective],
    build_clip: Callable[..., CLIPObjective],
    learns_elsewhere: Callable[..., None],
) -> None:
    learns_elsewhere(build_vae())
    learns_elsewhere(build_clip())
