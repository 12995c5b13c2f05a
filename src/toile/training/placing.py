"""Where a run computes: its networks lie on a device, and batches, which are drawn on the CPU, are brought to them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from toile.device import choose_dtype

Value = TypeVar("Value")


def device_of(module: nn.Module) -> torch.device:
    """Where the first of a module's weights lies, and so all, as modules here lie on one device; else its buffers."""
    return next(chain(module.parameters(), module.buffers())).device


def frozen_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type of weights that do not learn: bfloat16 where a run of that precision computes in it, else float32.

    Not float16 on any device, in which small gradients vanish.
    """
    if precision != "bf16":
        return torch.float32
    return choose_dtype("auto", device) if device.type == "cpu" else torch.bfloat16


def autocast(precision: str, device: torch.device, *, keeps_casts: bool = True) -> AbstractContextManager[object]:
    """Autocast to bfloat16, or nothing; with casts of weights kept as long as it is open, or made anew."""
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=keeps_casts)


def brought_to(device: torch.device, value: Value) -> Value:
    """A batch with all its tensors on a device; what is no tensor stays as it is.

    Args:
        device: where they are wanted.
        value: a tensor; or a dataclass, tuple, list or mapping that holds some, however deep.
    """
    return cast(Value, _brought(device, value))


def _brought(device: torch.device, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _brought(device, getattr(value, field.name)) for field in fields(value)})
    if isinstance(value, Mapping):
        return {name: _brought(device, held) for name, held in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_brought(device, held) for held in value)
    return value
