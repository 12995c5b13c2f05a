"""What a Frechet distance of three pictures is worth: the same comparison 100 times, each with three other prompts.

    TOILE_DATA=data python benchmarks/three_pictures.py fashion "fashion steps=3 name=hurried" runs/products-cvae/model

A published search over LoRA ranks, rates and batch sizes chose its best run by the distance of three generated pictures
to three real ones. Here the makers are known to differ, or known to be the same: how often does the smaller distance
belong to the better one? The formula is not refused for three pictures here, as `toile evaluate` would. Pictures that
`toile compare` made in the same folder (--out) are not made again.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from toile.evaluation.contestants import open_contestant
from toile.evaluation.feature_networks import open_feature_network
from toile.evaluation.picture_store import PictureStore, make_pictures
from toile.evaluation.real_side import divide_real
from toile.training.pictures import DataConfig, PictureSet
from toile.weights.files import write_json_atomically

SAME_ARTICLE = "other real pictures"


def main() -> None:
    arguments = parse_arguments()
    console = Console()
    pictures = PictureSet(DataConfig(64, 80))
    real = divide_real(pictures)
    prompts = real.prompts_for(arguments.pool)
    rng = np.random.default_rng(arguments.seed)
    made: dict[str, Tensor] = {SAME_ARTICLE: real.pixels(real.reference[: arguments.pool])}
    for spec in arguments.makers:
        contestant = open_contestant(spec)
        texts = [prompt.text for prompt in prompts]
        for step in make_pictures(contestant, texts, arguments.seed, arguments.out / "pictures", (64, 80)):
            if isinstance(step, PictureStore):
                made[contestant.name] = torch.from_numpy(np.array(step.pixels))
    own = real.pixels(real.own_positions(len(prompts)))
    draws = [rng.choice(len(prompts), arguments.pictures, replace=False) for _ in range(arguments.repeats)]
    facts = {}
    for spec in arguments.networks:
        network = open_feature_network(spec)
        wanted, found = network.features(own), {name: network.features(pixels) for name, pixels in made.items()}
        distances = {
            name: np.array([distance_of_few(features[draw], wanted[draw]) for draw in draws])
            for name, features in found.items()
        }
        whole = {name: distance_of_few(features, wanted) for name, features in found.items()}
        console.print(table_of(network.name, arguments.pictures, distances, whole))
        wrong = wrong_orders(distances, whole)
        for (better, worse), share in wrong.items():
            console.print(f"{worse} looks better than {better} in {share:.0%} of {arguments.repeats} draws")
        facts[network.name] = {
            "distances": {name: values.tolist() for name, values in distances.items()},
            "of_all_pictures": whole,
            "wrong_orders": [[*pair, share] for pair, share in wrong.items()],
        }
        if spec == arguments.networks[0]:
            draw_figure(arguments.out / "three-pictures.png", network.name, arguments.pictures, distances)
    settings = {"pictures": arguments.pictures, "repeats": arguments.repeats, "pool": len(prompts)}
    write_json_atomically(
        arguments.out / "three-pictures.json", {**settings, "seed": arguments.seed, "networks": facts}
    )
    console.print(f"written: {arguments.out}/three-pictures.json, three-pictures.png")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("makers", nargs="+", help="as toile compare takes them")
    parser.add_argument("--pictures", type=int, default=3, help="of each draw")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--pool", type=int, default=1300, help="prompts that are drawn from, as toile compare -n")
    parser.add_argument("--networks", nargs="+", default=["attributes", "words"], help="as toile compare takes them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("three-pictures"))
    return parser.parse_args()


def distance_of_few(a: Tensor, b: Tensor) -> float:
    """The Frechet distance of (N, F) and (M, F), also where covariances are singular.

    With centred rows A and B the trace of the root of the product of covariances is the sum of the singular values of
    `A B' / sqrt((N - 1)(M - 1))`, a matrix of N x M.
    """
    a, b = a.double(), b.double()
    mean_a, mean_b = a.mean(0), b.mean(0)
    rows_a, rows_b = ((rows - mean) / (len(rows) - 1) ** 0.5 for rows, mean in ((a, mean_a), (b, mean_b)))
    overlap = torch.linalg.svdvals(rows_a @ rows_b.T).sum()
    return float((mean_a - mean_b).square().sum() + rows_a.square().sum() + rows_b.square().sum() - 2 * overlap)


def wrong_orders(distances: Mapping[str, np.ndarray], whole: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """For each pair, the one that all pictures say is better first: how often a draw says the opposite."""
    found = {}
    for pair in itertools.combinations(distances, 2):
        better, worse = sorted(pair, key=lambda name: whole[name])
        found[better, worse] = float((distances[worse] < distances[better]).mean())
    return found


def table_of(network: str, number: int, distances: Mapping[str, np.ndarray], whole: Mapping[str, float]) -> Table:
    table = Table(title=f"distance of {number} pictures in {network}", title_justify="left")
    for column in ("", "mean", "spread", "lowest", "highest", "of all pictures"):
        table.add_column(column)
    for name, values in distances.items():
        numbers = (values.mean(), values.std(ddof=1), values.min(), values.max(), whole[name])
        table.add_row(name, *(f"{value:.1f}" for value in numbers))
    return table


def draw_figure(path: Path, network: str, number: int, distances: Mapping[str, np.ndarray]) -> None:
    """A dot a draw, makers one under the other."""
    figure, axes = plt.subplots(figsize=(8, 0.7 * len(distances) + 1.2))
    rng = np.random.default_rng(0)
    for row, (name, values) in enumerate(distances.items()):
        axes.scatter(values, row + rng.uniform(-0.25, 0.25, len(values)), s=9, alpha=0.6, label=name)
        axes.plot([values.mean()] * 2, [row - 0.38, row + 0.38], color="black", linewidth=1.5)
    axes.set_yticks(range(len(distances)), list(distances))
    axes.invert_yaxis()
    axes.set_xlabel(f"Frechet distance of {number} pictures to {number} real ones ({network} features)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
