"""Component folders in the layout of diffusers and transformers: `config.json` beside the weights.

The weights are one safetensors file, several of them with an index, or, in old folders, a file of torch.save.

Configs are frozen dataclasses whose field names are the JSON keys. Two optional class attributes say what a config
does not mind: `IGNORED` (keys of config.json without a field) and `IGNORED_WEIGHTS` (tensors without a parameter);
for the networks of Stable Diffusion, `neutral_values` says it.
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
from toile.weights.checkpoint import open_checkpoint
from toile.weights.files import (
    WeightsError,
    is_finite,
    read_json,
    save_tensors,
    write_json_atomically,
)
from toile.weights.mapping import FLOAT32_ON_CPU, Placement
from toile.weights.names import current_names
from toile.weights.neutral_values import IGNORED_WEIGHTS, without_neutral


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
# Every way in which diffusers and transformers name the weights, the most exact first; an index names further files.
_INDEXED = ("diffusion_pytorch_model.safetensors.index.json", "model.safetensors.index.json")
_PICKLED = ("diffusion_pytorch_model.bin", "pytorch_model.bin")
_ALL_NAMES = (
    *WEIGHTS_NAMES[:2],
    *_INDEXED,
    *WEIGHTS_NAMES[2:],
    *(name.replace(".index.json", ".index.fp16.json") for name in _INDEXED),
    *_PICKLED,
    *(name.replace(".bin", ".bin.index.json") for name in _PICKLED),
    *(name.replace(".bin", ".fp16.bin") for name in _PICKLED),
)
_LISTED_MISMATCHES = 10


# ---------------------------------------------------------------------------------------------------- configs


def read_config(path: Path, config_class: type[ConfigT]) -> ConfigT:
    """Reads a config.json into its dataclass; JSON lists become tuples, keys that start with "_" are skipped.

    Raises:
        WeightsError: the file is missing or no JSON object.
        ToileError: an unknown key, a missing key, a value of another type, or one that the dataclass refuses.
    """
    return build_config(config_class, without_neutral(config_class, read_json(path), str(path)), str(path))


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
    check_fit(expected, tensors, what, type(module).__name__)
    on_meta = any(tensor.is_meta for tensor in expected.values())
    module.load_state_dict(dict(tensors), strict=True, assign=on_meta)


def check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str, network: str) -> None:
    """Refuses tensors whose names, shapes or kinds are not the expected ones; the first ten mismatches are listed."""
    mismatches = _mismatches(expected, given)
    if mismatches:
        listed = "; ".join(mismatches[:_LISTED_MISMATCHES])
        more = len(mismatches) - _LISTED_MISMATCHES
        raise WeightsError(
            f"{what} does not fit {network} ({len(mismatches)} mismatches): {listed}"
            + (f"; and {more} more" if more > 0 else "")
        )


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
    """The one file of weights of a component folder.

    Raises:
        WeightsError: there is none, or the weights are in several files.
    """
    files = component_files(folder)
    if len(files) > 1:
        raise WeightsError(f"{folder}: the weights are in {len(files)} files; make them one with `toile convert`")
    return files[0]


def component_files(folder: Path) -> tuple[Path, ...]:
    """The files of weights of a component folder; more than one where an index lists them.

    Raises:
        WeightsError: there are none, or an index names what is no file of the folder.
    """
    for name in _ALL_NAMES:
        if (folder / name).is_file():
            return _indexed_files(folder / name) if name.endswith(".json") else (folder / name,)
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder")
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
    raise WeightsError(f"{folder} has none of {', '.join(WEIGHTS_NAMES)}; it has {', '.join(others) or 'no weights'}")


def _indexed_files(index: Path) -> tuple[Path, ...]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise WeightsError(f"{index} must have a weight_map of tensors' names to names of files")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or "\\" in name or not (index.parent / name).is_file():
            raise WeightsError(f"{index} names {name!r:.100}, which is no file beside it")
    return tuple(index.parent / name for name in names)


def component_tensors(
    folder: Path,
    expected: Mapping[str, Tensor],
    ignored: frozenset[str] = frozenset(),
    placement: Placement | None = None,
) -> dict[str, Tensor]:
    """The tensors of a component folder under our names.

    Args:
        folder: holds the weights.
        expected: the tensors of the network, on any device, by name.
        ignored: names that are left out.
        placement: where they go and in which form; None leaves them on the CPU as the files have them.

    Raises:
        WeightsError: a file is missing or damaged, or two hold the same tensor.
    """
    result: dict[str, Tensor] = {}
    for path in component_files(folder):
        checkpoint = open_checkpoint(path)
        names = {given: ours for given, ours in current_names(checkpoint.shapes, expected).items()}
        wanted = [given for given, ours in names.items() if ours not in ignored]
        for given, tensor in checkpoint.load(wanted, placement).items():
            name = names[given]
            if name in result:
                raise WeightsError(f"{path}: {name} is there twice, or also in another file of the folder")
            # The autoencoder's attention once was 1x1 convolutions.
            as_matrix = tensor.dim() == 4 and name in expected and expected[name].dim() == 2
            result[name] = tensor.flatten(1) if as_matrix else tensor
    return result


def load_component(
    folder: Path,
    build: Callable[[ConfigT], ModuleT],
    config_class: type[ConfigT],
    placement: Placement = FLOAT32_ON_CPU,
) -> ModuleT:
    """Builds a network from its folder.

    Args:
        folder: holds config.json and the weights, see `component_files`.
        build: makes the network from its config; it runs on the meta device, so no random weights are drawn.
        config_class: the dataclass of the network's config.
        placement: where its tensors go and in which form; those that are so already stay mapped to the file.

    Raises:
        WeightsError: a file is missing, damaged, or does not fit the config.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG_NAME, config_class)
    module = build_empty(build, config)
    tensors = component_tensors(folder, module.state_dict(), ignored_weights(config_class), placement)
    return fill_component(module, tensors, ", ".join(map(str, component_files(folder))))


def ignored_weights(config_class: type) -> frozenset[str]:
    """Names of tensors that may lie beside the weights of a network and are no part of it."""
    own: frozenset[str] = getattr(config_class, "IGNORED_WEIGHTS", frozenset())
    return own | IGNORED_WEIGHTS.get(config_class, frozenset())


def fill_component(module: ModuleT, tensors: Mapping[str, Tensor], what: str) -> ModuleT:
    """Gives a network of `build_empty` its weights.

    Args:
        module: is on the meta device.
        tensors: its weights by name, which it takes as they are.
        what: names the tensors in errors: the file, usually.

    Raises:
        WeightsError: they do not fit.
    """
    load_weights(module, tensors, what)
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
