"""LoRA files in the dialects people have, read and written.

- kohya: what sd-scripts, A1111 and ComfyUI write, safetensors or torch.save; every pair has an alpha tensor.
- diffusers, and diffusers old: names of diffusers; alpha stands in the metadata if anywhere, else it is the rank.
- peft: a folder of PEFT for one network; alpha stands in its `adapter_config.json`.

The names in a file tell its dialect. A file is read wholly or not at all: what does not fit the model is refused.

Shapes: r rank, `in` and `out` widths of a layer, k side of a convolution's kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from toile.nn.lora import LowRank
from toile.weights.checkpoint import Checkpoint, open_checkpoint
from toile.weights.files import WeightsError, parse_json, read_json
from toile.weights.lora_names import KOHYA, NUM_SHOWN, PEFT, Sorted, component_of, dialect_of, sort_names
from toile.weights.lora_writing import ADAPTER_CONFIG, METADATA, PEFT_WEIGHTS, write_lora
from toile.weights.peft_config import PeftConfig, parse_config

__all__ = ["LoRAFile", "read_lora", "write_lora"]

_WEIGHTS_IN_FOLDERS = (PEFT_WEIGHTS, "adapter_model.bin")
_WEIGHTS_OF_DIFFUSERS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
# The width of the words that cross-attention reads tells the family of a U-Net.
_FAMILY_OF_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


@dataclass(frozen=True, eq=False)
class LoRAFile:
    """What a LoRA file holds.

    Attributes:
        changes: of each layer, by its path with the component in front; tensors on the CPU in the file's precision, of
            as many dimensions as the layer's weights.
        dialect: "kohya", "diffusers", "diffusers old" or "peft".
        header: the texts that stand in the file beside the tensors.
        unmatched: layers of the file that the model does not have, as the file calls them.
    """

    changes: Mapping[str, LowRank]
    dialect: str
    header: Mapping[str, str]
    unmatched: tuple[str, ...] = ()


def read_lora(path: Path, shapes: Mapping[str, tuple[int, ...]], *, strict: bool = True) -> LoRAFile:
    """Reads a LoRA for a model.

    Args:
        path: a file, or the folder of PEFT or diffusers that it is in.
        shapes: of the weights of all layers that can be changed, by their paths with the component in front.
        strict: refuse a file with layers that the model does not have; otherwise they are listed as `unmatched`.

    Raises:
        WeightsError: it is damaged, unsafe, no LoRA, of a kind or for a family that is not read; it has other layers
            than the model, other shapes, half a pair, no alpha where there must be one, or numbers that are not finite.
    """
    path = Path(path)
    checkpoint = open_checkpoint(_weights_in(path))
    where = str(path)
    dialect = dialect_of(checkpoint.shapes, where)
    found = sort_names(checkpoint.shapes, dialect, shapes, where)
    if found.unmatched and strict:
        _refuse_unmatched(found, where)
    config_of = _configs(checkpoint, dialect)
    wanted = [name for parts in found.parts.values() for name in parts.values()]
    tensors = checkpoint.load(wanted)  # refuses what is not finite
    changes, faults = {}, []
    for layer, parts in found.parts.items():
        try:
            held = {part: tensors[name] for part, name in parts.items()}
            changes[layer] = _change(held, shapes[layer], layer, dialect, config_of(component_of(layer)))
        except _Misfit as fault:
            faults.append(f"{layer}: {fault}")
    if faults:
        raise WeightsError(
            f"{where} does not fit in {len(faults)} of {len(found.parts)} layers{_family(tensors, found, shapes)}: "
            f"{'; '.join(faults[:NUM_SHOWN])}{'; ...' if len(faults) > NUM_SHOWN else ''}"
        )
    # JSON can hold halves of characters, which can be neither printed nor written.
    header = {_whole(key): _whole(text) for key, text in checkpoint.metadata.items()}
    return LoRAFile(changes, dialect, header, tuple(found.unmatched))


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class _Misfit(Exception):
    """Why the tensors of one layer are no change of it."""


def _weights_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    of_peft = (path / ADAPTER_CONFIG).exists()
    names = _WEIGHTS_IN_FOLDERS if of_peft else _WEIGHTS_OF_DIFFUSERS
    for name in names:
        if (path / name).exists():
            return path / name
    if of_peft:
        raise WeightsError(f"{path} has {ADAPTER_CONFIG}, but neither {names[0]} nor {names[1]}")
    raise WeightsError(
        f"{path} is no folder of a LoRA: PEFT's has {ADAPTER_CONFIG} and {PEFT_WEIGHTS}, that of diffusers {names[0]}"
    )


def _refuse_unmatched(found: Sorted, where: str) -> None:
    names = list(found.unmatched)
    shown = ", ".join(name[:120] for name in names[:NUM_SHOWN])
    raise WeightsError(
        f"{where}: the model has none of {len(names)} layers that it changes (it has {len(found.parts)} others): "
        f"{shown}{', ...' if len(names) > NUM_SHOWN else ''}; it was made for another model"
    )


def _family(tensors: Mapping[str, Tensor], found: Sorted, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Says which family of models a file is for, where the width of its words differs from the model's."""
    for layer, parts in found.parts.items():
        if layer.endswith(("attn2.to_k", "attn2.to_v")) and "down" in parts and tensors[parts["down"]].dim() > 1:
            width, ours = tensors[parts["down"]].shape[1], shapes[layer][1]
            if width != ours:
                family = _FAMILY_OF_WIDTH.get(width)
                return (
                    f" (it reads words of width {width}{f', as {family} has' if family else ''}; the model's: {ours})"
                )
    return ""


