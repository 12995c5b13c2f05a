"""Times making pictures beside diffusers on the same model folder, in one run, turn by turn.

    python benchmarks/speed.py --model fashion

Both run DDIM with the same number of steps, the same precision, size and guidance, guided at every step, to uint8 or
float pixels in memory, each in a process of its own. Cold: a new process that loads, makes pictures and writes PNGs.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from interleaved import Timing, time_interleaved
from processes import ColdRun, Worker, run_cold
from rich.console import Console
from rich.table import Table

from toile.generation.pictures import generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import load
from toile.model_folder import find_model
from toile.weights.files import write_json_atomically

PROMPTS = ("navy blue checked shirt for men", "red handbag for women", "black sports shoes for men", "white t-shirt")
OURS, THEIRS = "toile", "diffusers"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# What a person would type to get one picture from diffusers.
DIFFUSERS_SCRIPT = """
import sys, torch
from diffusers import StableDiffusionPipeline
folder, dtype, steps, guidance, width, height, count, out = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=getattr(torch, dtype))
pictures = pipe(["white t-shirt"] * int(count), num_inference_steps=int(steps), guidance_scale=float(guidance),
                width=int(width), height=int(height)).images
for number, picture in enumerate(pictures):
    picture.save(f"{out}/{number}.png")
"""


def main() -> None:
    arguments = parse_arguments()
    console, folder = Console(), find_model(arguments.model)
    threads = torch.get_num_threads()
    console.print(f"{threads} threads, {arguments.dtype}, {arguments.steps} steps, torch {torch.__version__}")
    rows: list[tuple[str, str, str, str]] = []
    facts: dict[str, object] = {"arguments": {key: str(value) for key, value in vars(arguments).items()}}
    defaults = load(folder, "cpu").defaults
    size = defaults.width, defaults.height
    with Worker(make_ours, folder, arguments) as ours, Worker(make_theirs, folder, arguments, *size) as theirs:
        for count, rounds in [(1, arguments.rounds), *((count, arguments.batch_rounds) for count in arguments.batches)]:
            contestants = {OURS: partial(ours.work, count), THEIRS: partial(theirs.work, count)}
            timings = time_interleaved(contestants, rounds)
            rows += warm_rows(count, timings)
            facts[f"warm, batch of {count}"] = {name: timing.seconds for name, timing in timings.items()}
            console.print(f"batches of {count} done")
    for count in (1, 16):
        runs = time_cold(folder, size, count, arguments)
        rows += cold_rows(count, runs)
        facts[f"cold, {count} pictures"] = {name: [vars(run) for run in done] for name, done in runs.items()}
    table = Table(title=f"{arguments.model}, median (range)", title_justify="left")
    for column in ("", OURS, THEIRS, f"{THEIRS} / {OURS}"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if arguments.out is not None:
        write_json_atomically(arguments.out, facts)
        console.print(f"written: {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion", help="a model folder, or the bundled model's name")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 50, 100])
    parser.add_argument("--rounds", type=int, default=9, help="of single pictures")
    parser.add_argument("--batch-rounds", type=int, default=3)
    parser.add_argument("--cold-rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--out", type=Path, help="a JSON file for all the times")
    arguments = parser.parse_args()
    set_threads(arguments)
    return arguments


def make_ours(folder: Path, arguments: argparse.Namespace) -> Callable[[int], object]:
    """Our model, without the savings that diffusers' pipeline does not have."""
    set_threads(arguments)
    model = load(folder, "cpu", arguments.dtype)
    plain = dataclasses.replace(model.defaults, guidance_interval=None, guidance_rescale=0.0, negative="")
    plain = dataclasses.replace(plain, noise_candidates=1, classifier_guidance=0.0)
    plain = dataclasses.replace(plain, sampler="ddim", spacing=None, eta=None)
    model = dataclasses.replace(model, defaults=plain)
    steps, guidance = arguments.steps, arguments.guidance
    return lambda size: list(
        generate(model, GenerateRequest(prompts(size), steps=steps, guidance=guidance, batch_size=size, upscale=False))
    )


def make_theirs(folder: Path, arguments: argparse.Namespace, width: int, height: int) -> Callable[[int], object]:
    set_threads(arguments)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=DTYPES[arguments.dtype])
    pipeline.set_progress_bar_config(disable=True)
    return lambda size: pipeline(
        list(prompts(size)),
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        width=width,
        height=height,
        generator=[torch.Generator().manual_seed(seed) for seed in range(size)],
        output_type="np",
    )


def set_threads(arguments: argparse.Namespace) -> None:
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)


def prompts(count: int) -> tuple[str, ...]:
    return tuple(PROMPTS[index % len(PROMPTS)] for index in range(count))


def warm_rows(batch_size: int, timings: dict[str, Timing]) -> list[tuple[str, str, str, str]]:
    ours, theirs = timings[OURS], timings[THEIRS]
    ratio = f"{theirs.median / ours.median:.2f}"
    rows = [(f"{batch_size} at once, warm", ours.describe(), theirs.describe(), ratio)]
    if batch_size > 1:
        rows.append((f"  a picture of {batch_size}", ours.describe(batch_size), theirs.describe(batch_size), ratio))
    return rows


def time_cold(
    folder: Path, size: tuple[int, int], count: int, arguments: argparse.Namespace
) -> dict[str, list[ColdRun]]:
    """New processes, turn by turn; the files are in the system's cache, as after a first start."""
    numbers = [str(value) for value in (arguments.steps, arguments.guidance)]
    runs: dict[str, list[ColdRun]] = {OURS: [], THEIRS: []}
    for number in range(-1, arguments.cold_rounds):
        with tempfile.TemporaryDirectory() as out:
            ours = [str(Path(sys.executable).with_name("toile")), "generate", "white t-shirt", "-n", str(count)]
            ours += ["--model", str(folder), "--steps", numbers[0], "--guidance", numbers[1], "--sampler", "ddim"]
            ours += ["--guidance-interval", "0", "1e9", "--guidance-rescale", "0"]  # everywhere, as diffusers does
            ours += ["--dtype", arguments.dtype, "--batch-size", str(count), "--out", f"{out}/ours", "--no-upscale"]
            theirs = [sys.executable, "-c", DIFFUSERS_SCRIPT, str(folder), arguments.dtype, *numbers]
            theirs += [*map(str, size), str(count), out]
            for name, command in ((OURS, ours), (THEIRS, theirs)):
                run = run_cold(command, Path(out) / f"{name}.log")
                if number >= 0:
                    runs[name].append(run)
    return runs


def cold_rows(count: int, runs: dict[str, list[ColdRun]]) -> list[tuple[str, str, str, str]]:
    ours, theirs = (Timing(tuple(run.seconds for run in runs[name])) for name in (OURS, THEIRS))
    ours_peak, theirs_peak = (max(run.peak_bytes for run in runs[name]) / 1e9 for name in (OURS, THEIRS))
    what = "1 picture" if count == 1 else f"{count} pictures"
    return [
        (f"{what}, new process to file", ours.describe(), theirs.describe(), f"{theirs.median / ours.median:.2f}"),
        (f"  peak memory of {what}", f"{ours_peak:.2f} GB", f"{theirs_peak:.2f} GB", f"{theirs_peak / ours_peak:.2f}"),
    ]


if __name__ == "__main__":
    main()
