"""A network wrapped once as `D(x, sigma, cond)`, the estimate of the clean latents, so that samplers need no U-Net.

Shapes: B batch, C x H x W latents, L tokens, D width of the text states.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from toile.diffusion.schedule import NoiseSchedule


class Network(Protocol):
    """Anything that predicts noise or velocity, for example a U-Net.

    Called with x_in (B, C, H, W) of unit variance, timestep (1 or B,) float32 in 0 to T - 1 and cond (G B, L, D),
    or (G B, 2, L, D) with states for keys and for values; returns a prediction (G B, C, H, W).
    """

    def __call__(self, x_in: Tensor, timestep: Tensor, cond: Tensor, /) -> Tensor: ...


class DenoiserLike(Protocol):
    """What samplers and wrappers (guidance, inpainting, editing) need to know of a denoiser."""

    @property
    def prediction_type(self) -> str: ...

    def __call__(self, x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor: ...


class Denoiser:
    """Estimates clean latents from noisy ones with a network (the preconditioning of Karras et al. 2022, eq. 7).

    Args:
        network: predicts what the schedule's prediction_type says.
        schedule: turns sigma into the timestep the network was trained with.
        dtype: what the network's x_in is cast to, usually the type of its weights; None leaves the type of x.
            Timesteps stay float32 (bfloat16 does not hold 999), and everything around the network has the type of x.
    """

    def __init__(self, network: Network, schedule: NoiseSchedule, dtype: torch.dtype | None = None) -> None:
        self.network = network
        self.schedule = schedule
        self.dtype = dtype

    @property
    def prediction_type(self) -> str:
        """What the network predicts: "epsilon" or "v_prediction"."""
        return self.schedule.config.prediction_type

    def __call__(self, x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor:
        """Estimates the clean latents; one call of the network.

        Args:
            x: (B, C, H, W), `x0 + sigma * noise`.
            sigma: one noise level for the whole batch, > 0.
            cond: (G B, L, D) text states, G for each row of x; row b goes with those at b, B + b, ...

        Returns:
            denoised (G B, C, H, W) of the dtype of x.
        """
        timestep = self.schedule.timestep_of(sigma).to(x.device, torch.float32).reshape(1)
        x_in = (x * input_scale(sigma)).to(self.dtype or x.dtype)
        prediction = self.network(x_in, timestep, cond).to(x.dtype)
        groups = prediction.unflatten(0, (-1, len(x)))
        return denoised_from_prediction(groups, x, sigma, self.prediction_type).flatten(0, 1)


def input_scale(sigma: float | Tensor) -> float:
    """`1 / sqrt(1 + sigma ** 2)`, the alpha that brings x to unit variance (c_in in Karras et al. 2022, Table 1)."""
    return 1 / math.sqrt(1 + float(sigma) ** 2)


def denoised_from_prediction(prediction: Tensor, x: Tensor, sigma: float | Tensor, prediction_type: str) -> Tensor:
    """Clean latents from what a network predicted.

    epsilon: `x - sigma * prediction`; v: `c_in ** 2 * x - sigma * c_in * prediction` (Karras et al. 2022, eq. 7, with
    the scalings of k-diffusion's discrete wrappers). In v both terms stay small at sigma = 4096; in epsilon large
    numbers cancel there, which no arithmetic can mend: networks for zero terminal SNR predict v (Lin et al. 2023).

    Args:
        prediction: (..., C, H, W) noise or velocity.
        x: (B, C, H, W) `x0 + sigma * noise`, or a shape that broadcasts to the prediction's.
        sigma: noise level, > 0.
        prediction_type: "epsilon" or "v_prediction".
    """
    if prediction_type == "epsilon":
        return x - prediction * float(sigma)
    scale = input_scale(sigma)
    return x * scale**2 - prediction * (float(sigma) * scale)


def prediction_from_denoised(denoised: Tensor, x: Tensor, sigma: float | Tensor, prediction_type: str) -> Tensor:
    """The inverse of `denoised_from_prediction`: what a network would have predicted.

    Args:
        denoised: (B, C, H, W) estimate of the clean latents.
        x: same shape, `x0 + sigma * noise`.
        sigma: noise level, > 0.
        prediction_type: "epsilon" or "v_prediction".
    """
    if prediction_type == "epsilon":
        return (x - denoised) / float(sigma)
    scale = input_scale(sigma)
    return (x * scale**2 - denoised) / (float(sigma) * scale)
