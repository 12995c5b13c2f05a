"""toile edit: a picture with other words, in the same layout."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from toile.errors import ToileError


def edit(
    picture: Path,
    prompt: Annotated[str, Parameter(name=["prompt", "--prompt", "-p"])],
    *,
    cross: float | None = None,
    self_: Annotated[float | None, Parameter(name="--self")] = None,
    out: Path = Path("pictures"),
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Change the words of a saved picture and keep its layout (prompt-to-prompt).

    The new picture has the seed and the settings of the old one. For a share of the steps it looks where the old one
    looks. A strip shows both.

    Args:
        picture: a PNG file saved by toile, made from words alone.
        prompt: the new words: replace some of the old ones, or add some.
        cross: for which share of the steps words act where the old ones acted, 0 to 1; less lets shapes change more.
        self_: for which share of the steps outlines stay, 0 to 1.
        out: folder for the new picture.
        model: a model folder or file; by default the one that the picture's recipe names.
        device: by default the kind the picture was made on.
        dtype: by default the one the picture was made in.
        json_output: print the result as JSON.
    """
    from PIL import Image

    from toile.add_ons import whereabouts
    from toile.cli.picture_folder import PictureFolder
    from toile.cli.replay import model_of
    from toile.data.images import open_image
    from toile.embeddings import with_embeddings
    from toile.generation.pictures import Picture, plan_pictures
    from toile.generation.reading import told_readings
    from toile.generation.request import GenerateRequest
    from toile.latent_diffusion import LatentDiffusion
    from toile.picture_recipe import read_recipe
    from toile.text.lora_tags import LoRAUse, lora_tags, without_lora_tags

    recipe = read_recipe(picture)
    if recipe.source is not None or recipe.original is not None or recipe.toward is not None:
        raise ToileError(f"{picture} began with a picture or lies between two; an edit needs one made from words alone")
    given = recipe.as_asked()
    given |= {name: value for name, value in (("edit_cross", cross), ("edit_self", self_)) if value is not None}
    given["upscale"] = recipe.settings.upscale is True  # pictures from before there were upscalers do not say
    # All LoRAs of the picture act again, so the prompts need not name them; others cannot come in.
    loras = tuple(LoRAUse(whereabouts(lora), lora.strength) for lora in recipe.loras)
    if lora_tags(prompt) not in ((), lora_tags(recipe.prompt)):
        raise ToileError("the new words name other LoRAs than the picture was made with; leave these tags out")
    words = without_lora_tags(prompt)
    request = GenerateRequest(
        (words,),
        recipe.seed,
        original=without_lora_tags(recipe.text),
        loras=loras,
        **{**given, "batch_size": 1},
    )
    folder = PictureFolder(out)
    loaded = LatentDiffusion.load(
        model or model_of(recipe, picture), device or recipe.machine.device, dtype or recipe.machine.dtype
    )
    loaded = with_embeddings(loaded, [whereabouts(file) for file in recipe.embeddings])
    for line in told_readings(loaded, request):
        print(line, file=sys.stderr)
    # It begins as the old picture did, whatever this model would choose.
    images = [replace(image, chosen_noises=recipe.chosen_noises) for image in request.images()]
    events = plan_pictures(loaded, request, images=images).make(range(1))
    [edited] = [event for event in events if isinstance(event, Picture)]
    path = folder.add(edited, on_sheet=False)
    both = [open_image(picture), Image.fromarray(edited.pixels)]
    strip = folder.write_sheet(both, [recipe.prompt, prompt], 2, "edit")
    if json_output:
        print(
            json.dumps({"path": str(path), "sheet": str(strip), "prompt": prompt, "original": recipe.prompt}, indent=2)
        )
    else:
        print(f"{path}; before and after: {strip}")
    return 0
