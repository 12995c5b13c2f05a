"""Measures how often pictures show what people meant, with prompts in their own words, read and as written.

    python benchmarks/people_prompts.py --model fashion --prompts tests/data/people_prompts.json --ways read real

"real" judges real held-out products that are what each prompt asks for, which is what the judge itself lets through:
TOILE_DATA names the folder of the product data.

Each prompt says what is meant: article types, colours and genders, any of which counts; colour and gender only where
the prompt names them. A picture is as meant if the judge finds all that is said. Tables are tried on
tests/data/people_prompts_development.json; tests/data/people_prompts.json is for the final figure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from toile.evaluation.attributes import Share
from toile.evaluation.features import load_evaluator, observe
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion, load
from toile.models.classifier import AttributeClassifier
from toile.training.pictures import DataConfig, PictureSet
from toile.weights.files import write_json_atomically

SAID = {"article": "article_type", "colour": "base_colour", "gender": "gender"}
FIELDS = {"article": "articleType", "colour": "baseColour", "gender": "gender"}
OTHER = "other"
READ, AS_WRITTEN, REAL = "read", "as written", "real"
JUDGE = Path(__file__).parents[1] / "src/toile/assets/judges/attributes"


def main() -> None:
    arguments = parse_arguments()
    model, judge = load(arguments.model), load_evaluator(arguments.evaluator)
    prompts = json.loads(arguments.prompts.read_text(encoding="utf-8"))
    console = Console()
    facts = {}
    for name in arguments.ways:
        if name == REAL:
            found = list(real_pictures(judge, prompts, arguments.n))
        else:
            found = list(made_pictures(model, judge, prompts, name == AS_WRITTEN, arguments))
        console.print(as_table(f"{arguments.prompts.name}, {name}", shares(prompts, found)))
        facts[name] = found
    if arguments.out is not None:
        write_json_atomically(arguments.out, facts)
        console.print(f"written: {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion", help="a model folder, or the bundled model's name")
    parser.add_argument("--evaluator", type=Path, default=JUDGE, help="folder of the attribute classifier")
    parser.add_argument("--prompts", type=Path, required=True, help="a JSON list of prompts with what is meant")
    parser.add_argument("--ways", nargs="+", default=[READ, AS_WRITTEN], choices=[READ, AS_WRITTEN, REAL])
    parser.add_argument("--n", type=int, default=4, help="pictures for each prompt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quality", help="of the model's; by default its defaults")
    parser.add_argument("--steps", type=int, help="by default the model's")
    parser.add_argument("--out", type=Path, help="a JSON file for what the judge finds on each picture")
    return parser.parse_args()


def made_pictures(
    model: LatentDiffusion,
    judge: AttributeClassifier,
    prompts: Sequence[Mapping[str, Any]],
    as_written: bool,
    arguments: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """For every picture: the number of its prompt, what it was made from, and the label of each attribute."""
    texts = tuple(entry["prompt"] for entry in prompts)
    request = GenerateRequest(
        texts,
        arguments.seed,
        arguments.n,
        quality=arguments.quality,
        steps=arguments.steps,
        as_written=as_written,
        upscale=False,
    )
    pictures = [event for event in generate(model, request) if isinstance(event, Picture)]
    pixels = torch.stack([torch.from_numpy(picture.pixels) for picture in pictures])
    for number, (picture, labels) in enumerate(zip(pictures, labels_of(judge, pixels), strict=True)):
        recipe = picture.recipe
        yield {"number": number // arguments.n, "prompt": recipe.prompt, "text": recipe.text, **labels}


def real_pictures(
    judge: AttributeClassifier, prompts: Sequence[Mapping[str, Any]], num_each: int
) -> Iterator[dict[str, Any]]:
    """The same for held-out products that are what a prompt means, the first ones; some prompts have fewer, or none."""
    pictures = PictureSet(DataConfig(64, 80))
    held_out = np.sort(np.concatenate([pictures.validation, pictures.test])).tolist()
    for number, meant in enumerate(prompts):
        fits = [place for place in held_out if is_meant(pictures.records[place].fields, meant)][:num_each]
        if fits:
            for labels in labels_of(judge, pictures.pixels[fits]):
                yield {"number": number, "prompt": meant["prompt"], **labels}


def is_meant(fields: Mapping[str, str], meant: Mapping[str, Any]) -> bool:
    """Whether a product with these fields is what a prompt means."""
    return all(fields.get(FIELDS[name]) in meant[name] for name in SAID if name in meant)


def labels_of(judge: AttributeClassifier, pixels: torch.Tensor) -> Iterator[dict[str, str]]:
    """What the judge finds on each of N pictures (N, H, W, 3) uint8."""
    predictions = observe(judge, pixels).predictions
    for number in range(len(pixels)):
        yield {
            said: (*judge.config.labels.of(attribute), OTHER)[int(predictions[attribute][number])]
            for said, attribute in SAID.items()
        }


def shares(prompts: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> dict[str, Share]:
    """Of the pictures whose prompts say it, how many show it; "all": everything that is said."""
    hits: dict[str, list[bool]] = {name: [] for name in (*SAID, "all")}
    for labels in found:
        meant = prompts[labels["number"]]
        right = {name: labels[name] in meant[name] for name in SAID if name in meant}
        for name, is_right in right.items():
            hits[name].append(is_right)
        hits["all"].append(all(right.values()))
    return {name: Share(sum(values), len(values)) for name, values in hits.items() if values}


def as_table(title: str, measured: Mapping[str, Share]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("as meant", "pictures", "share", "95 % interval"):
        table.add_column(column)
    for name, share in measured.items():
        low, high = share.interval
        table.add_row(name, f"{share.num_right} of {share.num_total}", f"{share.value:.1%}", f"{low:.1%} to {high:.1%}")
    return table


if __name__ == "__main__":
    main()
