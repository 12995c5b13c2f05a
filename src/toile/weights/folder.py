"""Component folders in the layout of diffusers and transformers: `config.json` beside one safetensors file.

Configs are frozen dataclasses whose field names are the JSON keys. Two optional class attributes say what a config
does not mind: `IGNORED` (keys of config.json without a field) and `IGNORED_WEIGHTS` (tensors without a parameter).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from toile.schema import build_config
from toile.weights.files import (
    WeightsError,
    is_finite,
    load_tensors,
    read_json,
    save_tensors,
    write_json_atomically,
)


class Dataclass(Protocol):
    """Any instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


ConfigT = TypeVar("ConfigT", bound=Dataclass)
ModuleT = TypeVar("ModuleT", bound=nn.Module)

CONFIG_NAME = "config.json"
WEIGHTS_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
)
_LISTED_MISMATCHES = 10


# ---------------------------------------------------------------------------------------------------- configs


def read_config(path: Path, config_class: type[ConfigT]) -> ConfigT:
    """Reads a config.json into its dataclass; JSON lists become tuples, keys that start with "_" are skipped.

    Raises:
        WeightsError: the file is missing or no JSON object.
        ToileError: an unknown key, a missing key, a value of another type, or one that the dataclass refuses.
    """
    return build_config(config_class, read_json(path), str(path))


def write_config(path: Path, config: Dataclass, extra: Mapping[str, Any]) -> None:
    """Writes a config as JSON, after the extra entries (`_class_name` and other constants readers expect).

    Raises:
        WeightsError: an extra entry has the name of a field, or the disk refuses.
    """
    entries = asdict(config)
    if clash := sorted(set(extra) & set(entries)):
        raise WeightsError(f"extra entries {', '.join(clash)} are fields of {type(config).__name__} already")
    write_json_atomically(path, {**extra, **entries})


# ---------------------------------------------------------------------------------------------------- weights


class _WithoutInitialisation(TorchFunctionMode):
    """Skips torch.nn.init while a network is built whose weights come from a file.

    On the meta device these calls set nothing anyway, but the first one imports torch's compiler, a second's work.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def build_empty(build: Callable[[ConfigT], ModuleT], config: ConfigT) -> ModuleT:
    """A network on the meta device: names, shapes and no weights, whatever its size, in milliseconds."""
    with torch.device("meta"), _WithoutInitialisation():
        return build(config)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Puts tensors into a module by name, all or none.

    A module on the meta device takes the tensors themselves (with their dtype), any other copies their values.

    Args:
        module: left exactly as it is when anything does not fit.
        tensors: name -> tensor, one for each parameter and persistent buffer.
        what: names the tensors in errors: the file, usually.

    Raises:
        WeightsError: names that are missing or unexpected, or other shapes; the first ten are listed.
    """
    expected = module.state_dict()
    mismatches = _mismatches(expected, tensors)
    if mismatches:
        listed = "; ".join(mismatches[:_LISTED_MISMATCHES])
        more = len(mismatches) - _LISTED_MISMATCHES
        raise WeightsError(
            f"{what} does not fit {type(module).__name__} ({len(mismatches)} mismatches): {listed}"
            + (f"; and {more} more" if more > 0 else "")
        )
    on_meta = any(tensor.is_meta for tensor in expected.values())
    module.load_state_dict(dict(tensors), strict=True, assign=on_meta)


def _mismatches(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    found = [f"missing {name} {list(tensor.shape)}" for name, tensor in expected.items() if name not in given]
    found += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in given.items() if name not in expected]
    for name, tensor in given.items():
        if name not in expected:
            continue
        if tensor.shape != expected[name].shape:
            found.append(f"{name} is {list(tensor.shape)}, must be {list(expected[name].shape)}")
        elif tensor.is_floating_point() != expected[name].is_floating_point():
            found.append(f"{name} is {tensor.dtype}, must be {expected[name].dtype}")
    return found


def find_weights(folder: Path) -> Path:
    """The safetensors file of a component folder.

    Raises:
        WeightsError: there is none.
    """
    for name in WEIGHTS_NAMES:
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder")
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
    raise WeightsError(f"{folder} has none of {', '.join(WEIGHTS_NAMES)}; it has {', '.join(others) or 'no weights'}")


def load_component(
    folder: Path,
    build: Callable[[ConfigT], ModuleT],
    config_class: type[ConfigT],
    dtype: torch.dtype = torch.float32,
) -> ModuleT:
    """Builds a network from its folder, on the CPU.

    Args:
        folder: holds config.json and one of `WEIGHTS_NAMES`.
        build: makes the network from its config; it runs on the meta device, so no random weights are drawn.
        config_class: the dataclass of the network's config.
        dtype: floating-point tensors are converted to it; those that have it already stay mapped to the file.

    Raises:
        WeightsError: a file is missing, damaged, or does not fit the config.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG_NAME, config_class)
    path = find_weights(folder)
    ignored: frozenset[str] = getattr(config_class, "IGNORED_WEIGHTS", frozenset())
    tensors = {name: tensor for name, tensor in _floats_to(dtype, load_tensors(path)).items() if name not in ignored}
    module = build_empty(build, config)
    load_weights(module, tensors, str(path))
    unfilled = [name for name, tensor in module.named_buffers() if tensor.is_meta]
    if unfilled:
        raise RuntimeError(
            f"buffers {', '.join(unfilled)} of {type(module).__name__} are in no file: "
            "make them persistent or compute them in forward"
        )
    return module


def save_component(
    folder: Path,
    module: nn.Module,
    config: Dataclass,
    extra_config: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
    filename: str = WEIGHTS_NAMES[0],
) -> None:
    """Writes a network's folder: its weights, floating-point ones in `dtype`, then config.json.

    Raises:
        WeightsError: a weight is not finite in `dtype` (float16 ends at 65,504), or the disk refuses.
    """
    tensors = _floats_to(dtype, module.state_dict())
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise WeightsError(f"cannot save {type(module).__name__}: {name} is not finite in {dtype}")
    folder = Path(folder)
    save_tensors(folder / filename, tensors, {"format": "pt"})
    write_config(folder / CONFIG_NAME, config, extra_config)


def _floats_to(dtype: torch.dtype, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
