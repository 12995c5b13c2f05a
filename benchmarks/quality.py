"""Scores a model: pictures for held-out captions, judged by a classifier that saw real training pictures only.

    TOILE_DATA=data python benchmarks/quality.py --model fashion --n 2000 --repeats 3

One setting for everything, by default the model's. Pictures are judged at the size of the data, not enlarged. See
toile.evaluation.quality for the protocol.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from toile.data.captions import CaptionWriter
from toile.data.images import contact_sheet, images_from_pixels, pixels_from_images
from toile.evaluation.feature_networks import ATTRIBUTES, find_judge
from toile.evaluation.features import load_evaluator
from toile.evaluation.quality import (
    QualityReport,
    divide_held_out,
    evaluate_pictures,
    measure_fidelity,
    observe_real,
)
from toile.generation.pictures import GenerateStep, Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion, load
from toile.training.pictures import DataConfig, PictureSet
from toile.weights.files import write_json_atomically

NUM_ON_SHEET = 64


def main() -> None:
    arguments = parse_arguments()
    console = Console()
    started = time.monotonic()
    model = load(arguments.model, dtype=arguments.dtype)
    data = PictureSet(DataConfig(model.defaults.width, model.defaults.height, split_seed=arguments.split_seed))
    classifier = load_evaluator(arguments.evaluator or find_judge(ATTRIBUTES), data.pixels_identity)
    division = divide_held_out(np.concatenate([data.validation, data.test]), arguments.n, arguments.seed)
    captions = tuple(CaptionWriter().full(data.records[int(position)]) for position in division.prompts)
    request = GenerateRequest(
        captions,
        seed=arguments.seed,
        quality=arguments.quality,
        steps=arguments.steps,
        guidance=arguments.guidance,
        sampler=arguments.sampler,
        batch_size=arguments.batch,
        upscale=False,
    )
    judged = make_pictures(model, request, arguments.minutes, console)
    prompts = division.prompts[: len(judged)]  # fewer when the time was over; the reference stays the same
    own, reference = data.pixels[torch.from_numpy(prompts)], data.pixels[torch.from_numpy(division.reference)]
    records = [data.records[int(position)].fields for position in prompts]
    real = observe_real(classifier, own, reference, records, arguments.seed)
    report = evaluate_pictures(classifier, real, judged)
    reports = [report]
    for repeat in range(1, arguments.repeats):  # other pictures of the same captions
        seed = arguments.seed + repeat * arguments.n
        again = make_pictures(model, replace(request, prompts=captions[: len(judged)], seed=seed), None, console)
        reports.append(evaluate_pictures(classifier, real, again))
    rebuilt = reconstruct(model, own, arguments.batch)
    rebuilt_report, fidelity = evaluate_pictures(classifier, real, rebuilt), measure_fidelity(rebuilt, own)

    title = f"{arguments.model}: {len(judged)} pictures, {len(division.reference)} in the reference, {model.dtype}"
    console.print(as_table(title, report))
    if len(reports) > 1:
        console.print(repeats_table(reports))
    heading = f"reconstructions: {fidelity.psnr_pooled:.2f} dB pooled, {fidelity.psnr_mean:.2f} dB mean of pictures"
    console.print(as_table(heading, rebuilt_report))
    arguments.out.mkdir(parents=True, exist_ok=True)
    facts = {
        "model": dataclasses.asdict(model.facts) if model.facts else None,
        "evaluator": str(arguments.evaluator or ATTRIBUTES),
        "data": data.identity,
        "settings": dataclasses.asdict(request.settings_for(model)),
        "seed": arguments.seed,
        "dtype": str(model.dtype),
        "minutes": (time.monotonic() - started) / 60,
        "generated": report.facts(),
        "repeats": [each.facts() for each in reports[1:]],
        "reconstructions": {**rebuilt_report.facts(), **dataclasses.asdict(fidelity)},
    }
    write_json_atomically(arguments.out / "quality.json", facts)
    save_sheet(arguments.out / "generated.png", judged, captions)
    save_sheet(arguments.out / "real.png", own, captions)
    save_sheet(arguments.out / "reconstructions.png", rebuilt, captions)
    console.print(f"written: {arguments.out}/quality.json, generated.png, real.png, reconstructions.png")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion", help="a model folder, or the bundled model's name")
    parser.add_argument("--evaluator", type=Path, help="folder of the attribute classifier; default: the one of toile")
    parser.add_argument("--n", type=int, default=2000, help="captions, and pictures to make of them")
    parser.add_argument("--repeats", type=int, default=1, help="so many times, each with other seeds")
    parser.add_argument("--quality", help="one of the model's sets of settings")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--guidance", type=float, help="default: the model's")
    parser.add_argument("--sampler", help="default: the model's")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="make no new batch after this time")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    return parser.parse_args()


def make_pictures(model: LatentDiffusion, request: GenerateRequest, minutes: float | None, console: Console) -> Tensor:
    """Pixels (N, H, W, 3), one picture a prompt; fewer, in whole batches, when the time is over."""
    made: list[Tensor] = []
    started = told = time.monotonic()
    batch_size = request.settings_for(model).batch_size
    for event in generate(model, request):
        now = time.monotonic()
        if isinstance(event, Picture):
            made.append(torch.from_numpy(event.pixels))
        elif (
            isinstance(event, GenerateStep)
            and minutes is not None
            and event.step == 1
            and now - started > 60 * minutes
            and made
        ):
            break
        if now - told > 60 or len(made) == len(request.prompts):
            told = now
            console.print(f"{len(made)} of {len(request.prompts)} pictures, {(now - started) / 60:.1f} min")
    seconds = time.monotonic() - started
    console.print(f"{seconds / len(made):.3f} s a picture in batches of {batch_size}")
    return torch.stack(made)


@torch.inference_mode()
def reconstruct(model: LatentDiffusion, pixels: Tensor, batch_size: int) -> Tensor:
    """Pixels (N, H, W, 3) through the autoencoder and back, in the model's dtype."""
    rebuilt = []
    for first in range(0, len(pixels), batch_size):
        images = images_from_pixels(pixels[first : first + batch_size]).to(model.device, model.dtype)
        latents = model.vae.encode_images(images.contiguous(memory_format=torch.channels_last))
        rebuilt.append(pixels_from_images(model.decode_latents(latents)).cpu())
    return torch.cat(rebuilt)


