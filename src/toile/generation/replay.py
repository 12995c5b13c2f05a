"""Making a saved picture again, and saying whether it came out the same, or why not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from toile.data.images import open_image, pixels_of
from toile.generation.memory import fits_memory
from toile.generation.pictures import Picture, remake
from toile.generation.source import read_source
from toile.latent_diffusion import LatentDiffusion
from toile.picture_recipe import PictureRecipe, read_recipe


@dataclass(frozen=True, eq=False)
class Replay:
    """A picture made again.

    Attributes:
        picture: the new one.
        different_pixels: how many pixels differ from the file; None if the sizes differ.
        num_pixels: of the picture.
        largest_difference: of any colour value, 0 to 255; None if the sizes differ.
        circumstances: what is not as it was when the picture was made: model, versions, device, precision, threads.
    """

    picture: Picture
    different_pixels: int | None
    num_pixels: int
    largest_difference: int | None
    circumstances: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether every pixel is what it was."""
        return self.different_pixels == 0


def replay(path: Path, model: LatentDiffusion) -> Replay:
    """Makes the picture in a file again: alone, and if that rounds differently, in the place in a batch it had.

    Args:
        path: a PNG saved by toile.
        model: usually the one that the recipe names; another one is a circumstance that differs.

    Raises:
        ToileError: no picture, no recipe in it, or a recipe that this model cannot follow.
    """
    recipe = read_recipe(path)
    original = pixels_of(open_image(path))
    source = read_source(path)
    picture = remake(model, recipe, source=source)
    rows = recipe.batch_rows
    if rows > 1 and not np.array_equal(picture.pixels, original) and fits_memory(model, recipe.settings, rows):
        picture = remake(model, recipe, rows, source)
    circumstances = changed_circumstances(recipe, picture.recipe)
    height, width = picture.pixels.shape[:2]
    if picture.pixels.shape != original.shape:
        changed_size = f"size: the file is {original.shape[1]}x{original.shape[0]}, its recipe makes {width}x{height}"
        return Replay(picture, None, width * height, None, (*circumstances, changed_size))
    difference = np.abs(picture.pixels.astype(np.int16) - original.astype(np.int16))
    different_pixels = int(difference.any(axis=-1).sum())
    return Replay(picture, different_pixels, width * height, int(difference.max()), circumstances)


def changed_circumstances(before: PictureRecipe, now: PictureRecipe) -> tuple[str, ...]:
    """What differs in model and machine between two recipes, as lines for people."""
    lines = []
    if before.model is None or now.model is None:
        lines.append("model: one of the two was never in a folder, so it cannot be compared")
    else:
        parts, parts_now = asdict(before.model.components), asdict(now.model.components)
        lines += [
            f"model part {name}: was {parts[name][:10] or 'none'}, now {parts_now[name][:10] or 'none'}"
            for name in parts
            if parts[name] != parts_now[name]
        ]
    for lora, lora_now in zip(before.loras, now.loras, strict=True):
        if lora.hash != lora_now.hash:
            lines.append(f"LoRA {lora.name}: was {lora.hash[:10]}, now {lora_now.hash[:10]}")
    for file, file_now in zip(before.embeddings, now.embeddings, strict=True):
        if file.hash != file_now.hash:
            lines.append(f"embedding {file.name}: was {file.hash[:10]}, now {file_now.hash[:10]}")
    machine, machine_now = asdict(before.machine), asdict(now.machine)
    changed = [name for name in machine if machine[name] != machine_now[name]]
    lines += [f"{name}: was {machine[name]}, now {machine_now[name]}" for name in changed]
    return tuple(lines)
