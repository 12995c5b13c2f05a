"""toile weigh: one word of a prompt, more and less."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from toile.errors import ToileError

if TYPE_CHECKING:
    from toile.evaluation.dose import DoseResponse

_DIGITS = 4


def weigh(
    prompt: Annotated[str, Parameter(name=["--prompt", "-p"])],
    *,
    word: str,
    from_: Annotated[float, Parameter(name="--from")] = -1.0,
    to: float = 2.0,
    stops: int = 7,
    num: Annotated[int, Parameter(name=["--num", "-n"])] = 1,
    seed: int | None = None,
    word_weights: str = "attention",
    judge: Path | None = None,
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
    """Weigh one word of a prompt more and less, and measure what it does.

    Pictures of the same seeds are made with the word at every weight from --from to --to, and at 1. The sheet has a row
    for each seed. With a judge that knows the word, its probability is told for each weight.

    Args:
        prompt: what the pictures should show.
        word: the word to weigh, or several in a row.
        from_: lowest weight; at 0 the word adds nothing itself, below 0 it takes away.
        to: highest weight.
        stops: how many weights.
        num: seeds.
        seed: of the first row; the next ones have seed + 1, seed + 2, ...
        word_weights: what the weight acts on: attention (how much the word brings) or embedding (the word's states).
        judge: folder of an attribute classifier, as toile train recipes/evaluator.toml makes it.
        out: folder for the pictures.
        quality: one of the model's sets of settings, see toile generate.
        negative: what the pictures should not show.
        steps: sampler steps.
        guidance: how strictly to follow the prompt.
        sampler: see toile generate.
        size: width x height in pixels.
        embedding: a file of learned words by name or path, which prompts may then use; may be given several times.
        model: the name of the bundled model, or a model folder.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        json_output: print the result as JSON.
    """
    from toile.text.reweigh import with_weight

    weights = weights_between(from_, to, stops)
    prompts = tuple(with_weight(prompt, word, weight) for weight in weights)

    import torch
    from PIL import Image

    from toile.cli.generate import parse_size
    from toile.cli.picture_folder import PictureFolder
    from toile.cli.series import drawn_seed, make_series
    from toile.embeddings import with_embeddings
    from toile.evaluation.dose import measure_dose
    from toile.evaluation.features import load_evaluator
    from toile.generation.request import GenerateRequest
    from toile.latent_diffusion import LatentDiffusion

    width, height = (None, None) if size is None else parse_size(size)
    request = GenerateRequest(
        prompts[:1],
        drawn_seed() if seed is None else seed,
        num,
        quality=quality,
        negative=negative,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        word_weights=word_weights,
        upscale=None if judge is None else False,  # judges look at small pictures
        classifier_guidance=None if judge is None else 0.0,  # and would see it where a weight passes 1
    )
    folder = PictureFolder(out)
    classifier = None if judge is None else load_evaluator(judge)
    loaded = with_embeddings(LatentDiffusion.load(model, device, dtype), embedding or ())
    requests = [replace(request, prompts=(text,)) for text in prompts]
    made, paths = make_series("weigh", loaded, requests, [f"weight {weight:g}" for weight in weights], folder)
    pixels = [torch.stack([torch.from_numpy(picture.pixels) for picture in of_weight]) for of_weight in made]
    rows = [Image.fromarray(of_weight[row].pixels) for row in range(num) for of_weight in made]
    captions = [f"{word}: {weight:g}" for _ in range(num) for weight in weights]
    strip = folder.write_sheet(rows, captions, len(weights), "weights")
    response = measure_dose(pixels, weights, classifier, word)
    if json_output:
        facts = {"seed": request.seed, "pictures": paths, "sheet": str(strip), **asdict(response)}
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join([*_lines(response), f"side by side (seed {request.seed}): {strip}"]))
    return 0


def weights_between(low: float, high: float, stops: int) -> tuple[float, ...]:
    """Evenly spaced weights from low to high, and 1, which all are compared with.

    Raises:
        ToileError: low is not below high, or fewer than two stops.
    """
    if not low < high or stops < 2:
        raise ToileError(f"weights from {low:g} to {high:g} in {stops} stops; give from < to and at least 2 stops")
    spaced = [round(low + (high - low) * index / (stops - 1), _DIGITS) for index in range(stops)]
    return tuple(sorted({*spaced, 1.0}))


def _lines(response: DoseResponse) -> list[str]:
    if response.label is None:
        rows = zip(response.weights, response.change, strict=True)
        return [f"weight {weight:5g}: pixels differ by {change:5.1f} of 255 from weight 1" for weight, change in rows]
    rows_judged = zip(response.weights, response.change, response.probability, response.same_type, strict=True)
    lines = [
        f"weight {weight:5g}: pixels differ by {change:5.1f} of 255 from weight 1, "
        f"P({response.label}) {probability:.2f}, same type {same:.0%}"
        for weight, change, probability, same in rows_judged
    ]
    return [*lines, f"rank correlation of weight and P({response.label}): {response.spearman:.2f}"]
