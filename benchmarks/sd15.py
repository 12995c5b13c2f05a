"""Times Stable Diffusion 1.5 at full size, with random weights, beside the ways people run it on a CPU.

    python benchmarks/sd15.py

One picture of 512x512 from 20 guided DDIM steps, in one precision, each contestant in a process of its own: toile,
exact and with its approximations, diffusers (weights in channels_last memory, as its guide for speed says), diffusers
compiled by torch.compile, and diffusers' networks converted to OpenVINO, if that is installed. Contestants take turns
step by step. Then each decodes the same latents. Peak memory is that of a new process from start to picture, with fewer
steps.

Random weights cost what trained ones cost, but say nothing about what approximations do to pictures: that is measured
by benchmarks/approximations.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from processes import Worker, run_cold
from rich.console import Console
from rich.table import Table
from speed import DIFFUSERS_SCRIPT
from torch import Tensor, nn

from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.generation.pictures import Event, generate
from toile.generation.request import GenerateRequest
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion, load
from toile.model_folder import find_model
from toile.models.clip import CLIP_VIT_L14_TEXT, CLIPTextModel
from toile.models.unet import SD15_UNET, UNet
from toile.models.vae import SD15_VAE, VAE
from toile.text.tokenizer import Tokenizer
from toile.weights.files import write_json_atomically

OURS: Mapping[str, Mapping[str, Any]] = {
    "toile": {},
    "toile, deepcache 2": {"deepcache": 2},
    "toile, deepcache 3": {"deepcache": 3},
    "toile, tgate 0.5": {"tgate": 0.5},
    "toile, deepcache 2, tgate 0.5": {"deepcache": 2, "tgate": 0.5},
}
GUIDANCE, PROMPT = 7.5, "a watercolour of a red dress"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
Work = Callable[[tuple[str, str]], None]  # told a contestant's name, and "start", "step" or "decode"


def main() -> None:
    arguments = parse_arguments()
    console = Console()
    names = [name for name in arguments.contestants if name != "OpenVINO" or importlib.util.find_spec("openvino")]
    if left_out := set(arguments.contestants) - set(names):
        console.print(f"not installed, left out: {', '.join(left_out)}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.model or write_random_model(Path(scratch) / "sd15")
        what = f"{torch.get_num_threads()} threads, {arguments.dtype}, torch {torch.__version__}"
        console.print(f"{what}, {torch.backends.cpu.get_cpu_capability()}, AMX: {torch.cpu._is_amx_tile_supported()}")
        workers = start_workers(names, folder, arguments, console)
        steps = time_steps(workers, arguments.steps)
        decodes = time_decodes({name: workers[name] for name in names if name in DECODERS}, arguments.decodes)
        for worker in set(workers.values()):
            worker.close()
        peaks = measure_peaks(folder, arguments)
    console.print(as_table(steps, decodes, peaks))
    if arguments.out is not None:
        write_json_atomically(arguments.out, {"machine": what, "steps": steps, "decodes": decodes, "peaks": peaks})
        console.print(f"written: {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=find_model, help="a model folder; default: random weights")
    parser.add_argument("--contestants", nargs="*", choices=(*OURS, *PEERS), default=[*OURS, *PEERS])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--decodes", type=int, default=5)
    parser.add_argument("--peak-steps", type=int, default=2, help="of the picture whose peak memory is taken")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    parser.add_argument("--out", type=Path, help="a JSON file for all the times")
    return parser.parse_args()


def write_random_model(folder: Path) -> Path:
    """A folder with the architecture of Stable Diffusion 1.5, the weights networks begin with, a small tokenizer."""
    torch.manual_seed(0)
    model = LatentDiffusion(
        VAE(SD15_VAE),
        CLIPTextModel(CLIP_VIT_L14_TEXT),
        Tokenizer.load(find_model("fashion") / "tokenizer"),
        UNet(SD15_UNET),
        NoiseSchedule(ScheduleConfig(steps_offset=1)),
        GenerationSettings(),
    )
    model.save(folder, torch.bfloat16)
    return folder


# ------------------------------------------------------------------------------------------------------- contestants


def start_workers(
    names: Sequence[str], folder: Path, arguments: argparse.Namespace, console: Console
) -> dict[str, Worker]:
    """A process for each contestant, warmed up by two steps; all of ours are one, with one model."""
    ours = Worker(make_ours, folder, arguments)
    workers = {}
    for name in sorted(names, key=lambda name: name != "OpenVINO"):  # it needs most memory at first
        worker = ours if name in OURS else Worker(PEERS[name], name, folder, arguments)
        for task in ("start", "step", "step", "start"):
            worker.work((name, task))
        workers[name] = worker
        console.print(f"ready: {name}")
    return {name: workers[name] for name in names}


def make_ours(folder: Path, arguments: argparse.Namespace) -> Work:
    model = load(folder, "cpu", arguments.dtype)
    exact = GenerateRequest((PROMPT,), steps=arguments.steps, guidance=GUIDANCE, sampler="ddim", safety="off")
    latents = torch.randn(1, *model.latent_shape(model.defaults.width, model.defaults.height))
    running: dict[str, Iterator[Event]] = {}

    @torch.inference_mode()
    def work(task: tuple[str, str]) -> None:
        name, what = task
        if what == "start":
            running[name] = generate(model, replace(exact, **OURS[name]))
        elif what == "step":
            next(running[name])
        else:
            model.decode_latents(latents)

    return work


class Guided:
    """DDIM with guidance over a U-Net, as in diffusers' pipeline: one call of the U-Net with both halves a step."""

    def __init__(
        self,
        unet: Callable[[Tensor, Tensor, Tensor], Tensor],
        scheduler: DDIMScheduler,
        steps: int,
        start: Tensor,
        states: Tensor,
    ) -> None:
        self.unet, self.scheduler, self.steps, self.first, self.states = unet, scheduler, steps, start, states
        self.start()

    def start(self) -> None:
        self.scheduler.set_timesteps(self.steps)
        self.latents, self.timesteps = self.first, iter(self.scheduler.timesteps)

    def step(self) -> None:
        timestep = next(self.timesteps)
        predicted = self.unet(torch.cat([self.latents] * 2), timestep, self.states)
        without, with_prompt = predicted.chunk(2)
        guided = without + GUIDANCE * (with_prompt - without)
        self.latents = self.scheduler.step(guided, timestep, self.latents).prev_sample


