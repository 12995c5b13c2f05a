"""Guidance: pushes a picture away from what no prompt gives (Ho & Salimans 2022), outside a network or inside it, or to
where a classifier is sure of it (Dhariwal & Nichol 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from toile.diffusion.denoiser import DenoiserLike, denoised_from_prediction, prediction_from_denoised
from toile.errors import ToileError


class ClassifierFreeGuidance:
    """A denoiser whose estimate is `uncond + scale * (cond - uncond)`.

    The scale means the same on denoised latents as on what the network predicts, since either is a linear function of
    the other. Rescale does not: standard deviations differ between the two. It is applied to the prediction, as in
    Lin et al. 2023, sec. 3.4, and in diffusers' `rescale_noise_cfg`.

    Args:
        denoiser: the denoiser to guide.
        uncond: (1 or B, L, D) or (1 or B, 2, L, D), as cond, text states of the empty or negative prompt; one serves
            every image.
        scale: guidance_scale, 1 = off (one network batch of B, bit for bit the plain denoiser).
        interval: guide only at noise levels sigma_low < sigma <= sigma_high (Kynkaanniemi et al. 2024); None = always.
        rescale: 0 to 1, how far the guided prediction's standard deviation is brought back to the conditional one's.

    Raises:
        ToileError: scale not finite, interval not ascending, rescale outside [0, 1].
    """

    def __init__(
        self,
        denoiser: DenoiserLike,
        uncond: Tensor,
        scale: float,
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
    ) -> None:
        _check_scale_and_interval(scale, interval)
        if not 0 <= rescale <= 1:
            raise ToileError(f"guidance rescale is {rescale}; allowed: 0 to 1")
        self.denoiser = denoiser
        self.uncond = uncond
        self.scale = scale
        self.interval = interval
        self.rescale = rescale
        self._joined: tuple[Tensor, Tensor] | None = None

    @property
    def prediction_type(self) -> str:
        """What the network inside predicts: "epsilon" or "v_prediction"."""
        return self.denoiser.prediction_type

    def is_active(self, sigma: float | Tensor) -> bool:
        """Whether guidance changes anything at this noise level (and so costs a doubled batch)."""
        return self.scale != 1 and _within(self.interval, sigma)

    def __call__(self, x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor:
        """Estimates the clean latents with guidance: one call with 2 B rows of states where active, else with B.

        Args:
            x: (B, C, H, W), `x0 + sigma * noise`.
            sigma: one noise level for the whole batch, > 0.
            cond: (B, L, D) text states, or (B, 2, L, D): states for keys and for values.

        Returns:
            denoised, shape and dtype of x.

        Raises:
            ToileError: uncond and cond do not fit together.
        """
        if not self.is_active(sigma):
            return self.denoiser(x, sigma, cond)
        without, denoised = self.denoiser(x, sigma, self._both(cond)).chunk(2)
        guided = without + (denoised - without) * self.scale
        if self.rescale == 0:
            return guided
        return self._rescaled(guided, denoised, x, sigma)

    def _both(self, cond: Tensor) -> Tensor:
        """(2 B, ...); the same tensor at every step, so that the network can keep what it makes of it."""
        if self._joined is None or self._joined[0] is not cond:
            self._joined = cond, torch.cat([self._uncond_like(cond), cond])
        return self._joined[1]

    def _uncond_like(self, cond: Tensor) -> Tensor:
        if self.uncond.shape[1:] != cond.shape[1:] or len(self.uncond) not in (1, len(cond)):
            raise ToileError(
                f"uncond has shape {tuple(self.uncond.shape)}, cond {tuple(cond.shape)}; encode both to the same "
                "number of tokens, and give one uncond or one per image"
            )
        return self.uncond.to(cond).expand_as(cond)

    def _rescaled(self, guided: Tensor, denoised: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Lin et al. 2023, eq. 15 and 16."""
        prediction = prediction_from_denoised(guided, x, sigma, self.prediction_type)
        target = prediction_from_denoised(denoised, x, sigma, self.prediction_type)
        factor = _standard_deviation(target) / _standard_deviation(prediction)
        prediction = prediction * (self.rescale * factor + (1 - self.rescale))
        return denoised_from_prediction(prediction, x, sigma, self.prediction_type)


