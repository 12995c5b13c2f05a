"""Large pictures in little memory: the autoencoder in bands of rows, beside diffusers' `enable_tiling`.

    TOILE_DATA=data python benchmarks/large_pictures.py --model fashion --width 896 --height 1120 --tile 256

Products (fashion-product-images-224.zip) and paintings (monet.zip), enlarged; their latents are decoded whole, in bands
and in diffusers' tiles. Differences from the whole are in levels of 255. Then the peak of memory of decoding, with
random weights of Stable Diffusion's autoencoder, each in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from toile.data.images import images_from_pixels
from toile.latent_diffusion import load
from toile.model_folder import find_model
from toile.models.vae import VAE
from toile.weights.files import write_json_atomically

SOURCES = {"product": "fashion-product-images-224.zip", "painting": "monet.zip"}
MEMORY = """
import sys
from pathlib import Path
import torch
from diffusers import AutoencoderKL
from toile.models.vae import SD15_VAE, VAE

how, side, tile = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_grad_enabled(False)
if how == "tiles":
    sizes = {"block_out_channels": SD15_VAE.block_out_channels, "layers_per_block": SD15_VAE.layers_per_block}
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = AutoencoderKL(**sizes, **kinds, latent_channels=4, sample_size=tile)
    vae.enable_tiling()
    decode = lambda latents: vae.decode(latents).sample
else:
    vae = VAE(SD15_VAE)
    decode = lambda latents: vae.decode_latents(latents, in_bands=how == "bands")
vae.to(memory_format=torch.channels_last)

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def latents(side):
    return torch.randn(1, 4, side // 8, side // 8).contiguous(memory_format=torch.channels_last)

decode(latents(64))
before = peak()
decode(latents(side))
print(peak() - before)
"""


@torch.inference_mode()
def main() -> None:
    arguments = parse_arguments()
    ours = load(arguments.model, device="cpu", dtype="float32").vae
    theirs = AutoencoderKL.from_pretrained(find_model(arguments.model) / "vae", low_cpu_mem_usage=False)
    theirs.to(memory_format=torch.channels_last).enable_tiling()
    theirs.tile_sample_min_size = arguments.tile
    theirs.tile_latent_min_size = arguments.tile // ours.config.downsampling
    facts: dict[str, object] = {"settings": {name: str(value) for name, value in vars(arguments).items()}}
    table = Table("picture", "how", "mean difference", "largest", "change of mean colour")
    for kind in SOURCES:
        for number, image in enumerate(enlarged(kind, arguments)):
            for how, (mean, largest, colour) in differences(ours, theirs, image).items():
                facts[f"{kind} {number} {how}"] = {"mean": mean, "largest": largest, "colour": colour}
                table.add_row(f"{kind} {number}", how, f"{mean:.3f}", f"{largest:.0f}", f"{colour:.3f}")
    Console().print(table)
    for side in arguments.memory_sides:
        facts[f"memory {side}"] = peaks = {how: peak(how, side, arguments.tile) for how in ("whole", "bands", "tiles")}
        Console().print(f"{side}x{side}: " + ", ".join(f"{how} {peaks[how] / 1e9:.2f} GB" for how in peaks))
    write_json_atomically(arguments.out, facts)


def enlarged(kind: str, arguments: argparse.Namespace) -> list[Tensor]:
    """Pictures (1, 3, H, W), evenly taken from the sorted names of the archive."""
    with zipfile.ZipFile(Path(os.environ.get("TOILE_DATA", "data")) / SOURCES[kind]) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        chosen = names[:: max(1, len(names) // arguments.n)][: arguments.n]
        images = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in chosen]
    sized = [image.resize((arguments.width, arguments.height), Image.Resampling.BICUBIC) for image in images]
    return [images_from_pixels(torch.from_numpy(np.array(image))[None]) for image in sized]


def differences(ours: VAE, theirs: AutoencoderKL, image: Tensor) -> dict[str, tuple[float, float, float]]:
    """Mean and largest difference of pixels, and the largest of the mean of a colour, from the whole decode."""
    latents = ours.encode_images(image.contiguous(memory_format=torch.channels_last))
    whole = levels(ours.decode_latents(latents))
    others = {
        "bands": levels(ours.decode_latents(latents, in_bands=True)),
        "diffusers' tiles": levels(theirs.decode(latents / ours.config.scaling_factor).sample),
    }
    return {how: compare(other, whole) for how, other in others.items()}


def levels(images: Tensor) -> Tensor:
    return ((images.clamp(-1, 1) + 1) * 127.5).round()


def compare(other: Tensor, whole: Tensor) -> tuple[float, float, float]:
    difference = (other - whole).abs()
    colour = (other - whole).mean((0, 2, 3)).abs().max()
    return difference.mean().item(), difference.max().item(), colour.item()


def peak(how: str, side: int, tile: int) -> int:
    """Bytes by which decoding raises the peak of a process's memory."""
    command = [sys.executable, "-c", MEMORY, how, str(side), str(tile)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion")
    parser.add_argument("--n", type=int, default=3, help="pictures of each kind")
    parser.add_argument("--width", type=int, default=896)
    parser.add_argument("--height", type=int, default=1120)
    parser.add_argument("--tile", type=int, default=256, help="side of diffusers' tiles in pixels")
    parser.add_argument("--memory-sides", type=int, nargs="*", default=[512, 768])
    parser.add_argument("--out", type=Path, default=Path("large_pictures.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
