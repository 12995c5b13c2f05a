"""The same held-out captions made with several settings and judged: what a setting gains, or costs, pair by pair."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from toile.data.captions import CaptionWriter
from toile.evaluation.attributes import Share, wanted_labels
from toile.evaluation.features import load_evaluator, observe
from toile.evaluation.quality import divide_held_out
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import load
from toile.models.classifier import ARTICLE_TYPE, MISSING
from toile.training.pictures import DataConfig, PictureSet
from toile.weights.files import write_json_atomically

JUDGED = (ARTICLE_TYPE, "base_colour")
NUM_RESAMPLES = 10_000
Settings = Mapping[str, Mapping[str, Any]]  # name -> fields of `GenerateRequest`


@dataclass(frozen=True)
class Comparison:
    """One setting beside the first one, on the same captions and seeds.

    Attributes:
        setting: its name.
        shares: attribute -> of the pictures that show it, among those whose caption's product has a label.
        gains: attribute -> that share less the first setting's, with the 95 % interval of a paired bootstrap.
        difference: mean absolute difference of pixels from the first setting's, in levels of 255.
    """

    setting: str
    shares: Mapping[str, Share]
    gains: Mapping[str, tuple[float, float, float]]
    difference: float


def main(description: str | None, settings_of: Callable[[argparse.Namespace], Settings]) -> None:
    """A benchmark's main: compares its settings as the command line says, prints the table, writes the numbers."""
    arguments = parse_arguments(description)
    console = Console()
    comparisons = compare(settings_of(arguments), arguments)
    console.print(as_table(f"{arguments.n} captions, {arguments.steps} steps", comparisons))
    if arguments.out is not None:
        write_json_atomically(arguments.out, [asdict(comparison) for comparison in comparisons])
        console.print(f"written: {arguments.out}")


def parse_arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion", help="a model folder or file, or the bundled model's name")
    parser.add_argument("--evaluator", type=Path, required=True, help="folder of the attribute classifier")
    parser.add_argument("--n", type=int, default=400, help="held-out captions, a picture each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--out", type=Path, help="a JSON file for all the numbers")
    return parser.parse_args()


def compare(settings: Settings, arguments: argparse.Namespace) -> list[Comparison]:
    """Makes and judges all pictures with each of the settings.

    Args:
        settings: name -> fields of `GenerateRequest`; the first is what the others are compared with.
        arguments: of `parse_arguments`.
    """
    model = load(arguments.model)
    data = PictureSet(DataConfig(model.defaults.width, model.defaults.height))
    classifier = load_evaluator(arguments.evaluator, data.pixels_identity)
    held_out = np.concatenate([data.validation, data.test])
    records = [data.records[int(n)] for n in divide_held_out(held_out, arguments.n, arguments.seed).prompts]
    captions = tuple(CaptionWriter().full(record) for record in records)
    wanted = wanted_labels(classifier.config.labels, [record.fields for record in records])
    known = {attribute: wanted[attribute] != MISSING for attribute in JUDGED}
    request = GenerateRequest(
        captions, arguments.seed, steps=arguments.steps, batch_size=arguments.batch, upscale=False
    )
    comparisons: list[Comparison] = []
    first: tuple[Tensor, dict[str, Tensor]] | None = None
    for name, fields in settings.items():
        events = generate(model, replace(request, **fields))
        pictures = torch.stack([torch.from_numpy(event.pixels) for event in events if isinstance(event, Picture)])
        found = observe(classifier, pictures).predictions
        right = {attribute: (found[attribute] == wanted[attribute])[known[attribute]] for attribute in JUDGED}
        first = first or (pictures, right)
        comparisons.append(
            Comparison(
                name,
                {attribute: Share(int(hits.sum()), len(hits)) for attribute, hits in right.items()},
                {attribute: gain(hits, first[1][attribute], arguments.seed) for attribute, hits in right.items()},
                float((pictures.float() - first[0].float()).abs().mean()),
            )
        )
    return comparisons


def gain(right: Tensor, right_first: Tensor, seed: int) -> tuple[float, float, float]:
    """Hits (N,) bool less those of the first setting: mean, and both ends of the 95 % interval."""
    change = right.double().numpy() - right_first.double().numpy()
    drawn = np.random.default_rng(seed).integers(0, len(change), (NUM_RESAMPLES, len(change)))
    low, high = np.quantile(change[drawn].mean(1), [0.025, 0.975])
    return float(change.mean()), float(low), float(high)


def as_table(title: str, comparisons: Sequence[Comparison]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("", "pixels", *(what for attribute in JUDGED for what in (attribute, "gain in points"))):
        table.add_column(column)
    for comparison in comparisons:
        cells = []
        for attribute in JUDGED:
            share, (mean, low, high) = comparison.shares[attribute], comparison.gains[attribute]
            cells.append(f"{share.value:.1%} ({share.interval[0]:.1%} to {share.interval[1]:.1%})")
            is_first = comparison is comparisons[0]
            cells.append("" if is_first else f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
        table.add_row(comparison.setting, f"{comparison.difference:.1f}", *cells)
    return table
