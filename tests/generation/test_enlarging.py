"""Pictures of a model with an upscaler: their size, what a mask keeps, replay, and who is told when it cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from toile.data.images import pixels_from_images
from toile.diffusion.upscaling import sharpen
from toile.errors import ToileError
from toile.generation.memory import estimated_bytes
from toile.generation.pictures import Picture, final_size, generate, remake
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.generation.source import SourceImage
from toile.latent_diffusion import LatentDiffusion
from toile.model_folder import read_model_facts
from toile.upscaler import Upscaler

SMALL, LARGE = (24, 32), (48, 80)


@pytest.fixture(scope="module")
def model(enlarging_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.load(enlarging_folder, device="cpu", dtype="float32")


def made(model: LatentDiffusion, **given: object) -> list[Picture]:
    request = GenerateRequest(**{"prompts": ("black leather belt",), **given})  # type: ignore[arg-type]
    return [event for event in generate(model, request) if isinstance(event, Picture)]


def test_pictures_are_enlarged_unless_told_otherwise(model: LatentDiffusion) -> None:
    [large], [small] = made(model, seed=3), made(model, seed=3, upscale=False)
    assert large.pixels.shape == (80, 48, 3) and small.pixels.shape == (32, 24, 3)
    assert large.recipe.settings.upscale is True and small.recipe.settings.upscale is False
    assert (large.recipe.settings.width, large.recipe.settings.height) == SMALL
    [named] = made(model, seed=3, width=48, height=80)
    assert np.array_equal(named.pixels, large.pixels) and named.recipe == large.recipe
    assert final_size(GenerateRequest(("",)), model) == LARGE
    assert final_size(GenerateRequest(("",), upscale=False), model) == SMALL


def test_other_sizes_are_made_as_they_are(model: LatentDiffusion) -> None:
    assert made(model, width=32, height=32)[0].pixels.shape == (32, 32, 3)
    assert made(model, hires_scale=1.5)[0].pixels.shape == (48, 36, 3)
    for given in ({"width": 32, "height": 32}, {"hires_scale": 1.5}):
        with pytest.raises(ToileError, match="upscaler makes 48x80 of 24x32"):
            made(model, upscale=True, **given)


def test_maps_lie_over_what_enlarged_pictures_show(model: LatentDiffusion) -> None:
    [large], [small] = made(model, seed=3, maps=True), made(model, seed=3, maps=True, upscale=False)
    assert large.maps is not None and small.maps is not None and model.upscaler is not None
    config = model.upscaler.config
    whole = F.interpolate(small.maps[None], (config.small_height, config.small_width), mode="bilinear")[0]
    assert 0 < config.left < config.right < config.small_width  # so there is padding to cut off
    torch.testing.assert_close(large.maps, whole[..., config.left : config.right])
    ramp = torch.linspace(0, 1, config.small_width).expand(1, 1, config.small_height, -1)
    torch.testing.assert_close(model.upscaler.cut_maps(ramp), ramp[..., config.left : config.right])


def test_a_model_without_an_upscaler_says_so(tiny_model: LatentDiffusion) -> None:
    assert made(tiny_model)[0].recipe.settings.upscale is False
    with pytest.raises(ToileError, match="no upscaler"):
        made(tiny_model, upscale=True)


def test_neither_batch_nor_neighbours_change_a_picture(model: LatentDiffusion) -> None:
    prompts = ("black leather belt", "red floral dress for women")
    together = made(model, prompts=prompts, seed=5)
    alone = made(model, prompts=prompts, seed=5, batch_size=1)
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1


def test_words_and_seed_act_on_what_is_added(model: LatentDiffusion) -> None:
    """The same small picture is enlarged to another one by other noise, and by other words."""
    assert model.upscaler is not None
    small = torch.zeros(1, 3, 32, 24)

    def enlarged(prompt: str, seed: int) -> torch.Tensor:
        noise = torch.randn(1, *model.upscaler.noise_shape, generator=torch.Generator().manual_seed(seed))
        return model.upscaler.enlarge(small, model.encode_prompts([prompt]).states, lambda _: noise)

    usual = enlarged("black leather belt", 0)
    assert not torch.allclose(usual, enlarged("black leather belt", 1))
    assert not torch.allclose(usual, enlarged("red floral dress for women", 0), atol=1e-6)


def test_details_are_raised_before_it_is_enlarged(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    enlarge = Upscaler.enlarge

    def watched(upscaler: Upscaler, images: torch.Tensor, *others: Any) -> torch.Tensor:
        seen.append(images)
        return enlarge(upscaler, images, *others)

    monkeypatch.setattr(Upscaler, "enlarge", watched)
    made(model, sharpness=0.0)
    made(model, sharpness=0.3)
    plain, raised = seen
    assert torch.equal(raised, sharpen(plain, 0.3)) and not torch.equal(raised, plain)
    [small] = made(model, sharpness=0.3, upscale=False)
    assert np.array_equal(small.pixels, pixels_from_images(raised)[0].numpy())


def test_replay_makes_it_again(model: LatentDiffusion, tmp_path: Path) -> None:
    picture = made(model, seed=9, num_images=2)[1]
    picture.save(tmp_path / "picture.png")
    again = replay(tmp_path / "picture.png", model)
    assert again.identical and again.circumstances == ()
    from_before = replace(picture.recipe, settings=replace(picture.recipe.settings, upscale=None))
    assert remake(model, from_before).pixels.shape == (32, 24, 3)


def test_what_a_mask_keeps_stays_as_it_was_at_full_size(model: LatentDiffusion) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 48, 3), dtype=np.uint8)
    mask = np.zeros((80, 48), np.uint8)
    mask[20:50, 10:30] = 255
    [picture] = made(model, source=SourceImage(pixels, mask), strength=1.0)
    assert np.array_equal(picture.pixels[mask == 0], pixels[mask == 0])
    assert not np.array_equal(picture.pixels[mask == 255], pixels[mask == 255])
    small = SourceImage(pixels[:32, :24], mask[:32, :24])
    with pytest.raises(ToileError, match="24x32, the result 48x80"):
        made(model, source=small)
    assert made(model, source=SourceImage(pixels[:32, :24]))[0].pixels.shape == (80, 48, 3)


def test_a_picture_to_begin_with_is_reduced_to_where_its_content_was(model: LatentDiffusion) -> None:
    upscaler = model.upscaler
    assert upscaler is not None
    flat = torch.full((1, 3, 80, 48), -0.5)
    small = upscaler.reduce_images(flat)
    torch.testing.assert_close(small[..., 2:22], torch.full((1, 3, 32, 20), -0.5))
    assert bool((small[..., :2] == 1).all()) and bool((small[..., 22:] == 1).all())
    mask = torch.zeros(1, 1, 80, 48)
    mask[..., 40, 24] = 1
    assert float(upscaler.reduce_mask(mask).sum()) == 1
    grey = pixels_from_images(upscaler.reduce_images(torch.zeros(1, 3, 80, 48)))
    assert grey.shape == (1, 32, 24, 3)


def test_the_upscaler_is_part_of_what_a_model_is(enlarging_folder: Path, tiny_folder: Path) -> None:
    plain, more = read_model_facts(tiny_folder), read_model_facts(enlarging_folder)
    assert plain.components.upscaler == "" and more.components.upscaler
    assert plain.hash != more.hash
    assert replace(more.components, upscaler="") == plain.components


def test_memory_counts_it(model: LatentDiffusion) -> None:
    with_it, without = (replace(model.defaults, upscale=upscale, batch_size=64) for upscale in (True, False))
    assert estimated_bytes(model, with_it) > estimated_bytes(model, without)
