"""What noise leaves of a picture, and what freedom it gives: Gaussian noise, salt and pepper, and image-to-image.

    TOILE_DATA=data python benchmarks/noise_lab.py --evaluator runs/evaluator/model/classifier

First, held-out pictures with both kinds of noise, matched in mean squared error and not clamped: PSNR, and how often
the judge still names the article type, on the noisy picture and after a median filter and a Gaussian blur (3x3 both).
Second, the model draws over held-out pictures with the words of another article: for each strength how much pixels
change, how often the judge still sees the article of the start, and how often that of the words. 95 % intervals are
Wilson's. Writes a figure and the numbers behind it as JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from toile.data.captions import CaptionWriter
from toile.data.images import images_from_pixels
from toile.diffusion.noise import ImageNoise, add_salt_and_pepper, image_seeds, salt_and_pepper_share
from toile.evaluation.attributes import Share
from toile.evaluation.features import load_evaluator
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.generation.source import SourceImage
from toile.latent_diffusion import LatentDiffusion, load
from toile.models.classifier import ARTICLE_TYPE, AttributeClassifier
from toile.training.pictures import DataConfig, PictureSet
from toile.weights.files import write_json_atomically

SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
STRENGTHS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Survival:
    """One kind and amount of noise.

    Attributes:
        noise: "gaussian" or "salt and pepper".
        sigma: spread of the Gaussian noise, pictures being in [-1, 1]; the mean squared error is its square for both.
        psnr: in dB, pooled: "noisy", and after "median" and "blur".
        article: the judge names the article type of the record, for the same three.
    """

    noise: str
    sigma: float
    psnr: Mapping[str, float]
    article: Mapping[str, Share]


@dataclass(frozen=True)
class Freedom:
    """One strength of image-to-image.

    Attributes:
        change: mean absolute difference of pixels from the start, in levels of 255.
        kept, followed: the judge sees the article type of the start, that of the words.
    """

    strength: float
    change: float
    kept: Share
    followed: Share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion", help="a model folder or file, or the bundled model's name")
    parser.add_argument("--evaluator", type=Path, required=True, help="folder of the attribute classifier")
    parser.add_argument("--n", type=int, default=100, help="held-out pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("noise-lab"), help="a PNG and a JSON file of this name")
    arguments = parser.parse_args()
    model = load(arguments.model)
    data = PictureSet(DataConfig(model.defaults.width, model.defaults.height))
    classifier = load_evaluator(arguments.evaluator, data.pixels_identity).eval()
    labels = classifier.config.labels
    held_out = np.random.default_rng(arguments.seed).permutation(np.concatenate([data.validation, data.test]))
    known = [row for row in held_out if data.records[row].fields.get("articleType") in labels.article_type]
    chosen = np.array(known[: arguments.n])
    articles = torch.tensor([labels.target(ARTICLE_TYPE, data.records[row].fields) for row in chosen])
    survivals = noise_survivals(classifier, data.images(chosen), articles, arguments.seed)
    console = Console()
    console.print(survival_table(survivals))
    partners = other_articles(articles)
    prompts = [CaptionWriter().full(data.records[chosen[partner]]) for partner in partners]
    starts = data.pixels[torch.from_numpy(chosen)]
    freedoms = []
    for strength in STRENGTHS:
        made = drawn_over(model, starts, prompts, strength, arguments.steps, arguments.seed)
        found = named_articles(classifier, images_from_pixels(made))
        change = float((made.float() - starts.float()).abs().mean())
        freedoms.append(Freedom(strength, change, _share(found == articles), _share(found == articles[partners])))
    console.print(freedom_table(freedoms))
    path = arguments.out.with_suffix(".json")
    write_json_atomically(path, {"noise": list(map(_plain, survivals)), "strength": list(map(_plain, freedoms))})
    draw(survivals, freedoms, arguments.out.with_suffix(".png"))
    console.print(f"written: {path} and {arguments.out.with_suffix('.png')}")


def noise_survivals(classifier: AttributeClassifier, images: Tensor, articles: Tensor, seed: int) -> list[Survival]:
    """Both kinds of noise in all amounts.

    Args:
        images: (N, 3, H, W) in [-1, 1].
        articles: (N,) what the judge should name.
    """
    seeds = image_seeds(seed, len(images))
    gaussian = ImageNoise(seeds, (3, *images.shape[2:])).draw(0)
    positions = ImageNoise(seeds, (1, *images.shape[2:])).draw(1)
    survivals = []
    for sigma in SIGMAS:
        salted = add_salt_and_pepper(images, salt_and_pepper_share(images, sigma**2), positions)
        for name, noisy in (("gaussian", images + sigma * gaussian), ("salt and pepper", salted)):
            looks = {"noisy": noisy, "median": median_filter(noisy), "blur": gaussian_blur(noisy)}
            psnr = {look: float(10 * torch.log10(4 / (made - images).square().mean())) for look, made in looks.items()}
            article = {look: _share(named_articles(classifier, made) == articles) for look, made in looks.items()}
            survivals.append(Survival(name, sigma, psnr, article))
    return survivals


def drawn_over(
    model: LatentDiffusion, starts: Tensor, prompts: Sequence[str], strength: float, steps: int, seed: int
) -> Tensor:
    """(N, H, W, 3) uint8: each start (N, H, W, 3) uint8 with other words, by image-to-image."""
    made = []
    for number, (start, prompt) in enumerate(zip(starts, prompts, strict=True)):
        source = SourceImage(start.numpy())
        request = GenerateRequest(
            (prompt,), seed + number, source=source, strength=strength, steps=steps, upscale=False
        )
        made += [torch.from_numpy(event.pixels) for event in generate(model, request) if isinstance(event, Picture)]
    return torch.stack(made)


def other_articles(articles: Tensor) -> Tensor:
    """For each of N pictures the next one, in a circle, of another article type: (N,) int64."""
    around = torch.arange(len(articles)).repeat(2)
    partners = [next(j for j in around[i:].tolist() if articles[j] != articles[i]) for i in range(len(articles))]
    return torch.tensor(partners)


@torch.no_grad()
def named_articles(classifier: AttributeClassifier, images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N,) the judge's article types."""
    return torch.cat([classifier(part)[ARTICLE_TYPE].argmax(dim=1) for part in images.split(100)])


