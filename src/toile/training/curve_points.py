"""The curves of a run as few enough points to be sent and drawn while it goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toile.errors import ToileError
from toile.training.records import PLUS_MINUS
from toile.training.run_summary import LOG_NAME, course_of

NUM_POINTS = 300


@dataclass(frozen=True)
class CurvePoints:
    """What a log says against the step; values that are not finite are left out.

    Attributes:
        training: step and mean loss of the steps up to it, at most `NUM_POINTS`.
        held_out: for each kind of weights, "live" or "ema WIDTH", the step, the loss, and half the width of its 95 %
            interval, 0 where that is not known.
        rates: step and learning rate.
    """

    training: tuple[tuple[int, float], ...] = ()
    held_out: Mapping[str, tuple[tuple[int, float, float], ...]] = field(default_factory=dict)
    rates: tuple[tuple[int, float], ...] = ()


def read_curves(folder: Path) -> CurvePoints:
    """The curves of the run in a folder; none where it has no log yet.

    Raises:
        ToileError: its log is damaged.
    """
    log = folder / LOG_NAME
    if not log.is_file():
        return CurvePoints()
    lines = course_of(log)
    try:
        return curve_points(lines)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ToileError(f"{log} has a line without what belongs there: {type(error).__name__}: {error}") from error


def curve_points(lines: Sequence[Mapping[str, Any]]) -> CurvePoints:
    """The points of the lines of a log, which are in the order of their steps."""
    steps = [line for line in lines if line["kind"] == "step" and not line["skipped"]]
    held_out: dict[str, list[tuple[int, float, float]]] = {}
    for line in lines:
        if line["kind"] != "validation":
            continue
        for who, parts in line["losses"].items():
            loss, wide = float(parts["loss"]), float(parts.get(PLUS_MINUS, 0.0))
            if math.isfinite(loss):
                held_out.setdefault(str(who), []).append((line["step"], loss, wide if math.isfinite(wide) else 0.0))
    return CurvePoints(
        tuple(_means(steps, "loss")),
        {who: tuple(points) for who, points in held_out.items()},
        tuple(_means(steps, "learning_rate")),
    )


def _means(steps: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """Means over parts of equal length, each with its last step; so that the last point is the newest step."""
    length = max(1, math.ceil(len(steps) / NUM_POINTS))
    points = []
    for end in range(len(steps), 0, -length):
        part = steps[max(0, end - length) : end]
        mean = sum(float(line[key]) for line in part) / len(part)
        if math.isfinite(mean):
            points.append((int(part[-1]["step"]), mean))
    return points[::-1]
