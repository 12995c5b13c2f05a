"""The denoiser: a perfect network gives back the clean latents, at every noise level and in every type."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from toile.diffusion.denoiser import Denoiser, denoised_from_prediction, prediction_from_denoised
from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig

SCHEDULE_V = NoiseSchedule(ScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True))
SCHEDULE_EPS = NoiseSchedule(ScheduleConfig())
COND = torch.zeros(3, 2, 4)


class Recorder:
    """A network that answers with a fixed prediction and remembers what it was asked."""

    def __init__(self, prediction: Tensor) -> None:
        self.prediction = prediction
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, x_in: Tensor, timestep: Tensor, cond: Tensor) -> Tensor:
        self.calls.append((x_in, timestep, cond))
        return self.prediction.to(x_in.dtype)


def clean_and_noise() -> tuple[Tensor, Tensor]:
    latents, noise = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    return latents, noise


@pytest.mark.parametrize("timestep", [0, 300, 700, 950, 999])
def test_the_true_velocity_gives_the_clean_latents(timestep: int) -> None:
    latents, noise = clean_and_noise()
    timesteps = torch.full((3,), timestep)
    network = Recorder(SCHEDULE_V.velocity_target(latents, noise, timesteps))
    sigma = SCHEDULE_V.sigmas[timestep]

    denoised = Denoiser(network, SCHEDULE_V)(latents + noise * float(sigma), sigma, COND)

    # at sigma = 4096 float32 holds x only to 4096 / 2 ** 24, but the network's answer carries the estimate
    torch.testing.assert_close(denoised, latents, rtol=0, atol=2e-5)
    x_in, asked, cond = network.calls[0]
    torch.testing.assert_close(x_in, SCHEDULE_V.noise_latents(latents, noise, timesteps), rtol=0, atol=1e-5)
    assert asked.tolist() == [float(timestep)]
    assert cond is COND


@pytest.mark.parametrize("timestep", [0, 300, 700, 999])
def test_the_true_noise_gives_the_clean_latents(timestep: int) -> None:
    latents, noise = clean_and_noise()
    sigma = float(SCHEDULE_EPS.sigmas[timestep])

    denoised = Denoiser(Recorder(noise), SCHEDULE_EPS)(latents + noise * sigma, sigma, COND)

    torch.testing.assert_close(denoised, latents, rtol=0, atol=2e-5)


def test_the_network_is_called_in_its_own_type_and_timesteps_stay_exact() -> None:
    latents, noise = clean_and_noise()
    network = Recorder(torch.zeros_like(latents))
    denoiser = Denoiser(network, SCHEDULE_V, dtype=torch.bfloat16)

    denoised = denoiser(latents + noise * 4096, 4096.0, COND)

    x_in, timestep, _ = network.calls[0]
    assert x_in.dtype == torch.bfloat16
    assert timestep.tolist() == [999.0]  # bfloat16 would round this to 1000
    assert denoised.dtype == torch.float32
    assert bool(denoised.isfinite().all())
    assert float(denoised.abs().max()) < 1e-2  # velocity 0 at pure noise means: nothing known, the mean


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6, 4096.0])
def test_prediction_and_denoised_are_inverse(prediction_type: str, sigma: float) -> None:
    prediction, noise = clean_and_noise()
    x = (noise * sigma).double()
    denoised = denoised_from_prediction(prediction.double(), x, sigma, prediction_type)
    back = prediction_from_denoised(denoised, x, sigma, prediction_type)
    torch.testing.assert_close(back, prediction.double(), rtol=0, atol=1e-9)


def test_a_change_of_the_schedule_changes_the_estimate() -> None:
    latents, noise = clean_and_noise()
    network = Recorder(noise)
    by_eps = Denoiser(network, SCHEDULE_EPS)(latents, 2.0, COND)
    by_v = Denoiser(network, SCHEDULE_V)(latents, 2.0, COND)
    assert not torch.allclose(by_eps, by_v)
    assert float(network.calls[0][1][0]) != float(network.calls[1][1][0])
