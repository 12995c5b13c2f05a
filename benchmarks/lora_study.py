"""Whether a LoRA taught what it was to teach, beyond chance: several trainings of a recipe, on held-out captions.

    TOILE_DATA=data python benchmarks/lora_study.py recipes/lora-backdrop.toml --measure grey_backdrop \\
        --evaluator runs/evaluator/model/classifier

The recipe is followed with several seeds. The base model and each LoRA make the same pictures, same captions and same
noise: of the held-out products that the recipe chooses, with its trigger, and, for what was lost, of all the others
without it. Measured is what the judge finds of what the caption names (its article type, its pattern ...), or
`grey_backdrop`, which needs no judge. Gains are paired; intervals of 95 % draw captions and trainings anew together
(bootstrap), so that a gain that only one lucky training has does not count.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from toile.data.captions import CaptionWriter
from toile.data.records import Record
from toile.evaluation.attributes import Share, wanted_labels
from toile.evaluation.backdrop import has_grey_backdrop
from toile.evaluation.features import load_evaluator, observe
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion, load
from toile.models.classifier import ARTICLE_TYPE, MISSING, AttributeClassifier
from toile.text.lora_tags import LoRAUse
from toile.training.denoising_objective import with_trigger
from toile.training.pictures import PictureSet
from toile.training.recipes import LoRARecipe, load_recipe
from toile.training.run import run_recipe
from toile.training.run_folder import MODEL_FOLDER
from toile.weights.files import write_json_atomically

NUM_RESAMPLES = 10_000
BACKDROP = "grey_backdrop"
TAUGHT, OTHERS = "what was taught", "all else"


@dataclass(frozen=True)
class Outcome:
    """How often pictures show something, with the LoRAs and without.

    Attributes:
        captions: which captions.
        measure: what they should show.
        real: of the products' own pictures.
        base: of the base model's pictures.
        trained: of each training's pictures.
        gain: mean over captions and trainings, less the base's, and both ends of its 95 % interval.
    """

    captions: str
    measure: str
    real: Share
    base: Share
    trained: tuple[Share, ...]
    gain: tuple[float, float, float]


def main() -> None:
    arguments = parse_arguments()
    console = Console()
    recipe = load_recipe(arguments.recipe)
    if not isinstance(recipe, LoRARecipe):
        raise SystemExit(f"{arguments.recipe} trains no LoRA")
    loras = [train(recipe, seed, arguments.out / f"seed-{seed}", console) for seed in range(arguments.seeds)]
    model = load(recipe.base)
    pictures = PictureSet(replace(recipe.data, only={}, words=(), keep=None))
    classifier = load_evaluator(arguments.evaluator, pictures.pixels_identity)
    outcomes = []
    for captions, records in held_out_groups(recipe, pictures).items():
        drawn = drawn_records(records, classifier, arguments.n, recipe.seed)
        trigger = recipe.data.trigger if captions == TAUGHT else ""
        made = {lora: draw(model, drawn, trigger, lora, arguments.steps) for lora in (None, *loras)}
        for measure in dict.fromkeys((arguments.measure, ARTICLE_TYPE)):
            shows = partial(shown, classifier, measure)
            real = real_share(shows, pictures, drawn)
            right = {lora: shows(pixels, drawn) for lora, pixels in made.items()}
            outcomes.append(outcome(captions, measure, real, right[None], [right[lora] for lora in loras]))
    console.print(as_table(outcomes, arguments.n))
    write_json_atomically(arguments.out / "study.json", [asdict(each) for each in outcomes])
    console.print(f"written: {arguments.out / 'study.json'}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--evaluator", type=Path, required=True, help="folder of the attribute classifier")
    parser.add_argument("--measure", default=ARTICLE_TYPE, help=f"an attribute of the judge, or {BACKDROP}")
    parser.add_argument("--seeds", type=int, default=5, help="trainings")
    parser.add_argument("--n", type=int, default=200, help="pictures of each group and model; captions repeat if few")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--out", type=Path, default=Path("runs/lora-study"))
    return parser.parse_args()


def train(recipe: LoRARecipe, seed: int, folder: Path, console: Console) -> Path:
    """The file of a training with this seed; one that is there already is taken as it is."""
    file = folder / MODEL_FOLDER / "lora.safetensors"
    if not file.exists():
        for _ in run_recipe(replace(recipe, seed=seed), folder, resume=(folder / "state").exists()):
            pass
    console.print(f"trained: {file}")
    return file


def held_out_groups(recipe: LoRARecipe, pictures: PictureSet) -> dict[str, list[Record]]:
    """Held-out records of the recipe's kind, and all others; none that a training saw."""
    taught = PictureSet(recipe.data)
    seen = {taught.records[int(number)].key for number in taught.train}
    held_out = [pictures.records[int(number)] for number in np.concatenate([pictures.validation, pictures.test])]
    kind = {record.key for record in taught.records}
    left = [record for record in held_out if record.key in kind and record.key not in seen]
    return {TAUGHT: left, OTHERS: [record for record in held_out if record.key not in kind]}


