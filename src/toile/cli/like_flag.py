"""The flag that takes settings from a picture: one made by toile, or by another program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toile.add_ons import whereabouts
from toile.errors import ToileError
from toile.foreign_recipe import read_foreign_recipe
from toile.generation_settings import QUALITY_SETTINGS
from toile.picture_recipe import CHUNK, read_recipe, read_texts
from toile.text.lora_tags import LoRAUse, lora_tags

_NOT_OF_A_PICTURE = {"batch_size", "vae_bands"}


@dataclass(frozen=True)
class Likeness:
    """What a picture says of how it was made.

    Attributes:
        prompt: its words.
        seed: None if it does not say.
        settings: fields of `GenerateRequest` by name.
        notes: what could not be used, a sentence each.
        loras: that acted on it, besides those that the prompt names.
        embeddings: files of learned words that it had.
    """

    prompt: str
    seed: int | None
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    loras: tuple[LoRAUse, ...] = ()
    embeddings: tuple[str, ...] = ()


def read_likeness(path: Path) -> Likeness:
    """Reads a picture's recipe, whoever wrote it.

    Raises:
        ToileError: no picture, or none that says how it was made.
    """
    if CHUNK in read_texts(path):
        recipe = read_recipe(path)
        settings = {name: value for name, value in recipe.as_asked().items() if name not in _NOT_OF_A_PICTURE}
        named = len(lora_tags(recipe.prompt))
        others = recipe.loras[: len(recipe.loras) - named]
        loras = tuple(LoRAUse(lora.path, lora.strength) for lora in others)
        files = tuple(whereabouts(file) for file in recipe.embeddings)
        return Likeness(recipe.prompt, recipe.seed, settings, loras=loras, embeddings=files)
    foreign = read_foreign_recipe(path)
    notes = [f"{path.name} was made by {foreign.program}: the picture will be a relative of it, not a copy"]
    notes += [f"not used: {entry}" for entry in foreign.unused]
    settings = {**foreign.settings, "negative": foreign.negative or None}
    return Likeness(foreign.prompt, foreign.seed, settings, tuple(notes))


def fill_in(given: Mapping[str, Any], likeness: Likeness | None, quality: str | None = None) -> dict[str, Any]:
    """The settings that were typed, and those of the likeness for what was not, but for those that a quality sets."""
    if likeness is None:
        return dict(given)
    unknown = set(likeness.settings) - set(given)
    if unknown:
        raise ToileError(f"a picture's settings {', '.join(sorted(unknown))} have no flag")
    of_likeness = of_picture(likeness.settings, quality)
    return {name: of_likeness.get(name) if value is None else value for name, value in given.items()}


def of_picture(settings: Mapping[str, Any], quality: str | None) -> dict[str, Any]:
    """The settings of a picture that are taken over: those that a quality sets not where one was typed."""
    left_open = () if quality is None else QUALITY_SETTINGS
    return {name: value for name, value in settings.items() if name not in left_open}
