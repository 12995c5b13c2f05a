"""Samplers on Gaussian data, where the best denoiser and the exact solution are known in closed form.

Data N(mu, s ** 2) gives `denoised = mu + c * (x - mu)` with `c = s ** 2 / (s ** 2 + sigma ** 2)`, and the
probability-flow ODE scales `x - mu` by `sqrt(s ** 2 + sigma ** 2)` (Karras et al. 2022, eq. 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from toile.diffusion.noise import ImageNoise
from toile.diffusion.samplers import (
    SAMPLERS,
    SamplerStep,
    ddim,
    dpmpp_2m,
    dpmpp_2m_sde,
    euler,
    euler_ancestral,
    heun,
    lcm,
    lms,
    plms,
    unipc,
)
from toile.diffusion.samplers.multistep import multistep_weights
from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig, start_latents
from toile.errors import ToileError

MEAN, SPREAD = 0.7, 0.4
ZERO_SNR = NoiseSchedule(ScheduleConfig(timestep_spacing="trailing", rescale_betas_zero_snr=True))
STABLE_DIFFUSION = NoiseSchedule(ScheduleConfig(timestep_spacing="trailing"))
DETERMINISTIC = [name for name, info in SAMPLERS.items() if not info.stochastic]
STOCHASTIC = [name for name, info in SAMPLERS.items() if info.stochastic]
# That of consistency models does not expect the mean of all pictures, which `gaussian_denoise` is.
OF_MEANS = [name for name in SAMPLERS if name != "lcm"]
NUM_CALLS = {name: 10 for name in SAMPLERS} | {"heun": 19, "plms": 11}

Run = Callable[..., Iterator[SamplerStep]]


def gaussian_denoise(x: Tensor, sigma: Tensor) -> Tensor:
    share = SPREAD**2 / (SPREAD**2 + float(sigma) ** 2)
    return x * share + MEAN * (1 - share)


def exact_flow(x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
    ratio = math.sqrt((SPREAD**2 + sigma_to**2) / (SPREAD**2 + sigma_from**2))
    return MEAN + (x - MEAN) * ratio


def even_in_log(num_steps: int, sigma_max: float = 10.0, sigma_min: float = 0.05) -> Tensor:
    levels = torch.linspace(math.log(sigma_max), math.log(sigma_min), num_steps, dtype=torch.float64).exp()
    return torch.cat([levels, levels.new_zeros(1)])


def random_x(sigma: float, dtype: torch.dtype = torch.float64) -> Tensor:
    noise = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (MEAN + noise * math.sqrt(SPREAD**2 + sigma**2)).to(dtype)


def no_noise(index: int) -> Tensor:
    raise AssertionError("a deterministic sampler asked for noise")


def fresh_noise(shape: torch.Size, index: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(index))


def run(sampler: Run, x: Tensor, sigmas: Tensor, **options: Any) -> list[SamplerStep]:
    return list(sampler(gaussian_denoise, x, sigmas, partial(fresh_noise, x.shape), **options))


@pytest.mark.parametrize(
    ("sampler", "order"),
    [(ddim, 1), (euler, 1), (heun, 2), (dpmpp_2m, 2), (plms, 2), (lms, 2), (unipc, 2), (partial(unipc, order=3), 3)],
    ids=["ddim", "euler", "heun", "dpmpp_2m", "plms", "lms", "unipc", "unipc_3"],
)
def test_halving_the_step_divides_the_error_by_two_to_the_order(sampler: Run, order: int) -> None:
    errors = []
    for num_steps in (40, 80):
        sigmas = even_in_log(num_steps)
        x = random_x(10.0)
        step = run(sampler, x, sigmas)[-2]  # the last step, to sigma 0, is of first order for most
        errors.append(float((step.x - exact_flow(x, 10.0, step.sigma)).abs().max()))
    assert errors[1] < 0.05
    assert math.log2(errors[0] / errors[1]) > order - 0.25


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_ode_samplers_reach_the_exact_solution_at_sigma_zero(name: str) -> None:
    x = random_x(10.0)
    last = run(SAMPLERS[name].function, x, even_in_log(400, sigma_min=0.002))[-1]
    torch.testing.assert_close(last.x, exact_flow(x, 10.0, 0.0), rtol=0, atol=0.02)


def test_plms_is_of_higher_order_on_equal_steps() -> None:
    errors = []
    for num_steps in (40, 80):
        sigmas = torch.linspace(2.0, 0.0, num_steps + 1, dtype=torch.float64)
        x = random_x(2.0)
        step = run(plms, x, sigmas)[num_steps // 2]
        errors.append(float((step.x - exact_flow(x, 2.0, step.sigma)).abs().max()))
    assert math.log2(errors[0] / errors[1]) > 2.7  # started by a second-order step


@pytest.mark.parametrize(
    "sampler",
    [
        *(SAMPLERS[name].function for name in STOCHASTIC if name in OF_MEANS),
        partial(ddim, eta=0.5),
        partial(dpmpp_2m_sde, eta=0.5),
        partial(euler, s_churn=10.0),
        partial(heun, s_churn=30.0),
    ],
    ids=[
        *(name for name in STOCHASTIC if name in OF_MEANS),
        "ddim_half",
        "dpmpp_2m_sde_half",
        "euler_churn",
        "heun_churn",
    ],
)
def test_sde_samplers_give_the_mean_and_the_spread_of_the_data(sampler: Run) -> None:
    sigmas = even_in_log(150, sigma_min=0.01)
    x = MEAN + torch.randn(40_000, generator=torch.Generator().manual_seed(9)) * math.sqrt(SPREAD**2 + 100)

    result = run(sampler, x, sigmas)[-1].x

    assert float(result.mean()) == pytest.approx(MEAN, abs=0.01)  # 5 standard errors
    assert float(result.std()) == pytest.approx(SPREAD, rel=0.04)
    assert abs(float(torch.corrcoef(torch.stack([x, result]))[0, 1])) < 0.999  # noise was replaced


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 20])
def test_float32_is_enough_from_zero_terminal_snr(name: str, num_steps: int) -> None:
    sigmas = ZERO_SNR.sampling_sigmas(num_steps)
    noise = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    start = start_latents(noise, sigmas[0])

    result = run(SAMPLERS[name].function, start, sigmas)[-1].x
    precise = run(SAMPLERS[name].function, start.double(), sigmas)[-1].x

    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), precise, rtol=0, atol=2e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_the_sampler_of_consistency_models_gives_the_data_in_any_number_of_steps(num_steps: int) -> None:
    """Of the exact consistency function: the end of the path of the probability-flow ODE."""
    sigmas = ZERO_SNR.sampling_sigmas(num_steps)
    start = start_latents(torch.randn(40_000, generator=torch.Generator().manual_seed(100)), sigmas[0])

    def jump(x: Tensor, sigma: Tensor) -> Tensor:
        return exact_flow(x, float(sigma), 0.0)

    *_, last = lcm(jump, start, sigmas, partial(fresh_noise, start.shape))
    assert float(last.x.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(last.x.std()) == pytest.approx(SPREAD, rel=0.02)
    correlation = float(torch.corrcoef(torch.stack([start, last.x]))[0, 1])
    assert (correlation > 0.999) == (num_steps == 1)  # later steps begin with noise of their own


@pytest.mark.parametrize("name", OF_MEANS)
def test_twenty_steps_from_zero_terminal_snr_give_the_data(name: str) -> None:
    sigmas = ZERO_SNR.sampling_sigmas(20)
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(1))

    result = run(SAMPLERS[name].function, start_latents(noise, sigmas[0]), sigmas)[-1].x

    assert float(result.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(result.std()) == pytest.approx(SPREAD, rel=0.25)


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_say_where_they_are(name: str) -> None:
    sigmas = STABLE_DIFFUSION.sampling_sigmas(10)
    calls: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == () and sigma.dtype == torch.float64
        calls.append(float(sigma))
        return gaussian_denoise(x, sigma)

    x = random_x(float(sigmas[0]), torch.float32)
    steps = list(SAMPLERS[name].function(denoise, x, sigmas, partial(fresh_noise, x.shape)))

    assert [step.index for step in steps] == list(range(10))
    assert {step.num_steps for step in steps} == {10}
    assert [step.sigma for step in steps] == sigmas[1:].tolist()
    assert all(step.x.shape == step.denoised.shape == x.shape for step in steps)
    assert len(calls) == NUM_CALLS[name]
    assert set(calls) == set(sigmas[:-1].tolist())
    assert math.ceil(len(calls) / 10) == SAMPLERS[name].calls_per_step or name == "plms"


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_denoised_estimate(name: str) -> None:
    x = random_x(10.0, torch.float32)
    (step,) = run(SAMPLERS[name].function, x, torch.tensor([10.0, 0.0]))
    torch.testing.assert_close(step.x, step.denoised, rtol=0, atol=1e-6)
    assert torch.equal(step.denoised, gaussian_denoise(x, torch.tensor(10.0)))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_ask_for_no_noise(name: str) -> None:
    sigmas = STABLE_DIFFUSION.sampling_sigmas(5)
    x = random_x(float(sigmas[0]))
    *_, last = SAMPLERS[name].function(gaussian_denoise, x, sigmas, no_noise)
    assert last.sigma == 0


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_leave_draw_zero_to_the_start(name: str) -> None:
    sigmas = STABLE_DIFFUSION.sampling_sigmas(5)
    x = random_x(float(sigmas[0]), torch.float32)
    asked: list[int] = []

    def noise(index: int) -> Tensor:
        asked.append(index)
        return fresh_noise(x.shape, index)

    list(SAMPLERS[name].function(gaussian_denoise, x, sigmas, noise))
    assert asked == [1, 2, 3, 4]  # the last step adds none


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_is_the_same_alone_and_anywhere_in_a_batch(name: str) -> None:
    sigmas = ZERO_SNR.sampling_sigmas(6)

    def sample(seeds: list[int]) -> Tensor:
        noise = ImageNoise(seeds, (4, 5, 5))
        start = start_latents(noise.draw(0), sigmas[0])
        *_, last = SAMPLERS[name].function(gaussian_denoise, start, sigmas, noise.draw)
        return last.x

    together = sample([3, 11, 8])
    assert torch.equal(sample([8, 3, 11]), together[[2, 0, 1]])
    assert torch.equal(sample([11]), together[1:2])


@pytest.mark.parametrize("name", SAMPLERS)
def test_runs_side_by_side_do_not_disturb_each_other(name: str) -> None:
    sigmas = STABLE_DIFFUSION.sampling_sigmas(6)
    x = random_x(float(sigmas[0]), torch.float32)
    alone = run(SAMPLERS[name].function, x, sigmas)[-1].x

    sampler = SAMPLERS[name].function
    first, second = (sampler(gaussian_denoise, x, sigmas, partial(fresh_noise, x.shape)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.x, other.x)
    assert torch.equal(one.x, alone)


def test_the_family_of_eta_meets_at_its_ends() -> None:
    sigmas = STABLE_DIFFUSION.sampling_sigmas(8)
    x = random_x(float(sigmas[0]), torch.float32)

    def result(sampler: Run, **options: Any) -> Tensor:
        return run(sampler, x, sigmas, **options)[-1].x

    torch.testing.assert_close(result(euler), result(ddim))
    assert torch.equal(result(euler_ancestral, eta=0.0), result(ddim))
    assert torch.equal(result(ddim, eta=1.0), result(SAMPLERS["ddpm"].function))
    assert torch.equal(result(dpmpp_2m_sde, eta=0.0), result(dpmpp_2m))
    torch.testing.assert_close(result(lms, order=1), result(euler))
    assert not torch.allclose(result(ddim, eta=0.3), result(ddim))


def test_multistep_weights_integrate_cubics_exactly() -> None:
    knots, end = [2.0, 3.1, 4.7, 9.0], 1.2
    weights = multistep_weights(knots, end)
    for power in range(4):
        integral = (end ** (power + 1) - knots[0] ** (power + 1)) / (power + 1)
        assert sum(w * k**power for w, k in zip(weights, knots, strict=True)) == pytest.approx(integral)


@pytest.mark.parametrize(
    "sigmas", [[], [1.0], [0.0], [1.0, 2.0, 0.0], [1.0, 1.0, 0.0], [2.0, 1.0], [math.inf, 1.0, 0.0], [math.nan, 0.0]]
)
@pytest.mark.parametrize("name", SAMPLERS)
def test_levels_that_do_not_fall_to_zero_are_refused(name: str, sigmas: list[float]) -> None:
    with pytest.raises(ToileError, match="sigmas"):
        run(SAMPLERS[name].function, torch.zeros(1, 4, 2, 2), torch.tensor(sigmas))


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        (ddim, {"eta": -0.1}),
        (euler_ancestral, {"eta": 1.1}),
        (dpmpp_2m_sde, {"eta": math.nan}),
        (euler, {"s_churn": -1.0}),
        (heun, {"s_churn": math.nan}),
        (lms, {"order": 5}),
        (unipc, {"order": 1}),
    ],
)
def test_options_out_of_range_are_refused_by_name(sampler: Run, options: dict[str, float]) -> None:
    with pytest.raises(ToileError, match=next(iter(options))):
        run(sampler, torch.zeros(1, 4, 2, 2), torch.tensor([2.0, 1.0, 0.0]), **options)
