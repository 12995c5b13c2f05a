"""What the engine is asked for: the request of `generate`, the name of a model, and pictures to begin with as files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from toile.errors import ToileError
from toile.generation.request import GenerateRequest
from toile.generation.source import FITS
from toile.generation_settings import check_number
from toile.schema import build_config
from toile.text.lora_tags import LoRAUse, lora_tags

MAX_MASK_BLUR = 64.0
_OF_ONE_JOB = ("prompts", "seed", "num_images", "source")


@dataclass(frozen=True)
class JobRequest:
    """Pictures to make.

    Attributes:
        model: a name that the engine serves.
        wanted: what to make; its `source` stays empty, `image` and `mask` stand for it.
        image: a PNG, JPEG or WebP file to begin with, of any size.
        mask: such a file, bright where to repaint.
        fit, mask_blur: see `fit_source`.
        embeddings: names of files of learned words that the prompts may hold.

    Raises:
        ToileError: a mask without a picture, an unknown fit, or a source that is no file.
    """

    model: str
    wanted: GenerateRequest
    image: bytes | None = field(default=None, repr=False)
    mask: bytes | None = field(default=None, repr=False)
    fit: str = "pad"
    mask_blur: float = 0.0
    embeddings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.wanted.source is not None:
            raise ToileError("source is set; give the picture to begin with as image, and mask, in files")
        if self.mask is not None and self.image is None:
            raise ToileError("mask is given without image; give the picture that it is a mask of")
        if self.fit not in FITS:
            raise ToileError(f"fit is {self.fit!r}; allowed: {', '.join(FITS)}")
        if len(set(self.embeddings)) < len(self.embeddings):
            raise ToileError(f"embeddings are {', '.join(self.embeddings)}; name each once")
        check_number("mask_blur", self.mask_blur, 0.0, MAX_MASK_BLUR)

    @property
    def num_pictures(self) -> int:
        """Of all its prompts."""
        return len(self.wanted.prompts) * self.wanted.num_images

    @property
    def loras(self) -> tuple[LoRAUse, ...]:
        """All that it uses, those that its prompts name too."""
        tags = (use for prompt in dict.fromkeys(self.wanted.prompts) for use in lora_tags(prompt))
        return (*self.wanted.loras, *tags)

    def batch_key(self) -> Hashable:
        """Equal for requests whose pictures may pass the networks together: all but prompts and seeds is the same."""
        files = tuple(None if file is None else hashlib.sha256(file).digest() for file in (self.image, self.mask))
        settings = tuple(getattr(self.wanted, f.name) for f in fields(GenerateRequest) if f.name not in _OF_ONE_JOB)
        return (self.model, self.loras, settings, files, self.fit, self.mask_blur, self.embeddings)

    def as_json(self) -> str:
        """All of it but the files."""
        plain = GenerateRequest(("",))
        wanted = {
            f.name: getattr(self.wanted, f.name)
            for f in fields(GenerateRequest)
            if f.name == "prompts" or getattr(self.wanted, f.name) != getattr(plain, f.name)
        }
        content = {"model": self.model, "fit": self.fit, "mask_blur": self.mask_blur, "wanted": wanted}
        if self.embeddings:
            content["embeddings"] = list(self.embeddings)
        return json.dumps(content, default=_plain)

    @staticmethod
    def from_json(text: str, image: bytes | None = None, mask: bytes | None = None) -> JobRequest:
        """What `as_json` wrote, with the files that belong to it."""
        content: Mapping[str, Any] = json.loads(text)
        wanted = build_config(GenerateRequest, content["wanted"], "a stored job")
        # Files are kept only until a job has ended.
        mask = None if image is None else mask
        more = content["fit"], content["mask_blur"], tuple(content.get("embeddings", ()))
        return JobRequest(content["model"], wanted, image, mask, *more)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{value!r} has no place in JSON")
