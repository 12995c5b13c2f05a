"""The denoising objective: its draws, its settings and its losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from toile.data.captions import CaptionWriter
from toile.diffusion.schedule import ScheduleConfig
from toile.errors import ToileError
from toile.text.tokenizer import Tokenizer
from toile.training.clip_objective import CLIPObjective
from toile.training.denoising_objective import DenoisingObjective, DenoisingObjectiveConfig
from toile.training.pictures import PictureSet

SCHEDULE = ScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")


def test_the_share_of_empty_captions(build_denoising: Callable[..., DenoisingObjective], tokenizer: Tokenizer) -> None:
    empty = tokenizer.batch([""])[0]
    for share in (0.0, 0.1, 0.5, 1.0):
        token_ids = build_denoising(uncond_share=share).batch(range(1000)).token_ids
        assert float((token_ids == empty).all(dim=1).float().mean()) == pytest.approx(share, abs=0.035)


def test_captions_belong_to_their_pictures(
    build_clip: Callable[..., CLIPObjective], pictures: PictureSet, tokenizer: Tokenizer
) -> None:
    batch, writer, found = build_clip().batch(range(30)), CaptionWriter(), 0
    for image, token_ids in zip(batch.images, batch.token_ids, strict=True):
        for position in pictures.train:
            if torch.equal(image, pictures.images(np.array([position]))[0]):
                record = pictures.records[position]
                captions = {writer.write(record, 0, example) for example in range(30)}
                assert any(torch.equal(token_ids, tokenizer.batch([caption])[0][0]) for caption in captions)
                found += 1
    assert found >= 30


def test_timesteps_are_drawn_as_configured(build_denoising: Callable[..., DenoisingObjective]) -> None:
    def timesteps(**changes: float) -> Tensor:
        drawn = build_denoising(**changes).batch(range(1000)).timesteps
        assert drawn.dtype == torch.int64 and int(drawn.min()) >= 0 and int(drawn.max()) <= 999
        return drawn.float()

    uniform = timesteps(uniform_share=1.0)
    assert float(uniform.mean()) == pytest.approx(499.5, abs=30) and float(uniform.std()) == pytest.approx(289, abs=15)
    middle = timesteps(uniform_share=0.0, logit_mean=0.0, logit_std=1.0)
    assert float(middle.mean()) == pytest.approx(499.5, abs=25) and float(middle.std()) == pytest.approx(208, abs=15)
    assert float(timesteps(uniform_share=0.0, logit_mean=1.0).median()) == pytest.approx(731, abs=30)
    assert float(timesteps(uniform_share=0.0, logit_mean=0.0, logit_std=0.2).std()) == pytest.approx(50, abs=8)
    mixed = timesteps()
    assert not torch.equal(mixed, uniform) and not torch.equal(mixed, middle)


def test_each_setting_of_the_denoiser_matters(build_denoising: Callable[..., DenoisingObjective]) -> None:
    fixed = build_denoising().batch(range(8))

    def facts(**changes: Any) -> dict[str, Tensor]:
        objective = build_denoising(**changes)
        batch = objective.batch(range(40))
        trained = sum(parameter.numel() for parameter in objective.module.parameters() if parameter.requires_grad)
        with torch.no_grad():
            pictures = objective.samples()
            loss = objective.loss(fixed, 0).total
        return {
            "loss": loss,
            "noise": batch.noise,
            "captions": batch.token_ids,
            "timesteps": batch.timesteps,
            "trained": torch.tensor(trained),
            "pictures": pictures,
        }

    plain = facts(sample_steps=2)
    changes = {
        "uncond_share": (0.9, "captions"),
        "uniform_share": (1.0, "timesteps"),
        "logit_mean": (2.0, "timesteps"),
        "logit_std": (0.1, "timesteps"),
        "train_text_encoder": (False, "trained"),
        "min_snr": (1.0, "loss"),
        "huber": (0.1, "loss"),
        "noise_offset": (0.1, "noise"),
        "sample_prompts": (("red dress",), "pictures"),
        "sample_guidance": (5.0, "pictures"),
        "sample_steps": (3, "pictures"),
    }
    assert {*changes, "compile"} == set(asdict(DenoisingObjectiveConfig()))
    for field, (value, changed) in changes.items():
        found = facts(**{"sample_steps": 2, field: value})
        # A frozen encoder reads texts one by one, which rounds otherwise than reading them together.
        same = {name: torch.equal if name != "pictures" else partial(torch.allclose, atol=1e-5) for name in plain}
        shapes = {name: plain[name].shape == found[name].shape for name in plain}
        differing = [name for name in plain if not (shapes[name] and same[name](plain[name], found[name]))]
        assert differing == [changed], field
    assert plain["pictures"].shape[1:] == (3, 16, 16)


@pytest.mark.parametrize("changes", [{"uncond_share": 1.5}, {"uniform_share": -0.1}])
def test_impossible_shares_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ToileError, match="between 0 and 1"):
        DenoisingObjectiveConfig(**changes)


@pytest.mark.parametrize(("prediction_type", "expected"), [("epsilon", "noise"), ("v_prediction", "velocity")])
def test_a_perfect_prediction_costs_nothing(
    build_denoising: Callable[..., DenoisingObjective], prediction_type: str, expected: str
) -> None:
    objective = build_denoising(schedule=replace(SCHEDULE, prediction_type=prediction_type))
    batch, schedule = objective.batch(range(8)), objective.schedule
    signal = schedule.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    velocity = signal.sqrt() * batch.noise - (1 - signal).sqrt() * batch.latents
    asked: list[Tensor] = []

    class Oracle(nn.Module):
        def forward(self, x_in: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
            asked.append(x_in)
            return batch.noise if expected == "noise" else velocity.float()

    objective._compiled = Oracle()  # type: ignore[assignment]
    assert float(objective.loss(batch, 0).total) < 1e-10
    noisy = signal.sqrt() * batch.latents + (1 - signal).sqrt() * batch.noise
    torch.testing.assert_close(asked[0], noisy.float())


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weighs_the_error_of_the_clean_latents(
    build_denoising: Callable[..., DenoisingObjective], prediction_type: str
) -> None:
    """`min(SNR, gamma)` times the error of what the prediction says the clean latents are (Hang et al. 2023, eq. 7)."""
    objective = build_denoising(schedule=replace(SCHEDULE, prediction_type=prediction_type), min_snr=2.0)
    batch, schedule = objective.batch(range(1)), objective.schedule
    predicted = torch.randn(batch.noise.shape, generator=torch.Generator().manual_seed(1))
    objective._compiled = lambda *_: predicted  # type: ignore[assignment]
    signal = schedule.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    noisy = signal.sqrt() * batch.latents + (1 - signal).sqrt() * batch.noise
    if prediction_type == "epsilon":
        clean = (noisy - (1 - signal).sqrt() * predicted) / signal.sqrt()
    else:
        clean = signal.sqrt() * noisy - (1 - signal).sqrt() * predicted
    snr = signal / (1 - signal)
    expected = snr.clamp(max=2.0) * (clean - batch.latents).square()
    torch.testing.assert_close(objective.loss(batch, 0).total.double(), expected.mean(), rtol=1e-3, atol=1e-6)


def test_huber_is_a_square_near_zero_and_grows_linearly(build_denoising: Callable[..., DenoisingObjective]) -> None:
    objective = build_denoising(huber=0.5)
    zero, small, large = torch.zeros(1), torch.full((1,), 1e-2), torch.full((1,), 1e3)
    torch.testing.assert_close(objective._errors(small, zero), small.square(), rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(objective._errors(large, zero), 2 * 0.5 * large, rtol=1e-3, atol=0.0)


def test_states_of_a_frozen_text_encoder_are_computed_once(build_denoising: Callable[..., DenoisingObjective]) -> None:
    objective = build_denoising(train_text_encoder=False)
    networks, ids = objective.networks, objective.batch(range(6)).token_ids
    expected = networks.text_encoder(ids)
    torch.testing.assert_close(networks.states(ids), expected)
    networks.text_encoder.forward = None  # type: ignore[assignment, method-assign]
    assert torch.equal(networks.states(ids[2:4]), networks.states(ids)[2:4])


def test_thirds_of_the_noise_range_are_reported_where_there_are_any(
    build_denoising: Callable[..., DenoisingObjective],
) -> None:
    objective = build_denoising()
    objective.module.eval()
    batch = objective.batch(range(40))
    loss = objective.loss(batch, 0)
    third = batch.timesteps * 3 // 1000
    counts = torch.stack([(third == k).sum() for k in range(3)])
    assert list(loss.parts) == ["low", "middle", "high"] and bool((counts > 0).all())
    assert loss.each is not None
    torch.testing.assert_close(loss.each.mean(), loss.total.detach())
    weighted = sum(part * count for part, count in zip(loss.parts.values(), counts, strict=True)) / 40
    torch.testing.assert_close(torch.as_tensor(weighted), loss.total.detach())
    [single] = objective.loss(objective.batch(range(1)), 0).parts.values()
    assert bool(single.isfinite())


@pytest.mark.parametrize("changes", [{}, {"min_snr": 5.0, "huber": 0.1}, {"noise_offset": 0.1}])
@pytest.mark.parametrize("learns_texts", [True, False])
def test_the_loss_is_computed_where_the_networks_are(
    build_denoising: Callable[..., DenoisingObjective],
    learns_elsewhere: Callable[..., None],
    learns_texts: bool,
    changes: dict[str, float],
) -> None:
    objective = build_denoising(train_text_encoder=learns_texts, **changes)
    text_encoder = objective.networks.text_encoder
    objective.networks.unet.to("meta")
    if learns_texts:
        learns_elsewhere(objective)
        return
    # Texts that do not learn are read wherever their encoder is.
    objective.module = objective.networks.unet
    learns_elsewhere(objective, keeps_texts=True)
    assert not next(text_encoder.parameters()).is_meta
