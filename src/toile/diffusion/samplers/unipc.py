"""UniPC, a predictor and corrector for diffusion (Zhao et al. 2023, Alg. 1 and 2, in the form for data prediction)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from toile.diffusion.samplers.steps import Denoise, NoiseSource, SamplerStep, checked_sigmas, toward_denoised
from toile.errors import ToileError


def unipc(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, order: int = 2) -> Iterator[SamplerStep]:
    """UniPC with B2(h): one call a step, which predicts the next x and corrects this one.

    The order is lower in the first steps, which have no history, and in the last ones, as in diffusers.

    Args:
        order: 2 or 3 estimates for the predictor.
    """
    if order not in (2, 3):
        raise ToileError(f"order is {order}; allowed: 2 and 3")
    levels = checked_sigmas(sigmas)
    num_steps = len(levels) - 1
    lambdas = (-levels[:-1].log()).tolist()
    history: list[Tensor] = []  # denoised estimates, newest first
    start = x  # corrected x at the level of history[0]
    step_order = 1
    for i in range(num_steps):
        denoised = denoise(x, levels[i])
        if i > 0:
            x = _corrected(start, denoised, history[:step_order], lambdas[i - step_order : i + 1])
        history = [denoised, *history][:order]
        start = x
        step_order = min(order, i + 1, num_steps - i)
        if i == num_steps - 1:
            x = denoised
        else:
            x = _predicted(start, history[:step_order], lambdas[i + 1 - step_order : i + 2])
        yield SamplerStep(i, num_steps, float(levels[i + 1]), x, denoised)


def _predicted(start: Tensor, history: list[Tensor], lambdas: list[float]) -> Tensor:
    """UniP (Alg. 2): x at `lambdas[-1]` from estimates at the earlier ones.

    Args:
        start: x at `lambdas[-2]`.
        history: estimates at `lambdas[-2]`, `lambdas[-3]`, ...
        lambdas: `-log(sigma)`, ascending, one more than estimates.
    """
    ratios = _ratios(lambdas)
    if len(history) == 2:
        weights = [0.5]  # where the paper's system would give almost this; the paper and diffusers take 1/2
    else:
        weights = _solved_weights(ratios, lambdas[-1] - lambdas[-2])
    return _advance(start, history, ratios, weights, lambdas[-1] - lambdas[-2])


def _corrected(start: Tensor, denoised: Tensor, history: list[Tensor], lambdas: list[float]) -> Tensor:
    """UniC (Alg. 1): the same step once more, now with the estimate at its end.

    Args:
        denoised: the estimate at `lambdas[-1]`, where the predictor led.
    """
    ratios = [*_ratios(lambdas), 1.0]
    h = lambdas[-1] - lambdas[-2]
    weights = [0.5] if len(history) == 1 else _solved_weights(ratios, h)
    return _advance(start, [*history, denoised], ratios, weights, h)


def _ratios(lambdas: list[float]) -> list[float]:
    """Where earlier estimates lie, in lengths of this step before its beginning: negative, nearest first."""
    h = lambdas[-1] - lambdas[-2]
    return [(earlier - lambdas[-2]) / h for earlier in reversed(lambdas[:-2])]


def _advance(start: Tensor, estimates: list[Tensor], ratios: list[float], weights: list[float], h: float) -> Tensor:
    """A first-order step with `estimates[0]` moved along the divided differences of the others."""
    target = estimates[0]
    for estimate, ratio, weight in zip(estimates[1:], ratios, weights, strict=True):
        target = target + (estimate - estimates[0]) * (weight / ratio)
    return toward_denoised(start, target, math.exp(-h))


def _solved_weights(ratios: list[float], h: float) -> list[float]:
    """Weights that make the step exact for polynomials, with B(h) = e ** -h - 1 (B2 for data prediction)."""
    count = len(ratios)
    if count == 0:
        return []
    base = math.expm1(-h)
    phi = base / -h - 1
    right = []
    for k in range(1, count + 1):
        right.append(phi * math.factorial(k) / base)
        phi = phi / -h - 1 / math.factorial(k + 1)
    powers = torch.tensor([[ratio**k for ratio in ratios] for k in range(count)], dtype=torch.float64)
    return torch.linalg.solve(powers, torch.tensor(right, dtype=torch.float64)).tolist()