@torch.no_grad()
def make_diffusers(name: str, folder: Path, arguments: argparse.Namespace) -> Work:
    pipeline, latents, states = load_pipeline(folder, DTYPES[arguments.dtype])
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    if name == "diffusers compiled":
        pipeline.unet.compile()
        pipeline.vae.decoder.compile()

    def predict(x: Tensor, timestep: Tensor, words: Tensor) -> Tensor:
        return pipeline.unet(x, timestep, words).sample

    guided = Guided(predict, pipeline.scheduler, arguments.steps, latents, states)
    return as_work(guided, lambda: pipeline.vae.decode(latents).sample)


@torch.no_grad()
def make_openvino(name: str, folder: Path, arguments: argparse.Namespace) -> Work:
    """diffusers' U-Net and decoder, converted and compiled for these shapes."""
    import openvino

    pipeline, latents, states = load_pipeline(folder, torch.float32)
    scheduler, timestep = pipeline.scheduler, torch.tensor(500)
    networks = {
        "unet": (UNetOutput(pipeline.unet), (torch.cat([latents] * 2), timestep, states)),
        "decoder": (DecoderOutput(pipeline.vae), (latents,)),
    }
    precision = "bf16" if arguments.dtype == "bfloat16" else "f32"
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    del pipeline
    scratch = tempfile.TemporaryDirectory()
    compiled = {}
    for part in list(networks):
        network, inputs = networks.pop(part)
        file = Path(scratch.name) / f"{part}.xml"
        converted = openvino.convert_model(network, example_input=inputs, input=[each.shape for each in inputs])
        openvino.save_model(converted, file, compress_to_fp16=arguments.dtype == "bfloat16")
        del network, converted
        compiled[part] = openvino.Core().compile_model(file, "CPU", options)

    scratch.cleanup()

    def run(part: str, *values: Tensor) -> Tensor:
        return torch.from_numpy(compiled[part]([value.numpy() for value in values])[0])

    return as_work(
        Guided(partial(run, "unet"), scheduler, arguments.steps, latents, states), partial(run, "decoder", latents)
    )


