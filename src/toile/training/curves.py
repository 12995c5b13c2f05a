"""Training curves as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toile.training.gan_health import gan_findings
from toile.training.records import PLUS_MINUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_curves(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws loss, held-out losses, their parts and the learning rate against the step; above them what is wrong.

    Args:
        lines: of a training log, in order of steps.
        path: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [line for line in lines if line["kind"] == "step" and not line["skipped"]]
    validations = [line for line in lines if line["kind"] == "validation"]
    names = _names_of_parts(steps, validations)
    figure = Figure(figsize=(9, 9 if names else 6), layout="constrained")
    FigureCanvasAgg(figure)
    top, *middle, bottom = figure.subplots(3 if names else 2, 1, sharex=True, height_ratios=[3, *[3] * bool(names), 1])
    if steps:
        x = np.array([line["step"] for line in steps])
        y = np.array([line["loss"] for line in steps])
        top.plot(x, y, color="0.8", linewidth=0.5, label="training, each step")
        _plot_means(top, x, y, "training", color="0.3")
        bottom.plot(x, [line["learning_rate"] for line in steps], color="0.3")
    for who in validations[0]["losses"] if validations else ():
        x = np.array([line["step"] for line in validations])
        y = np.array([line["losses"][who]["loss"] for line in validations])
        top.plot(x, y, marker=".", label=f"held out, {who}")
        wide = np.array([line["losses"][who].get(PLUS_MINUS, 0.0) for line in validations])
        if wide.any():
            top.fill_between(x, y - wide, y + wide, alpha=0.1)
    if middle:
        _plot_parts(middle[0], names, steps, validations)
    top.set_ylabel("loss")
    top.set_yscale("log")
    if steps or validations:
        top.legend()
    if ill := [finding.sentence.split(".")[0] for finding in gan_findings(lines) if finding.found]:
        top.set_title("\n".join(ill), fontsize="small", color="tab:red", wrap=True)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    figure.savefig(path, dpi=100)


def _names_of_parts(steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]) -> list[str]:
    """Of all steps and of the validations, in the order in which they come."""
    held_out = [losses for line in validations for losses in line["losses"].values()]
    found = [name for parts in (*(line["parts"] for line in steps), *held_out) for name in parts]
    return [name for name in dict.fromkeys(found) if name not in ("loss", PLUS_MINUS)]


def _plot_parts(
    panel: Axes, names: Sequence[str], steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]
) -> None:
    """Means of the parts in training as lines, held-out ones of the live weights as points of the same colour."""
    for number, name in enumerate(names):
        colour = f"C{number % 10}"
        having = [line for line in steps if name in line["parts"]]
        if having:
            y = np.array([line["parts"][name] for line in having])
            _plot_means(panel, np.array([line["step"] for line in having]), y, name, color=colour)
        held_out = [(line["step"], losses[name]) for line in validations if name in (losses := _live(line))]
        if held_out:
            panel.plot(*zip(*held_out, strict=True), ".", color=colour, label=f"{name}, held out")
    panel.set_ylabel("parts")
    panel.set_yscale("symlog", linthresh=1.0)  # their units differ; some are below 0
    panel.legend(fontsize="small", ncols=2)


def _live(line: dict[str, Any]) -> dict[str, float]:
    losses: dict[str, float] = line["losses"].get("live", {})
    return losses


def _plot_means(panel: Axes, x: np.ndarray, y: np.ndarray, name: str, color: str) -> None:
    """Running means, over a fiftieth of the values."""
    window = max(1, len(y) // 50)
    smooth = np.convolve(y, np.ones(window) / window, mode="valid")
    panel.plot(x[window - 1 :], smooth, color=color, label=f"{name}, mean of {window}")
