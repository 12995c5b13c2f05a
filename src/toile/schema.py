"""Plain mappings (JSON, TOML) into frozen dataclasses, strictly: a misspelt key is an error, not a default."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from toile.errors import ToileError

T = TypeVar("T")


def build_config(config_class: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Builds a (nested) frozen dataclass from a mapping.

    Args:
        config_class: the dataclass; names in its optional class attribute `IGNORED` may occur and are skipped,
            and so are keys that begin with an underscore.
        mapping: what a file said.
        where: the file and section, for messages.

    Raises:
        ToileError: an unknown key, a missing key or a value of the wrong type, each named.
    """
    hints = _type_hints(config_class)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    ignored: frozenset[str] = getattr(config_class, "IGNORED", frozenset())
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key in fields:
            values[key] = _convert(hints[key], value, f"{where}: {key}")
        elif key not in ignored and not key.startswith("_"):
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            raise ToileError(f"{where}: unknown key {key!r}; {hint}")
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name not in values and no_default:
            raise ToileError(f"{where}: {name!r} is missing")
    return config_class(**values)


@functools.cache  # resolving the names takes ten times as long as all the rest
def _type_hints(config_class: type) -> Mapping[str, Any]:
    return get_type_hints(config_class)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build_config(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            return tuple(_convert(arguments[0], item, where) for item in value)
        if len(arguments) == len(value):
            return tuple(_convert(kind, item, where) for kind, item in zip(arguments, value, strict=True))
    if origin is Mapping and isinstance(value, Mapping):
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is Any:
        return value
    if isinstance(hint, type) and isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    raise ToileError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")


def _convert_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _convert(kind, value, where)
        except ToileError:
            continue
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise ToileError(f"{where}: expected {names}, got {value!r}")
