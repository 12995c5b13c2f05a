"""Second passes, variations, edits and maps in the one generate function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.generation.noise_search import response
from toile.generation.pictures import GenerateStep, Picture, generate
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.generation.source import SourceImage
from toile.latent_diffusion import LatentDiffusion
from toile.picture_recipe import Toward, read_recipe

REQUEST = GenerateRequest(("red dress",), seed=3, num_images=2, steps=4, guidance=3.0)


def make(model: LatentDiffusion, request: GenerateRequest) -> list[Picture]:
    return [event for event in generate(model, request) if isinstance(event, Picture)]


def difference(one: Picture, other: Picture) -> float:
    return float(np.abs(one.pixels.astype(float) - other.pixels.astype(float)).mean())


# ------------------------------------------------------------------------------------------------------- second pass


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0])
def test_a_second_pass_enlarges(tiny_model: LatentDiffusion, scale: float) -> None:
    request = replace(REQUEST, hires_scale=scale, hires_strength=0.5)
    events = list(generate(tiny_model, request))
    steps = [event for event in events if isinstance(event, GenerateStep)]
    assert [(step.step, step.num_steps) for step in steps] == [(number, 6) for number in range(1, 7)]
    assert steps[-1].fraction == 1
    pictures = [event for event in events if isinstance(event, Picture)]
    assert pictures[0].pixels.shape == (int(32 * scale), int(24 * scale), 3)
    assert "Hires upscale" in pictures[0].recipe.parameters()


def test_a_second_pass_keeps_more_of_the_first_when_it_is_weaker(tiny_model: LatentDiffusion) -> None:
    [plain, _] = make(tiny_model, REQUEST)
    by_strength = [
        difference(make(tiny_model, replace(REQUEST, hires_scale=1.0, hires_strength=strength))[0], plain)
        for strength in (0.25, 1.0)
    ]
    assert 0 < by_strength[0] < by_strength[1]


def test_a_second_pass_and_a_mask_are_refused(tiny_model: LatentDiffusion) -> None:
    source = SourceImage(np.zeros((32, 24, 3), np.uint8), np.zeros((32, 24), np.uint8))
    with pytest.raises(ToileError, match="leave out one"):
        generate(tiny_model, replace(REQUEST, hires_scale=2.0, source=source))
    with pytest.raises(ToileError, match="hires_scale"):
        replace(REQUEST, hires_scale=5.0)


# -------------------------------------------------------------------------------------------------------- variations


def test_a_share_of_zero_is_the_picture_and_of_one_the_other(tiny_model: LatentDiffusion) -> None:
    request = replace(REQUEST, num_images=1)
    [first] = make(tiny_model, request)
    [other] = make(tiny_model, replace(request, prompts=("black belt",), seed=9))
    near, far = (make(tiny_model, replace(request, toward=Toward("black belt", 9, share)))[0] for share in (0.0, 1.0))
    assert np.array_equal(near.pixels, first.pixels)
    assert np.array_equal(far.pixels, other.pixels)


def test_variations_differ_more_the_larger_their_share(tiny_model: LatentDiffusion) -> None:
    [plain, _] = make(tiny_model, REQUEST)
    differences = []
    for share in (0.05, 0.3, 1.0):
        pictures = make(tiny_model, replace(REQUEST, toward=Toward("red dress", 100, share)))
        assert [picture.recipe.seed for picture in pictures] == [3, 3]
        assert [picture.recipe.toward.seed for picture in pictures if picture.recipe.toward] == [100, 101]
        assert not np.array_equal(pictures[0].pixels, pictures[1].pixels)
        differences.append(difference(pictures[0], plain))
    assert differences == sorted(differences)
    assert "Variation seed: 100" in pictures[0].recipe.parameters()


# ------------------------------------------------------------------------------------------------------------- edits


def test_an_edit_to_the_same_words_is_the_picture(tiny_model: LatentDiffusion) -> None:
    for picture, edited in zip(
        make(tiny_model, REQUEST), make(tiny_model, replace(REQUEST, original="red dress")), strict=True
    ):
        assert np.abs(picture.pixels.astype(int) - edited.pixels.astype(int)).max() <= 1


def test_an_edit_that_nothing_leads_is_the_plain_picture(tiny_model: LatentDiffusion) -> None:
    free = replace(REQUEST, original="black belt", edit_cross=0.0, edit_self=0.0)
    for picture, edited in zip(make(tiny_model, REQUEST), make(tiny_model, free), strict=True):
        assert np.abs(picture.pixels.astype(int) - edited.pixels.astype(int)).max() <= 1


def test_an_edit_is_led_by_the_original(tiny_model: LatentDiffusion) -> None:
    request = replace(REQUEST, prompts=("red belt",))
    plain = make(tiny_model, request)
    edited = make(tiny_model, replace(request, original="red dress", edit_cross=1.0, edit_self=1.0))
    assert all(difference(one, other) > 0 for one, other in zip(plain, edited, strict=True))


def test_what_does_not_go_with_an_edit() -> None:
    for change in ({"maps": True}, {"toward": Toward("a", 1, 0.5)}):
        with pytest.raises(ToileError, match="goes with no maps"):
            replace(REQUEST, original="red dress", **change)


# -------------------------------------------------------------------------------------------------------------- maps


def test_maps_of_every_picture(tiny_model: LatentDiffusion) -> None:
    plain, mapped = make(tiny_model, REQUEST), make(tiny_model, replace(REQUEST, maps=True))
    for picture, with_maps in zip(plain, mapped, strict=True):
        assert picture.maps is None and with_maps.maps is not None
        assert with_maps.maps.shape == (16, 8, 6)
        torch.testing.assert_close(with_maps.maps.sum(0), torch.ones(8, 6), rtol=0, atol=1e-4)
        assert np.abs(picture.pixels.astype(int) - with_maps.pixels.astype(int)).max() <= 1
    assert not torch.equal(mapped[0].maps, mapped[1].maps)


# ------------------------------------------------------------------------------------------------------------ replay


@pytest.mark.parametrize(
    "change",
    [
        {"hires_scale": 1.5},
        {"toward": Toward("black belt", 9, 0.4)},
        {"original": "black belt"},
        {"prompts": ("a (red:1.4) dress",), "word_weights": "attention"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_mode_is_made_again(tiny_model: LatentDiffusion, tmp_path: Path, change: dict[str, object]) -> None:
    pictures = make(tiny_model, replace(REQUEST, **change))  # type: ignore[arg-type]
    pictures[1].save(tmp_path / "picture.png")
    assert read_recipe(tmp_path / "picture.png") == pictures[1].recipe
    assert replay(tmp_path / "picture.png", tiny_model).identical


# ------------------------------------------------------------------------------------------------------ noise search


def test_the_least_answered_word_decides() -> None:
    maps = torch.zeros(3, 4, 2, 2)
    maps[0, 1, 0, 0], maps[0, 2, 1, 1] = 0.9, 0.1
    maps[1, 1, 0, 0], maps[1, 2, 1, 1] = 0.4, 0.3
    maps[2, 1, 0, 0], maps[2, 2, 1, 1], maps[2, 3, 1, 1] = 0.4, 0.1, 0.15
    torch.testing.assert_close(response(maps, [(1,), (2, 3)]), torch.tensor([0.1, 0.3, 0.25]))


def test_of_several_noises_one_is_chosen_the_same_in_any_batch(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    searched = replace(REQUEST, noise_candidates=5, num_images=3)
    together = make(tiny_model, searched)
    alone = [make(tiny_model, replace(searched, num_images=1, seed=3 + number))[0] for number in range(3)]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels.astype(int)).max() <= 1
    plain = make(tiny_model, replace(REQUEST, num_images=3))
    assert any(difference(one, other) > 1 for one, other in zip(together, plain, strict=True))
    together[1].save(tmp_path / "picture.png")
    assert replay(tmp_path / "picture.png", tiny_model).identical


def test_a_prompt_without_words_keeps_its_noise(tiny_model: LatentDiffusion) -> None:
    plain, searched = (make(tiny_model, replace(REQUEST, prompts=("",), noise_candidates=n)) for n in (1, 4))
    assert np.array_equal(plain[0].pixels, searched[0].pixels)
