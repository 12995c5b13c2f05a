"""Beginning with a picture: image-to-image, repainting and outpainting equal what they must equal at their ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from toile.diffusion.denoiser import Denoiser
from toile.diffusion.inpainting import InpaintingNetwork, KnownRegion
from toile.errors import ToileError
from toile.generation.pictures import GenerateStep, Picture, generate
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.generation.source import (
    SourceImage,
    encode_source,
    extend_canvas,
    fit_source,
    read_source,
    steps_of_strength,
)
from toile.latent_diffusion import LatentDiffusion
from toile.models.unet import UNet

WIDTH, HEIGHT = 24, 32
REQUEST = GenerateRequest(("red dress", "black belt"), seed=3, steps=4, guidance=3.0)


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def mask(value: int = 0) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), value, np.uint8)


def half_mask() -> np.ndarray:
    half = mask()
    half[: HEIGHT // 2] = 255
    return half


def make(model: LatentDiffusion, request: GenerateRequest) -> list[Picture]:
    return [event for event in generate(model, request) if isinstance(event, Picture)]


def same(one: list[Picture], other: list[Picture]) -> bool:
    return all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def inpainting_model(tiny_model: LatentDiffusion) -> LatentDiffusion:
    """The tiny model with a U-Net that is told mask and picture."""
    torch.manual_seed(1)
    config = replace(tiny_model.unet.config, in_channels=9)
    return replace(tiny_model, unet=UNet(config).eval().requires_grad_(False), origin=None)


SAMPLERS = ["ddim", "dpmpp_2m", "euler_ancestral", "unipc", "plms", "ddpm", "lms", "heun"]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("painted", [None, 255])
def test_strength_one_is_making_from_nothing(tiny_model: LatentDiffusion, sampler: str, painted: int | None) -> None:
    plain = replace(REQUEST, sampler=sampler)
    source = SourceImage(pixels(), None if painted is None else mask(painted))
    assert same(make(tiny_model, replace(plain, source=source, strength=1.0)), make(tiny_model, plain))


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_an_empty_mask_returns_the_picture(tiny_model: LatentDiffusion, strength: float) -> None:
    source = SourceImage(pixels(), mask(0))
    for picture in make(tiny_model, replace(REQUEST, source=source, strength=strength)):
        assert np.array_equal(picture.pixels, source.pixels)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_only_the_masked_part_changes(tiny_model: LatentDiffusion, sampler: str) -> None:
    source = SourceImage(pixels(), half_mask())
    for picture in make(tiny_model, replace(REQUEST, source=source, strength=0.8, sampler=sampler)):
        changed = (picture.pixels != source.pixels).any(-1)
        assert changed[: HEIGHT // 2].mean() > 0.9
        assert not changed[HEIGHT // 2 :].any()


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler_ancestral"])
def test_the_kept_part_of_the_latents_ends_as_it_was(tiny_model: LatentDiffusion, sampler: str, rescale: float) -> None:
    source = SourceImage(pixels(), half_mask())
    encoded = encode_source(tiny_model, source)
    request = replace(REQUEST, source=source, strength=1.0, sampler=sampler, guidance_rescale=rescale)
    last = [event for event in generate(tiny_model, request) if isinstance(event, GenerateStep)][-1]
    kept = encoded.latents.expand_as(last.denoised)[:, :, 4:]
    torch.testing.assert_close(last.denoised[:, :, 4:], kept, rtol=0, atol=1e-5)


def test_more_strength_leaves_less_of_the_picture(tiny_model: LatentDiffusion) -> None:
    source = SourceImage(pixels())
    encoded = encode_source(tiny_model, source)
    distances, counts = [], []
    for strength in (0.25, 0.5, 0.75, 1.0):
        request = replace(REQUEST, source=source, strength=strength, guidance=1.0)
        steps = [event for event in generate(tiny_model, request) if isinstance(event, GenerateStep)]
        counts.append(len(steps))
        distances.append(float((steps[-1].denoised - encoded.latents).square().mean()))
    assert counts == [1, 2, 3, 4]
    assert distances == sorted(distances)


def test_the_share_of_the_steps() -> None:
    sigmas = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])
    assert steps_of_strength(sigmas, 0.01).tolist() == [1.0, 0.0]
    assert steps_of_strength(sigmas, 0.5).tolist() == [2.0, 1.0, 0.0]
    assert steps_of_strength(sigmas, 1.0).tolist() == sigmas.tolist()


def test_inpainting_networks_are_told_mask_and_picture(inpainting_model: LatentDiffusion) -> None:
    assert inpainting_model.repaints
    source = SourceImage(pixels(), half_mask())
    request = replace(REQUEST, source=source, strength=1.0)
    first = make(inpainting_model, request)
    other_kept = pixels()
    other_kept[HEIGHT // 2 :] = pixels(7)[HEIGHT // 2 :]
    second = make(inpainting_model, replace(request, source=SourceImage(other_kept, half_mask())))
    assert not np.array_equal(first[0].pixels[: HEIGHT // 2], second[0].pixels[: HEIGHT // 2])
    other_painted = pixels()
    other_painted[: HEIGHT // 2] = 10
    encoded = [encode_source(inpainting_model, SourceImage(each, half_mask())) for each in (pixels(), other_painted)]
    assert encoded[0].kept is not None and encoded[1].kept is not None
    assert torch.equal(encoded[0].kept, encoded[1].kept)  # what is under the mask is not told


def test_inpainting_networks_are_told_where_the_picture_is_grey_not_where_a_soft_mask_begins(
    inpainting_model: LatentDiffusion,
) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[: HEIGHT // 2], mask[HEIGHT // 2 : HEIGHT * 3 // 4] = 255, 100
    encoded = encode_source(inpainting_model, SourceImage(pixels(), mask))
    assert encoded.grey_mask is not None and encoded.latent_mask is not None
    rows = len(encoded.grey_mask[0, 0])
    assert encoded.grey_mask[0, 0, :, 0].tolist() == [1.0] * (rows // 2) + [0.0] * (rows // 2)
    assert bool((encoded.latent_mask[0, 0, : rows * 3 // 4] > 0).all())


def test_inpainting_networks_also_paint_without_a_picture(inpainting_model: LatentDiffusion, tmp_path: Path) -> None:
    [picture, _] = make(inpainting_model, REQUEST)
    assert picture.recipe.settings.strength == 1.0
    with pytest.raises(ToileError, match="give a mask"):
        generate(inpainting_model, replace(REQUEST, source=SourceImage(pixels())))


def test_the_order_of_what_an_inpainting_network_is_told() -> None:
    seen: list[Tensor] = []

    def network(x_in: Tensor, timestep: Tensor, cond: Tensor) -> Tensor:
        seen.append(x_in)
        return x_in[:, :4]

    told = InpaintingNetwork(network, torch.ones(1, 1, 2, 2), torch.full((1, 4, 2, 2), 2.0))
    told(torch.zeros(3, 4, 2, 2), torch.zeros(1), torch.zeros(3, 1, 1))
    assert seen[0][:, :, 0, 0].tolist() == [[0.0] * 4 + [1.0] + [2.0] * 4] * 3


def test_the_known_region_keeps_the_type_of_prediction(tiny_model: LatentDiffusion) -> None:
    denoiser = Denoiser(tiny_model.unet, tiny_model.schedule)
    region = KnownRegion(denoiser, torch.zeros(1, 4, 8, 6), torch.ones(1, 1, 8, 6))
    assert region.prediction_type == denoiser.prediction_type == "v_prediction"


@pytest.mark.parametrize("masked", [False, True])
def test_a_saved_picture_carries_what_it_began_with_and_is_made_again(
    tiny_model: LatentDiffusion, tmp_path: Path, masked: bool
) -> None:
    source = SourceImage(pixels(), half_mask() if masked else None)
    path = tmp_path / "picture.png"
    make(tiny_model, replace(REQUEST, source=source))[1].save(path)
    found = read_source(path)
    assert found is not None and found.facts == source.facts
    result = replay(path, tiny_model)
    assert result.identical
    assert result.picture.recipe.source == source.facts
    assert "Denoising strength: 0.7" in result.picture.recipe.parameters()


def test_pictures_made_from_nothing_carry_no_source(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    make(tiny_model, REQUEST)[0].save(tmp_path / "picture.png")
    assert read_source(tmp_path / "picture.png") is None


def test_a_source_of_another_size_is_refused(tiny_model: LatentDiffusion) -> None:
    with pytest.raises(ToileError, match="24x36"):
        generate(tiny_model, replace(REQUEST, source=SourceImage(pixels()), height=36))
    with pytest.raises(ToileError, match="the mask must be"):
        SourceImage(pixels(), mask()[1:])


@pytest.mark.parametrize(("fit", "corner", "centre"), [("pad", 255, 40), ("crop", 40, 40), ("stretch", 40, 40)])
def test_pictures_of_any_size_are_fitted(fit: str, corner: int, centre: int) -> None:
    image = Image.new("RGB", (100, 20), (40, 40, 40))
    painted = Image.new("L", (50, 10), 255)
    source = fit_source(image, painted, WIDTH, HEIGHT, fit=fit)
    assert source.size == (WIDTH, HEIGHT)
    assert source.mask is not None
    assert source.pixels[0, 0].tolist() == [corner] * 3
    assert source.pixels[HEIGHT // 2, WIDTH // 2].tolist() == [centre] * 3
    assert source.mask[0, 0] == (0 if fit == "pad" else 255)
    assert source.mask[HEIGHT // 2, WIDTH // 2] == 255


def test_a_soft_mask_has_a_soft_edge_and_another_fit_is_refused() -> None:
    image, painted = Image.fromarray(pixels()), Image.fromarray(half_mask())
    soft = fit_source(image, painted, WIDTH, HEIGHT, mask_blur=2).mask
    assert soft is not None and 100 < soft[HEIGHT // 2, 0] < 155
    assert soft[0, 0] == 255 and soft[-1, 0] == 0
    with pytest.raises(ToileError, match="pad, crop, stretch"):
        fit_source(image, None, WIDTH, HEIGHT, fit="tile")


def test_outpainting_adds_a_margin_to_paint(tiny_model: LatentDiffusion) -> None:
    small = Image.fromarray(pixels()[:, :20])
    canvas, margin = extend_canvas(small, 4, 0, 0, 0)
    source = fit_source(canvas, margin, WIDTH, HEIGHT)
    [picture, _] = make(tiny_model, replace(REQUEST, source=source, strength=1.0))
    assert np.array_equal(picture.pixels[:, 4:], pixels()[:, :20])
    assert (picture.pixels[:, :4] != source.pixels[:, :4]).any()
    for margins in ((0, 0, 0, 0), (-1, 0, 0, 5)):
        with pytest.raises(ToileError, match="extend is"):
            extend_canvas(small, *margins)
