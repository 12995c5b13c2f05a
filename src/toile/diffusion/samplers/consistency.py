"""The sampler of consistency models, whose estimate is not the mean of all pictures but one of them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from toile.diffusion.samplers.steps import Denoise, NoiseSource, SamplerStep, checked_sigmas, draw_noise


def lcm(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource) -> Iterator[SamplerStep]:
    """Multistep consistency sampling: jumps to the estimate, and adds fresh noise of the next level (Song et al. 2023,
    Alg. 1; Luo et al. 2023, Alg. 3).

    The estimate of a Denoiser is the noisy latents themselves as sigma falls to 0, so it needs none of the factors
    c_skip and c_out by which diffusers' LCMScheduler mixes in x; those differ from 0 and 1 by less than 3e-5 from the
    tenth timestep on.
    """
    levels = checked_sigmas(sigmas)
    for i, sigma_next in enumerate(levels[1:].tolist()):
        x = denoised = denoise(x, levels[i])
        if sigma_next > 0:
            x = denoised + draw_noise(noise, i, x) * sigma_next
        yield SamplerStep(i, len(levels) - 1, sigma_next, x, denoised)
