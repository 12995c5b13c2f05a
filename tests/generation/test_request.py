"""Bad requests are refused by name before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from toile.errors import ToileError
from toile.generation.pictures import Picture, generate, plan_pictures
from toile.generation.request import GenerateRequest
from toile.generation_settings import EVERYWHERE, GenerationSettings
from toile.latent_diffusion import LatentDiffusion

REFUSED: list[tuple[str, Any, str]] = [
    ("width", 0, "1 to 8192"),
    ("width", -8, "1 to 8192"),
    ("height", 10**9, "1 to 8192"),
    ("steps", 0, "1 to 1000"),
    ("steps", 10**6, "1 to 1000"),
    ("guidance", math.nan, "0 to 100"),
    ("guidance", math.inf, "0 to 100"),
    ("guidance", -1.0, "0 to 100"),
    ("guidance_rescale", 1.5, "0 to 1"),
    ("sharpness", -0.1, "0 to 1"),
    ("guidance_interval", (3.0, 1.0), "low < high"),
    ("guidance_interval", (math.nan, 1.0), "low < high"),
    ("seed", -1, "0 to 18446744073709551615"),
    ("seed", 2**64, "0 to 18446744073709551615"),
    ("batch_size", 10**5, "1 to 1024"),
    ("batch_size", 0, "1 to 1024"),
    ("num_images", 0, "1 to 1000000"),
    ("num_images", 10**9, "1 to 1000000"),
    ("sampler", "eulr", "euler"),
    ("spacing", "wide", "trailing"),
    ("eta", 2.0, "0 to 1"),
]


@pytest.mark.parametrize(("field", "value", "allowed"), REFUSED)
def test_refused_with_field_value_and_what_is_allowed(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ToileError) as caught:
        GenerateRequest(**{"prompts": ("a",), field: value})
    message = str(caught.value)
    assert field in message
    assert allowed in message
    assert "\n" not in message


def test_a_single_text_is_not_taken_for_many_prompts() -> None:
    with pytest.raises(ToileError, match="tuple"):
        GenerateRequest("red dress")  # type: ignore[arg-type]
    with pytest.raises(ToileError, match="tuple"):
        GenerateRequest(())


def test_a_prompt_of_a_megabyte_is_refused_by_number() -> None:
    with pytest.raises(ToileError, match="prompt 2 has 1,000,000 characters"):
        GenerateRequest(("a", "b" * 1_000_000))


def test_eta_is_refused_for_a_sampler_without_noise() -> None:
    with pytest.raises(ToileError, match="eta does not apply to sampler heun"):
        GenerateRequest(("a",), eta=0.5, sampler="heun")


def test_what_is_not_given_is_the_models_default() -> None:
    defaults = GenerationSettings(width=64, height=80, steps=20, guidance=3.0, negative="blurry")
    settings = GenerateRequest(("a",), steps=5, sampler="DPM++ 2M Karras").settings_over(defaults)
    assert (settings.width, settings.height, settings.steps, settings.guidance) == (64, 80, 5, 3.0)
    assert settings.negative == "blurry"
    assert settings.resolved_spacing("trailing") == "karras"
    assert GenerateRequest(("a",), negative="").settings_over(defaults).negative == ""


def test_images_count_over_all_prompts() -> None:
    request = GenerateRequest(("a", "b"), seed=2**64 - 2, num_images=2)
    images = [(image.prompt, image.seed) for image in request.images()]
    assert images == [("a", 2**64 - 2), ("a", 2**64 - 1), ("b", 0), ("b", 1)]


def test_guidance_everywhere_can_be_asked_for_where_it_is_not_the_default(tiny_model: LatentDiffusion) -> None:
    narrow = replace(tiny_model, defaults=replace(tiny_model.defaults, guidance_interval=(0.2, 5.0)))
    assert plan_pictures(narrow, GenerateRequest(("",))).settings.guidance_interval == (0.2, 5.0)
    asked = GenerateRequest(("",), guidance_interval=EVERYWHERE)
    assert plan_pictures(narrow, asked).settings.guidance_interval is None
    [picture] = [event for event in generate(narrow, replace(asked, steps=1)) if isinstance(event, Picture)]
    again = GenerateRequest(("",), **picture.recipe.as_asked())
    assert plan_pictures(narrow, again).settings == picture.recipe.settings
