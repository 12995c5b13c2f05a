"""Measures what the weight of a colour word does: 20 prompts, weights from -1 to 2, judged by a classifier.

    TOILE_DATA=data python benchmarks/word_weights.py --model fashion --evaluator runs/evaluator/model/classifier

For each prompt: the rank correlation of weight and of the judge's probability of the colour, mean over seeds, and the
share of pictures of which the judge names the same article type as at weight 1.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from toile.evaluation.dose import DoseResponse, measure_dose
from toile.evaluation.features import load_evaluator
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion, load
from toile.text.reweigh import with_weight
from toile.text.word_weights import WORD_WEIGHTS
from toile.weights.files import write_json_atomically

PROMPTS = (
    ("red", "red shirt for men"),
    ("blue", "blue t-shirt for men"),
    ("green", "green t-shirt for women"),
    ("pink", "pink top for women"),
    ("black", "black handbag for women"),
    ("brown", "brown leather belt for men"),
    ("white", "white sports shoes for men"),
    ("purple", "purple kurta for women"),
    ("yellow", "yellow t-shirt for men"),
    ("grey", "grey sweatshirt for men"),
    ("red", "red dress for women"),
    ("blue", "blue jeans for men"),
    ("green", "green backpack"),
    ("pink", "pink flats for women"),
    ("black", "black casual shoes for men"),
    ("brown", "brown sandals for men"),
    ("white", "white shirt for women"),
    ("orange", "orange t-shirt for men"),
    ("beige", "beige trousers for men"),
    ("red", "red heels for women"),
)
WEIGHTS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


def main() -> None:
    arguments = parse_arguments()
    model, classifier = load(arguments.model), load_evaluator(arguments.evaluator)
    console = Console()
    facts: dict[str, list[dict[str, object]]] = {}
    for meaning in arguments.meanings:
        responses = []
        for word, prompt in PROMPTS:
            pictures = [make(model, with_weight(prompt, word, weight), meaning, arguments) for weight in WEIGHTS]
            responses.append(measure_dose(pictures, WEIGHTS, classifier, word))
        facts[meaning] = [dataclasses.asdict(response) for response in responses]
        console.print(as_table(meaning, responses))
    if arguments.out is not None:
        write_json_atomically(arguments.out, facts)
        console.print(f"written: {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion", help="a model folder or file, or the bundled model's name")
    parser.add_argument("--evaluator", type=Path, required=True, help="folder of the attribute classifier")
    parser.add_argument("--meanings", nargs="*", choices=WORD_WEIGHTS, default=list(WORD_WEIGHTS))
    parser.add_argument("--n", type=int, default=8, help="seeds of each prompt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, help="a JSON file for all the numbers")
    return parser.parse_args()


def make(model: LatentDiffusion, prompt: str, meaning: str, arguments: argparse.Namespace) -> torch.Tensor:
    request = GenerateRequest(
        (prompt,),
        arguments.seed,
        arguments.n,
        steps=arguments.steps,
        word_weights=meaning,
        batch_size=arguments.n,
        upscale=False,
    )
    pictures = [event.pixels for event in generate(model, request) if isinstance(event, Picture)]
    return torch.stack([torch.from_numpy(pixels) for pixels in pictures])


def as_table(meaning: str, responses: list[DoseResponse]) -> Table:
    correlations = [response.spearman for response in responses if response.spearman is not None]
    mean = sum(correlations) / len(correlations)
    same = sum(sum(response.same_type) / len(response.same_type) for response in responses) / len(responses)
    table = Table(
        title=f"{meaning}: mean rank correlation {mean:.2f}, same article type {same:.0%}", title_justify="left"
    )
    for column in ("prompt", "rank correlation", *(f"P at {weight:g}" for weight in WEIGHTS), "same type"):
        table.add_column(column)
    for (_, prompt), response in zip(PROMPTS, responses, strict=True):
        spearman = "-" if response.spearman is None else f"{response.spearman:.2f}"
        same_type = sum(response.same_type) / max(1, len(response.same_type))
        table.add_row(prompt, spearman, *(f"{p:.2f}" for p in response.probability), f"{same_type:.0%}")
    return table


if __name__ == "__main__":
    main()
