"""Pictures: repeatable, independent of each other, never silently bad."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.generation.pictures import GenerateStep, Picture, generate, remake
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion

LONG = "blue " * 10_000
ODD_PROMPTS = ("", "a\0b", "שמלה אדומה", "👗👠🧥", LONG, "\udcff", "--negative")


def make(model: LatentDiffusion, request: GenerateRequest) -> list[Picture]:
    return [event for event in generate(model, request) if isinstance(event, Picture)]


def largest_difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_the_same_request_gives_the_same_bytes(tiny_model: LatentDiffusion) -> None:
    request = GenerateRequest(("red dress", "belt"), seed=3, num_images=2)
    first, second = make(tiny_model, request), make(tiny_model, request)
    assert [picture.pixels.tobytes() for picture in first] == [picture.pixels.tobytes() for picture in second]
    assert len({picture.pixels.tobytes() for picture in first}) == 4
    assert first[0].pixels.shape == (32, 24, 3)


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
def test_a_batch_of_four_is_four_singles(tiny_model: LatentDiffusion, sampler: str) -> None:
    together = make(tiny_model, GenerateRequest(("red dress",), seed=5, num_images=4, sampler=sampler))
    for index, picture in enumerate(together):
        request = GenerateRequest(("red dress",), seed=5 + index, sampler=sampler, batch_size=1)
        [alone] = make(tiny_model, request)
        assert largest_difference(alone.pixels, picture.pixels) <= 1


def test_order_of_prompts_does_not_matter(tiny_model: LatentDiffusion) -> None:
    first = make(tiny_model, GenerateRequest(("red dress", "black belt"), seed=8))
    second = make(tiny_model, GenerateRequest(("black belt", "black belt"), seed=8))
    assert first[1].recipe.seed == second[1].recipe.seed == 9
    assert np.array_equal(first[1].pixels, second[1].pixels)


def test_previews_change_nothing(tiny_model: LatentDiffusion) -> None:
    request = GenerateRequest(("red dress",), seed=1)
    pixels = b""
    previews = []
    for event in generate(tiny_model, request):
        if isinstance(event, GenerateStep):
            previews.append(tiny_model.decode_latents(event.denoised))
        else:
            pixels = event.pixels.tobytes()
    assert [preview.shape for preview in previews] == [(1, 3, 32, 24)] * 3
    assert pixels == make(tiny_model, request)[0].pixels.tobytes()


def test_progress_ends_at_one(tiny_model: LatentDiffusion) -> None:
    request = GenerateRequest(("a",), num_images=5, batch_size=2)
    fractions = [event.fraction for event in generate(tiny_model, request) if isinstance(event, GenerateStep)]
    assert fractions == sorted(fractions)
    assert len(fractions) == 3 * 3
    assert fractions[-1] == 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": ("black belt",)},
        {"seed": 2},
        {"steps": 4},
        {"guidance": 5.0},
        {"guidance": 1.0},
        {"guidance_interval": (0.0, 1.0)},
        {"guidance_rescale": 0.7},
        {"sharpness": 0.5},
        {"sampler": "dpmpp_2m_sde"},
        {"spacing": "linspace"},
        {"eta": 1.0},
        {"negative": "red"},
        {"width": 28},
        {"height": 36},
        {"deepcache": 2},
        {"tgate": 0.5},
    ],
    ids=lambda change: "-".join(change),
)
def test_every_field_changes_the_picture(tiny_model: LatentDiffusion, change: dict[str, object]) -> None:
    request = GenerateRequest(("red dress",), seed=1)
    changed = replace(request, **change)  # type: ignore[arg-type]
    assert make(tiny_model, request)[0].pixels.tobytes() != make(tiny_model, changed)[0].pixels.tobytes()


def test_guidance_of_one_asks_the_network_once_a_picture(tiny_model: LatentDiffusion) -> None:
    rows = []
    handle = tiny_model.unet.register_forward_hook(lambda module, inputs, result: rows.append(len(result)))
    make(tiny_model, GenerateRequest(("a",), num_images=2, guidance=1.0))
    make(tiny_model, GenerateRequest(("a",), num_images=2, guidance=2.0))
    handle.remove()
    assert rows == [2, 2, 2, 4, 4, 4]


def test_odd_prompts_give_pictures_that_can_be_saved_and_made_again(
    tiny_model: LatentDiffusion, tmp_path: Path
) -> None:
    for picture in make(tiny_model, GenerateRequest(ODD_PROMPTS, seed=4)):
        picture.save(tmp_path / "picture.png")
        assert picture.pixels.std() > 0
        assert np.array_equal(remake(tiny_model, picture.recipe, picture.recipe.batch_rows).pixels, picture.pixels)
        assert bool(picture.warnings) == (picture.recipe.prompt == LONG), picture.recipe.prompt[:20]


def test_a_cut_is_told_with_what_was_cut(tiny_model: LatentDiffusion) -> None:
    [picture] = make(tiny_model, GenerateRequest(("blue " * 120 + "sleeves",), negative="red " * 120 + "zip"))
    assert "sleeves" in picture.warnings[0]
    assert "negative prompt" in picture.warnings[1] and "zip" in picture.warnings[1]


@pytest.mark.parametrize(("width", "height", "field"), [(25, 32, "width"), (24, 33, "height"), (513, 512, "width")])
def test_sizes_the_model_cannot_make_are_refused_at_once(
    tiny_model: LatentDiffusion, width: int, height: int, field: str
) -> None:
    with pytest.raises(ToileError, match=f"{field} is .* multiples of 4"):
        generate(tiny_model, GenerateRequest(("a",), width=width, height=height))


def test_more_memory_than_there_is_is_refused_with_the_estimate(tiny_model: LatentDiffusion) -> None:
    with pytest.raises(ToileError, match=r"need about [\d,.]+ GB of memory, [\d,.]+ GB are free"):
        generate(tiny_model, GenerateRequest(("a",), width=8192, height=8192, batch_size=1024, num_images=1024))


def damaged(model: LatentDiffusion, value: float) -> LatentDiffusion:
    """A half-precision model, read anew, whose decoder gives this value everywhere."""
    assert model.origin is not None
    loaded = LatentDiffusion.load(model.origin, device="cpu", dtype="bfloat16")
    bias = torch.full_like(loaded.vae.decoder.conv_out.bias, value)  # type: ignore[arg-type]
    loaded.vae.decoder.conv_out.bias = torch.nn.Parameter(bias, requires_grad=False)
    return loaded


@pytest.mark.parametrize("value", [float("nan"), -1e4], ids=["not finite", "all black"])
def test_a_bad_picture_in_half_precision_is_made_again_in_float32(tiny_model: LatentDiffusion, value: float) -> None:
    request = GenerateRequest(("red dress",), seed=1)
    [picture] = make(damaged(tiny_model, value), request)
    [sound] = make(tiny_model, request)
    assert picture.recipe.machine.dtype == "float32"
    assert "float32" in picture.warnings[0]
    assert np.array_equal(picture.pixels, sound.pixels)


@pytest.mark.parametrize("value", [float("nan"), -1e4], ids=["not finite", "all black"])
def test_a_picture_that_is_bad_in_float32_too_is_an_error(tiny_model: LatentDiffusion, value: float) -> None:
    in_memory = replace(damaged(tiny_model, value), origin=None)
    events = []
    with pytest.raises(ToileError, match="black or not finite, also in float32"):
        for event in generate(in_memory, GenerateRequest(("red dress",))):
            events.append(event)
    assert not any(isinstance(event, Picture) for event in events)


def test_closing_the_generator_stops_the_work(tiny_model: LatentDiffusion) -> None:
    calls = []
    handle = tiny_model.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    events = generate(tiny_model, GenerateRequest(("a",), steps=50))
    next(events)
    events.close()
    handle.remove()
    assert len(calls) == 1
    assert not torch.is_inference_mode_enabled()
