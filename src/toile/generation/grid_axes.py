"""Axes of a grid: a setting, and the values that it takes from picture to picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from toile.errors import ToileError
from toile.generation.named_settings import read_setting, setting_names
from toile.generation.request import GenerateRequest

_NO_AXIS = {"num_images", "batch_size"}


@dataclass(frozen=True)
class Axis:
    """A setting and the values it takes: `name` is a field of `GenerateRequest`, or "prompt"."""

    name: str
    values: tuple[Any, ...]

    def applied(self, request: GenerateRequest, value: Any) -> GenerateRequest:
        """The request with this value; one that is not allowed is refused here."""
        changes: dict[str, Any] = {"prompts": (value,)} if self.name == "prompt" else {self.name: value}
        return replace(request, **changes)


def parse_axis(text: str) -> Axis:
    """ "steps=10,20" -> the setting and its values, in the setting's type; "|" divides values that hold commas.

    Raises:
        ToileError: no such form, an unknown setting, or a value of another type.
    """
    name, sign, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    known = ["prompt", *(setting for setting in setting_names() if setting not in _NO_AXIS)]
    if not sign or not listed.strip():
        raise ToileError(f"an axis is a setting and its values, for example steps=10,20,30; got {text!r}")
    if name not in known:
        raise ToileError(f"{name!r} is no setting of a grid; known: {', '.join(sorted(known))}")
    values = [value.strip() for value in listed.split("|" if "|" in listed else ",")]
    return Axis(name, tuple(value if name == "prompt" else read_setting(name, value) for value in values))
