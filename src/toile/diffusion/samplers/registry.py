"""The samplers by name: our own, those of the A1111 web UI and the class names of diffusers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from toile.diffusion.samplers.consistency import lcm
from toile.diffusion.samplers.dpm_solver import dpmpp_2m, dpmpp_2m_sde
from toile.diffusion.samplers.multistep import lms, plms
from toile.diffusion.samplers.single_step import ddim, ddpm, euler, euler_ancestral, heun
from toile.diffusion.samplers.steps import Sampler
from toile.diffusion.samplers.unipc import unipc
from toile.errors import ToileError


@dataclass(frozen=True)
class SamplerInfo:
    """A sampler and what people want to know before choosing it.

    Attributes:
        name: our name, a key of SAMPLERS.
        function: the sampler.
        label: what the A1111 web UI calls it.
        stochastic: whether steps add noise.
        calls_per_step: calls of the denoiser.
        description: one sentence.
        spacing: of the noise levels, where the name that was asked for says so ("DPM++ 2M Karras"); None = the model's.
    """

    name: str
    function: Sampler
    label: str
    stochastic: bool
    calls_per_step: int
    description: str
    spacing: str | None = None


_ALL = (
    SamplerInfo("ddim", ddim, "DDIM", False, 1, "Deterministic and plain; good from 20 steps."),
    SamplerInfo("ddpm", ddpm, "DDPM", True, 1, "The original: fresh noise at every step; wants 50 steps and more."),
    SamplerInfo("plms", plms, "PLMS", False, 1, "Remembers four steps; the first default of Stable Diffusion."),
    SamplerInfo("euler", euler, "Euler", False, 1, "DDIM by another name; the simplest there is."),
    SamplerInfo("euler_ancestral", euler_ancestral, "Euler a", True, 1, "Euler with fresh noise: varied, softer."),
    SamplerInfo("heun", heun, "Heun", False, 2, "Second order by looking twice: exact, twice the time a step."),
    SamplerInfo("dpmpp_2m", dpmpp_2m, "DPM++ 2M", False, 1, "Second order at one call a step; good from 10 steps."),
    SamplerInfo("dpmpp_2m_sde", dpmpp_2m_sde, "DPM++ 2M SDE", True, 1, "DPM++ 2M with fresh noise: more detail."),
    SamplerInfo("unipc", unipc, "UniPC", False, 1, "Predicts and corrects in one call; good from 8 steps."),
    SamplerInfo("lms", lms, "LMS", False, 1, "Remembers four steps of unequal length."),
    SamplerInfo("lcm", lcm, "LCM", True, 1, "For consistency models only: 1 to 8 steps."),
)

SAMPLERS: Mapping[str, SamplerInfo] = MappingProxyType({info.name: info for info in _ALL})

_OTHER_NAMES = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "PNDM": "plms",
    "PNDMScheduler": "plms",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPM-Solver++": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
    "LMSDiscreteScheduler": "lms",
    "LCMScheduler": "lcm",
}


def find_sampler(name: str) -> SamplerInfo:
    """Finds a sampler by any of its names; case, spaces, hyphens and underscores do not matter.

    Args:
        name: ours ("dpmpp_2m"), A1111's ("DPM++ 2M", "Euler a") or diffusers' ("PNDMScheduler"). "Karras" at the end
            sets `spacing`.

    Raises:
        ToileError: nobody uses this name; the message has the nearest ones.
    """
    key = _key(name)
    plain = key.removesuffix("karras")
    if plain not in _NAMES:
        near = difflib.get_close_matches(plain, _NAMES, 3, cutoff=0.5)
        close = dict.fromkeys(_NAMES[match] for match in near)
        hint = f" did you mean {' or '.join(close)}?" if close else ""
        raise ToileError(f"sampler {name!r} is unknown;{hint} known: {', '.join(SAMPLERS)}")
    info = SAMPLERS[_NAMES[plain]]
    return info if plain == key else replace(info, spacing="karras")


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp"))


_NAMES: dict[str, str] = {
    **{_key(info.name): info.name for info in _ALL},
    **{_key(info.label): info.name for info in _ALL},
    **{_key(other): name for other, name in _OTHER_NAMES.items()},
}
