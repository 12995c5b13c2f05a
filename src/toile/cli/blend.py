"""toile blend: pictures on the way from one prompt, or seed, to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from toile.errors import ToileError

MAX_FRAMES = 1000


def blend(
    first: str,
    second: str | None = None,
    *,
    frames: int = 7,
    seed: int | None = None,
    to_seed: int | None = None,
    out: Path = Path("pictures"),
    quality: str | None = None,
    negative: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    size: str | None = None,
    embedding: list[str] | None = None,
    model: str = "fashion",
    device: str = "auto",
    dtype: str = "auto",
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Go from one prompt, or one seed, to another, and show the pictures on the way.

    The first frame is the picture of the first prompt and seed, the last that of the second ones. Between them words
    are mixed in proportion and noise turns from one to the other. Each frame is a PNG with its recipe; a strip shows
    all of them.

    Args:
        first: what the first picture shows.
        second: what the last one shows; left out, the same, and only the seed changes.
        frames: pictures, the two ends among them.
        seed: of the first picture.
        to_seed: of the last one; left out, the first one's when there is a second prompt.
        out: folder for the pictures.
        quality: one of the model's sets of settings, see toile generate.
        negative: what the pictures should not show.
        steps: sampler steps.
        guidance: how strictly to follow the prompt.
        sampler: see toile generate.
        size: width x height in pixels.
        embedding: a file of learned words by name or path, which prompts may then use; may be given several times.
        model: the name of the bundled model, or a model folder or file.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        json_output: print the result as JSON.
    """
    if not 2 <= frames <= MAX_FRAMES:
        raise ToileError(f"frames is {frames}; allowed: 2 to {MAX_FRAMES}")
    if second is None and to_seed is None:
        raise ToileError("give a second prompt, or --to-seed N, or both: otherwise all frames are the same")
    from PIL import Image

    from toile.cli.generate import parse_size
    from toile.cli.picture_folder import PictureFolder
    from toile.cli.series import drawn_seed, make_series
    from toile.embeddings import with_embeddings
    from toile.generation.request import GenerateRequest
    from toile.latent_diffusion import LatentDiffusion
    from toile.picture_recipe import Toward

    width, height = (None, None) if size is None else parse_size(size)
    own_seed = drawn_seed() if seed is None else seed
    other_seed = own_seed if to_seed is None else to_seed
    requests = [
        GenerateRequest(
            (first,),
            own_seed,
            toward=Toward(first if second is None else second, other_seed, frame / (frames - 1)),
            quality=quality,
            negative=negative,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            sampler=sampler,
        )
        for frame in range(frames)
    ]
    folder = PictureFolder(out)
    loaded = with_embeddings(LatentDiffusion.load(model, device, dtype), embedding or ())
    labels = [f"frame {number} of {frames}" for number in range(1, frames + 1)]
    made, paths = make_series("blend", loaded, requests, labels, folder)
    pictures = [Image.fromarray(picture.pixels) for of_frame in made for picture in of_frame]
    captions = [first, *[""] * (frames - 2), second or f"seed {other_seed}"]
    strip = folder.write_sheet(pictures, captions, frames, "blend")
    if json_output:
        print(json.dumps({"pictures": paths, "sheet": str(strip), "seed": own_seed, "to_seed": other_seed}, indent=2))
    else:
        print(f"{frames} pictures in {folder.folder} (seed {own_seed} to {other_seed}), side by side: {strip}")
    return 0
