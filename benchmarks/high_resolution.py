"""How much of real detail large pictures have: spectra and patches beside real pictures, and a sheet to judge blindly.

    TOILE_DATA=data python benchmarks/high_resolution.py --maker fashion --out high-resolution
    TOILE_DATA=data python benchmarks/high_resolution.py --inputs inputs
    TOILE_DATA=data python benchmarks/high_resolution.py theirs=made/ --out high-resolution

The first measures a model with an upscaler: what it enlarges, and what it makes of captions. The second writes what
there is to enlarge or to draw, the third measures what anybody made of it: folders of PNGs named by the product's id,
NAME=FOLDER. Beside them stand real pictures and plain enlargements. See docs/evaluation.md.
Shapes: N held-back products, H x W their true pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from toile.data.captions import CaptionWriter
from toile.data.images import contact_sheet, images_from_pixels, open_image, pixels_from_images, pixels_of
from toile.data.true_pictures import TruePictures
from toile.diffusion.noise import ImageNoise
from toile.errors import ToileError
from toile.evaluation.feature_networks import FeatureNetwork, open_feature_network
from toile.evaluation.patches import PATCH_SIDE, crossed_distance, patch_features
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.scores import Score
from toile.evaluation.spectrum import (
    LIMIT,
    NYQUIST,
    bin_centres,
    deal_pictures,
    decibels_by_set,
    mean_decibels,
    radial_spectra,
    spectrum_gap,
)
from toile.evaluation.texture import TEXTURE, open_texture_network
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import load
from toile.training.pictures import DataConfig, PictureSet
from toile.weights.files import write_json_atomically

SIZE = (192, 256)
REAL = "real pictures"
CONTENT_WIDTH = 60  # of the small pictures; the rest is padded white
REBUILT_TOGETHER = 64
NUM_HALVINGS = 20
PAIRS_ON_SHEET = 24
WANTED_DECIBELS = 1.0


@dataclass(frozen=True)
class Products:
    """What is held back: true (N, H, W, 3), small and rebuilt (N, h, w, 3) uint8, with their keys and captions."""

    keys: tuple[str, ...]
    captions: tuple[str, ...]
    true: Tensor
    small: Tensor
    rebuilt: Tensor


def main() -> None:
    arguments = parse_arguments()
    console = Console()
    products = held_back(arguments.model, arguments.limit)
    console.print(f"{len(products.keys)} products are held back, with true pictures of {SIZE[0]}x{SIZE[1]}")
    if arguments.inputs is not None:
        write_inputs(products, arguments.inputs)
        console.print(
            f"written: {arguments.inputs}/small, {arguments.inputs}/rebuilt, {arguments.inputs}/captions.json"
        )
        return
    made = {name: read_made(folder, products.keys) for name, folder in map(named, arguments.made)}
    for maker in arguments.maker:
        made |= made_by(maker, products, arguments.seed)
    contestants = {**controls(products), **made}
    sets = deal_pictures(len(products.keys), arguments.sets, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)

    spectra = {name: radial_spectra(pixels) for name, pixels in contestants.items()}
    facts: dict[str, Any] = {
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "products": list(products.keys),
        "frequencies": bin_centres().tolist(),
        "spectra_db": {name: mean_decibels(each).tolist() for name, each in spectra.items()},
    }
    facts["spectrum"] = spectrum_facts(spectra, sets, arguments.seed)
    console.print(spectrum_table(facts["spectrum"]))
    draw_spectra(arguments.out / "spectra.png", spectra, sets)

    facts["patches"] = {}
    for network in map(open_network, arguments.networks):
        found = measure_patches(network, contestants, sets, arguments.patches, arguments.seed)
        facts["patches"][network.name] = {
            "preparation": network.preparation,
            "sha256": network.sha256,
            "distances": {name: {key: score.facts() for key, score in each.items()} for name, each in found.items()},
        }
        console.print(patch_table(network.name, found))
    write_json_atomically(arguments.out / "high-resolution.json", facts)
    sheets = blind_sheets(arguments.out, products, made or {"bicubic": contestants["small, bicubic"]}, arguments.seed)
    console.print(f"written: {arguments.out}/high-resolution.json, spectra.png, {', '.join(sheets)} (keys beside them)")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("made", nargs="*", metavar="NAME=FOLDER", help="PNGs of 192x256 named by the product's id")
    parser.add_argument("--maker", nargs="+", default=[], help="models with an upscaler")
    parser.add_argument("--inputs", type=Path, help="only write what there is to enlarge into this folder")
    parser.add_argument("--model", default="fashion", help="whose autoencoder rebuilds the small pictures")
    parser.add_argument("--networks", nargs="+", default=[TEXTURE], help="texture, or as toile compare takes them")
    parser.add_argument("--patches", type=int, default=8, help="of each picture")
    parser.add_argument("--sets", type=int, default=10, help="disjoint sets, from which intervals come")
    parser.add_argument("--limit", type=int, help="only so many products, for trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("high-resolution"))
    return parser.parse_args()


@torch.inference_mode()
def held_back(model_name: str, limit: int | None) -> Products:
    """The products on the held-out sides of the split of all small pictures that have a true picture."""
    model = load(model_name, device="cpu", dtype="float32")
    width, height = model.defaults.width, model.defaults.height
    pictures, true_pictures = PictureSet(DataConfig(width, height)), TruePictures()
    held = np.sort(np.concatenate([pictures.validation, pictures.test]))
    positions = np.array([each for each in held if pictures.records[each].key in true_pictures], dtype=np.int64)[:limit]
    true, kept, _ = true_pictures.load([pictures.records[each].key for each in positions], *SIZE)
    positions = positions[kept]
    left = (width - CONTENT_WIDTH) // 2
    rebuilt = [model.vae.decode_latents(model.vae.encode_images(pictures.images(some))) for some in batches(positions)]
    records = [pictures.records[each] for each in positions]
    return Products(
        tuple(record.key for record in records),
        tuple(CaptionWriter().full(record) for record in records),
        torch.from_numpy(true),
        pictures.pixels[torch.from_numpy(positions)][:, :, left : left + CONTENT_WIDTH],
        pixels_from_images(torch.cat(rebuilt))[:, :, left : left + CONTENT_WIDTH],
    )


def batches(positions: np.ndarray) -> list[np.ndarray]:
    return np.split(positions, range(REBUILT_TOGETHER, len(positions), REBUILT_TOGETHER))


def controls(products: Products) -> dict[str, Tensor]:
    """Real pictures, and plain enlargements of the small ones and of what the autoencoder makes of them."""
    found = {REAL: products.true}
    for name, small in (("small", products.small), ("rebuilt", products.rebuilt)):
        for how, kernel in (("bicubic", Image.Resampling.BICUBIC), ("Lanczos", Image.Resampling.LANCZOS)):
            enlarged = [np.array(Image.fromarray(each.numpy()).resize(SIZE, kernel)) for each in small]
            found[f"{name}, {how}"] = torch.from_numpy(np.stack(enlarged))
    return found


def write_inputs(products: Products, folder: Path) -> None:
    """PNGs by product id, and captions, from which any maker can make its pictures."""
    for name, pixels in (("small", products.small), ("rebuilt", products.rebuilt)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for key, each in zip(products.keys, pixels, strict=True):
            Image.fromarray(each.numpy()).save(folder / name / f"{key}.png")
    write_json_atomically(folder / "captions.json", dict(zip(products.keys, products.captions, strict=True)))


def made_by(name: str, products: Products, seed: int) -> dict[str, Tensor]:
    """What a model's upscaler makes of small pictures that its autoencoder rebuilt, and of captions by itself."""
    model = load(name, device="cpu")
    if model.upscaler is None:
        raise ToileError(f"{name}: this model has no upscaler")
    config = model.upscaler.config
    padding = config.left, config.small_width - config.right
    small = functional.pad(images_from_pixels(products.rebuilt), padding, value=1.0)
    enlarged = []
    for rows in batches(np.arange(len(small))):
        captions = [products.captions[row] for row in rows]
        states = model.encode_prompts(captions, model.defaults.word_weights).states
        noise = ImageNoise([seed + int(row) for row in rows], model.upscaler.noise_shape)
        images = model.upscaler.enlarge(small[torch.from_numpy(rows)], states, noise.draw)
        enlarged.append(pixels_from_images(images))
    assert config.size == SIZE
    request = GenerateRequest(products.captions, seed, as_written=True, upscale=True)
    pictures = [torch.from_numpy(event.pixels) for event in generate(model, request) if isinstance(event, Picture)]
    short = Path(name).name
    return {f"enlarged by {short}": torch.cat(enlarged), f"made by {short}": torch.stack(pictures)}


