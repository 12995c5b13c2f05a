"""Savings that change pictures a little: results of one step that serve several steps.

- `DeepCache`: all of the U-Net but its first and last layer, which changes slowly, works only at every n-th step (Ma et
  al. 2024).
- `TemporalGate`: words lay out a picture in its early steps; from a gate on, what they did in cross-attention is kept
  as it is, and guidance is off (T-GATE, Zhang et al. 2024).

Shapes: B rows, C x h x w latents, N positions.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from toile.diffusion.denoiser import DenoiserLike
from toile.diffusion.schedule import steps_done
from toile.generation.attention_control import AttentionPlace, cross_attention_recalled
from toile.models.unet import UNet


class DeepCache:
    """A U-Net as a network whose last layer alone works at every step.

    All others work at every `interval`-th call, and whenever the number of rows changes.

    Args:
        unet: the U-Net.
        interval: 1 = every call is the U-Net's.
    """

    def __init__(self, unet: UNet, interval: int) -> None:
        self.unet = unet
        self.interval = interval
        self._calls = 0
        self._deep: Tensor | None = None

    def __call__(self, x_in: Tensor, timestep: Tensor, cond: Tensor, /) -> Tensor:
        if self._calls >= self.interval or (self._deep is not None and len(self._deep) != len(cond)):
            self._deep, self._calls = None, 0
        self._calls += 1
        prediction, self._deep = self.unet.predict(x_in, timestep, cond, self._deep)
        return prediction


class TemporalGate:
    """A guided denoiser that becomes a plain one, with cross-attention as it was, after a share of the steps.

    What is kept is the mean of the results with and without the prompt at the last step before the gate.

    Args:
        guided: used before the gate.
        plain: the same without guidance, used after it.
        network: the U-Net inside both.
        sigmas: (N + 1,) the noise levels of the run, which tell how far it is.
        share: of the steps before the gate, 0 to 1.
    """

    def __init__(
        self, guided: DenoiserLike, plain: DenoiserLike, network: nn.Module, sigmas: Tensor, share: float
    ) -> None:
        self.guided = guided
        self.plain = plain
        self.network = network
        self.sigmas = sigmas
        self.share = share
        self._kept: dict[AttentionPlace, Tensor] = {}

    @property
    def prediction_type(self) -> str:
        """What the network inside predicts: "epsilon" or "v_prediction"."""
        return self.plain.prediction_type

    def __call__(self, x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor:
        """Estimates the clean latents (B, C, h, w)."""
        gate = round(self.share * (len(self.sigmas) - 1))
        done = steps_done(self.sigmas, sigma)
        if done < gate - 1:
            return self.guided(x, sigma, cond)
        is_open = done < gate
        if is_open:
            self._kept.clear()

        def recall(place: AttentionPlace, compute: Callable[[], Tensor]) -> Tensor:
            if place in self._kept:
                return self._kept[place]
            mixed = compute()
            self._kept[place] = mixed.unflatten(0, (-1, len(x))).mean(0)  # over the groups of guidance
            return mixed

        with cross_attention_recalled(self.network, recall):
            return (self.guided if is_open else self.plain)(x, sigma, cond)