class ClassifierGuidance:
    """A denoiser whose estimate is moved to where a classifier is surer of what is asked for (Dhariwal & Nichol 2021).

    The classifier looks at the clean estimate, so it need not know noise (Bansal et al. 2023, "Universal Guidance"),
    and the gradient is taken there, without the network (He et al. 2024, "Manifold Preserving Guided Diffusion",
    sec. 4). With p the probability of a row, the estimate moves by

        scale * (1 - p) * g / RMS(g),    g = gradient of log p,

    so that pictures which show what is asked for stay as they are.

    Args:
        denoiser: the denoiser to guide.
        log_probability: (B, C, H, W) clean latents -> (B,), log p of each row; differentiable, and no row's depends on
            another's.
        scale: how far the latents of a row that shows nothing of it move, at each step, as root mean square.
        interval: guide only at noise levels sigma_low < sigma <= sigma_high; None = always.

    Raises:
        ToileError: scale not finite, interval not ascending.
    """

    def __init__(
        self,
        denoiser: DenoiserLike,
        log_probability: Callable[[Tensor], Tensor],
        scale: float,
        interval: tuple[float, float] | None = None,
    ) -> None:
        _check_scale_and_interval(scale, interval)
        self.denoiser = denoiser
        self.log_probability = log_probability
        self.scale = scale
        self.interval = interval

    @property
    def prediction_type(self) -> str:
        """What the network inside predicts: "epsilon" or "v_prediction"."""
        return self.denoiser.prediction_type

    def __call__(self, x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor:
        """Estimates the clean latents; arguments as those of `ClassifierFreeGuidance`."""
        denoised = self.denoiser(x, sigma, cond)
        if self.scale == 0 or not _within(self.interval, sigma):
            return denoised
        with torch.inference_mode(False), torch.enable_grad():
            leaf = denoised.clone().requires_grad_(True)
            log_p = self.log_probability(leaf)
            with torch.backends.cudnn.flags(benchmark=False, deterministic=True):
                (gradient,) = torch.autograd.grad(log_p.sum(), leaf)
        axes = tuple(range(1, x.ndim))
        size = gradient.square().mean(axes, keepdim=True).sqrt().clamp(min=torch.finfo(gradient.dtype).tiny)
        doubt = -torch.expm1(log_p.detach()).view(-1, *[1] * (x.ndim - 1))
        return denoised + self.scale * doubt * gradient / size


class SelfGuided(Protocol):
    """A network that was told the guidance scale in training, such as a U-Net with `time_cond_proj_dim`.

    Called as a `Network`, with guidance (1 or B,) float32 scales besides.
    """

    def __call__(self, x_in: Tensor, timestep: Tensor, cond: Tensor, /, *, guidance: Tensor) -> Tensor: ...


class ScaledNetwork:
    """A network that guides itself, as a network of one guidance scale: one call where `ClassifierFreeGuidance` takes
    two (Meng et al. 2023, sec. 3.1).

    What it is guided away from, and how far, is what it learnt: there is no negative prompt.

    Args:
        network: the network.
        scale: guidance_scale, 1 = off.

    Raises:
        ToileError: scale not finite.
    """

    def __init__(self, network: SelfGuided, scale: float) -> None:
        if not math.isfinite(scale):
            raise ToileError(f"guidance scale is {scale}; give a finite number, 1 = off")
        self.network = network
        self.scale = scale

    def __call__(self, x_in: Tensor, timestep: Tensor, cond: Tensor, /) -> Tensor:
        guidance = torch.full((1,), self.scale, dtype=torch.float32, device=x_in.device)
        return self.network(x_in, timestep, cond, guidance=guidance)


def _check_scale_and_interval(scale: float, interval: tuple[float, float] | None) -> None:
    if not math.isfinite(scale):
        raise ToileError(f"guidance scale is {scale}; give a finite number")
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise ToileError(f"guidance interval is {interval}; give two noise levels, 0 <= low < high")


def _within(interval: tuple[float, float] | None, sigma: float | Tensor) -> bool:
    return interval is None or interval[0] < float(sigma) <= interval[1]


def _standard_deviation(prediction: Tensor) -> Tensor:
    return prediction.std(dim=tuple(range(1, prediction.ndim)), keepdim=True)
