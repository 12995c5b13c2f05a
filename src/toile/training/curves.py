"""Training curves as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toile.training.records import PLUS_MINUS


def draw_curves(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws loss, held-out losses and learning rate against the step.

    Args:
        lines: of a training log, in order of steps.
        path: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [line for line in lines if line["kind"] == "step" and not line["skipped"]]
    validations = [line for line in lines if line["kind"] == "validation"]
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    if steps:
        x = np.array([line["step"] for line in steps])
        y = np.array([line["loss"] for line in steps])
        top.plot(x, y, color="0.8", linewidth=0.5, label="training, each step")
        window = max(1, len(y) // 50)
        smooth = np.convolve(y, np.ones(window) / window, mode="valid")
        top.plot(x[window - 1 :], smooth, color="0.3", label=f"training, mean of {window}")
        bottom.plot(x, [line["learning_rate"] for line in steps], color="0.3")
    for who in validations[0]["losses"] if validations else ():
        x = np.array([line["step"] for line in validations])
        y = np.array([line["losses"][who]["loss"] for line in validations])
        top.plot(x, y, marker=".", label=f"held out, {who}")
        wide = np.array([line["losses"][who].get(PLUS_MINUS, 0.0) for line in validations])
        if wide.any():
            top.fill_between(x, y - wide, y + wide, alpha=0.1)
    top.set_ylabel("loss")
    top.set_yscale("log")
    if steps or validations:
        top.legend()
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    figure.savefig(path, dpi=100)
