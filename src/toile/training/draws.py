"""Explicit randomness: every draw of a run is a function of (seed, purpose, indices), so resuming cannot change it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0.6180339887498949


def seed_of(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed that depends on all arguments and on nothing else."""
    text = ":".join([str(seed), purpose, *map(str, indices)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. `generator(0, "noise", example)`."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, *indices))


def example_noise(seed: int, purpose: str, examples: range, shape: tuple[int, ...]) -> Tensor:
    """Gaussian noise (len(examples), *shape) float32; each example's depends on its number alone.

    So neither the micro-batch size nor the number of processes changes what an example gets.
    """
    rows = [torch.randn(shape, generator=generator(seed, purpose, example)) for example in examples]
    return torch.stack(rows)


def spread_places(numbers: Iterable[int], shift: float = 0.0) -> list[float]:
    """A place in [0, 1) for each number, so that those of any row of numbers lie evenly (golden ratio)."""
    return [(shift + number * _GOLDEN) % 1.0 for number in numbers]


class ShuffledOrder:
    """Which picture an example of the run shows: epochs of permutations, computed from the example's number alone.

    Args:
        num_pictures: size of the training split.
        seed: of the permutations.
    """

    def __init__(self, num_pictures: int, seed: int) -> None:
        self.num_pictures, self.seed = num_pictures, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def positions(self, examples: range) -> np.ndarray:
        """Positions (len(examples),) int64; examples run over the end of an epoch into the next."""
        return np.array([self._position(example) for example in examples], dtype=np.int64)

    def _position(self, example: int) -> int:
        epoch, place = divmod(example, self.num_pictures)
        if epoch != self._epoch:
            rng = np.random.default_rng(seed_of(self.seed, "order", epoch))
            self._epoch, self._permutation = epoch, rng.permutation(self.num_pictures)
        return int(self._permutation[place])
