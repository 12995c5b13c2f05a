"""What a LoRA does to pictures, and whether that is more than chance: the same prompts and seeds with it and without.

Shapes: N pictures of each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toile.errors import ToileError
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.text.lora_tags import LoRAUse

NUM_FLIPS = 2000
FEWEST_SEEDS = 6
"""With fewer pictures than this no shift can be told from chance: there are too few ways to flip their signs."""
_GRID = 8


@dataclass(frozen=True)
class LoRAEffect:
    """How pictures with a LoRA differ from those without, in levels of 255.

    Attributes:
        num: pairs of pictures.
        change: mean difference of pixels of a pair: same prompt, same seed.
        between_seeds: the same of two pictures without it: same prompt, next seed. A LoRA that changes less than that
            makes variants; one that changes more makes other pictures.
        shift: length of the mean change of 8x8 patches, the part that is the same in all pictures: a tint, a
            background, a style.
        p_value: how often a shift of that length comes about when the sign of each pair's change is tossed (a
            permutation test); below 0.05 the LoRA moves pictures in a direction of its own.
        brightness, saturation, contrast: mean changes.
    """

    num: int
    change: float
    between_seeds: float
    shift: float
    p_value: float
    brightness: float
    saturation: float
    contrast: float


def measure_lora(
    model: LatentDiffusion, use: LoRAUse, prompts: Sequence[str], num_seeds: int, seed: int = 0
) -> LoRAEffect:
    """Makes the pictures and compares them.

    Args:
        model: what the LoRA is for.
        use: the LoRA and its strength.
        prompts: at least one.
        num_seeds: of each prompt; with the number of prompts at least `FEWEST_SEEDS` pairs.
        seed: of the first pictures.

    Raises:
        ToileError: too few pairs; else as `generate`.
    """
    if len(prompts) * num_seeds < FEWEST_SEEDS:
        raise ToileError(f"{len(prompts) * num_seeds} pairs of pictures tell nothing; give {FEWEST_SEEDS} or more")
    plain, changed = (
        np.stack(
            [
                event.pixels.astype(np.float64)
                for event in generate(model, _request(prompts, seed, num_seeds, loras))
                if isinstance(event, Picture)
            ]
        )
        for loras in ((), (use,))
    )
    of_prompts = plain.reshape(len(prompts), num_seeds, *plain.shape[1:])
    between = np.abs(np.diff(of_prompts, axis=1)).mean() if num_seeds > 1 else float("nan")
    difference = changed - plain
    shift, p_value = sign_flip_test(patches(difference).reshape(len(difference), -1), seed)
    return LoRAEffect(
        len(plain),
        float(np.abs(difference).mean()),
        float(between),
        shift,
        p_value,
        float(difference.mean()),
        float((spread_of_colours(changed) - spread_of_colours(plain)).mean()),
        float((contrast(changed) - contrast(plain)).mean()),
    )


def _request(prompts: Sequence[str], seed: int, num_seeds: int, loras: tuple[LoRAUse, ...]) -> GenerateRequest:
    """Pictures that begin with the first noise of their seeds, with the LoRA and without."""
    return GenerateRequest(tuple(prompts), seed, num_seeds, loras=loras, noise_candidates=1, classifier_guidance=0.0)


def sign_flip_test(changes: np.ndarray, seed: int, num_flips: int = NUM_FLIPS) -> tuple[float, float]:
    """Whether changes (N, D) have a direction in common (a permutation test, Good 2005, sec. 3.2).

    Args:
        changes: of N pairs.
        seed: of the signs.
        num_flips: ways to toss all signs that are tried.

    Returns:
        the root of the mean square of the mean change, and the share of the tosses, the one that happened among them,
        in which it is at least as long.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (num_flips, len(changes)))
    tossed = np.sqrt(np.square(signs @ changes / len(changes)).mean(1))
    found = float(np.sqrt(np.square(changes.mean(0)).mean()))
    return found, float((1 + (tossed >= found).sum()) / (1 + num_flips))


def patches(pictures: np.ndarray) -> np.ndarray:
    """Means over 8x8 parts of pictures: (N, H, W, 3) -> (N, 8, 8, 3), or fewer parts of smaller pictures."""
    rows = np.array_split(pictures, min(_GRID, pictures.shape[1]), axis=1)
    return np.stack(
        [
            np.stack([part.mean((1, 2)) for part in np.array_split(row, min(_GRID, row.shape[2]), axis=2)], axis=1)
            for row in rows
        ],
        axis=1,
    )


def spread_of_colours(pictures: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) -> (N,): how far a pixel's largest colour is above its smallest, on average."""
    return (pictures.max(-1) - pictures.min(-1)).mean((1, 2))


def contrast(pictures: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) -> (N,): the standard deviation of brightness."""
    return pictures.mean(-1).std((1, 2))
