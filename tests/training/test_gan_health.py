"""Collapse and oscillation are found in logs that have them, and in no others."""

from __future__ import annotations

import numpy as np
import pytest

from toile.training.gan_health import Finding, gan_findings, strongest_period

NUM_STEPS = 900


def log_of(losses: np.ndarray, diversities: list[float]) -> list[dict[str, object]]:
    """A training log with these losses of the discriminator, and validations evenly spread."""
    lines: list[dict[str, object]] = [
        {"kind": "step", "step": step + 1, "loss": loss, "parts": {"loss_d": loss, "loss_g": 1.0}, "skipped": False}
        for step, loss in enumerate(losses.tolist())
    ]
    every = len(losses) // max(1, len(diversities))
    lines += [
        {"kind": "validation", "step": every * (number + 1), "losses": {"live": {"loss": 0.2, "diversity": diversity}}}
        for number, diversity in enumerate(diversities)
    ]
    return lines


def findings(losses: np.ndarray, diversities: list[float]) -> dict[str, Finding]:
    return {finding.name: finding for finding in gan_findings(log_of(losses, diversities))}


def noise(seed: int = 0, size: int = NUM_STEPS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size)


def drifting(seed: int) -> np.ndarray:
    """What losses do without any period: they drift, and differ from batch to batch."""
    walk, steps = np.zeros(NUM_STEPS), 0.02 * noise(seed)
    for step in range(1, NUM_STEPS):
        walk[step] = 0.99 * walk[step - 1] + steps[step]
    return 1.2 + np.exp(-np.arange(NUM_STEPS) / 100) + walk + 0.1 * noise(seed + 1000)


def test_a_steady_run_has_neither() -> None:
    found = findings(1.2 + 0.1 * noise(), [0.2, 0.5, 0.6, 0.62, 0.58])
    assert not found["collapse"].found and not found["oscillation"].found
    assert "58%" in found["collapse"].sentence


def test_drift_is_no_oscillation() -> None:
    assert not any(findings(drifting(seed), [0.5])["oscillation"].found for seed in range(10))


@pytest.mark.parametrize("period", [20, 45, 80])
def test_a_period_is_found_and_told(period: int) -> None:
    wave = 0.15 * np.sin(2 * np.pi * np.arange(NUM_STEPS) / period)
    found = findings(drifting(3) + 2 * wave, [0.5])["oscillation"]
    assert found.found and "OSCILLATION" in found.sentence
    measured = strongest_period(1.2 + wave + 0.1 * noise())
    assert measured.length == pytest.approx(period, rel=0.1)
    assert measured.share > 0.3 and measured.p_value <= 0.002


def test_a_period_that_wanders_is_found() -> None:
    phase = np.cumsum(2 * np.pi / 60 * (1 + 0.3 * noise(5)))
    assert findings(1.2 + 0.2 * np.sin(phase) + 0.1 * noise(6), [0.5])["oscillation"].found


def test_chance_has_the_p_values_it_should_have() -> None:
    p_values = np.array([strongest_period(noise(seed, 200)).p_value for seed in range(40)])
    assert 0.3 < p_values.mean() < 0.7
    assert (p_values < 0.1).mean() < 0.25


def test_collapse_is_told_from_where_it_began() -> None:
    found = findings(1.2 + 0.1 * noise(), [0.1, 0.6, 0.5, 0.2, 0.1, 0.05])["collapse"]
    assert found.found and found.step == 4 * (NUM_STEPS // 6)
    assert "5%" in found.sentence and f"step {found.step}" in found.sentence


@pytest.mark.parametrize("diversities", [[0.1, 0.1], [0.1, 0.1, 0.3], [0.1, 0.3, 0.1], []])
def test_few_or_passing_lows_are_no_collapse(diversities: list[float]) -> None:
    assert not findings(1.2 + 0.1 * noise(), diversities)["collapse"].found


def test_what_cannot_be_told_is_not_told() -> None:
    found = findings(np.ones(50), [0.5])["oscillation"]
    assert not found.found and "too few" in found.sentence
    assert not findings(np.ones(500), [0.5])["oscillation"].found, "a constant has no period"


def test_logs_of_other_tasks_say_nothing() -> None:
    lines = [{"kind": "step", "step": 1, "loss": 1.0, "parts": {"kl": 1.0}, "skipped": False}]
    assert gan_findings(lines) == () and gan_findings([]) == ()
