"""What PEFT (Hugging Face) says beside the tensors of a LoRA, in `adapter_config.json` or in a file's metadata."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from toile.nn.lora import LowRank
from toile.weights.files import WeightsError
from toile.weights.lora_names import short_name

# Entries that change what the tensors mean; they must be absent, false or empty.
_UNREADABLE = (
    "alora_invocation_tokens",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
# Ways to begin the training that leave the model's own weights as they are; others move a part of them into the LoRA.
_HARMLESS_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
_LITERAL = re.compile(r"\^?[\w.\\-]+\$?")
_NONE: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class PeftConfig:
    """The scale of the changes of one network.

    Attributes:
        rank: r, of all layers that `rank_pattern` does not name.
        alpha: of all layers that `alpha_pattern` does not name.
        rank_pattern, alpha_pattern: by the ends of layers' names; the first that fits counts.
        by_root: changes are multiplied by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023, "rsLoRA").
        magnitude: it is a DoRA.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, float] = field(default_factory=lambda: _NONE)
    alpha_pattern: Mapping[str, float] = field(default_factory=lambda: _NONE)
    by_root: bool = False
    magnitude: bool = False

    def rank_of(self, layer: str) -> int:
        """r of a layer, named with or without the component in front."""
        return int(_first_fit(self.rank_pattern, layer, self.rank))

    def alpha_of(self, layer: str) -> float:
        """alpha of a layer as `LowRank` has it: the change is multiplied by alpha / r."""
        alpha = _first_fit(self.alpha_pattern, layer, self.alpha)
        return alpha * math.sqrt(self.rank_of(layer)) if self.by_root else alpha

    def to_json(self, layers: Mapping[str, LowRank]) -> dict[str, Any]:
        """The entries of PEFT's LoraConfig for these changes, of which the config is."""
        return {
            "alpha_pattern": dict(self.alpha_pattern),
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "lora_alpha": self.alpha,
            "lora_bias": False,
            "lora_dropout": 0.0,
            "r": self.rank,
            "rank_pattern": {name: int(rank) for name, rank in self.rank_pattern.items()},
            "target_modules": sorted(short_name(layer) for layer in layers),
            "use_dora": self.magnitude,
            "use_rslora": self.by_root,
        }


def config_for(changes: Mapping[str, LowRank]) -> PeftConfig:
    """The config that describes changes of one network, by layer.

    Raises:
        WeightsError: some have a magnitude, others have none.
    """
    with_magnitude = [layer for layer, change in changes.items() if change.magnitude is not None]
    if with_magnitude and len(with_magnitude) < len(changes):
        without = next(layer for layer in changes if layer not in with_magnitude)
        raise WeightsError(
            f"{with_magnitude[0]} has a magnitude (DoRA), {without} has none; PEFT and diffusers know only networks "
            "where all changes have one, or none: write it as kohya"
        )
    rank = Counter(change.rank for change in changes.values()).most_common(1)[0][0]
    alpha = Counter(change.alpha for change in changes.values()).most_common(1)[0][0]
    return PeftConfig(
        rank,
        alpha,
        {short_name(layer): change.rank for layer, change in changes.items() if change.rank != rank},
        {short_name(layer): change.alpha for layer, change in changes.items() if change.alpha != alpha},
        magnitude=bool(with_magnitude),
    )


def parse_config(entries: Mapping[str, Any], where: str) -> PeftConfig:
    """A config from the entries of PEFT's LoraConfig.

    Args:
        entries: parsed JSON; what does not change the meaning of the tensors is ignored.
        where: the file, for messages.

    Raises:
        WeightsError: it is no LoRA's, an entry is not of its kind, or it asks for what is not read.
    """
    if (kind := entries.get("peft_type", "LORA")) not in ("LORA", None):
        raise WeightsError(f"{where}: peft_type is {kind!r:.40}; only LORA is read")
    if (bias := entries.get("bias", "none")) != "none":
        raise WeightsError(f"{where}: bias is {bias!r:.40}; only 'none' is read, as the biases are no part of the file")
    if given := [name for name in _UNREADABLE if entries.get(name)]:
        raise WeightsError(f"{where}: {given[0]} is {entries[given[0]]!r:.80}; such adapters are not read")
    start = entries.get("init_lora_weights", True)
    if not any(start is harmless or (isinstance(start, str) and start == harmless) for harmless in _HARMLESS_STARTS):
        raise WeightsError(
            f"{where}: init_lora_weights is {start!r:.40}, which needs a changed base model; let PEFT convert the "
            "adapter when saving (path_initial_model_for_weight_conversion)"
        )
    return PeftConfig(
        int(_number(entries, "r", where)),
        _number(entries, "lora_alpha", where),
        _pattern(entries, "rank_pattern", where),
        _pattern(entries, "alpha_pattern", where),
        entries.get("use_rslora") is True,
        entries.get("use_dora") is True,
    )


def _number(entries: Mapping[str, Any], name: str, where: str) -> float:
    value = entries.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < abs(value) < 1e9:
        raise WeightsError(f"{where}: {name} is {value!r:.40}; it must be a number other than 0")
    if name in ("r", "rank_pattern") and (value < 1 or value != int(value)):
        raise WeightsError(f"{where}: {name} is {value}; ranks are whole numbers from 1 on")
    return value


def _pattern(entries: Mapping[str, Any], name: str, where: str) -> dict[str, float]:
    pattern = entries.get(name) or {}
    if not isinstance(pattern, dict):
        raise WeightsError(f"{where}: {name} is {pattern!r:.40}; it must map names to numbers")
    for key in pattern:
        if not _LITERAL.fullmatch(key):  # an expression from a file could be made to run forever
            raise WeightsError(f"{where}: {name} has the expression {key!r:.80}; only names of layers are read there")
    return {key: _number({name: value}, name, where) for key, value in pattern.items()}


def _first_fit(pattern: Mapping[str, float], layer: str, otherwise: float) -> float:
    """PEFT's rule: a name fits a layer that is called so, or whose name ends so after a point."""
    for key, value in pattern.items():
        end = key.replace("\\.", ".").removesuffix("$")
        whole = end.startswith("^")
        end = end.removeprefix("^")
        names = (layer, layer.partition(".")[2], short_name(layer))
        if end in names or (not whole and any(name.endswith(f".{end}") for name in names)):
            return value
    return otherwise
