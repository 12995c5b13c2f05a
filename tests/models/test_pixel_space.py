"""Pixels in place of latents: nothing is lost, and whole models of them are saved, read, described and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toile.data_check.reader import load_reader
from toile.errors import ToileError
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.model_conversion import convert_model
from toile.model_description import describe_model
from toile.models.pixel_space import PixelSpace, PixelSpaceConfig
from toile.models.unet import UNet


@pytest.fixture(scope="module")
def pixel_model(tiny_model: LatentDiffusion) -> LatentDiffusion:
    """The tiny model with squares of 2x2 pixels instead of latents."""
    torch.manual_seed(1)
    unet = UNet(replace(tiny_model.unet.config, in_channels=12, out_channels=12, sample_size=(16, 12)))
    pixels = PixelSpace(PixelSpaceConfig(12))
    pixels.measure(torch.rand(4, 3, 8, 8) * 1.5 - 0.5)
    return replace(tiny_model, unet=unet.requires_grad_(False), vae=pixels, origin=None)


@pytest.fixture(scope="module")
def pixel_folder(pixel_model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "pixels"
    pixel_model.save(folder, dtype=torch.float32)
    return folder


@pytest.mark.parametrize(("channels", "factor"), [(3, 1), (12, 2), (48, 4)])
def test_pixels_come_back_and_are_on_the_scale_of_noise(channels: int, factor: int) -> None:
    images = torch.rand(5, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images[:, 1] = images[:, 1] * 0.3 + 0.6
    pixels = PixelSpace(PixelSpaceConfig(channels))
    pixels.measure(images)
    assert pixels.config.downsampling == factor
    latents = pixels.encode_images(images)
    assert latents.shape == (5, channels, 8 // factor, 12 // factor)
    torch.testing.assert_close(pixels.decode_latents(latents), images)
    colours = latents.unflatten(1, (3, -1))
    torch.testing.assert_close(colours.mean(dim=(0, 2, 3, 4)), torch.zeros(3), atol=0.02, rtol=0)
    torch.testing.assert_close(colours.std(dim=(0, 2, 3, 4)), torch.ones(3), atol=0.02, rtol=0)


def test_a_square_of_pixels_is_one_position() -> None:
    images = torch.zeros(1, 3, 4, 4)
    images[0, 2, 2:, :2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    latents = PixelSpace(PixelSpaceConfig(12)).encode_images(images)
    assert latents[0, 8:, 1, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert latents.abs().sum() == 10.0


@pytest.mark.parametrize("channels", [0, 4, 6, -3])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(ToileError, match="3, 12, 27"):
        PixelSpaceConfig(channels)


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ToileError, match="5x4: width and height must be multiples of 2"):
        PixelSpace(PixelSpaceConfig(12)).encode_images(torch.zeros(1, 3, 4, 5))


def test_a_saved_model_makes_the_same_pictures(pixel_model: LatentDiffusion, pixel_folder: Path) -> None:
    loaded = LatentDiffusion.load(pixel_folder, "cpu", "float32")
    assert loaded.vae.config == pixel_model.vae.config
    request = GenerateRequest(("red dress",), seed=4, num_images=2)
    made = [[e.pixels for e in generate(m, request) if isinstance(e, Picture)] for m in (pixel_model, loaded)]
    assert made[0][0].shape == (32, 24, 3)
    assert all((one == other).all() for one, other in zip(*made, strict=True))
    half = LatentDiffusion.load(pixel_folder, "cpu", "bfloat16")
    assert torch.equal(half.vae.mean.float(), loaded.vae.mean), "bfloat16 holds what was measured"


def test_its_folder_says_what_it_is_and_is_read_everywhere(pixel_folder: Path, tmp_path: Path) -> None:
    assert json.loads((pixel_folder / "vae" / "config.json").read_text())["_class_name"] == "PixelSpace"
    assert json.loads((pixel_folder / "model_index.json").read_text())["vae"] == ["toile", "PixelSpace"]
    description = describe_model(pixel_folder)
    assert (description.downsampling, description.latent_channels) == (2, 12)
    assert (load_reader(str(pixel_folder)).width, load_reader(str(pixel_folder)).height) == (24, 32)
    convert_model(pixel_folder, tmp_path / "again")
    assert describe_model(tmp_path / "again").hash == description.hash
    for name in ("single.safetensors", "four.ckpt"):
        with pytest.raises(ToileError, match="works on pixels"):
            convert_model(pixel_folder, tmp_path / name)
        assert not (tmp_path / name).exists()
