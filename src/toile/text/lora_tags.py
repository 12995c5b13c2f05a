"""Tags in a prompt that name a LoRA, as the A1111 web UI writes them: `<lora:name:0.8>`, or `<lora:name>` for 1.

They say nothing to the text encoder: `parse_prompt` leaves them out.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from toile.errors import ToileError

MAX_STRENGTH = 10.0
_TAG = re.compile(r"\s*<lora:([^<>]*)>", re.IGNORECASE)
_NAME = re.compile(r"[\w][\w. -]*")


@dataclass(frozen=True)
class LoRAUse:
    """A LoRA and how strongly it acts.

    Attributes:
        source: its name in the folder of LoRAs; outside prompts also a path.
        strength: 0 is none, 1 as it was trained; -10 to 10.

    Raises:
        ToileError: a strength that is no number or out of range.
    """

    source: str
    strength: float = 1.0

    def __post_init__(self) -> None:
        is_number = isinstance(self.strength, int | float) and not isinstance(self.strength, bool)
        if not is_number or not math.isfinite(self.strength) or abs(self.strength) > MAX_STRENGTH:
            raise ToileError(
                f"the strength of LoRA {self.source} is {self.strength!r}; "
                f"allowed: -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
            )

    @property
    def tag(self) -> str:
        """How a prompt names it."""
        return f"<lora:{self.source}:{self.strength:g}>"


def without_lora_tags(prompt: str) -> str:
    """A prompt without its tags, and without the white space before them."""
    return _TAG.sub("", prompt) if "<" in prompt else prompt


def lora_tags(prompt: str) -> tuple[LoRAUse, ...]:
    """The LoRAs that a prompt names, in order; one that is named twice acts twice.

    Raises:
        ToileError: a tag without a name, with a path, or with something else than a number behind it.
    """
    return tuple(_read(match.group(1)) for match in _TAG.finditer(prompt)) if "<" in prompt else ()


def _read(content: str) -> LoRAUse:
    name, colon, strength = content.partition(":")
    if not _NAME.fullmatch(name):
        raise ToileError(
            f"<lora:{content}> names no LoRA; write <lora:name:0.8>, the name of a file in the LoRA folder"
        )
    try:
        return LoRAUse(name, float(strength) if colon else 1.0)
    except ValueError as error:
        if isinstance(error, ToileError):
            raise
        raise ToileError(f"the strength in <lora:{content}> is {strength!r}; write a number, as in 0.8") from error


def read_use(text: str) -> LoRAUse:
    """ "monet:0.8" -> LoRA monet at strength 0.8; "monet" is at 1, and so is a path.

    Raises:
        ToileError: the strength is out of range.
    """
    source, _, strength = text.rpartition(":")
    try:
        number = float(strength)
    except ValueError:
        return LoRAUse(text)
    return LoRAUse(source, number) if source else LoRAUse(text)
