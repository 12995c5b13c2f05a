"""A picture that somebody drops on the page: what it says of how it was made, by whichever program."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from toile.diffusion.samplers import find_sampler
from toile.errors import ToileError
from toile.foreign_recipe import read_foreign_recipe
from toile.generation.source import IMAGE_TEXT, MASK_TEXT, read_source
from toile.picture_recipe import CHUNK, PictureRecipe, read_recipe, read_texts
from toile.text.lora_tags import lora_tags
from toile.web.jobs.limits import FILE_FORMATS, Limits
from toile.web.jobs.shelf import ServedModel
from toile.web.page.bodies import SETTINGS, file_of


def dropped_facts(
    content: bytes, models: Iterable[ServedModel], loras: Iterable[str], limits: Limits
) -> dict[str, Any]:
    """How a picture was made, in the words of `JobBody`, and what could not be taken over.

    Args:
        content: a PNG, JPEG or WebP file; it is looked at by its content, and kept nowhere.
        models, loras: those that are served.
        limits: how large it may be.

    Raises:
        ToileError: no such picture, or it does not say how it was made.
    """
    _check(content, limits)
    with tempfile.TemporaryDirectory(prefix="toile-") as folder:
        path = Path(folder) / "picture"
        path.write_bytes(content)
        try:
            if CHUNK in read_texts(path):
                return _own(path, {model.name: model for model in models}, set(loras), limits)
            return _foreign(path)
        except ToileError as error:
            raise ToileError(str(error).replace(str(path), "the picture")) from error


def _check(content: bytes, limits: Limits) -> None:
    try:
        with Image.open(io.BytesIO(content), formats=FILE_FORMATS) as image:
            width, height = image.size
    except Exception as error:  # decoders raise all kinds on files made to hurt them
        raise ToileError("this is no picture that can be read; allowed: PNG, JPEG and WebP files") from error
    if width * height > limits.image_pixels:
        raise ToileError(f"the picture is {width}x{height}; allowed here: up to {limits.image_pixels:,} pixels")


def _own(path: Path, models: dict[str, ServedModel], loras: set[str], limits: Limits) -> dict[str, Any]:
    recipe = read_recipe(path)
    asked = recipe.as_asked()
    settings = {name: asked[name] for name in SETTINGS}
    notes = []
    model = None if recipe.model is None else recipe.model.name
    if model not in models:
        notes.append(f"it was made by the model {model or 'without a name'}, which is not served here")
        model = None
    found: list[dict[str, Any]] = []
    strange: list[dict[str, Any]] = []
    for lora in recipe.loras[: len(recipe.loras) - len(lora_tags(recipe.prompt))]:
        (found if lora.name in loras else strange).append({"name": lora.name, "strength": lora.strength})
    notes += [f"the LoRA {lora['name']} is not served here" for lora in strange]
    notes += [f"the learned words {file.name} are not served here" for file in recipe.embeddings]
    if recipe.original is not None:
        notes.append("it was an edit of another picture, whose layout is not taken over")
    usual = vars(models[model].settings.defaults) if model else {}
    return {
        "program": "toile",
        "model": model,
        "prompt": recipe.prompt,
        "negative": recipe.settings.negative,
        "seed": str(recipe.seed),
        "settings": {
            name: value
            for name, value in settings.items()
            if value is not None and (name in _ALWAYS or value != usual.get(name))
        },
        "loras": found,
        "toward": _toward(recipe),
        "as_written": recipe.reading is None,  # the tables of words may have changed since
        "notes": notes,
        **_beginning(path, limits),
    }


# What a person looks for on the page, whether it is the default or not.
_ALWAYS = ("width", "height", "steps", "guidance", "sampler", "strength")


def _toward(recipe: PictureRecipe) -> dict[str, Any] | None:
    if recipe.toward is None:
        return None
    return {"prompt": recipe.toward.prompt, "seed": str(recipe.toward.seed), "share": recipe.toward.share}


def _beginning(path: Path, limits: Limits) -> dict[str, str | None]:
    """The picture and the mask that it began with, which it carries: files of their own, to be looked at like any."""
    texts = read_texts(path)
    for name in (IMAGE_TEXT, MASK_TEXT):
        if (content := file_of(name, texts.get(name))) is not None:
            _check(content, limits)
    read_source(path)
    return {"image": texts.get(IMAGE_TEXT), "mask": texts.get(MASK_TEXT)}


def _foreign(path: Path) -> dict[str, Any]:
    foreign = read_foreign_recipe(path)
    notes = [f"it was made by {foreign.program}: the picture will be a relative of it, not a copy"]
    notes += [f"not used: {entry}" for entry in foreign.unused]
    settings = {name: value for name, value in foreign.settings.items() if name in SETTINGS}
    if "sampler" in settings:
        sampler = find_sampler(settings["sampler"])
        settings |= {"sampler": sampler.name} | ({} if sampler.spacing is None else {"spacing": sampler.spacing})
    return {
        "program": foreign.program,
        "model": None,
        "prompt": foreign.prompt,
        "negative": foreign.negative,
        "seed": None if foreign.seed is None else str(foreign.seed),
        "settings": settings,
        "loras": [],
        "toward": None,
        "as_written": False,
        "notes": notes,
        "image": None,
        "mask": None,
    }
