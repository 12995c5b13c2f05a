"""Disjoint sets of judged pictures, from which intervals come.

A prompt and all its pictures are in one set, and prompts are dealt out at random: neither the order of pictures nor
prompts that come several times make sets alike or unlike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from toile.evaluation.scores import Score
from toile.evaluation.suites import Prompt
from toile.evaluation.verdict import score_without_sets


class PictureSets:
    """Which of N pictures are in which of K sets.

    Args:
        prompts: N; equal ones belong together. Pictures without words are each on their own.
        num_sets: K.
        seed: of the dealing.

    Attributes:
        prompts: (N,) int64, the number of each picture's prompt.
        rows: for each set the numbers of its pictures, ascending, int64.
    """

    def __init__(self, prompts: Sequence[Prompt], num_sets: int, seed: int = 0) -> None:
        keys = [(prompt.text, prompt.position, None if prompt.text else row) for row, prompt in enumerate(prompts)]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        self.prompts = np.array([numbers[key] for key in keys], dtype=np.int64)
        set_of = np.random.default_rng(seed).permutation(len(numbers)) % num_sets
        sets = set_of[self.prompts]
        self.rows = tuple(torch.from_numpy(np.flatnonzero(sets == number)) for number in range(num_sets))

    @property
    def fewest(self) -> int:
        """Pictures in the smallest set."""
        return min(map(len, self.rows))

    @property
    def fewest_without_one(self) -> int:
        """Pictures in all sets but the largest."""
        return len(self.prompts) - max(map(len, self.rows))

    def score(self, value_of: Callable[[Tensor], float]) -> Score:
        """A value of all pictures, with the interval that leaving out set after set gives.

        Args:
            value_of: the value of the pictures with these numbers, (n,) int64.
        """
        everyone = torch.arange(len(self.prompts))
        kept = [torch.cat([*self.rows[:number], *self.rows[number + 1 :]]) for number in range(len(self.rows))]
        return score_without_sets(value_of(everyone), [value_of(rows) for rows in kept], len(everyone))
