"""A saved picture is made again, and what differs is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from toile.errors import ToileError
from toile.generation.pictures import Picture, generate
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion


def save_pictures(model: LatentDiffusion, folder: Path, num_images: int) -> list[Path]:
    request = GenerateRequest(("red dress",), seed=2, num_images=num_images, sampler="DPM++ 2M SDE Karras", steps=4)
    paths = []
    for event in generate(model, request):
        if isinstance(event, Picture):
            paths.append(folder / f"{event.index}.png")
            event.save(paths[-1])
    return paths


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_picture_of_a_batch_is_identical_when_made_again(tiny_folder: Path, tmp_path: Path, dtype: str) -> None:
    model = LatentDiffusion.load(tiny_folder, device="cpu", dtype=dtype)
    for path in save_pictures(model, tmp_path, 3):
        result = replay(path, model)
        assert result.identical
        assert result.circumstances == ()


def test_another_precision_is_named(tiny_folder: Path, tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    half = LatentDiffusion.load(tiny_folder, device="cpu", dtype="bfloat16")
    [path] = save_pictures(half, tmp_path, 1)
    result = replay(path, tiny_model)
    assert not result.identical
    assert result.circumstances == ("dtype: was bfloat16, now float32",)
    assert result.different_pixels and result.largest_difference


def test_other_weights_are_named(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    [path] = save_pictures(tiny_model, tmp_path, 1)
    other = LatentDiffusion.load(str(tiny_model.origin), device="cpu", dtype="float32")
    other.unet.conv_out.weight.mul_(1.5)
    other.save(tmp_path / "other")
    result = replay(path, LatentDiffusion.load(tmp_path / "other", device="cpu", dtype="float32"))
    assert any(line.startswith("model part unet: was") for line in result.circumstances)
    assert not result.identical


def test_a_changed_pixel_is_counted(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    [path] = save_pictures(tiny_model, tmp_path, 1)
    with Image.open(path) as image:
        pixels, chunks = np.array(image), recipe_chunk(image)
    pixels[5, 5, 0] = 255 - pixels[5, 5, 0]
    Image.fromarray(pixels).save(path, pnginfo=chunks)
    result = replay(path, tiny_model)
    assert (result.different_pixels, result.num_pixels) == (1, 24 * 32)
    assert result.circumstances == ()


def test_a_resized_picture_is_told_apart(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    [path] = save_pictures(tiny_model, tmp_path, 1)
    with Image.open(path) as image:
        image.resize((10, 10)).save(path, pnginfo=recipe_chunk(image))
    result = replay(path, tiny_model)
    assert not result.identical
    assert "the file is 10x10, its recipe makes 24x32" in result.circumstances[-1]


def test_a_picture_without_recipe_is_refused(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    Image.new("RGB", (24, 32)).save(tmp_path / "plain.png")
    with pytest.raises(ToileError, match="holds no toile recipe"):
        replay(tmp_path / "plain.png", tiny_model)


def recipe_chunk(image: Image.Image) -> PngInfo:
    chunks = PngInfo()
    chunks.add_text("toile", image.info["toile"])
    return chunks
