"""Curves of a log as points that are few, honest about what is not finite, and end with the newest step."""

from __future__ import annotations

from typing import Any

import pytest

from toile.training.curve_points import NUM_POINTS, curve_points


def step(number: int, loss: float, skipped: bool = False) -> dict[str, Any]:
    return {"kind": "step", "step": number, "loss": loss, "learning_rate": 0.1, "skipped": skipped}


def test_many_steps_become_means_and_the_last_one_is_there() -> None:
    num = 10 * NUM_POINTS + 3
    points = curve_points([step(number, float(number)) for number in range(1, num + 1)]).training
    assert len(points) <= NUM_POINTS and points[-1][0] == num
    assert points[-1][1] == pytest.approx(sum(range(num - 10, num + 1)) / 11)
    assert [at for at, _ in points] == sorted({at for at, _ in points})


def test_what_is_not_finite_or_was_skipped_is_left_out() -> None:
    losses = {"live": {"loss": 0.5, "plus_minus": 0.1}, "ema 0.1": {"loss": float("nan")}}
    held_out = {"kind": "validation", "step": 3, "losses": losses}
    steps = [step(1, 1.0), step(2, float("inf")), step(3, 9.0, skipped=True)]
    points = curve_points([*steps, held_out, {"kind": "end", "step": 3}])
    assert points.training == ((1, 1.0),)
    assert points.held_out == {"live": ((3, 0.5, 0.1),)}
    assert curve_points([]).training == ()
