"""LoRAs for a model: found by name or path, read, and in force while something is made.

Names are those of files or PEFT folders in one folder, see `LORAS`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from toile.add_ons import AddOns
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.nn.layers import AdaptableLayer
from toile.nn.lora import Adaptation, LowRank, adaptable_layers, find_layer, sum_of_differences
from toile.weights.files import file_sha256
from toile.weights.lora_file import read_lora

LORAS = AddOns("LoRA", "TOILE_LORAS", "loras", folder_marker="adapter_config.json")
ADAPTED = ("unet", "text_encoder")


@dataclass(frozen=True, eq=False)
class LoRA:
    """Changes to the layers of a model's networks.

    Attributes:
        name: of its file, without suffix.
        path: where it was read, absolute.
        hash: SHA-256 of its content.
        changes: of each layer, by its path with the network in front: "unet.conv_in".
    """

    name: str
    path: str
    hash: str
    changes: Mapping[str, LowRank]


def find_lora(source: str) -> Path:
    """The file or folder of a LoRA.

    Args:
        source: a name in the folder of LoRAs, or a path.

    Raises:
        ToileError: there is none.
    """
    return LORAS.find(source)


def load_lora(source: str, model: LatentDiffusion) -> LoRA:
    """Reads a LoRA for a model.

    Args:
        source: see `find_lora`.
        model: the model whose layers it changes.

    Raises:
        ToileError: there is none, it is damaged, or it does not fit the model.
    """
    path = find_lora(source)
    changes = read_lora(path, lora_targets(model)).changes
    return LoRA(path.name if path.is_dir() else path.stem, str(path.resolve()), content_hash(path), changes)


def content_hash(path: Path) -> str:
    """SHA-256 of a LoRA's file, or of the names and hashes of the files in its PEFT folder."""
    if path.is_file():
        return file_sha256(path)
    lines = [f"{file.name} {file_sha256(file)}\n" for file in sorted(path.glob("adapter_*")) if file.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def lora_targets(model: LatentDiffusion) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of all layers that can be changed, by their paths with the network in front."""
    return {path: tuple(layer.weight.shape) for path, layer in layers_of(model).items()}


def layers_of(model: LatentDiffusion) -> dict[str, AdaptableLayer]:
    """All layers that can be changed, by their paths with the network in front."""
    return {
        f"{component}.{path}": layer
        for component, network in adapted_networks(model).items()
        for path, layer in adaptable_layers(network).items()
    }


def base_version(model: LatentDiffusion) -> str:
    """What trainers call the kind of model in a header; "toile" for what is no Stable Diffusion 1.x or 2.x."""
    family = {768: "sd_v1", 1024: "sd_v2"}.get(model.unet.config.cross_attention_dim)
    if family is None:
        return "toile"
    return f"{family}_v" if model.schedule.config.prediction_type == "v_prediction" else family


def adapted_networks(model: LatentDiffusion) -> dict[str, nn.Module]:
    """The networks that LoRAs change, by the names they have in them."""
    return {component: getattr(model, component) for component in ADAPTED}


class ModelAdaptation:
    """LoRAs on the networks of a model, prepared once, in force while `applied` is open.

    Args:
        model: the model.
        loras: each with its strength.

    Raises:
        ToileError: a LoRA that does not fit the model.
    """

    def __init__(self, model: LatentDiffusion, loras: Sequence[tuple[LoRA, float]]) -> None:
        changes = _by_component(loras)
        self._of_networks = [
            Adaptation(network, changes[component]) for component, network in adapted_networks(model).items()
        ]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """While it is open, both networks are changed."""
        with contextlib.ExitStack() as stack:
            for adaptation in self._of_networks:
                stack.enter_context(adaptation.applied())
            yield


@torch.no_grad()
def merge_loras(model: LatentDiffusion, loras: Sequence[tuple[LoRA, float]]) -> None:
    """Adds LoRAs to a model's weights for good.

    Args:
        model: changed in place; in float32, as changes are too fine for weights of half precision.
        loras: each with its strength.

    Raises:
        ToileError: a model in another precision, or a LoRA that does not fit.
    """
    if model.dtype != torch.float32:
        raise ToileError(f"the model is in {model.dtype}; LoRAs are merged in float32, or they would be rounded away")
    changes = _by_component(loras)
    for component, network in adapted_networks(model).items():
        layers = adaptable_layers(network)
        found = {path: find_layer(layers, path, of_layer) for path, of_layer in changes[component].items()}
        for path, layer in found.items():
            layer.restore()
            difference = sum_of_differences(layer.weight, changes[component][path])
            layer.weight.add_(difference.view(layer.weight.shape).to(layer.weight.device))


def _by_component(loras: Sequence[tuple[LoRA, float]]) -> dict[str, dict[str, list[tuple[LowRank, float]]]]:
    changes: dict[str, dict[str, list[tuple[LowRank, float]]]] = {component: {} for component in ADAPTED}
    for lora, strength in loras:
        for name, change in lora.changes.items():
            component, _, path = name.partition(".")
            if component not in changes:
                raise ToileError(f"LoRA {lora.name} changes {name}; LoRAs change {' and '.join(ADAPTED)}")
            changes[component].setdefault(path, []).append((change, strength))
    return changes
