"""The autoencoder in bands of rows is the autoencoder, but for memory."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toile.models import bands
from toile.models.vae import VAE, VAEConfig
from toile.nn.layers import pack_weights

TINY = VAEConfig(block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4)


@pytest.fixture(scope="module")
def vae() -> VAE:
    """Random weights; the biases are far from zero, as those of trained networks are."""
    torch.manual_seed(3)
    network = VAE(TINY).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.5)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def draw(*shape: int) -> Tensor:
    """Noise that differs from row to row in mean and spread, so that every band has other statistics."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    slope = torch.linspace(-2, 2, shape[-2])[:, None]
    return (noise * slope.exp() + slope).contiguous(memory_format=torch.channels_last)


# Widths and heights of latents: one band, several with a rest, a single row, a single column, odd numbers.
SIZES = [(8, 8), (13, 7), (1, 9), (31, 1), (6, 40), (2, 2)]


@pytest.mark.parametrize("positions", [1, 40, 100, 10_000])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_bands_of_any_height_give_the_whole_picture(
    vae: VAE, monkeypatch: pytest.MonkeyPatch, height: int, width: int, positions: int
) -> None:
    monkeypatch.setattr(bands, "BAND_POSITIONS", positions)
    exact = copy.deepcopy(vae).double()
    latents, images = draw(1, 4, height, width).double(), draw(1, 3, 4 * height, 4 * width).double()
    torch.testing.assert_close(exact.reconstruct(latents, in_bands=True), exact.reconstruct(latents))
    torch.testing.assert_close(exact.encoder(images, in_bands=True), exact.encoder(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packs", [False, True])
@torch.inference_mode()
def test_in_the_precisions_and_with_the_kernels_of_generation(
    vae: VAE, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, packs: bool
) -> None:
    monkeypatch.setattr(bands, "BAND_POSITIONS", 100)
    network = VAE(TINY).to(dtype).to(memory_format=torch.channels_last)
    network.load_state_dict(vae.state_dict())
    pack_weights(network, 2**30 if packs else 0)
    latents = torch.randn(2, 4, 12, 10, generator=torch.Generator().manual_seed(2)).to(dtype)
    latents = latents.contiguous(memory_format=torch.channels_last)
    whole, banded = network.decode_latents(latents), network.decode_latents(latents, in_bands=True)
    assert banded.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 0.05 * whole.float().std().item()
    torch.testing.assert_close(banded, whole, rtol=0, atol=tolerance)


def test_pictures_of_a_batch_do_not_mix(vae: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_POSITIONS", 100)
    latents = torch.cat([draw(1, 4, 9, 5), 3 * draw(1, 4, 9, 5) + 1])
    together = vae.decode_latents(latents, in_bands=True)
    alone = torch.cat([vae.decode_latents(row, in_bands=True) for row in latents.split(1)])
    torch.testing.assert_close(together, alone)


def test_what_is_given_is_left_as_it_is(vae: VAE) -> None:
    latents, images = draw(1, 4, 8, 8), draw(1, 3, 32, 32)
    kept = latents.clone(), images.clone()
    vae.decode_latents(latents, in_bands=True), vae.encode_images(images, in_bands=True)
    assert torch.equal(latents, kept[0]) and torch.equal(images, kept[1])


# Prints by how many bytes per pixel decoding (or encoding) raises the peak of the process's memory.
MEASURE = """
import sys
from pathlib import Path
import torch
from toile.models import bands
from toile.models.vae import VAE, VAEConfig

bands.BAND_POSITIONS = 2**12
what, in_bands, height, width = sys.argv[1], sys.argv[2] == "bands", int(sys.argv[3]), int(sys.argv[4])
torch.set_grad_enabled(False)
widths = (16, 32, 32, 32)
config = VAEConfig(block_out_channels=widths, layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False)
vae = VAE(config).to(memory_format=torch.channels_last)

def work(height, width):
    shape = (1, 4, height // 8, width // 8) if what == "decode" else (1, 3, height, width)
    given = torch.zeros(shape).contiguous(memory_format=torch.channels_last)
    return vae.decode_latents(given, in_bands) if what == "decode" else vae.encode_images(given, in_bands)

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

work(64, 64)
before = peak()
work(height, width)
print((peak() - before) / (height * width))
"""


def peak_bytes_per_pixel(what: str, how: str, height: int, width: int) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", MEASURE, what, how, str(height), str(width)]
    return float(subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux")
@pytest.mark.parametrize(("what", "num_values"), [("decode", 3 + 32 // 4 + 2 * 16), ("encode", 3 + 2 * 16)])
def test_memory_holds_two_maps_of_the_finest_level_and_what_they_are_made_of(what: str, num_values: int) -> None:
    whole, in_bands = (peak_bytes_per_pixel(what, how, 1536, 1024) for how in ("whole", "bands"))
    assert in_bands < 1.25 * num_values * 4
    assert in_bands < 0.65 * whole
