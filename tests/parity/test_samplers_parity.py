"""Our schedule, guidance and samplers against the schedulers of diffusers, on one fixed random network.

Both sides run the same network over the same timesteps from the same start, in float32. What cannot agree by
construction is set aside by configuration, and written at the samplers: set_alpha_to_one=True (we always end at
sigma 0), step counts that divide 1000 (DDIM and PNDM), "trailing" for DPM-Solver and UniPC, no v-prediction for PNDM.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from toile.diffusion.denoiser import Denoiser
from toile.diffusion.guidance import ClassifierFreeGuidance
from toile.diffusion.samplers import SAMPLERS, unipc
from toile.diffusion.schedule import MIN_ALPHA_CUMPROD, NoiseSchedule, ScheduleConfig, start_latents

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (2, 4, 6, 5)
TOLERANCE = 1e-4
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
EPS = ScheduleConfig(timestep_spacing="trailing")
EPS_LEADING = ScheduleConfig(timestep_spacing="leading", steps_offset=1)
V = ScheduleConfig(timestep_spacing="trailing", prediction_type="v_prediction")
V_ZERO_SNR = ScheduleConfig(timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True)
NO_CLIPPING = {"clip_sample": False}
ENDS_CLEAN = {**NO_CLIPPING, "set_alpha_to_one": True}

# Sampler, scheduler of diffusers, its further settings.
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, ENDS_CLEAN),
    "ddpm": (diffusers.DDPMScheduler, NO_CLIPPING),
    "plms": (diffusers.PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": True}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_sde": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (diffusers.UniPCMultistepScheduler, {"solver_order": 2}),
    "lms": (diffusers.LMSDiscreteScheduler, {}),
}
LCM = {**ENDS_CLEAN, "original_inference_steps": 50}
ZERO_SNR_SCHEDULERS = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "unipc")
LEADING_SCHEDULERS = ("ddim", "ddpm", "plms", "euler", "euler_ancestral", "heun", "lms")
CASES = [
    *((name, EPS) for name in SCHEDULERS),
    *((name, EPS_LEADING) for name in LEADING_SCHEDULERS),
    *((name, V) for name in SCHEDULERS if name != "plms"),
    *((name, V_ZERO_SNR) for name in ZERO_SNR_SCHEDULERS),
]


def case_id(value: str | ScheduleConfig) -> str:
    if isinstance(value, str):
        return value
    return f"{value.prediction_type}-{value.timestep_spacing}{'-zero_snr' * value.rescale_betas_zero_snr}"


class SmallNetwork:
    """A smooth function of x_in, timestep and cond that predicts plausible noise or velocity of unit-variance data."""

    def __init__(self, prediction_type: str) -> None:
        generator = torch.Generator().manual_seed(3)
        self.kernel = torch.randn(4, 4, 3, 3, generator=generator) / 6
        self.share = 1.0 if prediction_type == "epsilon" else 0.0

    def __call__(self, x_in: Tensor, timestep: Tensor, cond: Tensor) -> Tensor:
        x_in = x_in.repeat(len(cond) // len(x_in), 1, 1, 1)
        time = (timestep.float() / 1000 * math.pi / 2).view(-1, 1, 1, 1)
        push = cond.mean(dim=(1, 2)).view(-1, 1, 1, 1)
        hidden = torch.nn.functional.conv2d(x_in, self.kernel, padding=1)
        return self.share * torch.sin(time) * x_in + 0.4 * torch.tanh(hidden + torch.cos(3 * time) + push)


def shared_noise(index: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1000 + index))


def cond_states() -> Tensor:
    return torch.randn(SHAPE[0], 3, 8, generator=torch.Generator().manual_seed(5))


def build_scheduler(name: str, config: ScheduleConfig, **more: Any) -> Any:
    scheduler_class, settings = SCHEDULERS[name]
    settings = {**settings, "prediction_type": config.prediction_type, **BETAS, **more}
    settings |= {"timestep_spacing": config.timestep_spacing, "steps_offset": config.steps_offset}
    if config.rescale_betas_zero_snr:
        settings["rescale_betas_zero_snr"] = True
    scheduler = scheduler_class(**settings)
    if name == "ddpm" and config.rescale_betas_zero_snr:
        # this scheduler alone would start from sigma = infinity; like the others, we start from 4096
        scheduler.alphas_cumprod[-1] = MIN_ALPHA_CUMPROD
    return scheduler


def run_diffusers(
    scheduler: Any, predict: Callable[[Tensor, Tensor], Tensor], num_steps: int, sigma_start: float
) -> Tensor:
    scheduler.set_timesteps(num_steps)
    sample = shared_noise(0)
    if not hasattr(scheduler, "init_noise_sigma") or scheduler.init_noise_sigma != 1.0:
        sample = start_latents(sample, sigma_start)
    for i, timestep in enumerate(scheduler.timesteps):
        x_in = scheduler.scale_model_input(sample, timestep)
        prediction = predict(x_in, timestep.expand(len(x_in)))
        options: dict[str, Any] = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            options["generator"] = torch.Generator().manual_seed(1000 + i + 1)
        sample = scheduler.step(prediction, timestep, sample, **options).prev_sample
    return sample


def run_toile(sampler: Callable[..., Any], denoiser: Any, sigmas: Tensor, **options: Any) -> Tensor:
    cond = cond_states()
    start = start_latents(shared_noise(0), sigmas[0])
    *_, last = sampler(lambda x, sigma: denoiser(x, sigma, cond), start, sigmas, shared_noise, **options)
    assert last.sigma == 0
    return last.x


def assert_same_latents(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))


@pytest.mark.parametrize("num_steps", [10, 20])
@pytest.mark.parametrize(("name", "config"), CASES, ids=case_id)
def test_sampler_gives_the_latents_of_diffusers(name: str, config: ScheduleConfig, num_steps: int) -> None:
    schedule = NoiseSchedule(config)
    sigmas = schedule.sampling_sigmas(num_steps)
    network = SmallNetwork(config.prediction_type)
    cond = cond_states()
    scheduler = build_scheduler(name, config)

    expected = run_diffusers(scheduler, lambda x_in, t: network(x_in, t, cond), num_steps, float(sigmas[0]))
    actual = run_toile(SAMPLERS[name].function, Denoiser(network, schedule), sigmas)

    assert_same_latents(actual, expected)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
@pytest.mark.parametrize("config", [EPS, V, V_ZERO_SNR], ids=case_id)
def test_lcm_gives_the_latents_of_diffusers(config: ScheduleConfig, num_steps: int) -> None:
    """At the timesteps of their scheduler, which takes them from a grid of 50."""
    settings = {**LCM, "prediction_type": config.prediction_type, **BETAS}
    scheduler = diffusers.LCMScheduler(**settings, rescale_betas_zero_snr=config.rescale_betas_zero_snr)
    if config.rescale_betas_zero_snr:
        scheduler.alphas_cumprod[-1] = MIN_ALPHA_CUMPROD  # like ddpm's, it would start from sigma = infinity
    scheduler.set_timesteps(num_steps)
    schedule, network, cond = NoiseSchedule(config), SmallNetwork(config.prediction_type), cond_states()
    sigmas = torch.cat([schedule.sigmas[scheduler.timesteps], torch.zeros(1, dtype=torch.float64)])

    expected = run_diffusers(scheduler, lambda x_in, t: network(x_in, t, cond), num_steps, float(sigmas[0]))
    actual = run_toile(SAMPLERS["lcm"].function, Denoiser(network, schedule), sigmas)

    assert_same_latents(actual, expected)


def test_unipc_of_order_3_gives_the_latents_of_diffusers() -> None:
    schedule = NoiseSchedule(V_ZERO_SNR)
    sigmas = schedule.sampling_sigmas(20)
    network = SmallNetwork("v_prediction")
    cond = cond_states()
    scheduler = build_scheduler("unipc", V_ZERO_SNR, solver_order=3)

    expected = run_diffusers(scheduler, lambda x_in, t: network(x_in, t, cond), 20, float(sigmas[0]))
    actual = run_toile(unipc, Denoiser(network, schedule), sigmas, order=3)

    assert_same_latents(actual, expected)


@pytest.mark.parametrize("name", ["euler", "lms", "heun"])
def test_karras_levels_give_the_latents_of_diffusers(name: str) -> None:
    # linspace makes these schedulers span Karras' levels over the whole schedule, as ours do
    schedule = NoiseSchedule(ScheduleConfig(timestep_spacing="linspace"))
    sigmas = schedule.sampling_sigmas(10, "karras")
    network = SmallNetwork("epsilon")
    cond = cond_states()
    scheduler = build_scheduler(name, schedule.config, use_karras_sigmas=True)

    expected = run_diffusers(scheduler, lambda x_in, t: network(x_in, t, cond), 10, float(sigmas[0]))
    actual = run_toile(SAMPLERS[name].function, Denoiser(network, schedule), sigmas)

    assert_same_latents(actual, expected)


@pytest.mark.parametrize("config", [EPS_LEADING, V_ZERO_SNR], ids=case_id)
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guidance_gives_the_latents_of_diffusers(config: ScheduleConfig, rescale: float) -> None:
    schedule = NoiseSchedule(config)
    sigmas = schedule.sampling_sigmas(20)
    network = SmallNetwork(config.prediction_type)
    cond = cond_states()
    uncond = torch.zeros(1, 3, 8)
    scheduler = build_scheduler("ddim", config)

    def predict(x_in: Tensor, timestep: Tensor) -> Tensor:
        without = network(x_in, timestep, uncond.expand_as(cond))
        with_text = network(x_in, timestep, cond)
        return rescale_noise_cfg(without + 5.0 * (with_text - without), with_text, rescale)

    expected = run_diffusers(scheduler, predict, 20, float(sigmas[0]))
    guided = ClassifierFreeGuidance(Denoiser(network, schedule), uncond, 5.0, rescale=rescale)
    actual = run_toile(SAMPLERS["ddim"].function, guided, sigmas)

    assert_same_latents(actual, expected)


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_every_noise_level_is_that_of_diffusers(beta_schedule: str, zero_snr: bool) -> None:
    config = ScheduleConfig(beta_schedule=beta_schedule, rescale_betas_zero_snr=zero_snr)
    settings = {**BETAS, "beta_schedule": beta_schedule, "rescale_betas_zero_snr": zero_snr}
    scheduler = diffusers.EulerDiscreteScheduler(**settings)

    sigmas = NoiseSchedule(config).sigmas
    expected = scheduler.sigmas[:-1].flip(0).double()

    # diffusers computes in float32: at both ends it subtracts nearly equal numbers
    torch.testing.assert_close(sigmas, expected, rtol=2e-3, atol=0)
    torch.testing.assert_close(sigmas[50:950], expected[50:950], rtol=3e-5, atol=0)
    if zero_snr:
        assert float(sigmas[-1]) == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize(("spacing", "offset"), [("trailing", 0), ("leading", 0), ("leading", 1), ("linspace", 0)])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 10, 20, 25, 30, 33, 50, 97, 250, 999])
def test_sampling_levels_are_those_of_ddim(spacing: str, offset: int, num_steps: int) -> None:
    schedule = NoiseSchedule(ScheduleConfig(timestep_spacing=spacing, steps_offset=offset))
    scheduler = build_scheduler("ddim", schedule.config)
    scheduler.set_timesteps(num_steps)

    sigmas = schedule.sampling_sigmas(num_steps)

    assert torch.equal(sigmas[:-1], schedule.sigmas[scheduler.timesteps])
    assert torch.equal(schedule.timestep_of(sigmas[:-1]), scheduler.timesteps.double())


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("num_steps", [1, 8, 20, 50])
@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_karras_and_trailing_levels_are_those_of_dpm_solver(name: str, num_steps: int, zero_snr: bool) -> None:
    schedule = NoiseSchedule(ScheduleConfig(timestep_spacing="trailing", rescale_betas_zero_snr=zero_snr))
    for spacing in ("karras", "trailing"):
        scheduler = build_scheduler(name, schedule.config, use_karras_sigmas=spacing == "karras")
        scheduler.set_timesteps(num_steps)

        sigmas = schedule.sampling_sigmas(num_steps, spacing)

        torch.testing.assert_close(sigmas, scheduler.sigmas.double(), rtol=5e-5, atol=0)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_training_targets_are_those_of_diffusers(zero_snr: bool) -> None:
    schedule = NoiseSchedule(ScheduleConfig(rescale_betas_zero_snr=zero_snr))
    scheduler = diffusers.DDPMScheduler(**BETAS, rescale_betas_zero_snr=zero_snr)
    timesteps = torch.tensor([0, 1, 500, 949, 999])
    latents, noise = (torch.randn(5, 4, 3, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))

    noisy = schedule.noise_latents(latents, noise, timesteps)
    velocity = schedule.velocity_target(latents, noise, timesteps)

    # at timestep 999 diffusers' training schedulers keep alpha at 0 where samplers, and we, have 2 ** -12
    tolerance = {"rtol": 0.0, "atol": 2**-12 * 4 if zero_snr else 1e-5}
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, timesteps), **tolerance)
    torch.testing.assert_close(velocity, scheduler.get_velocity(latents, noise, timesteps), **tolerance)
    torch.testing.assert_close(noisy[:4], scheduler.add_noise(latents, noise, timesteps)[:4], rtol=0, atol=1e-5)
