"""Timing contestants side by side: each round runs all of them, so that a busy machine slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    def describe(self, share: int = 1) -> str:
        """Median and range for people, of one of `share` equal parts."""
        low, high = min(self.seconds) / share, max(self.seconds) / share
        return f"{self.median / share:.3f} s ({low:.3f}-{high:.3f})"


def time_interleaved(
    contestants: Mapping[str, Callable[[], object]], rounds: int, warmups: int = 1
) -> dict[str, Timing]:
    """Runs A B A B ...; the warm-up rounds are not counted.

    Args:
        contestants: what to time, by name.
        rounds: counted rounds, at least 1.
        warmups: rounds before (kernels are chosen, code is compiled).
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-warmups, rounds):
        for name, work in contestants.items():
            started = time.perf_counter()
            work()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}
