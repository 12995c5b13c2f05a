"""toile replay: makes a saved picture again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from toile.errors import ToileError

if TYPE_CHECKING:
    from toile.generation.replay import Replay
    from toile.picture_recipe import PictureRecipe


def replay(
    picture: Path,
    *,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    out: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Make a saved picture again, and say identical or what differs.

    The exit code is 0 if every pixel is the same, and 1 if not.

    Args:
        picture: a PNG file saved by toile.
        model: a model folder; by default the one that the picture's recipe names.
        device: by default the kind the picture was made on.
        dtype: by default the one the picture was made in.
        out: folder for the new picture; without it none is saved.
        json_output: print the result as JSON.
    """
    from toile.cli.picture_folder import PictureFolder
    from toile.generation.replay import replay as replay_picture
    from toile.latent_diffusion import LatentDiffusion
    from toile.picture_recipe import read_recipe

    recipe = read_recipe(picture)
    folder = None if out is None else PictureFolder(out)
    loaded = LatentDiffusion.load(
        model or model_of(recipe, picture), device or recipe.machine.device, dtype or recipe.machine.dtype
    )
    result = replay_picture(picture, loaded)
    saved = None if folder is None else folder.add(result.picture)
    print(_as_json(result, saved) if json_output else _as_text(result, saved))
    return 0 if result.identical else 1


def model_of(recipe: PictureRecipe, picture: Path) -> str:
    """What --model is when it is not given.

    Raises:
        ToileError: the model was never in a folder.
    """
    if recipe.model is None:
        raise ToileError(f"{picture} was made by a model that was never in a folder; name one with --model")
    return recipe.model.path


def _as_text(result: Replay, saved: Path | None) -> str:
    lines = [] if saved is None else [f"made again: {saved}"]
    if result.identical:
        lines.append(f"identical: all {result.num_pixels:,} pixels")
    elif result.different_pixels is not None:
        lines.append(
            f"differs: {result.different_pixels:,} of {result.num_pixels:,} pixels, "
            f"by at most {result.largest_difference} of 255"
        )
    else:
        lines.append("differs: in size")
    if result.circumstances:
        lines += ["what is not as it was:", *(f"  {line}" for line in result.circumstances)]
    elif not result.identical:
        lines.append("model, versions, device, precision and threads are as they were: the file itself was changed")
    return "\n".join(lines)


def _as_json(result: Replay, saved: Path | None) -> str:
    content = {
        "identical": result.identical,
        "different_pixels": result.different_pixels,
        "num_pixels": result.num_pixels,
        "largest_difference": result.largest_difference,
        "circumstances": list(result.circumstances),
        "path": None if saved is None else str(saved),
    }
    return json.dumps(content, indent=2)
