"""What the page sends: pictures to make, and grids of them."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import secrets
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from toile.errors import ToileError
from toile.generation.grid_axes import Axis, parse_axis
from toile.generation.request import GenerateRequest
from toile.generation_settings import GenerationSettings
from toile.schema import build_config
from toile.web.jobs.engine import Engine
from toile.web.jobs.request import JobRequest

MOST_CELLS = 64
_LARGEST_DRAWN_SEED = 2**32
# What a machine does for itself, or what has a field of its own.
_NOT_A_SETTING = {"batch_size", "vae_bands", "negative"}
SETTINGS = tuple(field.name for field in dataclasses.fields(GenerationSettings) if field.name not in _NOT_A_SETTING)


class LoRABody(BaseModel):
    """A LoRA by its name, and how strongly it acts."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=300)
    strength: float = 1.0


class TowardBody(BaseModel):
    """The other end that a variation lies towards; without a seed one is drawn."""

    model_config = ConfigDict(extra="forbid")

    share: float
    prompt: str | None = None
    seed: str | None = Field(None, max_length=20)


class JobBody(BaseModel):
    """Pictures to make. Seeds are texts, because numbers of scripts are too coarse for them.

    Attributes:
        settings: of `GenerationSettings`, by name; what is left out is the model's default.
        image, mask: files in base64.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None
    negative: str | None = None
    seed: str | None = Field(None, max_length=20)
    num: int = 1
    quality: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    loras: list[LoRABody] = Field(default_factory=list, max_length=16)
    toward: TowardBody | None = None
    maps: bool = False
    as_written: bool = False
    image: str | None = None
    mask: str | None = None
    fit: str = "pad"
    mask_blur: float = 0.0

    def request(self, engine: Engine) -> JobRequest:
        """What the engine is asked for.

        Raises:
            ToileError: a value out of range, with its name and what is allowed.
        """
        unknown = sorted(set(self.settings) - set(SETTINGS))
        if unknown:
            raise ToileError(f"settings: {unknown[0]!r} is none; known: {', '.join(SETTINGS)}")
        content: dict[str, Any] = {name: value for name, value in self.settings.items() if value is not None}
        if self.toward is not None:
            prompt = self.prompt if self.toward.prompt is None else self.toward.prompt
            content["toward"] = {"prompt": prompt, "seed": _seed(self.toward.seed), "share": self.toward.share}
        content |= {
            "prompts": [self.prompt],
            "seed": _seed(self.seed),
            "num_images": self.num,
            "negative": self.negative,
            "quality": self.quality,
            "maps": self.maps,
            "as_written": self.as_written,
            "loras": [{"source": lora.name, "strength": lora.strength} for lora in self.loras],
        }
        wanted = build_config(GenerateRequest, content, "the request")
        model = next(iter(engine.models())) if self.model is None else self.model
        image, mask = file_of("image", self.image), file_of("mask", self.mask)
        return JobRequest(model, wanted, image, mask, self.fit, self.mask_blur)


class AxisBody(BaseModel):
    """A setting and its values as typed, for example steps and "10, 20, 40"."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=40)
    values: str = Field(max_length=4000)

    def axis(self) -> Axis:
        """The values in the setting's type."""
        return parse_axis(f"{self.name}={self.values}")


class GridBody(BaseModel):
    """The same picture over the values of one or two settings."""

    model_config = ConfigDict(extra="forbid")

    job: JobBody
    x: AxisBody
    y: AxisBody | None = None

    def requests(self, engine: Engine) -> list[list[JobRequest]]:
        """A row for each value of y, in it a request for each value of x.

        Raises:
            ToileError: both axes are one setting, too many pictures, or values that are not allowed.
        """
        across, down = self.x.axis(), None if self.y is None else self.y.axis()
        if down is not None and down.name == across.name:
            raise ToileError(f"both axes are {across.name}; give two settings")
        num = len(across.values) * (len(down.values) if down else 1)
        if num > MOST_CELLS:
            raise ToileError(f"the grid has {num} pictures; allowed here: up to {MOST_CELLS}")
        base = self.job.model_copy(update={"num": 1}).request(engine)
        rows = [base.wanted] if down is None else [down.applied(base.wanted, value) for value in down.values]
        return [
            [dataclasses.replace(base, wanted=across.applied(row, value)) for value in across.values] for row in rows
        ]


def file_of(name: str, text: str | None) -> bytes | None:
    """A file that came as base64.

    Raises:
        ToileError: it did not.
    """
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ToileError(f"{name} is no base64 text") from error


def _seed(text: str | None) -> int:
    if text is None or not text.strip():
        return secrets.randbelow(_LARGEST_DRAWN_SEED)
    if not text.strip().isascii() or not text.strip().isdigit():
        raise ToileError(f"seed is {text!r}; allowed: whole numbers from 0 to {2**64 - 1}")
    return int(text)
