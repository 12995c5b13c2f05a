"""Measures what editing keeps and what it changes: 48 edits, judged by a classifier, for several injection shares.

    TOILE_DATA=data python benchmarks/editing.py --model fashion --evaluator runs/evaluator/model/classifier

For each kind of edit: how much the silhouettes of the original and of the edited picture overlap, how much pixels
differ beside the article, and how probable the judge finds what was asked for. Shares of 0 are the plain way: the new
prompt from the same seed.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from toile.data.images import images_from_pixels
from toile.evaluation.dose import label_of
from toile.evaluation.features import load_evaluator
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.generation.word_maps import map_of
from toile.latent_diffusion import LatentDiffusion, load
from toile.models.classifier import AttributeClassifier
from toile.text.rows import tokenize_prompt
from toile.weights.files import write_json_atomically

WHITE_LEVEL = 240  # a pixel belongs to the silhouette if one of its colours is below


class Edit(NamedTuple):
    """A change of a prompt: the article it is about, the word the judge looks for, and whether it is to be there."""

    kind: str
    original: str
    edited: str
    article: str
    word: str
    wanted: bool = True


COLOURS = (
    ("red", "blue", "{} shirt for men", "shirt"),
    ("blue", "red", "{} t-shirt for men", "t-shirt"),
    ("green", "pink", "{} t-shirt for women", "t-shirt"),
    ("pink", "black", "{} top for women", "top"),
    ("black", "red", "{} handbag for women", "handbag"),
    ("brown", "black", "{} leather belt for men", "belt"),
    ("black", "brown", "{} casual shoes for men", "shoes"),
    ("purple", "green", "{} kurta for women", "kurta"),
    ("yellow", "blue", "{} t-shirt for men", "t-shirt"),
    ("grey", "red", "{} sweatshirt for men", "sweatshirt"),
    ("red", "purple", "{} dress for women", "dress"),
    ("green", "orange", "{} backpack", "backpack"),
)
ARTICLES = (
    ("shirt", "t-shirt", "Tshirt", "red {} for men"),
    ("t-shirt", "shirt", "Shirt", "blue {} for men"),
    ("top", "kurta", "Kurta", "pink {} for women"),
    ("dress", "kurta", "Kurta", "red {} for women"),
    ("kurta", "dress", "Dresses", "purple {} for women"),
    ("heels", "sandals", "Sandals", "black {} for women"),
    ("casual shoes", "sports shoes", "Sports Shoes", "black {} for men"),
    ("jeans", "trousers", "Trousers", "blue {} for men"),
    ("trousers", "jeans", "Jeans", "black {} for men"),
    ("handbag", "backpack", "Backpack", "brown {}"),
    ("watch", "belt", "Belt", "black {} for men"),
    ("sandals", "flip flops", "Flip Flops", "brown {} for men"),
)
ADDED = tuple((new, pattern, article) for _, new, pattern, article in COLOURS)
LOWERED_WEIGHT = 0.0
SHARES = ((0.0, 0.0), (0.4, 0.2), (0.8, 0.2), (0.8, 0.4), (0.8, 0.8))


def all_edits() -> tuple[Edit, ...]:
    """Twelve of each kind: colour or article replaced, a colour added, a colour weighed down."""
    return (
        *(Edit("colour", of.format(old), of.format(new), article, new) for old, new, of, article in COLOURS),
        *(Edit("article", of.format(old), of.format(new), old, label) for old, new, label, of in ARTICLES),
        *(Edit("added word", of.replace("{} ", ""), of.format(new), article, new) for new, of, article in ADDED),
        *(
            Edit("weight 0", of.format(old), of.format(f"({old}:{LOWERED_WEIGHT:g})"), article, old, wanted=False)
            for old, _, of, article in COLOURS
        ),
    )


@dataclass(frozen=True)
class Kept:
    """What edits of one kind did with one pair of shares, means over all pictures.

    Attributes:
        kind: of the edits.
        cross, self: the shares.
        num: pictures.
        overlap: intersection over union of the two silhouettes, 0 to 1.
        difference: of pixels beside the article, 0 to 255.
        happened: the judge's probability of what was asked for, 0 to 1.
    """

    kind: str
    cross: float
    self: float
    num: int
    overlap: float
    difference: float
    happened: float


def main() -> None:
    arguments = parse_arguments()
    model, classifier = load(arguments.model), load_evaluator(arguments.evaluator)
    console = Console()
    edits = all_edits()
    originals = [make_original(model, edit, arguments) for edit in edits]
    results = []
    for shares in SHARES:
        made = [make_edit(model, edit, shares, arguments) for edit in edits]
        for kind in dict.fromkeys(edit.kind for edit in edits):
            of_kind = [number for number, edit in enumerate(edits) if edit.kind == kind]
            measured = torch.cat([measure(edits[n], *originals[n], made[n], classifier) for n in of_kind])
            results.append(Kept(kind, *shares, len(measured), *measured.mean(0).tolist()))
        console.print(as_table(results[-4:]))
    if arguments.out is not None:
        write_json_atomically(arguments.out, [asdict(result) for result in results])
        console.print(f"written: {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion", help="a model folder or file, or the bundled model's name")
    parser.add_argument("--evaluator", type=Path, required=True, help="folder of the attribute classifier")
    parser.add_argument("--n", type=int, default=4, help="seeds of each edit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, help="a JSON file for all the numbers")
    return parser.parse_args()


def make_original(model: LatentDiffusion, edit: Edit, arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Pictures (N, H, W, 3) uint8 of the original prompt, and (N, H, W) bool: where their article draws attention."""
    request = GenerateRequest((edit.original,), maps=True, **common(arguments))
    pictures = [event for event in generate(model, request) if isinstance(event, Picture)]
    pixels = torch.stack([torch.from_numpy(picture.pixels) for picture in pictures])
    tokens = tokenize_prompt(model.tokenizer, edit.original)
    maps = torch.stack([map_of(picture.maps, tokens, edit.article) for picture in pictures if picture.maps is not None])
    maps = F.interpolate(maps[:, None], pixels.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
    return pixels, maps > maps.mean((1, 2), keepdim=True)


def make_edit(model: LatentDiffusion, edit: Edit, shares: tuple[float, float], arguments: argparse.Namespace) -> Tensor:
    """Pictures (N, H, W, 3) uint8 of the edited prompt, led by the original ones."""
    cross, self_ = shares
    request = GenerateRequest(
        (edit.edited,), original=edit.original, edit_cross=cross, edit_self=self_, **common(arguments)
    )
    pictures = [event for event in generate(model, request) if isinstance(event, Picture)]
    return torch.stack([torch.from_numpy(picture.pixels) for picture in pictures])


def common(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "seed": arguments.seed,
        "num_images": arguments.n,
        "steps": arguments.steps,
        "word_weights": "attention",
        "batch_size": arguments.n,
        "upscale": False,
    }


@torch.inference_mode()
def measure(edit: Edit, original: Tensor, article: Tensor, edited: Tensor, classifier: AttributeClassifier) -> Tensor:
    """(N, 3): overlap of silhouettes, difference of pixels beside the article, probability of what was asked for."""
    before, after = (pixels.amin(-1) < WHITE_LEVEL for pixels in (original, edited))
    overlap = (before & after).sum((1, 2)) / (before | after).sum((1, 2)).clamp_min(1)
    difference = (original.float() - edited.float()).abs().mean(-1)
    beside = (difference * ~article).sum((1, 2)) / (~article).sum((1, 2)).clamp_min(1)
    named = label_of(classifier, edit.word)
    if named is None:
        raise SystemExit(f"the judge does not know {edit.word!r}")
    attribute, label = named
    index = classifier.config.labels.of(attribute).index(label)
    probability = classifier(images_from_pixels(edited))[attribute].float().softmax(-1)[:, index]
    return torch.stack([overlap, beside, probability if edit.wanted else 1 - probability], dim=1)


def as_table(results: list[Kept]) -> Table:
    first = results[0]
    title = f"cross {first.cross:g}, self {first.self:g}: {first.num} pictures of each kind"
    table = Table(title=title, title_justify="left")
    for column in ("edit", "overlap of silhouettes", "difference beside the article", "P of what was asked for"):
        table.add_column(column)
    for result in results:
        table.add_row(result.kind, f"{result.overlap:.3f}", f"{result.difference:.1f}", f"{result.happened:.2f}")
    return table


if __name__ == "__main__":
    main()
