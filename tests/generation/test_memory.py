"""What pictures need, and what is done when there is less: pictures one after the other, then bands of rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.generation import memory
from toile.generation.memory import decoding_values, estimated_bytes, needs_bands
from toile.generation.pictures import Picture, generate
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.generation.source import SourceImage
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion
from toile.models import bands
from toile.models.vae import SD15_VAE
from toile.picture_recipe import read_recipe

REQUEST = GenerateRequest(("red dress",), seed=5, steps=2, width=40, height=64)


@pytest.fixture(autouse=True)
def low_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of a few rows, also for tiny pictures."""
    monkeypatch.setattr(bands, "BAND_POSITIONS", 200)
    monkeypatch.setattr(memory, "BAND_POSITIONS", 200)


def make(model: LatentDiffusion, request: GenerateRequest) -> Picture:
    [picture] = [event for event in generate(model, request) if isinstance(event, Picture)]
    return picture


def only_bands_fit(monkeypatch: pytest.MonkeyPatch, model: LatentDiffusion, request: GenerateRequest) -> None:
    """Leaves so much memory that a request's pictures fit in bands, and not otherwise."""
    settings = request.settings_over(model.defaults)
    in_bands, whole = (estimated_bytes(model, replace(settings, vae_bands=choice)) for choice in (True, False))
    assert in_bands < whole
    monkeypatch.setattr(memory, "available_bytes", lambda device: (in_bands + whole) // 2)


def levels_apart(one: Picture, other: Picture) -> int:
    return int(np.abs(one.pixels.astype(int) - other.pixels.astype(int)).max())


@pytest.mark.slow
def test_where_the_whole_does_not_fit_bands_are_used_and_replayed(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    request = replace(REQUEST, width=400, height=640, steps=1, guidance=1.0, batch_size=1)
    whole = make(tiny_model, request)
    assert whole.recipe.settings.vae_bands is False
    with monkeypatch.context() as short_of_memory:
        only_bands_fit(short_of_memory, tiny_model, request)
        banded = make(tiny_model, request)
    assert banded.recipe.settings.vae_bands is True
    assert levels_apart(whole, banded) <= 1
    banded.save(tmp_path / "banded.png")
    assert read_recipe(tmp_path / "banded.png") == banded.recipe
    again = replay(tmp_path / "banded.png", tiny_model)  # with all the memory there is
    assert again.identical and again.picture.recipe.settings.vae_bands is True


@pytest.mark.parametrize("second_pass", [False, True])
def test_a_picture_begun_with_another_is_the_same_in_bands(tiny_model: LatentDiffusion, second_pass: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 40, 3), np.uint8)
    request = replace(REQUEST, source=SourceImage(pixels), strength=0.5, hires_scale=1.5 if second_pass else None)
    whole, banded = (make(tiny_model, replace(request, vae_bands=choice)) for choice in (False, True))
    assert levels_apart(whole, banded) <= 1


def test_what_does_not_fit_in_bands_either_is_refused(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)
    with pytest.raises(ToileError, match="GB are free"):
        generate(tiny_model, REQUEST)


def test_bands_are_needed_only_where_memory_is_known_to_be_short(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GenerationSettings(width=64, height=64)
    for available, expected in ((None, False), (10**12, False), (1000, True)):
        monkeypatch.setattr(memory, "available_bytes", lambda device, amount=available: amount)
        assert needs_bands(tiny_model, settings) is expected


def test_large_pictures_are_decoded_one_after_the_other(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    handle = tiny_model.vae.decoder.register_forward_pre_hook(lambda _, given: counts.append(len(given[0])))
    latents = torch.randn(5, 4, 10, 8, generator=torch.Generator().manual_seed(0))
    together = tiny_model.decode_latents(latents)
    monkeypatch.setattr("toile.models.bands._PIXELS_TOGETHER", 2 * 40 * 32)
    apart = tiny_model.decode_latents(latents)
    handle.remove()
    assert counts == [5, 2, 2, 1]
    torch.testing.assert_close(apart, together)


def test_sixteen_large_pictures_need_the_memory_of_one() -> None:
    assert [bands.pictures_together(side * side) for side in (64, 256, 512, 768, 8192)] == [64, 4, 1, 1, 1]


@pytest.mark.parametrize(("in_bands", "measured"), [(False, 835), (True, 505)])
def test_the_estimate_is_near_what_was_measured(in_bands: bool, measured: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Peak of the process for Stable Diffusion's decoder at 512x512 in float32, in numbers per pixel.
    monkeypatch.setattr(memory, "BAND_POSITIONS", 2**15)
    estimate = decoding_values(SD15_VAE, 1, 512 * 512, in_bands) / 512**2
    assert measured < 1.25 * estimate < 2 * measured


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(ToileError, match="vae_bands is 512"):
        GenerateRequest(("a",), vae_bands=512)  # type: ignore[arg-type]
