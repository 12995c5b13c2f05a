"""Times fine-tuning with LoRA on the full size of Stable Diffusion 1.5, random weights, beside diffusers' way.

    python benchmarks/lora_speed.py

Rank 4 on attention, pictures of 256x256, batch 1, bfloat16: toile, whose loop has latents and text states cached, and
the steps of diffusers' train_text_to_image_lora.py (autoencoder, text encoder, U-Net with PEFT's layers under autocast,
AdamW, gradients clipped), with weights in channels_last memory. Each contestant is a process of its own, and they take
turns step by step. Peak memory is that of a new process, from start to the last of a few steps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from processes import Worker, run_cold
from rich.console import Console
from rich.table import Table
from sd15 import write_random_model
from torch.nn import functional as F

from toile.model_folder import find_model
from toile.training.loop import LoopConfig, train
from toile.training.lora_targets import LoRAConfig
from toile.training.pictures import DataConfig, PictureSet
from toile.training.recipes import LoRARecipe
from toile.training.records import StepRecord
from toile.training.run import build_task
from toile.user_folders import CACHE_VARIABLE
from toile.weights.files import write_json_atomically

RANK, LEARNING_RATE, NUM_PICTURES = 4, 1e-4, 24
CAPTION = "a watercolour of a red dress, number"
Step = Callable[[object], object]


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.scratch or scratch)
        model = arguments.model or write_random_model(folder / "sd15")
        write_pictures(folder / "pictures", arguments.size)
        if arguments.one is not None:
            step = CONTESTANTS[arguments.one](model, folder, arguments.size)
            for _ in range(arguments.steps):
                step(None)
            return
        compare(model, folder, arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=find_model, help="a model folder; default: random weights")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peak-steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--one", choices=sorted(CONTESTANTS), help="only let this one work, for its memory")
    parser.add_argument("--scratch", type=Path, help="an existing folder for pictures, weights and caches")
    parser.add_argument("--out", type=Path, help="a JSON file for all the times")
    return parser.parse_args()


def compare(model: Path, folder: Path, arguments: argparse.Namespace) -> None:
    console = Console()
    workers = {name: Worker(make, model, folder, arguments.size) for name, make in CONTESTANTS.items()}
    for worker in workers.values():
        for _ in range(2):
            worker.work(None)
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(arguments.steps):
        for name, worker in workers.items():
            started = time.perf_counter()
            worker.work(None)
            seconds[name].append(time.perf_counter() - started)
    for worker in workers.values():
        worker.close()
    peaks = {name: measure_peak(name, model, folder, arguments) for name in CONTESTANTS}
    what = f"{torch.get_num_threads()} threads, torch {torch.__version__}, AMX: {torch.cpu._is_amx_tile_supported()}"
    console.print(what)
    console.print(as_table(seconds, peaks))
    if arguments.out is not None:
        write_json_atomically(arguments.out, {"machine": what, "seconds": seconds, "peaks": peaks})
        console.print(f"written: {arguments.out}")


def measure_peak(name: str, model: Path, folder: Path, arguments: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--one", name, "--steps", str(arguments.peak_steps)]
    command += ["--model", str(model), "--size", str(arguments.size), "--scratch", str(folder)]
    return run_cold(command, folder / f"{name}.log").peak_bytes


def write_pictures(folder: Path, size: int) -> None:
    """Pictures of noise, each with a caption of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        pixels = draws.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{CAPTION} {number}", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- contestants


def make_toile(model: Path, folder: Path, size: int) -> Step:
    os.environ[CACHE_VARIABLE] = str(folder / "cache")
    loop = LoopConfig(1_000_000, 1, LEARNING_RATE, ema_widths=(), validate_every=0, save_every=0)
    data = DataConfig(size, size, path=folder / "pictures")
    recipe = LoRARecipe("lora", str(model), data, loop, LoRAConfig(RANK))
    task = build_task(recipe, PictureSet(data))
    records = train(task.objective, loop, Path(tempfile.mkdtemp(dir=folder)), {})

    def step(_: object) -> float:
        for record in records:
            if isinstance(record, StepRecord):
                return record.loss
        raise RuntimeError("the run ended")

    return step


def make_diffusers(model: Path, folder: Path, size: int) -> Step:
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from peft import LoraConfig

    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.bfloat16, safety_checker=None)
    unet, vae, text_encoder, tokenizer = pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer
    for network in (unet, vae, text_encoder):
        network.requires_grad_(False)
    for network in (unet, vae):
        network.to(memory_format=torch.channels_last)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets))
    learning = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=LEARNING_RATE)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    examples = read_examples(folder / "pictures")

    def step(_: object) -> float:
        pixels, caption = next(examples)
        latents = vae.encode(pixels.to(torch.bfloat16)).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),))
        noisy = scheduler.add_noise(latents, noise, timesteps)
        ids = tokenizer(caption, padding="max_length", truncation=True, return_tensors="pt").input_ids
        states = text_encoder(ids)[0]
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(noisy, timesteps, states).sample
        loss = F.mse_loss(predicted.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def read_examples(folder: Path) -> Iterator[tuple[torch.Tensor, str]]:
    """Pictures (1, 3, H, W) in [-1, 1] and captions, again and again."""
    while True:
        for path in sorted(folder.glob("*.png")):
            pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
            yield pixels.float() / 127.5 - 1, path.with_suffix(".txt").read_text(encoding="utf-8")


CONTESTANTS: Mapping[str, Callable[[Path, Path, int], Step]] = {"toile": make_toile, "diffusers": make_diffusers}


def as_table(seconds: Mapping[str, list[float]], peaks: Mapping[str, int]) -> Table:
    table = Table(title="a step of LoRA, rank 4, batch 1", title_justify="left")
    for column in ("", "a step, median (range)", "as toile = 1", "peak of a new process"):
        table.add_column(column)
    reference = statistics.median(seconds["toile"])
    for name, of_name in seconds.items():
        median = statistics.median(of_name)
        spread = f"{median:.2f} s ({min(of_name):.2f}-{max(of_name):.2f})"
        table.add_row(name, spread, f"{median / reference:.2f}", f"{peaks[name] / 1e9:.2f} GB")
    return table


if __name__ == "__main__":
    main()
