"""Samplers: generators that lead noisy latents down to clean ones, knowing only `denoise(x, sigma)`."""

from __future__ import annotations

from toile.diffusion.samplers.consistency import lcm
from toile.diffusion.samplers.dpm_solver import dpmpp_2m, dpmpp_2m_sde
from toile.diffusion.samplers.multistep import lms, plms
from toile.diffusion.samplers.registry import SAMPLERS, SamplerInfo, find_sampler
from toile.diffusion.samplers.single_step import ddim, ddpm, euler, euler_ancestral, heun
from toile.diffusion.samplers.steps import Denoise, NoiseSource, Sampler, SamplerStep
from toile.diffusion.samplers.unipc import unipc

__all__ = [
    "SAMPLERS",
    "Denoise",
    "NoiseSource",
    "Sampler",
    "SamplerInfo",
    "SamplerStep",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "euler",
    "euler_ancestral",
    "find_sampler",
    "heun",
    "lcm",
    "lms",
    "plms",
    "unipc",
]