def as_table(title: str, report: QualityReport) -> Table:
    """A report for a terminal, with 95 % intervals and the range of the Frechet floor."""
    table = Table(title=title, title_justify="left")
    for column in ("", "these pictures", "real pictures", "ratio"):
        table.add_column(column)
    for row in report.rows():
        table.add_row(*row)
    return table


def repeats_table(reports: Sequence[QualityReport]) -> Table:
    """Ratios to real pictures, over all repeats."""
    table = Table(title=f"{len(reports)} times as many pictures, ratios to real ones", title_justify="left")
    for column in ("", "mean", "lowest and highest"):
        table.add_column(column)
    ratios = {name: [report.attributes[name].ratio for report in reports] for name in reports[0].attributes} | {
        "Frechet distance": [report.frechet_ratio for report in reports]
    }
    for name, values in ratios.items():
        spread = f"{min(values):.3f} to {max(values):.3f}"
        table.add_row(name.replace("_", " "), f"{statistics.mean(values):.3f}", spread)
    return table


def save_sheet(path: Path, pixels: Tensor, captions: Sequence[str]) -> None:
    """The first pictures with their captions, twice as large."""
    count = min(NUM_ON_SHEET, len(pixels))
    pictures = [Image.fromarray(picture.numpy()) for picture in pixels[:count]]
    contact_sheet(pictures, columns=8, captions=captions[:count], scale=2).save(path)


if __name__ == "__main__":
    main()
