"""Floors and ceilings: pictures of which it is known how good they are, measured as makers' pictures are.

Shapes: N pictures of H x W.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toile.evaluation.bench import Bench
from toile.evaluation.contestants import Contestant, DiffusionContestant
from toile.evaluation.judges import has_labels
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.picture_store import PictureStore
from toile.evaluation.real_side import alike_in_training
from toile.evaluation.scores import Entry, Protocol
from toile.evaluation.suites import Prompt, prompt_of

REAL_PICTURES, SHUFFLED_PROMPTS = "real pictures", "shuffled prompts"
_TOGETHER = 200


@dataclass(frozen=True, eq=False)
class Control:
    """Pictures to hold others against.

    Attributes:
        name, meaning: for people.
        pixels: (N, H, W, 3) uint8.
        prompts: N, that they are held to.
    """

    name: str
    meaning: str
    pixels: Tensor
    prompts: Sequence[Prompt]


def controls_of(
    bench: Bench, prompts: Sequence[Prompt], contestants: Sequence[Contestant], seed: int
) -> Iterator[Control]:
    """The controls that there are enough real pictures for; no real picture comes twice, but among copies.

    Args:
        prompts: of the pictures that are judged.
        seed: of the draw of training pictures.
    """
    real = bench.real
    described = prompts
    if any(prompt.position is None for prompt in prompts):  # prompts of people: those of the suite stand in
        described = real.prompts_for(len(prompts))
    own = {prompt.position: prompt for prompt in described if prompt.position is not None}
    of_own = tuple(own.values())
    if is_enough(bench, of_own):
        pixels = real.pixels(np.array(list(own), dtype=np.int64))
        meaning = "Held-out pictures of held-out captions: what the best maker could reach."
        yield Control(REAL_PICTURES, meaning, pixels, of_own)
        size = (real.pictures.width, real.pictures.height)
        models = (each for each in contestants if isinstance(each, DiffusionContestant) and each.size == size)
        if (model := next(models, None)) is not None:
            rebuilt = torch.cat([model.reconstruct(part) for part in pixels.split(_TOGETHER)])
            meaning = f"The same pictures through the autoencoder of {model.name}: what it loses before it starts."
            yield Control("reconstructions", meaning, rebuilt, of_own)
    if has_labels(real.pictures):
        alike, of_copies = alike_in_training(real, [prompt.fields for prompt in of_own], seed), of_own
        meaning = "Training pictures of the same article and colour: good in everything but originality."
    else:
        alike = np.random.default_rng(seed).permutation(real.learnt)[: len(prompts)]
        of_copies = tuple(prompt_of(real.pictures, position) for position in alike.tolist())
        meaning = "Training pictures themselves: good in everything but originality."
    if is_enough(bench, of_copies):
        yield Control("copies of training pictures", meaning, real.pixels(alike), of_copies)


def is_enough(bench: Bench, prompts: Sequence[Prompt]) -> bool:
    """Whether pictures of so many prompts can be measured."""
    return not bench.shortage(PictureSets(prompts, bench.num_sets, bench.seed))


def left_out_of_controls(bench: Bench, controls: Sequence[Entry]) -> tuple[str, ...]:
    """Which controls there are too few real pictures for, in a sentence."""
    if any(control.name == REAL_PICTURES for control in controls):
        return ()
    return (
        f"Control of real pictures: {len(bench.real.prompts):,} held-out pictures, without those of the reference, are "
        "too few to be measured.",
    )


def shuffled(
    bench: Bench, prompts: Sequence[Prompt], name: str, made: Mapping[str, PictureStore], protocol: Protocol
) -> Entry | None:
    """A maker's pictures beside each other's prompts; None where nothing is measured that depends on words."""
    order = np.random.default_rng(bench.seed).permutation(len(prompts))
    scores = bench.faithfulness(torch.from_numpy(made[name].pixels), [prompts[place] for place in order])
    meaning = f"The pictures of {name} beside each other's prompts: what chance gives."
    return Entry(SHUFFLED_PROMPTS, scores, protocol.id, True, meaning) if scores else None
