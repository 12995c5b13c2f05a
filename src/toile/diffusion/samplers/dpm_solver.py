"""DPM-Solver++ 2M, for the ODE and the SDE (Lu et al. 2022, "DPM-Solver++", Alg. 2 and sec. 5).

With `lambda = -log(sigma)` the exact solution between two noise levels is an integral over denoised; the first-order
step takes denoised as constant, the second-order one as a line through this estimate and the one before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

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


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource) -> Iterator[SamplerStep]:
    """DPM-Solver++ 2M on the ODE: second order with one call a step; first and last step are of first order."""
    return dpmpp_2m_sde(denoise, x, sigmas, noise, eta=0.0)


def dpmpp_2m_sde(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, eta: float = 1.0
) -> Iterator[SamplerStep]:
    """DPM-Solver++ 2M on the SDE, midpoint variant (k-diffusion, `sample_dpmpp_2m_sde`).

    Each step takes noise of its own, as in diffusers; k-diffusion's follows one Brownian path over all of them.

    Args:
        eta: 0 = the ODE, 1 = the reverse SDE.
    """
    if not 0 <= eta <= 1:
        raise ToileError(f"eta is {eta}; allowed: 0 (no noise) to 1 (the reverse SDE)")
    levels = checked_sigmas(sigmas)
    log_levels = levels.log()  # the last is -inf and never used: that step jumps to denoised
    previous = None
    for i, (sigma, sigma_next) in enumerate(zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True)):
        denoised = denoise(x, levels[i])
        if sigma_next == 0:
            x = denoised
        else:
            estimate = denoised
            h = float(log_levels[i] - log_levels[i + 1])
            if previous is not None:
                h_previous = float(log_levels[i - 1] - log_levels[i])
                estimate = denoised + (denoised - previous) * (h / (2 * h_previous))
            x = toward_denoised(x, estimate, sigma_next / sigma * math.exp(-eta * h))
            if eta > 0:
                x = x + draw_noise(noise, i, x) * (sigma_next * math.sqrt(-math.expm1(-2 * eta * h)))
        previous = denoised
        yield SamplerStep(i, len(levels) - 1, sigma_next, x, denoised)
