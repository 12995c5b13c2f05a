"""Samples that training asks for: to be looked at, to be kept as they are, or to learn from."""

from __future__ import annotations

import torch
from torch import Tensor

from toile.diffusion.denoiser import Denoiser
from toile.diffusion.guidance import ClassifierFreeGuidance
from toile.diffusion.samplers import find_sampler
from toile.diffusion.schedule import NoiseSchedule, start_latents


@torch.no_grad()
def sample_guided(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    states: Tensor,
    noise: Tensor,
    num_steps: int,
    guidance: float,
    sampler: str,
) -> Tensor:
    """Latents (N, C, h, w) float32 that a denoiser makes of noise of that shape, with one guidance scale at all steps.

    Args:
        denoiser: of clean latents.
        schedule: whose noise levels are passed.
        states: (N + 1, L, D) text states of the captions and, last, of no words.
        noise: standard normal; samplers that add some are given the same.
        num_steps: of the sampler.
        guidance: scale; 1 is none.
        sampler: see `find_sampler`.
    """
    sigmas, cond = schedule.sampling_sigmas(num_steps), states[:-1]
    denoise = ClassifierFreeGuidance(denoiser, states[-1:], guidance)
    x = start_latents(noise, sigmas[0])
    for step in find_sampler(sampler).function(lambda x, s: denoise(x, s, cond), x, sigmas, lambda k: noise):
        x = step.x
    return x
