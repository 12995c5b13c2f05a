"""Settings of a request written as text, such as steps=10, in a command line or a file."""

from __future__ import annotations

import types
from typing import Any, get_args, get_type_hints

from toile.errors import ToileError
from toile.generation.request import GenerateRequest

# What is no single value in words.
_NOT_IN_WORDS = {"prompts", "source", "toward", "loras", "guidance_interval", "vae_bands", "maps", "as_written"}
_TRUTH = {"yes": True, "true": True, "no": False, "false": False}


def setting_names() -> list[str]:
    """The settings that can be written as text."""
    hints = get_type_hints(GenerateRequest)
    return [name for name in hints if name not in _NOT_IN_WORDS and not name.startswith("_")]


def read_setting(name: str, text: str) -> Any:
    """The value of a setting, in its own type.

    Args:
        name: one of `setting_names`.

    Raises:
        ToileError: the text is of another type.
    """
    hint = get_type_hints(GenerateRequest)[name]
    kind = next(k for k in (get_args(hint) or (hint,)) if k is not types.NoneType)
    if kind is bool:
        if text.casefold() not in _TRUTH:
            raise ToileError(f"{name} takes yes or no; got {text!r}")
        return _TRUTH[text.casefold()]
    try:
        return kind(text)
    except ValueError as error:
        raise ToileError(f"{name} takes values of type {kind.__name__}; got {text!r}") from error
