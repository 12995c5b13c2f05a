"""What requests may say, as JSON: the settings of `GenerateRequest` under their own names."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from toile.errors import ToileError
from toile.generation.request import GenerateRequest
from toile.text.lora_tags import LoRAUse
from toile.web.jobs.engine import Engine
from toile.web.jobs.request import JobRequest

_LARGEST_DRAWN_SEED = 2**32
_OF_FILES = ("loras", "embeddings")  # named in requests, not said by them


class LoRABody(BaseModel):
    """A LoRA by its name, and how strongly it acts."""

    model_config = ConfigDict(extra="forbid")

    name: str
    strength: float = 1.0


class Settings(BaseModel):
    """What is left out is the model's default; `toile.generation_settings` says what each means."""

    model_config = ConfigDict(extra="forbid")

    seed: int | None = Field(None, description="Of the first picture; one is drawn if it is left out.")
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float | None = None
    classifier_guidance: float | None = None
    sharpness: float | None = None
    sampler: str | None = None
    spacing: str | None = None
    eta: float | None = None
    strength: float | None = None
    hires_scale: float | None = None
    hires_strength: float | None = None
    upscale: bool | None = None
    edit_cross: float | None = None
    edit_self: float | None = None
    noise_candidates: int | None = None
    word_weights: str | None = None
    safety: str | None = None
    deepcache: int | None = None
    tgate: float | None = None
    as_written: bool = False
    loras: list[LoRABody] = Field(default_factory=list, max_length=16)
    embeddings: list[str] = Field(
        default_factory=list, max_length=16, description="Files of learned words, by name, that prompts may hold."
    )

    def chosen(self) -> dict[str, Any]:
        """For `GenerateRequest`, all but the prompts."""
        given = {name: getattr(self, name) for name in Settings.model_fields if name not in _OF_FILES}
        given["seed"] = drawn_seed() if self.seed is None else self.seed
        given["loras"] = tuple(LoRAUse(lora.name, lora.strength) for lora in self.loras)
        return given


def drawn_seed() -> int:
    """A seed for pictures that were asked for without one; every client's numbers can hold it."""
    return secrets.randbelow(_LARGEST_DRAWN_SEED)


def job_request(engine: Engine, model: str | None, wanted: GenerateRequest, **more: Any) -> JobRequest:
    """A request for a model by name, or for the default one."""
    return JobRequest(next(iter(engine.models())) if model is None else model, wanted, **more)


def file_of(name: str, text: str | None) -> bytes | None:
    """A file that came as base64, perhaps as a data URL.

    Raises:
        ToileError: it is neither; other URLs are not fetched.
    """
    if text is None:
        return None
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ToileError(f"{name} is no base64 text; send the file itself, not where it is") from error


def base64_of(content: bytes) -> str:
    """A file as text."""
    return base64.b64encode(content).decode("ascii")
