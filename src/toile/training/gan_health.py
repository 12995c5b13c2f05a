"""Whether a GAN has collapsed or goes in circles, told from the log of its run.

A generator that has collapsed makes nearly the same picture of a caption whatever the noise. Players that circle each
other (Mescheder et al. 2018, fig. 2) show in the discriminator's loss: it rises and falls with a period.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_LIVE = "live"
_FEWEST_STEPS = 128
_BINS = 512
_SURROGATES = 999


@dataclass(frozen=True)
class GANHealthConfig:
    """From when on a run is called ill.

    Attributes:
        least_diversity: pictures of one caption must differ by this share of how much real pictures of one kind of
            article differ.
        num_validations: the number of validations in a row that collapse takes.
        largest_p: of the period of the discriminator's loss against shuffled losses.
        least_share: of the variance of this loss, but for its trend, that the period must explain.
        least_periods: that the run must hold.
    """

    least_diversity: float = 0.25
    num_validations: int = 3
    largest_p: float = 0.01
    least_share: float = 0.2
    least_periods: int = 4


@dataclass(frozen=True)
class Finding:
    """What a log says of one illness.

    Attributes:
        name: "collapse" or "oscillation".
        found: whether the run has it.
        sentence: for people.
        step: since when; None if not found, or if it has no beginning.
    """

    name: str
    found: bool
    sentence: str
    step: int | None = None


@dataclass(frozen=True)
class Period:
    """The strongest period of a series.

    Attributes:
        length: in steps.
        share: of the variance but for the trend that lies at this period and those next to it.
        p_value: how often shuffled residuals have one as strong.
    """

    length: float
    share: float
    p_value: float


def gan_findings(lines: Sequence[Mapping[str, Any]], config: GANHealthConfig | None = None) -> tuple[Finding, ...]:
    """Collapse and oscillation in the log of a run; nothing for the log of another task.

    Args:
        lines: as `toile.training.run_folder.read_log` gives them.
    """
    steps = [line for line in lines if line["kind"] == "step" and not line["skipped"]]
    if not steps or "loss_d" not in steps[0]["parts"]:
        return ()
    config = config or GANHealthConfig()
    validations = [line for line in lines if line["kind"] == "validation"]
    diversities = [(line["step"], line["losses"][_LIVE]["diversity"]) for line in validations]
    return find_collapse(diversities, config), find_oscillation([line["parts"]["loss_d"] for line in steps], config)


def find_collapse(diversities: Sequence[tuple[int, float]], config: GANHealthConfig) -> Finding:
    """Whether the last validations, as many as configured, all have too little diversity.

    Args:
        diversities: step and diversity of each validation, in order.
    """
    last = diversities[-config.num_validations :]
    if not last:
        return Finding("collapse", False, "Collapse: not known, there was no validation.")
    now, least = last[-1][1], config.least_diversity
    real = "of what real pictures of one kind of article differ by"
    if len(last) < config.num_validations or any(diversity >= least for _, diversity in last):
        return Finding("collapse", False, f"No collapse: pictures of one caption differ by {now:.0%} {real}.")
    since = last[0][0]
    for step, diversity in reversed(diversities):
        if diversity >= least:
            break
        since = step
    sentence = (
        f"COLLAPSE since step {since}: whatever the noise, pictures of one caption differ by only {now:.0%} {real} "
        f"(called so below {least:.0%}, {config.num_validations} validations in a row). "
        "Try a lower learning_rate, more r1_weight or a larger batch."
    )
    return Finding("collapse", True, sentence, since)


def find_oscillation(losses: Sequence[float], config: GANHealthConfig) -> Finding:
    """Whether the discriminator's loss of every step rises and falls with a period."""
    if len(losses) < _FEWEST_STEPS:
        return Finding(
            "oscillation", False, f"Oscillation: not known, {len(losses)} steps are too few ({_FEWEST_STEPS} needed)."
        )
    period = strongest_period(np.array(losses), config.least_periods)
    told = (
        f"a period of {period.length:.0f} steps holds {period.share:.0%} of the variance of the discriminator's loss, "
        f"p = {period.p_value:.3f}"
    )
    if period.p_value > config.largest_p or period.share < config.least_share:
        return Finding("oscillation", False, f"No oscillation: at most {told}.")
    sentence = f"OSCILLATION: {told}: the players circle each other. Try more r1_weight or a lower learning_rate."
    return Finding("oscillation", True, sentence)


def strongest_period(values: np.ndarray, least_periods: int = 4) -> Period:
    """The period that stands out most in a series, and whether chance would have it so.

    The values are averaged to at most 512, a parabola is taken away, and what a value owes to the one before it
    (Yule-Walker), as losses drift without any period. Of what is left, the largest share of the periodogram is compared
    with that of 999 shufflings (the statistic of Fisher 1929, its distribution by permutation).

    Args:
        values: (N,), N at least 32.
        least_periods: longer periods than N / least_periods are not looked at.
    """
    width = -(-len(values) // _BINS)
    number = len(values) // width
    means = values[: number * width].reshape(number, width).mean(axis=1)
    places = np.linspace(-1.0, 1.0, number)
    means = means - np.polynomial.Polynomial.fit(places, means, 2)(places)
    if not means.std() > 1e-9 * max(1.0, float(np.abs(values).max())):
        return Period(float(len(values)), 0.0, 1.0)
    correlation = float((means[1:] * means[:-1]).sum() / (means**2).sum())
    residuals = means[1:] - correlation * means[:-1]
    window = slice(least_periods, None)
    spectrum = np.abs(np.fft.rfft(residuals))[window] ** 2
    peak = int(spectrum.argmax())
    rng = np.random.default_rng(0)
    shuffled = np.array([rng.permutation(residuals) for _ in range(_SURROGATES)])
    spectra = np.abs(np.fft.rfft(shuffled, axis=1))[:, window] ** 2
    as_strong = (spectra.max(axis=1) / spectra.sum(axis=1) >= spectrum[peak] / spectrum.sum()).sum()
    of_values = np.abs(np.fft.rfft(means[1:])) ** 2
    frequency = peak + least_periods
    share = of_values[max(frequency - 2, 1) : frequency + 3].sum() / of_values[1:].sum()
    return Period(len(residuals) * width / frequency, float(share), (1.0 + as_strong) / (1.0 + _SURROGATES))