def named(spec: str) -> tuple[str, Path]:
    """ "NAME=FOLDER", or a folder, whose own name it then has."""
    name, is_named, place = spec.partition("=")
    folder = Path(place if is_named else spec)
    return (name if is_named else folder.name), folder


def read_made(folder: Path, keys: Sequence[str]) -> Tensor:
    """Pictures (N, H, W, 3) uint8 of these products.

    Raises:
        ToileError: a product has none, or one of another size.
    """
    missing = [key for key in keys if not (folder / f"{key}.png").is_file()]
    if missing:
        raise ToileError(
            f"{folder} has no picture of {len(missing)} of {len(keys)} products, such as {missing[0]}.png; make one of "
            "each that --inputs writes"
        )
    pixels = []
    for key in keys:
        picture = open_image(folder / f"{key}.png")
        if picture.size != SIZE:
            raise ToileError(f"{folder}/{key}.png is {picture.width}x{picture.height}; give {SIZE[0]}x{SIZE[1]}")
        pixels.append(pixels_of(picture))
    return torch.from_numpy(np.stack(pixels))


def spectrum_facts(spectra: Mapping[str, Tensor], sets: PictureSets, seed: int) -> dict[str, Any]:
    """For each maker the worst gap of means and of typical pictures; for real pictures that of two halves of them."""
    real = spectra[REAL]
    facts: dict[str, Any] = {}
    for typical in (False, True):
        kind = "typical" if typical else "mean"
        worst = []
        for number in range(NUM_HALVINGS):
            order = torch.from_numpy(np.random.default_rng((seed, number)).permutation(len(real)))
            half = len(real) // 2
            halves = real[order[:half]], real[order[half : 2 * half]]
            worst.append(spectrum_gap(*halves, deal_pictures(half, len(sets.rows)), typical=typical).worst.value)
        facts[kind] = {"halves of real pictures": {"mean": float(np.mean(worst)), "range": [min(worst), max(worst)]}}
        for name, judged in spectra.items():
            if name != REAL:
                gap = spectrum_gap(judged, real, sets, typical=typical)
                facts[kind][name] = {
                    **asdict(gap.worst),
                    "each": None,
                    "frequency": gap.worst_frequency,
                    "decibels": gap.decibels.tolist(),
                }
    return facts


