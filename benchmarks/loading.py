"""Measures the memory that loading a model takes beside the size of its weights, for every layout of files.

    python benchmarks/loading.py --size full

The model has the architecture of Stable Diffusion 1.5, random weights in float16, and a tokenizer of its own. Each load
is a new process. Linux only: the peak is what the kernel counts (VmHWM, reset once torch and toile are imported), less
what the process held then. It covers both kinds of memory, that of the process alone ("anonymous") and pages of mapped
files; how much there was of each is sampled every few milliseconds, and stated beside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from toile.diffusion.schedule import ScheduleConfig
from toile.model_files.parts import ModelParts, expected_tensors
from toile.model_files.writing import write_model
from toile.models.clip import CLIP_VIT_L14_TEXT, CLIPTextConfig
from toile.models.unet import SD15_UNET, UNetConfig
from toile.models.vae import SD15_VAE, VAEConfig
from toile.text.tokenizer import Tokenizer
from toile.weights.files import load_tensors, save_tensors, write_json_atomically
from toile.weights.folder import find_weights

BOUND = 1.15
NUM_SHARDS = 3
DTYPES = ("float16", "bfloat16", "float32")
SIZES: Mapping[str, tuple[UNetConfig, VAEConfig, CLIPTextConfig]] = {
    "full": (SD15_UNET, SD15_VAE, CLIP_VIT_L14_TEXT),
    "small": (
        replace(SD15_UNET, block_out_channels=(64, 128, 256, 256)),
        replace(SD15_VAE, block_out_channels=(64, 128, 128, 128)),
        replace(CLIP_VIT_L14_TEXT, num_hidden_layers=2, vocab_size=8192, bos_token_id=8190, eos_token_id=8191),
    ),
}
MEASURING_SCRIPT = """
import json, sys, threading, time
from toile.latent_diffusion import LatentDiffusion

def memory():
    lines = (line.split() for line in open("/proc/self/status"))
    return {line[0][:-1]: int(line[1]) * 1024 for line in lines if line[0] in ("VmHWM:", "RssAnon:", "RssFile:")}

def sample():
    while not done.is_set():
        now = memory()
        for kind in most:
            most[kind] = max(most[kind], now[kind] - before[kind])
        time.sleep(0.002)

open("/proc/self/clear_refs", "w").write("5")  # VmHWM begins anew
before = memory()
most, done = {"RssAnon": 0, "RssFile": 0}, threading.Event()
sampler = threading.Thread(target=sample)
sampler.start()
model = LatentDiffusion.load(sys.argv[1], "cpu", sys.argv[2])
done.set()
sampler.join()
held = [tensor for network in (model.unet, model.vae, model.text_encoder) for tensor in network.state_dict().values()]
peak = memory()["VmHWM"] - before["RssAnon"] - before["RssFile"]
weights = sum(tensor.nbytes for tensor in held)
print(json.dumps({"weights": weights, "peak": peak, "anonymous": most["RssAnon"], "files": most["RssFile"]}))
"""


def main() -> None:
    arguments = parse_arguments()
    console = Console()
    table = Table(title=f"loading the {arguments.size} model; most memory, GB", title_justify="left")
    for column in ("files", "to", "weights", "peak", "peak / weights", "anonymous", "mapped files"):
        table.add_column(column)
    facts: dict[str, dict[str, dict[str, int]]] = {}
    parts = random_model(arguments.size)
    for layout in arguments.layouts:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            path = LAYOUTS[layout](parts, Path(folder))
            for dtype in arguments.dtypes:
                measured = measure_loading(path, dtype)
                facts.setdefault(layout, {})[dtype] = measured
                table.add_row(layout, dtype, *row(measured))
        console.print(f"{layout} done")
    console.print(table)
    if arguments.out is not None:
        write_json_atomically(arguments.out, facts)
        console.print(f"written: {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--layouts", nargs="*", choices=list(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--scratch", type=Path, help="a folder on the disk with room for two copies of the model")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers, in bytes")
    return parser.parse_args()


def row(measured: Mapping[str, int]) -> list[str]:
    ratio = measured["peak"] / measured["weights"]
    gigabytes = {name: f"{amount / 1e9:.2f}" for name, amount in measured.items()}
    verdict = f"{ratio:.2f}" if ratio <= BOUND else f"{ratio:.2f} (over {BOUND})"
    return [gigabytes["weights"], gigabytes["peak"], verdict, gigabytes["anonymous"], gigabytes["files"]]


def measure_loading(model: Path, dtype: str) -> dict[str, int]:
    """Bytes of a model's weights in memory, and the most memory a new process took to load them."""
    command = [sys.executable, "-c", MEASURING_SCRIPT, str(model), dtype]
    measured = subprocess.run(command, capture_output=True, text=True, check=False)
    if measured.returncode:
        raise RuntimeError(f"loading {model} failed: {measured.stderr[-2000:]}")
    facts: dict[str, int] = json.loads(measured.stdout)
    return facts


