"""Times making pictures in each quality that a model names: one and many, warm, and one in a new process.

    python benchmarks/qualities.py --model fashion

Besides seconds it tells the processor's seconds of all threads, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from interleaved import time_interleaved
from processes import run_cold
from rich.console import Console
from rich.table import Table

from toile.generation.pictures import generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion, load

PROMPTS = ("navy blue checked shirt for men", "red handbag for women", "black sports shoes for men", "white t-shirt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion", help="a model folder, or the bundled model's name")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 64], help="pictures of a request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=3)
    arguments = parser.parse_args()
    model = load(arguments.model, "cpu", arguments.dtype)
    if not model.qualities:
        raise SystemExit(f"{arguments.model} names no qualities")
    table = Table(title=f"{arguments.model}, {torch.get_num_threads()} threads, {model.dtype}", title_justify="left")
    for column in ("quality", "pictures", "seconds, median (range)", "processor's seconds", "peak"):
        table.add_column(column)
    for count in arguments.counts:
        used: dict[str, list[float]] = {name: [] for name in model.qualities}
        works: dict[str, Callable[[], object]] = {
            name: partial(make, model, name, count, used[name]) for name in model.qualities
        }
        for name, timing in time_interleaved(works, arguments.rounds).items():
            # One warm-up stands before the counted rounds.
            table.add_row(name, f"{count}, warm", timing.describe(), f"{min(used[name][1:]):.3f}", "")
    for name in model.qualities:
        table.add_row(name, "1, new process", *cold(name, arguments))
    Console().print(table)


def make(model: LatentDiffusion, quality: str, count: int, used: list[float]) -> None:
    """Pictures in memory; appends the processor's seconds."""
    prompts = tuple(PROMPTS[index % len(PROMPTS)] for index in range(count))
    started = time.process_time()
    for _ in generate(model, GenerateRequest(prompts, quality=quality)):
        pass
    used.append(time.process_time() - started)


def cold(quality: str, arguments: argparse.Namespace) -> tuple[str, str, str]:
    """Seconds and peak memory of `toile generate`; the files are in the system's cache, as after a first start."""
    runs = []
    for _ in range(arguments.cold_rounds + 1):
        with tempfile.TemporaryDirectory() as out:
            command = [str(Path(sys.executable).with_name("toile")), "generate", PROMPTS[-1], "--quality", quality]
            command += ["--model", arguments.model, "--device", "cpu", "--dtype", arguments.dtype, "--out", f"{out}/p"]
            runs.append(run_cold(command, Path(out) / "log"))
    seconds = sorted(run.seconds for run in runs[1:])
    described = f"{seconds[len(seconds) // 2]:.3f} s ({seconds[0]:.3f}-{seconds[-1]:.3f})"
    return described, "", f"{max(run.peak_bytes for run in runs) / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