def spectrum_table(facts: Mapping[str, Any]) -> Table:
    title = f"largest difference of spectra up to {LIMIT / NYQUIST:.0%} of Nyquist, in dB (wanted: {WANTED_DECIBELS:g})"
    table = Table(title=title, title_justify="left")
    for column in ("", "mean power (95 %)", "at, cycles per pixel", "typical picture (95 %)"):
        table.add_column(column)
    for name, mean in facts["mean"].items():
        typical = facts["typical"][name]
        if "range" in mean:
            ranges = [
                f"{each['mean']:.2f} ({each['range'][0]:.2f} to {each['range'][1]:.2f})" for each in (mean, typical)
            ]
            table.add_row(name, ranges[0], "", ranges[1])
        else:
            table.add_row(name, in_decibels(mean), f"{mean['frequency']:.3f}", in_decibels(typical))
    return table


def in_decibels(fact: Mapping[str, Any]) -> str:
    return f"{fact['value']:.2f} ({fact['low']:.2f} to {fact['high']:.2f})"


def open_network(spec: str) -> FeatureNetwork:
    return open_texture_network(PATCH_SIDE) if spec == TEXTURE else open_feature_network(spec)


def measure_patches(
    network: FeatureNetwork, contestants: Mapping[str, Tensor], sets: PictureSets, num_each: int, seed: int
) -> dict[str, dict[str, Score]]:
    """For each maker its distance to real patches of other products, as it is and for pictures without end."""
    features = {
        name: patch_features(network, pixels, PATCH_SIDE, num_each, seed) for name, pixels in contestants.items()
    }
    return {
        name: {
            "frechet": crossed_distance(each, features[REAL], sets),
            "frechet_infinity": crossed_distance(each, features[REAL], sets, is_extrapolated=True),
        }
        for name, each in features.items()
    }