def median_filter(images: Tensor) -> Tensor:
    """(N, 3, H, W), the median of each 3x3 neighbourhood."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).median(dim=4).values


def gaussian_blur(images: Tensor) -> Tensor:
    """(N, 3, H, W), weighted 1 2 1 each way."""
    weights = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (weights[:, None] * weights).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)


def _share(hits: Tensor) -> Share:
    return Share(int(hits.sum()), len(hits))


def _plain(result: Survival | Freedom) -> dict[str, Any]:
    return asdict(result)


def _worded(share: Share) -> str:
    return f"{share.value:.0%} ({share.interval[0]:.0%} to {share.interval[1]:.0%})"


def survival_table(survivals: Sequence[Survival]) -> Table:
    looks = ("noisy", "median", "blur")
    table = Table("noise", "sigma", *(f"{look}: dB, article" for look in looks), title="What noise leaves")
    for one in survivals:
        cells = [f"{one.psnr[look]:.1f}, {_worded(one.article[look])}" for look in looks]
        table.add_row(one.noise, f"{one.sigma:g}", *cells)
    return table


def freedom_table(freedoms: Sequence[Freedom]) -> Table:
    columns = ("strength", "change of pixels", "article of the start", "article of the words")
    table = Table(*columns, title="What freedom it gives")
    for one in freedoms:
        table.add_row(f"{one.strength:g}", f"{one.change:.1f}", _worded(one.kept), _worded(one.followed))
    return table


def draw(survivals: Sequence[Survival], freedoms: Sequence[Freedom], path: Path) -> None:
    """Two panels: the judge against noise, and what is kept and followed against strength."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for number, noise in enumerate(("gaussian", "salt and pepper")):
        of_noise = [one for one in survivals if one.noise == noise]
        for look, style in (("noisy", "-"), ("median", "--"), ("blur", ":")):
            x, shares = [one.sigma for one in of_noise], [one.article[look] for one in of_noise]
            _plot(left, x, shares, f"{noise}, {look}", f"C{number}", style, band=look == "noisy")
    left.set_xscale("log")
    left.set_xlabel("noise: root of the mean squared error, pictures in [-1, 1]")
    left.set_ylabel("judged article type")
    strengths = [one.strength for one in freedoms]
    kinds: tuple[tuple[str, str, Callable[[Freedom], Share]], ...] = (
        ("of the start", "C2", lambda one: one.kept),
        ("of the words", "C3", lambda one: one.followed),
    )
    for label, colour, share_of in kinds:
        _plot(right, strengths, [share_of(one) for one in freedoms], label, colour, "-", band=True)
    change = [one.change / 255 for one in freedoms]
    right.plot(strengths, change, color="0.6", label="change of pixels, of the full range")
    right.set_xlabel("strength of image-to-image")
    for panel in (left, right):
        panel.set_ylim(0, 1)
        panel.legend(fontsize="small")
    figure.savefig(path, dpi=90)


def _plot(panel: Any, x: list[float], shares: list[Share], label: str, colour: str, style: str, *, band: bool) -> None:
    panel.plot(x, [share.value for share in shares], style, color=colour, label=label, marker=".")
    if band:
        low, high = zip(*(share.interval for share in shares), strict=True)
        panel.fill_between(x, low, high, color=colour, alpha=0.15)


if __name__ == "__main__":
    main()
