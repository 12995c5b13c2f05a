"""How long it takes to judge pictures that are there, and how much memory that takes, for several numbers of them.

    TOILE_DATA=data python benchmarks/evaluation_speed.py --n 2000 10000

The pictures are training pictures with some noise, in a file that is mapped into memory as `toile evaluate` keeps them.
Each number has a process of its own, whose peak is the kernel's (Linux). What is computed once and kept (features of
training pictures) is computed before.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from toile.evaluation.bench import Bench
from toile.evaluation.feature_networks import ATTRIBUTES, WORDS, find_judge, open_feature_network
from toile.evaluation.features import load_evaluator
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.real_side import divide_real
from toile.evaluation.run import NETWORKS
from toile.model_files.clip_pair import load_clip_pair
from toile.training.pictures import DataConfig, PictureSet

_NOISE = 8.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[2000, 10_000])
    parser.add_argument("--alone", action="store_true", help="measure one number in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measured(arguments.n[0])))
        return
    table = Table(title=f"judging pictures on {torch.get_num_threads()} threads", title_justify="left")
    for column in ("pictures", "seconds", "pictures/s", "peak memory"):
        table.add_column(column, justify="right")
    run(arguments.n[0])  # what is kept on disk is there from now on
    for number in arguments.n:
        facts = run(number)
        rate = f"{number / facts['seconds']:.0f}"
        table.add_row(f"{number:,}", f"{facts['seconds']:.1f}", rate, f"{facts['peak'] / 1e9:.2f} GB")
    Console().print(table)


def run(number: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--alone", "--n", str(number)]
    facts: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return facts


def measured(number: int) -> dict[str, float]:
    pictures = PictureSet(DataConfig(64, 80))
    real = divide_real(pictures)
    networks = [open_feature_network(spec) for spec in NETWORKS]
    judge, words = load_evaluator(find_judge(ATTRIBUTES)), load_clip_pair(find_judge(WORDS))
    bench = Bench(real, networks, judge, words, num_sets=5)
    bench.prepare(PictureSets(real.prompts_for(number), bench.num_sets))  # as before pictures are made
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        shape = (number, pictures.height, pictures.width, 3)
        stored = np.lib.format.open_memmap(Path(folder) / "pictures.npy", "w+", dtype=np.uint8, shape=shape)
        chosen = pictures.train[np.arange(number) % len(pictures.train)]
        for first in range(0, number, 500):
            some = real.pixels(chosen[first : first + 500]).numpy().astype(np.float32)
            noisy = some + rng.normal(0, _NOISE, some.shape).astype(np.float32)
            stored[first : first + 500] = noisy.clip(0, 255).astype(np.uint8)
        started = time.monotonic()
        bench.measure(torch.from_numpy(stored), real.prompts_for(number))
        seconds = time.monotonic() - started
    return {"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


if __name__ == "__main__":
    main()
