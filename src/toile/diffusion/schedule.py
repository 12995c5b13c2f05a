"""Noise schedules: which noise level belongs to which timestep, and which levels a sampler visits.

Two ways of writing the same noisy latents are used, and `sigma` always means the first:

- variance exploding, `x = x0 + sigma * noise`: samplers, denoiser, guidance;
- variance preserving, `alpha * x0 + sigma_vp * noise` with `alpha ** 2 + sigma_vp ** 2 = 1`: what networks see and are
  trained on. The two differ by the factor `alpha`, and `sigma = sigma_vp / alpha`.

Shapes: T training timesteps, B batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError

BETA_SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")
SPACINGS = (*TIMESTEP_SPACINGS, "karras")

# The smallest float16 above zero: with it sigma at zero terminal SNR is 4096 instead of infinite (as in diffusers).
MIN_ALPHA_CUMPROD = 2.0**-24
KARRAS_RHO = 7.0
_MAX_COSINE_BETA = 0.999
_IGNORED = (
    "set_alpha_to_one skip_prk_steps clip_sample_range dynamic_thresholding_ratio sample_max_value trained_betas "
    "variance_type algorithm_type solver_order solver_type lower_order_final euler_at_final final_sigmas_type "
    "lambda_min_clipped interpolation_type timestep_type use_karras_sigmas use_exponential_sigmas use_beta_sigmas "
    "use_lu_lambdas use_flow_sigmas flow_shift sigma_min sigma_max predict_x0 disable_corrector solver_p "
    "use_dynamic_shifting time_shift_type shift_terminal"
)


@dataclass(frozen=True)
class ScheduleConfig:
    """A noise schedule; field names are the keys of diffusers' scheduler_config.json.

    Attributes:
        num_train_timesteps: T; timesteps run from 0 (almost clean) to T - 1 (almost noise).
        beta_start: variance added at the first timestep (not used by the cosine schedule).
        beta_end: variance added at the last timestep (not used by the cosine schedule).
        beta_schedule: "scaled_linear" (Stable Diffusion), "linear" (Ho et al. 2020) or "squaredcos_cap_v2"
            (cosine, Nichol & Dhariwal 2021, eq. 17).
        prediction_type: what the network predicts, "epsilon" (the noise) or "v_prediction" (Salimans & Ho 2022).
        rescale_betas_zero_snr: the last timestep is pure noise (Lin et al. 2023, Alg. 1).
        timestep_spacing: where samplers step, "leading", "trailing" or "linspace" (Lin et al. 2023, Table 2).
        steps_offset: added to every timestep of the "leading" spacing; 1 in Stable Diffusion 1.x.
        clip_sample: must be False; clipping to [-1, 1] is for diffusion on pictures, not on latents.
        thresholding: must be False, for the same reason.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"
    rescale_betas_zero_snr: bool = False
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    clip_sample: bool = False
    thresholding: bool = False

    IGNORED: ClassVar[frozenset[str]] = frozenset(_IGNORED.split())  # choices of a sampler, made elsewhere

    def __post_init__(self) -> None:
        _check_choice("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        _check_choice("prediction_type", self.prediction_type, PREDICTION_TYPES)
        _check_choice("timestep_spacing", self.timestep_spacing, TIMESTEP_SPACINGS)
        if self.num_train_timesteps < 2:
            raise ToileError(f"num_train_timesteps is {self.num_train_timesteps}; give at least 2")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ToileError(
                f"beta_start {self.beta_start} and beta_end {self.beta_end} must be ascending inside (0, 1)"
            )
        if not 0 <= self.steps_offset < self.num_train_timesteps:
            raise ToileError(f"steps_offset is {self.steps_offset}; allowed: 0 to {self.num_train_timesteps - 1}")
        if self.clip_sample or self.thresholding:
            raise ToileError(
                "clip_sample and thresholding are for diffusion on pictures; set both to false for latents"
            )


class NoiseSchedule:
    """The noise level of every timestep, in float64.

    Args:
        config: the schedule.

    Attributes:
        config: the schedule's config.
        alphas_cumprod: (T,) share of signal variance, `alpha ** 2`, decreasing.
        sigmas: (T,) `sqrt((1 - alpha ** 2) / alpha ** 2)`, increasing; at zero terminal SNR the last one is 4096.

    Raises:
        ToileError: the noise does not grow from every timestep to the next.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self.alphas_cumprod = torch.cumprod(1 - _betas(config), dim=0)
        if config.rescale_betas_zero_snr:
            self.alphas_cumprod = _with_zero_terminal_snr(self.alphas_cumprod)
        self.sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        if not bool((self.sigmas.diff() > 0).all()):
            raise ToileError(
                f"the {config.beta_schedule} schedule over {config.num_train_timesteps} timesteps does not get noisier "
                "at every one; use fewer timesteps or a smaller beta_end"
            )
        self._log_sigmas = self.sigmas.log()

    def sigma_of(self, timestep: Tensor | float) -> Tensor:
        """Noise level at a timestep, whole or between two (then log(sigma) is interpolated).

        Args:
            timestep: any shape, 0 to T - 1.

        Returns:
            float64 sigma of the same shape; exactly `sigmas[timestep]` at whole timesteps.
        """
        position = torch.as_tensor(timestep, dtype=torch.float64, device="cpu").clamp(0, len(self.sigmas) - 1)
        low = position.floor().long()
        high = position.ceil().long()
        between = self._log_sigmas[low].lerp(self._log_sigmas[high], position - low).exp()
        return torch.where(low == high, self.sigmas[low], between)

    def timestep_of(self, sigma: Tensor | float) -> Tensor:
        """Timestep, usually between two whole ones, with this noise level: the inverse of `sigma_of`.

        Args:
            sigma: any shape, > 0; levels outside the schedule give its first or last timestep.

        Returns:
            float64 timestep of the same shape; a whole number exactly where sigma is one of `sigmas`.
        """
        wanted = torch.as_tensor(sigma, dtype=torch.float64, device="cpu").clamp(self.sigmas[0], self.sigmas[-1])
        high = torch.searchsorted(self.sigmas, wanted).clamp(min=1)
        low = high - 1
        step = (wanted.log() - self._log_sigmas[low]) / (self._log_sigmas[high] - self._log_sigmas[low])
        return torch.where(wanted == self.sigmas[high], high.double(), low + step)

    def sampling_sigmas(self, num_steps: int, spacing: str | None = None) -> Tensor:
        """Noise levels a sampler visits.

        The three timestep spacings are those of diffusers' DDIM, DDPM, PNDM, Euler, Heun and LMS schedulers. "karras"
        (Karras et al. 2022, eq. 5, rho = 7) spans all of the schedule, as in diffusers' DPM-Solver and UniPC schedulers
        and in k-diffusion. Where schedulers of diffusers disagree: DPM-Solver and UniPC with "leading" or "linspace"
        place one step more and drop the lowest; Euler, Heun and LMS do not round "linspace" timesteps, and span
        "karras" only over the levels their timestep spacing would have visited. "trailing" is the same everywhere.

        Args:
            num_steps: N, 1 to T.
            spacing: "leading", "trailing", "linspace" or "karras"; None is the config's timestep_spacing.

        Returns:
            (N + 1,) float64, strictly decreasing, last 0.

        Raises:
            ToileError: an unknown spacing, or more steps than the schedule has timesteps.
        """
        spacing = spacing or self.config.timestep_spacing
        _check_choice("spacing", spacing, SPACINGS)
        limit = self.config.num_train_timesteps
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or not 1 <= num_steps <= limit:
            raise ToileError(f"steps is {num_steps}; allowed: whole numbers from 1 to {limit}")
        levels = self._karras_sigmas(num_steps) if spacing == "karras" else self._spaced_sigmas(num_steps, spacing)
        return torch.cat([levels, levels.new_zeros(1)])

    def _spaced_sigmas(self, num_steps: int, spacing: str) -> Tensor:
        limit = self.config.num_train_timesteps
        steps = np.arange(num_steps)
        if spacing == "trailing":
            timesteps = np.round(limit - steps * (limit / num_steps)) - 1
        elif spacing == "leading":
            timesteps = (steps * (limit // num_steps))[::-1] + self.config.steps_offset
        else:
            timesteps = np.linspace(0, limit - 1, num_steps).round()[::-1]
        if timesteps[0] >= limit:
            raise ToileError(
                f"{num_steps} steps of the leading spacing with steps_offset {self.config.steps_offset} begin at "
                f"timestep {int(timesteps[0])}, past the last one, {limit - 1}; use fewer steps or the trailing spacing"
            )
        return self.sigmas[torch.from_numpy(timesteps.astype(np.int64))]

    def _karras_sigmas(self, num_steps: int) -> Tensor:
        ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
        low, high = self.sigmas[0] ** (1 / KARRAS_RHO), self.sigmas[-1] ** (1 / KARRAS_RHO)
        return (high + ramp * (low - high)) ** KARRAS_RHO

    def noise_latents(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents in variance-preserving form, what a network is trained on (Ho et al. 2020, eq. 4).

        Args:
            latents: (B, ...) clean latents.
            noise: same shape, standard normal.
            timesteps: (B,) whole numbers, 0 to T - 1.

        Returns:
            `alpha * latents + sigma_vp * noise`, shape and dtype of the latents.
        """
        alpha, sigma_vp = self._signal_and_noise(timesteps, latents)
        return alpha * latents + sigma_vp * noise

    def velocity_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a v-prediction network learns: `alpha * noise - sigma_vp * latents` (Salimans & Ho 2022, sec. 4).

        Args:
            latents: (B, ...) clean latents.
            noise: same shape, standard normal.
            timesteps: (B,) whole numbers, 0 to T - 1.

        Returns:
            Shape and dtype of the latents.
        """
        alpha, sigma_vp = self._signal_and_noise(timesteps, latents)
        return alpha * noise - sigma_vp * latents

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio `alpha ** 2 / sigma_vp ** 2 = 1 / sigma ** 2` (Kingma et al. 2021).

        Args:
            timesteps: (B,) whole numbers, 0 to T - 1.

        Returns:
            (B,) float64.
        """
        return self.sigmas.to(timesteps.device)[timesteps] ** -2

    def _signal_and_noise(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        return signal_and_noise(self.alphas_cumprod, timesteps, like)


def signal_and_noise(signals: Tensor, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma_vp of each example: the roots of its signal and of what is left of 1.

    Args:
        signals: (T,) float64 on the CPU, `alphas_cumprod`; roots are taken there, as not all devices know float64.
        timesteps: (B,) whole numbers that count in them.
        like: (B, ...), on whose device and in whose type the results are.

    Returns:
        two of (B, 1, ...), as many dimensions as `like`.
    """
    roots = torch.stack([signals, 1 - signals]).sqrt().to(like.dtype).to(like.device)
    alpha, sigma_vp = roots[:, timesteps].view(2, -1, *[1] * (like.ndim - 1))
    return alpha, sigma_vp


def start_latents(noise: Tensor, sigma: float | Tensor) -> Tensor:
    """Where sampling from nothing begins: pure noise as a network knows it, in the space of samplers.

    A network sees latents of unit variance, and x is those divided by alpha. Scaling by this rather than by sigma makes
    the start that of diffusers' DDIM, DPM-Solver and UniPC schedulers also without zero terminal SNR.

    Args:
        noise: (B, C, H, W), standard normal.
        sigma: the first of the sampling sigmas.

    Returns:
        `noise * sqrt(1 + sigma ** 2)`, shape and dtype of the noise.
    """
    return noise * math.sqrt(1 + float(sigma) ** 2)


def steps_done(sigmas: Tensor, sigma: float | Tensor) -> int:
    """How many steps of a run with falling noise levels `sigmas` (N + 1,) are behind it when it is at `sigma`."""
    return int((sigmas > float(sigma) * (1 + 1e-9)).sum())


def _betas(config: ScheduleConfig) -> Tensor:
    count = config.num_train_timesteps
    if config.beta_schedule == "linear":
        return torch.linspace(config.beta_start, config.beta_end, count, dtype=torch.float64)
    if config.beta_schedule == "scaled_linear":
        return torch.linspace(config.beta_start**0.5, config.beta_end**0.5, count, dtype=torch.float64) ** 2
    times = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    alpha_bar = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=_MAX_COSINE_BETA)


def _with_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shifts and scales alpha so that it ends at zero and begins where it did (Lin et al. 2023, Alg. 1)."""
    alpha = alphas_cumprod.sqrt()
    first, last = alpha[0], alpha[-1]
    rescaled = ((alpha - last) * first / (first - last)) ** 2
    rescaled[-1] = MIN_ALPHA_CUMPROD
    return rescaled


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ToileError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
