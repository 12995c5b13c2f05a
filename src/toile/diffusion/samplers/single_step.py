"""Samplers that look at one noise level at a time: DDPM, DDIM, Euler, Euler ancestral, Heun.

In `x = x0 + sigma * noise` the first four are one step with two settings: how much of the noise is replaced by fresh
noise (eta), and whether noise is added before the step (churn).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from toile.diffusion.samplers.steps import (
    Denoise,
    NoiseSource,
    SamplerStep,
    checked_sigmas,
    draw_noise,
    toward_denoised,
)
from toile.errors import ToileError

# Above this ratio of neighbouring noise levels Heun's correction multiplies changes of denoised by ten and more.
MAX_CORRECTED_RATIO = 20.0


def ddpm(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource) -> Iterator[SamplerStep]:
    """Ancestral sampling from the posterior with the smaller variance (Ho et al. 2020, eq. 7 and Alg. 2)."""
    return ddim(denoise, x, sigmas, noise, eta=1.0)


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, eta: float = 0.0) -> Iterator[SamplerStep]:
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16).

    Diffusers' DDIM and PNDM schedulers step from timestep t to t - T // N, whatever the next timestep is: the same grid
    if N divides T. With set_alpha_to_one=False they end at the noise level of timestep 0; here the end is always 0.

    Args:
        eta: 0 = deterministic, 1 = DDPM; in between, that share of DDPM's noise.
    """
    if not 0 <= eta <= 1:
        raise ToileError(f"eta is {eta}; allowed: 0 (no noise) to 1 (as much as DDPM)")
    levels = checked_sigmas(sigmas)
    for i, (sigma, sigma_next) in enumerate(zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True)):
        denoised = denoise(x, levels[i])
        kept, added = _ancestral_levels(sigma, sigma_next, eta)
        x = toward_denoised(x, denoised, kept / sigma)
        if added > 0:
            x = x + draw_noise(noise, i, x) * added
        yield SamplerStep(i, len(levels) - 1, sigma_next, x, denoised)


def euler_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, eta: float = 1.0
) -> Iterator[SamplerStep]:
    """Euler steps to a lower level, then noise up to the wanted one (k-diffusion, `sample_euler_ancestral`).

    Written in `x = x0 + sigma * noise`, the lower level is that of DDIM, so this is DDIM with another default of eta.

    Args:
        eta: 0 = Euler, 1 = all the noise of DDPM.
    """
    return ddim(denoise, x, sigmas, noise, eta=eta)


def euler(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, s_churn: float = 0.0
) -> Iterator[SamplerStep]:
    """Euler's method on the probability-flow ODE, with optional churn (Karras et al. 2022, Alg. 2, uncorrected).

    Args:
        s_churn: 0 = deterministic; each step first raises sigma by the factor 1 + min(s_churn / N, sqrt(2) - 1).
    """
    levels = checked_sigmas(sigmas)
    for i in range(len(levels) - 1):
        x, level = _churned(x, levels, i, noise, s_churn)
        denoised = denoise(x, level)
        x = toward_denoised(x, denoised, float(levels[i + 1] / level))
        yield SamplerStep(i, len(levels) - 1, float(levels[i + 1]), x, denoised)


def heun(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, s_churn: float = 0.0
) -> Iterator[SamplerStep]:
    """Heun's second-order method, two calls a step and one in the last (Karras et al. 2022, Alg. 1 and 2).

    The first step of a zero-terminal-SNR schedule, from 4096 down to the tens, is a plain Euler step: there the
    trapezoidal rule would weigh the change of denoised more than a hundredfold.

    Args:
        s_churn: 0 = deterministic; each step first raises sigma by the factor 1 + min(s_churn / N, sqrt(2) - 1).
    """
    levels = checked_sigmas(sigmas)
    for i in range(len(levels) - 1):
        x, level = _churned(x, levels, i, noise, s_churn)
        denoised = denoise(x, level)
        predicted = toward_denoised(x, denoised, float(levels[i + 1] / level))
        if can_correct(float(level), float(levels[i + 1])):
            predicted = heun_correction(denoise, predicted, denoised, float(level), levels[i + 1])
        x = predicted
        yield SamplerStep(i, len(levels) - 1, float(levels[i + 1]), x, denoised)


def can_correct(sigma: float, sigma_next: float) -> bool:
    """Whether Heun's correction makes sense for a step: not to 0, and not over an extreme ratio."""
    return sigma <= sigma_next * MAX_CORRECTED_RATIO


def heun_correction(denoise: Denoise, predicted: Tensor, denoised: Tensor, sigma: float, sigma_next: Tensor) -> Tensor:
    """Replaces the slope of an Euler step by the mean of the slopes at both ends (Karras et al. 2022, Alg. 1).

    With slopes `(x - denoised) / sigma`, the difference to the Euler step is `(sigma / sigma_next - 1) / 2` times the
    change of denoised.

    Args:
        predicted: x after the Euler step, at sigma_next.
        denoised: the estimate at the step's beginning.
    """
    change = denoise(predicted, sigma_next) - denoised
    return predicted + change * ((sigma / float(sigma_next) - 1) / 2)


def _ancestral_levels(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Noise level to go down to, and level of fresh noise, whose squares add up to sigma_next squared."""
    added = eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
    return math.sqrt(max(0.0, sigma_next**2 - added**2)), added


def _churned(x: Tensor, levels: Tensor, index: int, noise: NoiseSource, s_churn: float) -> tuple[Tensor, Tensor]:
    """Adds fresh noise before a step (Karras et al. 2022, Alg. 2)."""
    if not s_churn >= 0:
        raise ToileError(f"s_churn is {s_churn}; give 0 (no churn) or more")
    gamma = min(s_churn / (len(levels) - 1), math.sqrt(2) - 1)
    if gamma == 0:
        return x, levels[index]
    raised = levels[index] * (1 + gamma)
    added = torch.sqrt(raised**2 - levels[index] ** 2)
    return x + draw_noise(noise, index, x) * float(added), raised