# ---------------------------------------------------------------------------------------------------- what is loaded


def random_model(size: str) -> ModelParts:
    """A model of random weights in float16; its values do not matter, only that no page of it is empty."""
    unet, vae, text = SIZES[size]
    captions = ["navy blue checked shirt for men", "red floral dress for women"] * 20
    tokenizer = Tokenizer.train(captions, vocab_size=560, max_length=77)
    tensors = {
        component: {name: random_tensor(tensor) for name, tensor in network.items()}
        for component, network in expected_tensors(unet, vae, text).items()
    }
    return ModelParts(unet, vae, text, tensors, ScheduleConfig(steps_offset=1), tokenizer, None)


def random_tensor(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=torch.float16).uniform_(-0.05, 0.05)


def write_folder(parts: ModelParts, folder: Path) -> Path:
    write_model(parts, folder / "model")
    return folder / "model"


def write_shards(parts: ModelParts, folder: Path) -> Path:
    model = write_folder(parts, folder)
    for component in parts.tensors:
        whole = find_weights(model / component)
        tensors = load_tensors(whole)
        places = {}
        for shard in range(NUM_SHARDS):
            file = f"{whole.stem}-{shard + 1:05}-of-{NUM_SHARDS:05}.safetensors"
            held = {name: tensors[name] for name in list(tensors)[shard::NUM_SHARDS]}
            save_tensors(whole.with_name(file), held, {"format": "pt"})
            places |= dict.fromkeys(held, file)
        write_json_atomically(whole.with_name(f"{whole.name}.index.json"), {"metadata": {}, "weight_map": places})
        whole.unlink()
    return model


def write_pickles(parts: ModelParts, folder: Path) -> Path:
    model = write_folder(parts, folder)
    for component, tensors in parts.tensors.items():
        name = "pytorch_model.bin" if component == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(dict(tensors), model / component / name)
        find_weights(model / component).unlink()
    return model


def write_single_file(parts: ModelParts, folder: Path) -> Path:
    write_model(parts, folder / "model.safetensors")
    return folder / "model.safetensors"


def write_pickled_single_file(parts: ModelParts, folder: Path) -> Path:
    """As trainers write it, with the tokenizer beside it."""
    whole = write_single_file(parts, folder)
    torch.save({"global_step": 1, "state_dict": load_tensors(whole)}, folder / "model.ckpt")
    whole.unlink()
    assert parts.tokenizer is not None
    parts.tokenizer.save(folder / "tokenizer")
    return folder / "model.ckpt"


def write_four_parts(parts: ModelParts, folder: Path) -> Path:
    write_model(parts, folder / "model.ckpt")
    return folder / "model.ckpt"


LAYOUTS: Mapping[str, Callable[[ModelParts, Path], Path]] = {
    "folder": write_folder,
    "folder, 3 shards": write_shards,
    "folder, .bin": write_pickles,
    "single .safetensors": write_single_file,
    "single .ckpt": write_pickled_single_file,
    "four parts .ckpt": write_four_parts,
}


if __name__ == "__main__":
    main()
