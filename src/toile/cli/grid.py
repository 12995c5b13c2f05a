"""toile grid: the same picture over the values of two settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from toile.errors import ToileError

MAX_CELLS = 1000


def grid(
    prompt: Annotated[str, Parameter(name=["--prompt", "-p"])],
    *,
    x: str,
    y: str | None = None,
    like: Path | None = None,
    seed: int | None = None,
    out: Path = Path("pictures"),
    quality: str | None = None,
    negative: str | None = None,
    embedding: list[str] | None = None,
    model: str = "fashion",
    device: str = "auto",
    dtype: str = "auto",
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Make the same picture over the values of one or two settings, and show them as a grid.

    An axis is a setting and its values, for example steps=5,10,20 or guidance=1,2,4 or sampler=ddim,unipc or
    seed=1,2,3, or any of negative, width, height, spacing, eta, guidance-rescale, hires-scale, hires-strength,
    sharpness, noise-candidates, word-weights. The axis prompt=red dress|blue dress has its values between bars; so may
    any other.

    Args:
        prompt: what the pictures should show.
        x: setting and values from left to right.
        y: setting and values from top to bottom.
        like: take all other settings, LoRAs and learned words from this picture.
        seed: of all pictures, unless it is an axis.
        out: folder for the pictures.
        quality: one of the model's sets of settings, see toile generate; also an axis.
        negative: what the pictures should not show.
        embedding: a file of learned words by name or path, which prompts may then use; may be given several times.
        model: the name of the bundled model, or a model folder or file.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        json_output: print the result as JSON.
    """
    from toile.generation.grid_axes import parse_axis

    axes = [parse_axis(text) for text in (x, y) if text is not None]
    if len(axes) == 2 and axes[0].name == axes[1].name:
        raise ToileError(f"both axes are {axes[0].name}; give two settings")
    across, down = axes[0], axes[1] if len(axes) == 2 else None
    if len(across.values) * (len(down.values) if down else 1) > MAX_CELLS:
        raise ToileError(f"the grid has more than {MAX_CELLS} pictures; give fewer values")
    from PIL import Image

    from toile.cli.like_flag import of_picture, read_likeness
    from toile.cli.picture_folder import PictureFolder
    from toile.cli.series import drawn_seed, make_series
    from toile.embeddings import with_embeddings
    from toile.generation.request import GenerateRequest
    from toile.latent_diffusion import LatentDiffusion

    likeness = None if like is None else read_likeness(like)
    chosen = quality or next((axis.values[0] for axis in axes if axis.name == "quality"), None)
    settings = {} if likeness is None else of_picture(likeness.settings, chosen)
    settings |= {} if negative is None else {"negative": negative}
    loras = () if likeness is None else likeness.loras
    base = GenerateRequest((prompt,), drawn_seed() if seed is None else seed, loras=loras, quality=quality, **settings)
    rows = [base] if down is None else [down.applied(base, value) for value in down.values]
    cells = [across.applied(row, value) for row in rows for value in across.values]
    folder = PictureFolder(out)
    loaded = with_embeddings(
        LatentDiffusion.load(model, device, dtype), embedding or (() if likeness is None else likeness.embeddings)
    )
    labels = [f"picture {number} of {len(cells)}" for number in range(1, len(cells) + 1)]
    made, paths = make_series("grid", loaded, cells, labels, folder)
    pictures = [Image.fromarray(picture.pixels) for of_cell in made for picture in of_cell]
    captions = [
        f"{across.name} {value}" + (f", {down.name} {row}" if down else "")
        for row in (down.values if down else ("",))
        for value in across.values
    ]
    sheet = folder.write_sheet(pictures, captions, len(across.values), "grid")
    if json_output:
        print(json.dumps({"pictures": paths, "captions": captions, "sheet": str(sheet), "seed": base.seed}, indent=2))
    else:
        print(f"{len(paths)} pictures in {folder.folder} (seed {base.seed}), as a grid: {sheet}")
    return 0