class UNetOutput(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, timestep: Tensor, words: Tensor) -> Tensor:
        return self.unet(x, timestep, words).sample


class DecoderOutput(nn.Module):
    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> Tensor:
        return self.vae.decode(x).sample


def load_pipeline(folder: Path, dtype: torch.dtype) -> tuple[StableDiffusionPipeline, Tensor, Tensor]:
    """diffusers' pipeline with DDIM, latents to start from, and the states of both halves of guidance."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    latents = torch.randn(1, pipeline.unet.config.in_channels, height, width).to(dtype)
    with_prompt, without = pipeline.encode_prompt(PROMPT, torch.device("cpu"), 1, True)
    pipeline.text_encoder = None
    return pipeline, latents, torch.cat([without, with_prompt])


def as_work(guided: Guided, decode: Callable[[], object]) -> Work:
    tasks = {"start": guided.start, "step": guided.step, "decode": decode}

    @torch.inference_mode()
    def work(task: tuple[str, str]) -> None:
        tasks[task[1]]()

    return work


PEERS: Mapping[str, Callable[[str, Path, argparse.Namespace], Work]] = {
    "diffusers": make_diffusers,
    "diffusers compiled": make_diffusers,
    "OpenVINO": make_openvino,
}
DECODERS = ("toile", *PEERS)


# -------------------------------------------------------------------------------------------------------- measurement


def time_steps(workers: Mapping[str, Worker], steps: int) -> dict[str, list[float]]:
    """Seconds of every step of one picture, contestants in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(steps):
        for name, worker in workers.items():
            started = time.perf_counter()
            worker.work((name, "step"))
            seconds[name].append(time.perf_counter() - started)
    return seconds


def time_decodes(workers: Mapping[str, Worker], count: int) -> dict[str, list[float]]:
    """Seconds of every decode, contestants in turns, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(-1, count):
        for name, worker in workers.items():
            started = time.perf_counter()
            worker.work((name, "decode"))
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def measure_peaks(folder: Path, arguments: argparse.Namespace) -> dict[str, int]:
    """Bytes at most in a new process that loads the model and makes one picture."""
    steps, size = str(arguments.peak_steps), load(folder, "cpu", arguments.dtype).defaults
    with tempfile.TemporaryDirectory() as out:
        ours = [str(Path(sys.executable).with_name("toile")), "generate", PROMPT, "--model", str(folder)]
        ours += ["--steps", steps, "--dtype", arguments.dtype, "--out", f"{out}/ours"]
        theirs = [sys.executable, "-c", DIFFUSERS_SCRIPT, str(folder), arguments.dtype, steps, str(GUIDANCE)]
        theirs += [str(size.width), str(size.height), "1", out]
        commands = {"toile": ours, "diffusers": theirs}
        return {name: run_cold(command, Path(out) / f"{name}.log").peak_bytes for name, command in commands.items()}


def as_table(
    steps: Mapping[str, Sequence[float]], decodes: Mapping[str, Sequence[float]], peaks: Mapping[str, int]
) -> Table:
    table = Table(title="one picture, guided", title_justify="left")
    for column in ("", "a step, mean (range)", "as toile = 1", "decoding, median", "peak of a new process"):
        table.add_column(column)
    reference = statistics.mean(steps["toile"]) if "toile" in steps else None
    for name, seconds in steps.items():
        mean = statistics.mean(seconds)
        ratio = "" if reference is None else f"{mean / reference:.2f}"
        decoding = f"{statistics.median(decodes[name]):.2f} s" if name in decodes else ""
        peak = f"{peaks[name] / 1e9:.2f} GB" if name in peaks else ""
        table.add_row(name, f"{mean:.2f} s ({min(seconds):.2f}-{max(seconds):.2f})", ratio, decoding, peak)
    return table


if __name__ == "__main__":
    main()