def patch_table(network: str, found: Mapping[str, Mapping[str, Score]]) -> Table:
    table = Table(title=f"Frechet distance of patches in {network}", title_justify="left")
    for column in ("", "distance (95 %)", "pictures without end (95 %)", "times the floor"):
        table.add_column(column)
    floor = found[REAL]["frechet"].value
    for name, scores in found.items():
        cells = [f"{score.value:.4g} ({score.low:.4g} to {score.high:.4g})" for score in scores.values()]
        table.add_row(name, *cells, f"{scores['frechet'].value / floor:.2f}")
    return table


def draw_spectra(path: Path, spectra: Mapping[str, Tensor], sets: PictureSets) -> None:
    """Spectra above, their difference from that of real pictures below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 8), sharex=True, height_ratios=(3, 2))
    frequencies, real = bin_centres().numpy(), mean_decibels(spectra[REAL]).numpy()
    bands = decibels_by_set(spectra[REAL], sets)
    above.fill_between(frequencies, bands.min(0), bands.max(0), color="black", alpha=0.15, linewidth=0)
    below.axhspan(-WANTED_DECIBELS, WANTED_DECIBELS, color="green", alpha=0.15, linewidth=0)
    for name, each in spectra.items():
        decibels = mean_decibels(each).numpy()
        colour = "black" if name == REAL else None
        above.plot(frequencies, decibels, label=name, color=colour)
        below.plot(frequencies, decibels - real, color=colour)
    for axes in (above, below):
        axes.axvline(LIMIT, color="grey", linestyle=":", linewidth=1)
    above.set_ylabel("power of luminance, dB of squared levels")
    below.set_ylabel("less real pictures, dB")
    below.set_xlabel(f"cycles per pixel (dotted: {LIMIT / NYQUIST:.0%} of Nyquist)")
    above.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def blind_sheets(out: Path, products: Products, made: Mapping[str, Tensor], seed: int) -> list[str]:
    """For each maker numbered pairs of one real and one made, and a key that says on which side the real is."""
    names = []
    for order, (name, pixels) in enumerate(made.items()):
        rng = np.random.default_rng((seed, order))
        rows = rng.permutation(len(pixels))[:PAIRS_ON_SHEET]
        is_left = rng.random(len(rows)) < 0.5
        pairs, key = [], {}
        for number, (row, left) in enumerate(zip(rows.tolist(), is_left.tolist(), strict=True), start=1):
            sides = (products.true[row], pixels[row]) if left else (pixels[row], products.true[row])
            gap = torch.full((SIZE[1], 4, 3), 128, dtype=torch.uint8)
            pairs.append(Image.fromarray(torch.cat([sides[0], gap, sides[1]], dim=1).numpy()))
            key[str(number)] = {"real": "left" if left else "right", "product": products.keys[row]}
        plain = name.replace(" ", "-")
        sheet = f"blind-{plain}.png"
        contact_sheet(pairs, columns=4, captions=[str(number) for number in range(1, len(pairs) + 1)]).save(out / sheet)
        write_json_atomically(out / f"blind-{plain}-key.json", key)
        names.append(sheet)
    return names


if __name__ == "__main__":
    main()