def drawn_records(records: Sequence[Record], classifier: AttributeClassifier, n: int, seed: int) -> list[Record]:
    """n records whose article type the judge knows, each as often as the others."""
    wanted = wanted_labels(classifier.config.labels, [record.fields for record in records])[ARTICLE_TYPE]
    known = [record for record, label in zip(records, wanted.tolist(), strict=True) if label != MISSING]
    order = np.random.default_rng(seed).permutation(len(known))
    return [known[int(order[number % len(known)])] for number in range(n)]


def draw(model: LatentDiffusion, records: Sequence[Record], trigger: str, lora: Path | None, steps: int) -> Tensor:
    """(N, H, W, 3) uint8: pictures of the records' captions, the same noise with every LoRA."""
    writer = CaptionWriter()
    prompts = tuple(with_trigger(trigger, writer.full(record)) for record in records)
    uses = () if lora is None else (LoRAUse(str(lora)),)
    request = GenerateRequest(prompts, 10_000, steps=steps, batch_size=50, loras=uses, upscale=False)
    return torch.stack(
        [torch.from_numpy(event.pixels) for event in generate(model, request) if isinstance(event, Picture)]
    )


def shown(classifier: AttributeClassifier, measure: str, pixels: Tensor, records: Sequence[Record]) -> Tensor:
    """(N,) bool: whether each picture shows what is measured; what a caption does not name is not shown."""
    if measure == BACKDROP:
        return has_grey_backdrop(pixels)
    if measure not in classifier.attributes:
        raise SystemExit(f"measure {measure}: {BACKDROP}, or what this judge knows: {', '.join(classifier.attributes)}")
    wanted = wanted_labels(classifier.config.labels, [record.fields for record in records])[measure]
    return observe(classifier, pixels).predictions[measure] == wanted


def real_share(
    shows: Callable[[Tensor, Sequence[Record]], Tensor], pictures: PictureSet, records: Sequence[Record]
) -> Share:
    """How many of the products' own pictures show it, each counted once."""
    once = list({record.key: record for record in records}.values())
    positions = {record.key: position for position, record in enumerate(pictures.records)}
    right = shows(pictures.pixels[torch.tensor([positions[record.key] for record in once])], once)
    return Share(int(right.sum()), len(right))


def outcome(captions: str, measure: str, real: Share, base: Tensor, trained: Sequence[Tensor]) -> Outcome:
    """Compares (N,) bool of the base with those of each training."""
    changes = torch.stack(list(trained)).double().numpy() - base.double().numpy()  # (trainings, N)
    draws = np.random.default_rng(0)
    means = np.empty(NUM_RESAMPLES)
    for number in range(NUM_RESAMPLES):
        rows = draws.integers(0, len(changes), len(changes))
        columns = draws.integers(0, changes.shape[1], changes.shape[1])
        means[number] = changes[rows][:, columns].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    shares = tuple(Share(int(right.sum()), len(right)) for right in trained)
    return Outcome(
        captions,
        measure,
        real,
        Share(int(base.sum()), len(base)),
        shares,
        (float(changes.mean()), float(low), float(high)),
    )


def as_table(outcomes: Sequence[Outcome], n: int) -> Table:
    table = Table(title=f"{n} pictures of each model", title_justify="left")
    for column in ("captions of", "shown", "real", "base", "each training", "gain in points", "verdict"):
        table.add_column(column)
    for each in outcomes:
        mean, low, high = (100 * value for value in each.gain)
        verdict = "more" if low > 0 else "less" if high < 0 else "no difference that can be told"
        table.add_row(
            each.captions,
            each.measure.replace("_", " "),
            f"{each.real.value:.1%} (n={each.real.num_total})",
            f"{each.base.value:.1%}",
            ", ".join(f"{share.value:.1%}" for share in each.trained),
            f"{mean:+.1f} ({low:+.1f} to {high:+.1f})",
            verdict,
        )
    return table


if __name__ == "__main__":
    main()
