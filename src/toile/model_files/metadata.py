"""What our own single files say in their metadata: configs, noise schedule, tokenizer, settings, as one JSON object.

Tensors alone do not tell the number of heads, the groups of a norm, the scale of latents, or the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from toile.diffusion.schedule import ScheduleConfig
from toile.generation_settings import ModelSettings
from toile.model_files.parts import CONFIG_CLASSES, ModelParts
from toile.models.clip import CLIPTextConfig
from toile.models.unet import UNetConfig
from toile.models.vae import VAEConfig
from toile.schema import build_config
from toile.text.tokenizer import SpecialTokens, Tokenizer
from toile.weights.files import WeightsError, parse_json
from toile.weights.neutral_values import foreign_entries, without_neutral

_VERSION = 1


@dataclass(frozen=True)
class Described:
    """A model but for its tensors; the attributes are those of `ModelParts`."""

    unet: UNetConfig
    vae: VAEConfig
    text_encoder: CLIPTextConfig
    schedule: ScheduleConfig
    tokenizer: Tokenizer | None
    settings: ModelSettings | None
    foreign: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()


def encode_metadata(parts: ModelParts) -> str:
    """All of a model but its tensors, as JSON text."""
    configs = {
        "unet": asdict(parts.unet),
        "vae": asdict(parts.vae),
        "text_encoder": asdict(parts.text_encoder),
    }
    content = {
        "version": _VERSION,
        **{name: {**parts.foreign.get(name, {}), **config} for name, config in configs.items()},
        "schedule": asdict(parts.schedule),
        "settings": None if parts.settings is None else parts.settings.as_json(),
        "tokenizer": None if parts.tokenizer is None else _tokenizer_entry(parts.tokenizer),
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def decode_metadata(text: str, where: str) -> Described:
    """The inverse of `encode_metadata`, as strict as reading the files of a folder.

    Raises:
        ToileError: an entry is missing, unknown, or of a wrong type or value.
    """
    content = parse_json(text.encode("utf-8", errors="replace"), where)
    expected = {"version", *CONFIG_CLASSES, "schedule", "settings", "tokenizer"}
    if content.get("version") != _VERSION or set(content) != expected:
        raise WeightsError(f"{where}: must have {', '.join(sorted(expected))}, version {_VERSION}; a newer file?")
    for name in expected - {"version"}:
        if not isinstance(content[name], dict) and not (name in ("settings", "tokenizer") and content[name] is None):
            raise WeightsError(f"{where}: {name} must be an object, got {content[name]!r:.80}")
    settings, tokenizer = content["settings"], content["tokenizer"]
    return Described(
        _config(UNetConfig, content["unet"], f"{where}: unet"),
        _config(VAEConfig, content["vae"], f"{where}: vae"),
        _config(CLIPTextConfig, content["text_encoder"], f"{where}: text_encoder"),
        build_config(ScheduleConfig, content["schedule"], f"{where}: schedule"),
        None if tokenizer is None else _tokenizer(tokenizer, f"{where}: tokenizer"),
        None if settings is None else ModelSettings.from_json(settings, f"{where}: settings"),
        {name: foreign_entries(config_class, content[name]) for name, config_class in CONFIG_CLASSES.items()},
    )


def _config(config_class: type[Any], entries: Mapping[str, Any], where: str) -> Any:
    return build_config(config_class, without_neutral(config_class, entries, where), where)


def _tokenizer_entry(tokenizer: Tokenizer) -> dict[str, Any]:
    special = asdict(tokenizer.special)
    return {
        "vocab": tokenizer.vocab,
        "merges": [f"{first} {second}" for first, second in tokenizer.merges],
        "max_length": tokenizer.max_length,
        **{key: value if isinstance(value, str) else sorted(value) for key, value in special.items()},
    }


def _tokenizer(entry: Mapping[str, Any], where: str) -> Tokenizer:
    vocab, merges, length, lowercased = (entry.get(key) for key in ("vocab", "merges", "max_length", "lowercased"))
    names = {key: entry.get(key) for key in ("start", "end", "pad", "unknown")}
    pairs = [tuple(str(merge).split(" ")) for merge in merges] if isinstance(merges, list) else [()]
    sound = (
        isinstance(vocab, dict)
        and all(type(number) is int and 0 <= number < 2**31 for number in vocab.values())
        and all(len(pair) == 2 for pair in pairs)
        and type(length) is int
        and length <= 2**16
        and isinstance(lowercased, list)
        and all(isinstance(name, str) for name in [*names.values(), *lowercased])
        and set(entry) == {"vocab", "merges", "max_length", "lowercased", *names}
    )
    if not sound:
        raise WeightsError(f"{where} must have vocab, merges, max_length, lowercased, {', '.join(names)}")
    special = SpecialTokens(**names, lowercased=frozenset(lowercased))  # type: ignore[arg-type]
    return Tokenizer(vocab, pairs, length, special)  # type: ignore[arg-type]
