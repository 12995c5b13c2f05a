"""Clean latents and steps where each example has its own timestep, against the functions of one noise level."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from toile.diffusion.consistency import CLEAN, NoiseLevels, level_timesteps
from toile.diffusion.denoiser import denoised_from_prediction
from toile.diffusion.samplers.steps import toward_denoised
from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig

V = NoiseSchedule(ScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True))
EPSILON = NoiseSchedule(ScheduleConfig())
TIMESTEPS = torch.tensor([999, 750, 400, 24])
ENDS = torch.tensor([749, 400, CLEAN, CLEAN])


def draw(seed: int) -> Tensor:
    return torch.randn(4, 3, 5, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("schedule", [V, EPSILON], ids=["v", "epsilon"])
def test_each_row_is_what_the_functions_of_one_noise_level_give(schedule: NoiseSchedule) -> None:
    levels, prediction, x_in = NoiseLevels(schedule), draw(0), draw(1)
    denoised = levels.denoised(prediction, x_in, TIMESTEPS)
    moved = levels.step(denoised, x_in, TIMESTEPS, ENDS)
    for row, (timestep, end) in enumerate(zip(TIMESTEPS.tolist(), ENDS.tolist(), strict=True)):
        sigma = schedule.sigmas[timestep]
        x = x_in[row].double() * math.sqrt(1 + float(sigma) ** 2)
        kind = schedule.config.prediction_type
        expected = denoised_from_prediction(prediction[row].double(), x, sigma, kind)
        torch.testing.assert_close(denoised[row].double(), expected, rtol=1e-4, atol=1e-4)
        sigma_end = 0.0 if end == CLEAN else float(schedule.sigmas[end])
        step = toward_denoised(x, expected, sigma_end / float(sigma)) / math.sqrt(1 + sigma_end**2)
        torch.testing.assert_close(moved[row].double(), step, rtol=1e-4, atol=1e-4)


def test_the_estimate_is_found_again_from_where_it_leads() -> None:
    levels, denoised, x_in = NoiseLevels(V), draw(0), draw(1)
    moved = levels.step(denoised, x_in, TIMESTEPS, ENDS)
    torch.testing.assert_close(
        levels.estimate_that_steps_to(moved, x_in, TIMESTEPS, ENDS), denoised, rtol=1e-4, atol=1e-4
    )


def test_at_the_end_of_a_path_is_the_estimate_itself() -> None:
    levels, denoised = NoiseLevels(V), draw(0)
    at_the_end = torch.full((4,), CLEAN)
    assert torch.equal(levels.step(denoised, draw(1), TIMESTEPS, at_the_end), denoised)


def test_levels_are_those_of_the_trailing_spacing() -> None:
    timesteps = level_timesteps(V, 40)
    assert timesteps[-1] == CLEAN and timesteps.dtype == torch.int64
    assert torch.equal(V.sigmas[timesteps[:-1]], V.sampling_sigmas(40, "trailing")[:-1])
    # Segments end where a sampler with as many steps is.
    for segments in (1, 2, 4, 8):
        assert torch.equal(timesteps[:: 40 // segments], level_timesteps(V, segments))