# ---------------------------------------------------------------------------------------------------- one change


def _change(
    held: Mapping[str, Tensor], shape: tuple[int, ...], layer: str, dialect: str, config: PeftConfig | None
) -> LowRank:
    """The change of a layer whose weights have a shape, from the parts in a file."""
    if missing := [part for part in ("down", "up") if part not in held]:
        raise _Misfit(f"half a pair, {' and '.join(missing)} is missing")
    if wrong := [part for part, tensor in held.items() if not tensor.is_floating_point()]:
        raise _Misfit(f"{wrong[0]} is {held[wrong[0]].dtype}, not floating-point")
    down, up = held["down"], held["up"]
    if down.dim() < 2 or up.dim() < 2 or down.shape[0] == 0 or up.shape[1] != down.shape[0]:
        raise _Misfit(f"down {list(down.shape)} and up {list(up.shape)} are of different ranks, or of none")
    rank, bare = down.shape[0], _bare(shape)
    if _bare(down.shape) != (rank, *bare[1:]) or _bare(up.shape) != (bare[0], rank):
        raise _Misfit(f"down {list(down.shape)} and up {list(up.shape)}, but the layer's weights are {list(shape)}")
    if config is not None and config.rank_of(layer) != rank:
        raise _Misfit(f"rank {rank}, but its config says {config.rank_of(layer)}")
    magnitude = _magnitude(held.get("magnitude"), shape, dialect)
    if magnitude is None and config is not None and config.magnitude:
        raise _Misfit("its config says DoRA, but the magnitude is missing")
    return LowRank(
        down.reshape(rank, *shape[1:]).clone(),
        up.reshape(shape[0], rank, *[1] * (len(shape) - 2)).clone(),
        _alpha(held.get("alpha"), layer, rank, dialect, config),
        magnitude,
    )


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as that of a matrix where it is that of a 1x1 convolution; files have either for the same layer."""
    return tuple(shape[:2]) if all(size == 1 for size in shape[2:]) else tuple(shape)


def _alpha(tensor: Tensor | None, layer: str, rank: int, dialect: str, config: PeftConfig | None) -> float:
    if tensor is None:
        if dialect == KOHYA:
            raise _Misfit("alpha is missing; without it the strength of the change is unknown")
        return float(rank) if config is None else config.alpha_of(layer)
    if tensor.numel() != 1:
        raise _Misfit(f"alpha is {list(tensor.shape)}, not one number")
    alpha = float(tensor)
    if alpha == 0:
        raise _Misfit("alpha is 0, which some programs take for no change and others for the rank")
    return alpha


def _magnitude(tensor: Tensor | None, shape: tuple[int, ...], dialect: str) -> Tensor | None:
    """DoRA's, from (out,), (out, 1, ...), or of a convolution in PEFT (1, out, 1, 1)."""
    if tensor is None:
        return None
    given, ones = tuple(tensor.shape), (1,) * (len(shape) - 2)
    if given in ((shape[0],), (shape[0], 1, *ones)) or (dialect != KOHYA and given == (1, shape[0], *ones)):
        return tensor.reshape(-1).clone()
    if math.prod(given) == shape[1] and given[0] == 1:
        raise _Misfit(f"the magnitude {list(given)} belongs to the inputs (wd_on_out=False in LyCORIS), not read here")
    raise _Misfit(f"the magnitude is {list(given)}; it must be ({shape[0]},), one for each output")


# ---------------------------------------------------------------------------------------------------- configs


def _configs(checkpoint: Checkpoint, dialect: str) -> Callable[[str], PeftConfig | None]:
    """What is said beside the tensors about the changes of a component."""
    if dialect == KOHYA:
        return lambda component: None
    if dialect == PEFT:
        path = checkpoint.path.with_name(ADAPTER_CONFIG)
        if not path.exists():
            raise WeightsError(
                f"{checkpoint.path} is PEFT's; beside it must lie {ADAPTER_CONFIG}, which says its alpha"
            )
        config = parse_config(read_json(path), str(path))
        return lambda component: config
    text = checkpoint.metadata.get(METADATA)
    entries = (
        {} if text is None else parse_json(text.encode("utf-8", "surrogatepass"), f"{checkpoint.path}: {METADATA}")
    )
    parsed: dict[str, PeftConfig | None] = {}

    def config_of(component: str) -> PeftConfig | None:
        if component not in parsed:
            own = _entries_of(component, entries)
            parsed[component] = parse_config(own, f"{checkpoint.path}: {METADATA}") if own else None
        return parsed[component]

    return config_of


def _entries_of(component: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries for a component; files of one network have no component in front."""
    if "r" in entries:
        return dict(entries)
    prefix = f"{component}."
    return {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith(prefix)}
