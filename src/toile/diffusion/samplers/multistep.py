"""Linear multistep samplers, which remember the slopes `(x - denoised) / sigma` of earlier steps: PLMS and LMS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from toile.diffusion.samplers.single_step import can_correct, heun_correction
from toile.diffusion.samplers.steps import Denoise, NoiseSource, SamplerStep, checked_sigmas, toward_denoised
from toile.errors import ToileError

# Weights of the newest, second newest, ... slope for steps of equal length (Adams-Bashforth of order 1 to 4).
ADAMS_BASHFORTH: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
MAX_ORDER = 4


def plms(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource) -> Iterator[SamplerStep]:
    """Pseudo linear multistep, the PNDM sampler of Stable Diffusion (Liu et al. 2022, eq. 12 and 13).

    The first step takes two calls (Heun's method, as the paper's pseudo improved Euler step); as in `heun`, not where
    it starts from zero terminal SNR. Slopes are averaged as noise estimates whatever the network predicts; diffusers'
    PNDM scheduler averages raw velocities of different timesteps with v-prediction, so it agrees only for epsilon.
    """
    levels = checked_sigmas(sigmas)
    slopes: list[Tensor] = []
    for i, (sigma, sigma_next) in enumerate(zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True)):
        denoised = denoise(x, levels[i])
        slopes = [(x - denoised) / sigma, *slopes][:MAX_ORDER]
        weights = [weight * (sigma_next - sigma) for weight in ADAMS_BASHFORTH[len(slopes) - 1]]
        if i > 0:
            x = _along_slopes(denoised, sigma, slopes, weights)
        else:
            x = toward_denoised(x, denoised, sigma_next / sigma)
            if can_correct(sigma, sigma_next):
                x = heun_correction(denoise, x, denoised, sigma, levels[1])
        yield SamplerStep(i, len(levels) - 1, sigma_next, x, denoised)


def lms(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, order: int = MAX_ORDER
) -> Iterator[SamplerStep]:
    """Linear multistep with weights made for the actual, unequal steps (k-diffusion, `sample_lms`).

    Args:
        order: 1 to 4, how many slopes are used at most.
    """
    if order not in range(1, MAX_ORDER + 1):
        raise ToileError(f"order is {order}; allowed: 1 to {MAX_ORDER}")
    levels = checked_sigmas(sigmas)
    knots = levels.tolist()
    slopes: list[Tensor] = []
    for i in range(len(levels) - 1):
        denoised = denoise(x, levels[i])
        slopes = [(x - denoised) / knots[i], *slopes][:order]
        weights = multistep_weights([knots[i - k] for k in range(len(slopes))], knots[i + 1])
        x = _along_slopes(denoised, knots[i], slopes, weights)
        yield SamplerStep(i, len(levels) - 1, knots[i + 1], x, denoised)


def multistep_weights(knots: Sequence[float], end: float) -> list[float]:
    """Integrals from `knots[0]` to `end` of the Lagrange polynomials on up to four knots.

    Simpson's rule is exact for cubics, hence for all of them.
    """
    points = (knots[0], (knots[0] + end) / 2, end)
    weights = []
    for k in range(len(knots)):
        at_start, at_middle, at_end = (_lagrange(knots, k, point) for point in points)
        weights.append((end - knots[0]) / 6 * (at_start + 4 * at_middle + at_end))
    return weights


def _lagrange(knots: Sequence[float], k: int, point: float) -> float:
    """The polynomial that is 1 at `knots[k]` and 0 at the other knots."""
    value = 1.0
    for j, knot in enumerate(knots):
        if j != k:
            value *= (point - knot) / (knots[k] - knot)
    return value


def _along_slopes(denoised: Tensor, sigma: float, slopes: list[Tensor], weights: Sequence[float]) -> Tensor:
    """`x + sum(weights * slopes)`, where x is `denoised + sigma * slopes[0]`.

    Written from denoised, because sigma and the first weight nearly cancel in a long step.
    """
    x = denoised + slopes[0] * (sigma + weights[0])
    for slope, weight in zip(slopes[1:], weights[1:], strict=True):
        x = x + slope * weight
    return x
