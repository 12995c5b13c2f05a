"""Which layers of a model learn when it is fine-tuned with LoRA, and how much they may change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.lora import layers_of
from toile.nn.layers import AdaptableLayer

# Groups of layers, by what their paths contain.
TARGETS: Mapping[str, re.Pattern[str]] = {
    "attention": re.compile(r"^unet\..*\.attn[12]\.to_(q|k|v|out\.0)$"),
    "feed_forward": re.compile(r"^unet\..*\.ff\.net\.(0\.proj|2)$"),
    "projections": re.compile(r"^unet\..*\.proj_(in|out)$"),
    "convolutions": re.compile(r"^unet\..*\.(conv[12]|conv_shortcut|(down|up)samplers\.0\.conv)$"),
    "time": re.compile(r"^unet\..*\.time_emb_proj$"),
    "text_attention": re.compile(r"^text_encoder\..*\.self_attn\.(q|k|v|out)_proj$"),
    "text_feed_forward": re.compile(r"^text_encoder\..*\.mlp\.fc[12]$"),
}


@dataclass(frozen=True)
class LoRAConfig:
    """What is added to a model.

    Attributes:
        rank: r, 1 to 1024; small ranks learn styles, larger ones details.
        alpha: the change is multiplied by alpha / r, so that ranks can be compared at one learning rate; None = r.
        targets: groups of layers, see `TARGETS`.
        dora: learn the length of each row of weights apart from its direction.
    """

    rank: int = 8
    alpha: float | None = None
    targets: tuple[str, ...] = ("attention",)
    dora: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 1024:
            raise ToileError(f"lora: rank {self.rank}; allowed: 1 to 1024")
        if self.alpha is not None and not self.alpha > 0:
            raise ToileError(f"lora: alpha {self.alpha}; allowed: above 0, or left out for the rank")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets:
            raise ToileError(f"lora: targets {list(self.targets)}; give one or more of {', '.join(TARGETS)}")

    @property
    def scaled_alpha(self) -> float:
        """alpha, the rank if it was left out."""
        return float(self.rank) if self.alpha is None else self.alpha


def target_layers(model: LatentDiffusion, config: LoRAConfig) -> dict[str, AdaptableLayer]:
    """The layers of a model that learn, by their paths with the network in front.

    Raises:
        ToileError: a group has no layer in this model.
    """
    layers = layers_of(model)
    chosen: dict[str, AdaptableLayer] = {}
    for group in config.targets:
        found = {path: layer for path, layer in layers.items() if TARGETS[group].search(path)}
        if not found:
            raise ToileError(f"lora: the model has no layers of {group!r}; leave it out of the targets")
        chosen |= found
    return {path: layer for path, layer in layers.items() if path in chosen}
