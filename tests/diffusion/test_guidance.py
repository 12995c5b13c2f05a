"""Classifier-free guidance: off means untouched, on means the formula, in one call."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from toile.diffusion.denoiser import prediction_from_denoised
from toile.diffusion.guidance import ClassifierFreeGuidance
from toile.errors import ToileError

SIGMA = 2.0


class CondDenoiser:
    """Denoised latents that depend on cond and are not linear in x; counts the states of every call."""

    def __init__(self, prediction_type: str = "epsilon") -> None:
        self.prediction_type = prediction_type
        self.batches: list[int] = []

    def __call__(self, x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor:
        self.batches.append(len(cond))
        x = x.repeat(len(cond) // len(x), 1, 1, 1)
        return torch.tanh(x / float(sigma) + cond.mean(dim=(1, 2)).view(-1, 1, 1, 1))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = random(3, 4, 5, 5) * SIGMA
COND = random(3, 2, 8, seed=1)
UNCOND = random(1, 2, 8, seed=2)


def test_guidance_is_the_formula_in_one_call() -> None:
    denoiser = CondDenoiser()
    plain = CondDenoiser()
    with_text = plain(X, SIGMA, COND)
    without = plain(X, SIGMA, UNCOND.expand(3, -1, -1))

    guided = ClassifierFreeGuidance(denoiser, UNCOND, 4.0)(X, SIGMA, COND)

    torch.testing.assert_close(guided, without + 4.0 * (with_text - without))
    assert denoiser.batches == [6]


def test_one_uncond_serves_every_image_and_several_serve_their_own() -> None:
    repeated = ClassifierFreeGuidance(CondDenoiser(), UNCOND.repeat(3, 1, 1), 4.0)(X, SIGMA, COND)
    single = ClassifierFreeGuidance(CondDenoiser(), UNCOND, 4.0)(X, SIGMA, COND)
    assert torch.equal(repeated, single)

    own = random(3, 2, 8, seed=3)
    together = ClassifierFreeGuidance(CondDenoiser(), own, 4.0)(X, SIGMA, COND)
    alone = ClassifierFreeGuidance(CondDenoiser(), own[1:2], 4.0)(X[1:2], SIGMA, COND[1:2])
    torch.testing.assert_close(together[1:2], alone)


def test_scale_one_is_the_plain_denoiser_bit_for_bit() -> None:
    denoiser = CondDenoiser()
    guided = ClassifierFreeGuidance(denoiser, UNCOND, 1.0, rescale=0.7)(X, SIGMA, COND)
    assert torch.equal(guided, CondDenoiser()(X, SIGMA, COND))
    assert denoiser.batches == [3]


def test_the_interval_is_open_below_and_closed_above() -> None:
    denoiser = CondDenoiser()
    guided = ClassifierFreeGuidance(denoiser, UNCOND, 4.0, interval=(1.0, 3.0))
    for sigma in (1.0, 3.0001, 0.01, 4096.0):
        assert torch.equal(guided(X, torch.tensor(sigma, dtype=torch.float64), COND), CondDenoiser()(X, sigma, COND))
    assert denoiser.batches == [3] * 4
    for sigma in (1.0001, 3.0):
        assert not torch.equal(guided(X, sigma, COND), CondDenoiser()(X, sigma, COND))
    assert denoiser.batches == [3] * 4 + [6] * 2


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_full_rescale_gives_the_conditional_prediction_s_spread(prediction_type: str) -> None:
    guided = ClassifierFreeGuidance(CondDenoiser(prediction_type), UNCOND, 7.0, rescale=1.0)(X, SIGMA, COND)
    with_text = CondDenoiser()(X, SIGMA, COND)

    spreads = [
        prediction_from_denoised(denoised, X, SIGMA, prediction_type).std(dim=(1, 2, 3))
        for denoised in (guided, with_text)
    ]
    torch.testing.assert_close(spreads[0], spreads[1])


def test_rescale_of_one_image_does_not_depend_on_the_others() -> None:
    guidance = ClassifierFreeGuidance(CondDenoiser(), UNCOND, 7.0, rescale=0.5)
    torch.testing.assert_close(guidance(X, SIGMA, COND)[2:], guidance(X[2:], SIGMA, COND[2:]))


def test_guidance_forwards_the_prediction_type_so_that_it_can_be_wrapped() -> None:
    assert ClassifierFreeGuidance(CondDenoiser("v_prediction"), UNCOND, 2.0).prediction_type == "v_prediction"


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_scale_that_is_no_number_is_refused(scale: float) -> None:
    with pytest.raises(ToileError, match="guidance scale"):
        ClassifierFreeGuidance(CondDenoiser(), UNCOND, scale)


def test_wrong_interval_rescale_and_shapes_are_refused() -> None:
    with pytest.raises(ToileError, match="interval"):
        ClassifierFreeGuidance(CondDenoiser(), UNCOND, 2.0, interval=(3.0, 1.0))
    with pytest.raises(ToileError, match="rescale"):
        ClassifierFreeGuidance(CondDenoiser(), UNCOND, 2.0, rescale=1.5)
    with pytest.raises(ToileError, match="same number of tokens"):
        ClassifierFreeGuidance(CondDenoiser(), random(1, 5, 8), 2.0)(X, SIGMA, COND)
    with pytest.raises(ToileError, match="one per image"):
        ClassifierFreeGuidance(CondDenoiser(), random(2, 2, 8), 2.0)(X, SIGMA, COND)
