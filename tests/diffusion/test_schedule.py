"""The noise schedule: identities between its quantities, zero terminal SNR, spacings, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toile.diffusion.schedule import SPACINGS, NoiseSchedule, ScheduleConfig, start_latents
from toile.errors import ToileError

ZERO_SNR = ScheduleConfig(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
SCHEDULES = {
    "stable_diffusion": NoiseSchedule(ScheduleConfig(steps_offset=1)),
    "zero_snr": NoiseSchedule(ZERO_SNR),
    "cosine": NoiseSchedule(ScheduleConfig(beta_schedule="squaredcos_cap_v2")),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_timestep_and_sigma_are_inverse_and_exact_at_the_grid(name: str) -> None:
    schedule = SCHEDULES[name]
    whole = torch.arange(1000, dtype=torch.float64)

    assert torch.equal(schedule.timestep_of(schedule.sigmas), whole)
    assert torch.equal(schedule.sigma_of(whole), schedule.sigmas)
    between = whole[:-1] + 0.3
    torch.testing.assert_close(schedule.timestep_of(schedule.sigma_of(between)), between)
    assert float(schedule.timestep_of(1e-9)) == 0
    assert float(schedule.timestep_of(1e9)) == 999


def test_sigma_between_two_timesteps_is_their_geometric_mean() -> None:
    schedule = SCHEDULES["stable_diffusion"]
    expected = (schedule.sigmas[500] * schedule.sigmas[501]).sqrt()
    torch.testing.assert_close(schedule.sigma_of(500.5), expected)


def test_zero_terminal_snr_keeps_the_first_level_and_ends_in_noise() -> None:
    plain = NoiseSchedule(replace(ZERO_SNR, rescale_betas_zero_snr=False))
    rescaled = NoiseSchedule(ZERO_SNR)

    torch.testing.assert_close(rescaled.sigmas[0], plain.sigmas[0])
    assert float(rescaled.alphas_cumprod[-1]) == 2**-24
    assert float(rescaled.sigmas[-1]) == pytest.approx(4096)
    assert float(plain.sigmas[-1]) == pytest.approx(14.6146, abs=1e-3)  # what Stable Diffusion 1.x ends at


@pytest.mark.parametrize("name", SCHEDULES)
@given(num_steps=st.integers(1, 999), spacing=st.sampled_from(SPACINGS))
@settings(deadline=None)
def test_sampling_levels_fall_to_zero(name: str, num_steps: int, spacing: str) -> None:
    sigmas = SCHEDULES[name].sampling_sigmas(num_steps, spacing)

    assert sigmas.shape == (num_steps + 1,)
    assert sigmas.dtype == torch.float64
    assert bool((sigmas.diff() < 0).all())
    assert float(sigmas[-1]) == 0


def test_trailing_begins_at_the_last_timestep_and_is_the_default_of_its_config() -> None:
    schedule = SCHEDULES["zero_snr"]
    assert torch.equal(schedule.sampling_sigmas(20), schedule.sampling_sigmas(20, "trailing"))
    for num_steps in (1, 7, 20):
        assert schedule.sampling_sigmas(num_steps)[0] == schedule.sigmas[-1]


def test_karras_spans_the_whole_schedule() -> None:
    schedule = SCHEDULES["stable_diffusion"]
    sigmas = schedule.sampling_sigmas(12, "karras")
    torch.testing.assert_close(sigmas[0], schedule.sigmas[-1])
    torch.testing.assert_close(sigmas[-2], schedule.sigmas[0])
    roots = sigmas[:-1] ** (1 / 7)
    torch.testing.assert_close(roots.diff(), (roots[1] - roots[0]).expand(11))


@pytest.mark.parametrize("num_steps", [0, -1, 1001, 10**6, 2.5, True])
def test_impossible_step_counts_are_refused(num_steps: int) -> None:
    with pytest.raises(ToileError, match="allowed: whole numbers from 1 to 1000"):
        SCHEDULES["zero_snr"].sampling_sigmas(num_steps)


def test_leading_steps_past_the_last_timestep_are_refused() -> None:
    with pytest.raises(ToileError, match="begin at timestep 1000, past the last one, 999"):
        SCHEDULES["stable_diffusion"].sampling_sigmas(1000, "leading")


def test_an_unknown_spacing_is_refused() -> None:
    with pytest.raises(ToileError, match="spacing is 'uniform'; allowed: leading, trailing, linspace, karras"):
        SCHEDULES["zero_snr"].sampling_sigmas(10, "uniform")


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta_schedule": "sigmoid"},
        {"prediction_type": "sample"},
        {"timestep_spacing": "karras"},
        {"num_train_timesteps": 1},
        {"beta_start": 0.0},
        {"beta_start": 0.5, "beta_end": 0.1},
        {"beta_end": float("nan")},
        {"steps_offset": -1},
        {"clip_sample": True},
        {"thresholding": True},
    ],
)
def test_wrong_configs_are_refused_by_field_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ToileError, match=next(iter(wrong))):
        ScheduleConfig(**wrong)  # type: ignore[arg-type]


def test_a_schedule_that_does_not_grow_is_refused() -> None:
    # with this many timesteps alpha passes 2 ** -12 before its last, which would then be the cleaner one
    with pytest.raises(ToileError, match="does not get noisier"):
        NoiseSchedule(ScheduleConfig(num_train_timesteps=20_000, rescale_betas_zero_snr=True))


def test_noising_and_velocity_are_a_rotation() -> None:
    schedule = SCHEDULES["zero_snr"]
    timesteps = torch.tensor([0, 400, 999])
    latents, noise = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noisy = schedule.noise_latents(latents, noise, timesteps)
    velocity = schedule.velocity_target(latents, noise, timesteps)

    alpha = schedule.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
    sigma_vp = (1 - alpha**2).sqrt()
    torch.testing.assert_close(alpha * noisy - sigma_vp * velocity, latents)
    torch.testing.assert_close(sigma_vp * noisy + alpha * velocity, noise)
    torch.testing.assert_close(noisy / alpha, latents + schedule.sigmas[timesteps].view(-1, 1, 1, 1) * noise)


def test_snr_is_signal_over_noise_and_zero_at_the_end() -> None:
    schedule = SCHEDULES["zero_snr"]
    signal = schedule.alphas_cumprod
    torch.testing.assert_close(schedule.snr(torch.arange(1000)), signal / (1 - signal))
    assert float(schedule.snr(torch.tensor([999]))) < 1e-7


def test_targets_keep_the_type_of_the_latents() -> None:
    latents = torch.zeros(2, 4, 3, 3, dtype=torch.bfloat16)
    timesteps = torch.tensor([3, 999])
    assert SCHEDULES["zero_snr"].noise_latents(latents, latents, timesteps).dtype == torch.bfloat16
    assert SCHEDULES["zero_snr"].velocity_target(latents, latents, timesteps).dtype == torch.bfloat16


def test_start_latents_have_unit_variance_for_the_network() -> None:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for sigma in (0.5, 14.6, 4096.0):
        torch.testing.assert_close(start_latents(noise, sigma) / (1 + sigma**2) ** 0.5, noise)
