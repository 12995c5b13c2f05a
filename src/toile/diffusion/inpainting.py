"""Repainting a part of a picture: a denoiser that knows the rest already, and networks that were trained to be told.

Shapes: B batch, C latent channels, h x w latent size. A mask is 1 where the picture is repainted, 0 where it is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toile.diffusion.denoiser import DenoiserLike, Network


class KnownRegion:
    """A denoiser whose estimate is the known latents wherever the mask is 0.

    Samplers move x towards the estimate, so the kept part ends as it was, and at every noise level on the way the
    network sees it with the right amount of noise around what is repainted. Works with any network and sampler.

    With DDIM the latents are those of diffusers' StableDiffusionInpaintPipeline, which instead puts the kept part,
    noised to the next level, into x after every step. They differ only where sampling begins with pure noise (strength
    1): all of x then begins as without a picture, so that the kept part of x is about
    `latents + sigma * (noise - latents / sigma_max)`, where diffusers has no second term. At zero terminal SNR it is
    nothing, and with any schedule it ends at nothing.

    Args:
        denoiser: the denoiser to wrap, usually with guidance.
        latents: (1 or B, C, h, w) of the whole picture.
        mask: (1 or B, 1, h, w), 0 to 1.
    """

    def __init__(self, denoiser: DenoiserLike, latents: Tensor, mask: Tensor) -> None:
        self.denoiser = denoiser
        self.latents = latents
        self.mask = mask

    @property
    def prediction_type(self) -> str:
        """What the network inside predicts: "epsilon" or "v_prediction"."""
        return self.denoiser.prediction_type

    def __call__(self, x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor:
        """Estimates the clean latents (B, C, h, w)."""
        return self.denoiser(x, sigma, cond) * self.mask + self.latents * (1 - self.mask)


class InpaintingNetwork:
    """A U-Net of 2 C + 1 input channels as a network of C: the mask and the kept picture are added to every input.

    Such U-Nets were trained on noisy latents, mask and latents of the picture with the masked part grey, in this order
    (Rombach et al. 2022, sec. 4.5; the inpainting checkpoints of Stable Diffusion). The result is that of diffusers'
    StableDiffusionInpaintPipeline, which stops here; `generate` puts a `KnownRegion` around it, since the network alone
    paints the kept part again, a little otherwise.

    Args:
        network: the U-Net.
        mask: (1, 1, h, w), 0 or 1.
        kept: (1, C, h, w) latents of the picture with the masked part grey.
    """

    def __init__(self, network: Network, mask: Tensor, kept: Tensor) -> None:
        self.network = network
        self.told = torch.cat([mask, kept], dim=1)

    def __call__(self, x_in: Tensor, timestep: Tensor, cond: Tensor, /) -> Tensor:
        told = self.told.to(x_in).expand(len(x_in), -1, -1, -1)
        return self.network(torch.cat([x_in, told], dim=1), timestep, cond)
