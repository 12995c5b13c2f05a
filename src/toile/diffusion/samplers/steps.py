"""What all samplers share: the shape of a step, the signature of a sampler, and the check of its noise levels.

Samplers work in `x = x0 + sigma * noise` and know only `denoise(x, sigma)`. Each is a generator that holds nothing
between runs. Updates are written as weights on x and on denoised estimates, never as a difference of large numbers, so
that a first step from sigma = 4096 (zero terminal SNR) loses nothing in float32.

Noise is asked for by number: step i (from 0) takes draw i + 1, because draw 0 is the noise that sampling starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from toile.errors import ToileError

Denoise = Callable[[Tensor, Tensor], Tensor]
NoiseSource = Callable[[int], Tensor]


@dataclass(frozen=True)
class SamplerStep:
    """The state after one step.

    Attributes:
        index: 0 to num_steps - 1.
        num_steps: how many steps there are.
        sigma: noise level of x; 0 after the last step.
        x: (B, C, H, W) noisy latents; the result after the last step.
        denoised: (B, C, H, W) the estimate of the clean latents this step was made from, for previews.
    """

    index: int
    num_steps: int
    sigma: float
    x: Tensor
    denoised: Tensor


class Sampler(Protocol):
    """The signature of every sampler; options are further arguments with defaults.

    Arguments:
        denoise: `denoise(x, sigma) -> denoised`, with sigma a float64 tensor of no dimensions.
        x: (B, C, H, W) noisy latents at noise level `sigmas[0]`.
        sigmas: (N + 1,) strictly decreasing, last 0.
        noise: `noise(k)`, the k-th draw of standard normal noise of the shape of x, for example `ImageNoise.draw`.

    Yields a SamplerStep after each of the N steps.
    """

    def __call__(self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource) -> Iterator[SamplerStep]: ...


def checked_sigmas(sigmas: Tensor) -> Tensor:
    """The noise levels as float64 on the CPU, where reading one never waits for an accelerator.

    Raises:
        ToileError: fewer than two levels, not strictly decreasing, not finite, or the last is not 0.
    """
    levels = sigmas.detach().to("cpu", torch.float64)
    if levels.ndim != 1 or len(levels) < 2:
        raise ToileError(f"sigmas has shape {tuple(levels.shape)}; give at least two noise levels in one row")
    if not bool(levels.isfinite().all() and (levels.diff() < 0).all() and levels[-1] == 0):
        raise ToileError(f"sigmas must be finite, strictly decreasing and end at 0; got {levels.tolist()}")
    return levels


def draw_noise(noise: NoiseSource, index: int, x: Tensor) -> Tensor:
    """The noise of step `index`, on the device and in the type of x."""
    return noise(index + 1).to(x)


def toward_denoised(x: Tensor, denoised: Tensor, ratio: float) -> Tensor:
    """Keeps the share `ratio` of the noise in x: `denoised + ratio * (x - denoised)`, exactly denoised at ratio 0.

    This is one Euler step of the probability-flow ODE from sigma to `ratio * sigma` (Karras et al. 2022, Alg. 1), one
    DDIM step (Song et al. 2021, eq. 12), and one first-order DPM-Solver++ step (Lu et al. 2022).
    """
    return denoised * (1 - ratio) + x * ratio
