"""What is inside a LoRA, seen from the model it is for: dialect, ranks, and how much each layer changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from toile.latent_diffusion import LatentDiffusion
from toile.lora import ADAPTED, find_lora, layers_of, lora_targets
from toile.weights.lora_file import read_lora


@dataclass(frozen=True)
class LayerChange:
    """A layer that a LoRA changes.

    Attributes:
        path: of the layer, with the network in front.
        rank, alpha: of the change.
        dora: whether it sets the length of each row of weights too.
        relative: size of the change beside that of the weights, both as root of the sum of squares, at strength 1.
    """

    path: str
    rank: int
    alpha: float
    dora: bool
    relative: float


@dataclass(frozen=True)
class LoRADescription:
    """A LoRA, as it acts on a model.

    Attributes:
        path: of its file.
        dialect: of the names in it: kohya, diffusers, diffusers old or peft.
        header: what the file says of itself.
        layers: those it changes.
        unmatched: names in it that no layer of the model answers to.
        untouched: for each network how many of its layers it leaves as they are.
    """

    path: str
    dialect: str
    header: Mapping[str, str]
    layers: tuple[LayerChange, ...]
    unmatched: tuple[str, ...]
    untouched: Mapping[str, int]

    @property
    def ranks(self) -> Mapping[int, int]:
        """How many layers have each rank."""
        return dict(Counter(layer.rank for layer in self.layers))


@torch.no_grad()
def describe_lora(source: str, model: LatentDiffusion) -> LoRADescription:
    """Reads a LoRA and measures it against a model's weights.

    Args:
        source: see `find_lora`.
        model: the model it is for.

    Raises:
        ToileError: there is none, or it is damaged; names that fit nothing are reported instead.
    """
    path = find_lora(source)
    read = read_lora(path, lora_targets(model), strict=False)
    all_layers = layers_of(model)
    layers = []
    for name, change in read.changes.items():
        all_layers[name].restore()
        weight = all_layers[name].weight.float()
        relative = float(change.difference(weight).norm() / weight.norm())
        layers.append(LayerChange(name, change.rank, change.alpha, change.magnitude is not None, relative))
    untouched = {
        component: sum(name.startswith(f"{component}.") and name not in read.changes for name in all_layers)
        for component in ADAPTED
    }
    return LoRADescription(str(path), read.dialect, read.header, tuple(layers), read.unmatched, untouched)


def by_kind(layers: Sequence[LayerChange]) -> dict[str, list[LayerChange]]:
    """Layers by network and by what they are in it: "unet attn1.to_q", "text_encoder self_attn.q_proj"."""
    groups: dict[str, list[LayerChange]] = {}
    for layer in layers:
        parts = layer.path.split(".")
        words = [part for part in parts[1:] if not part.isdigit()]
        groups.setdefault(f"{parts[0]} {'.'.join(words[-2:])}", []).append(layer)
    return groups
