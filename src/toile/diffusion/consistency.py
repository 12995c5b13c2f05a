"""What a model learns that leads noise to pictures in few steps: clean latents, and the way between two noise levels.

Networks are trained on `x_in = alpha * x0 + sigma_vp * noise` (see `toile.diffusion.schedule`), here at another
timestep for each example. The path of the probability-flow ODE through `x_in` crosses all noise levels; a consistency
function tells from any of its points where it ends (Song et al. 2023, sec. 3). Of a network that predicts noise or
velocity, the estimate of the clean latents is such a function's form: as sigma falls to 0 it becomes `x_in` itself.

Shapes: B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toile.diffusion.schedule import NoiseSchedule, signal_and_noise

CLEAN = -1
"""Stands for a timestep: no noise at all."""


class NoiseLevels:
    """Signal and noise of timesteps, each example with its own.

    Args:
        schedule: of the network.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self._signals = torch.cat([schedule.alphas_cumprod, schedule.alphas_cumprod.new_ones(1)])  # the last is CLEAN
        self._predicts_noise = schedule.config.prediction_type == "epsilon"

    def denoised(self, prediction: Tensor, x_in: Tensor, timesteps: Tensor) -> Tensor:
        """The estimate of the clean latents (Ho et al. 2020, eq. 15; Salimans & Ho 2022, appendix D).

        Args:
            prediction: (B, ...) noise or velocity, as the schedule's network predicts.
            x_in: (B, ...) noisy latents of unit variance.
            timesteps: (B,) int64, 0 to T - 1.
        """
        alpha, sigma = self._of(timesteps, x_in)
        return (x_in - sigma * prediction) / alpha if self._predicts_noise else alpha * x_in - sigma * prediction

    def step(self, denoised: Tensor, x_in: Tensor, timesteps: Tensor, ends: Tensor) -> Tensor:
        """One DDIM step (Song et al. 2021, eq. 12): to the ends, keeping the noise that `x_in` has by the estimate.

        Args:
            denoised: (B, ...) estimate of the clean latents.
            x_in: (B, ...) at the timesteps.
            timesteps, ends: (B,) int64; an end is lower, or `CLEAN`.

        Returns:
            (B, ...) at the ends.
        """
        alpha, sigma = self._of(timesteps, x_in)
        alpha_end, sigma_end = self._of(ends, x_in)
        return alpha_end * denoised + sigma_end / sigma * (x_in - alpha * denoised)

    def estimate_that_steps_to(self, x_end: Tensor, x_in: Tensor, timesteps: Tensor, ends: Tensor) -> Tensor:
        """The inverse of `step`: the estimate from which one step ends in `x_end` (Heek et al. 2024, sec. 3.1)."""
        alpha, sigma = self._of(timesteps, x_in)
        alpha_end, sigma_end = self._of(ends, x_in)
        ratio = sigma_end / sigma
        return (x_end - ratio * x_in) / (alpha_end - ratio * alpha)

    def _of(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma_vp (B, 1, ...)."""
        return signal_and_noise(self._signals, timesteps, like)


def level_timesteps(schedule: NoiseSchedule, num_levels: int) -> Tensor:
    """The timesteps that `num_levels` steps of the "trailing" spacing visit, and `CLEAN`: (num_levels + 1,) int64."""
    sigmas = schedule.sampling_sigmas(num_levels, "trailing")[:-1]
    timesteps = schedule.timestep_of(sigmas).round().long()
    return torch.cat([timesteps, timesteps.new_full((1,), CLEAN)])
