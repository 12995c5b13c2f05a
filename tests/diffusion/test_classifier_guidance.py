"""Classifier guidance: off means untouched, on moves an estimate up the gradient, and less the surer it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toile.diffusion.guidance import ClassifierGuidance
from toile.errors import ToileError

TARGET = torch.tensor([1.0, -2.0, 0.5]).view(3, 1, 1)
NEAR, FAR = 0.1, 3.0


class Plain:
    """The estimate is what goes in."""

    prediction_type = "v_prediction"

    def __call__(self, x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor:
        return x


def log_probability(x: Tensor) -> Tensor:
    """Of a class that is likely where the mean colour is near `TARGET`."""
    return F.logsigmoid(2 - (x.mean((2, 3), keepdim=True) - TARGET).square().sum((1, 2, 3)))


def start(distance: float, rows: int = 2) -> Tensor:
    torch.manual_seed(0)
    texture = torch.randn(rows, 3, 4, 4)
    away = torch.tensor([1.0, 2.0, -2.0]).view(3, 1, 1) / 3  # of length 1
    return texture - texture.mean((2, 3), keepdim=True) + TARGET + away * distance


def guided(x: Tensor, scale: float, interval: tuple[float, float] | None = None, sigma: float = 1.0) -> Tensor:
    return ClassifierGuidance(Plain(), log_probability, scale, interval)(x, sigma, x)


def test_the_estimate_moves_by_scale_and_doubt_along_the_gradient() -> None:
    x = start(FAR)
    moved = guided(x, 0.3) - x
    toward = (TARGET - x.mean((2, 3), keepdim=True)).expand_as(x)  # where the gradient points
    doubt = 1 - log_probability(x).exp().view(-1, 1, 1, 1)
    torch.testing.assert_close(moved, 0.3 * doubt * toward / toward.square().mean((1, 2, 3), keepdim=True).sqrt())
    assert moved.square().mean().sqrt() == pytest.approx(0.3, rel=0.01)  # nothing of it was there
    assert bool((log_probability(x + moved) > log_probability(x)).all())


def test_what_shows_it_moves_less() -> None:
    near, far = (float((guided(start(distance), 0.3) - start(distance)).abs().max()) for distance in (NEAR, FAR))
    assert near < 0.2 * far
    sure = start(0.0)
    still = ClassifierGuidance(Plain(), lambda x: x.sum((1, 2, 3)) * 0, 0.3)(sure, 1.0, sure)
    assert torch.equal(still, sure)


@pytest.mark.parametrize(("scale", "sigma"), [(0.0, 1.0), (0.3, 0.5), (0.3, 4.1)])
def test_off_means_untouched(scale: float, sigma: float) -> None:
    x = start(FAR)
    assert torch.equal(guided(x, scale, (0.5, 4.0), sigma), x)
    assert not torch.equal(guided(x, 0.3, (0.5, 4.0), 4.0), x)


def test_rows_do_not_matter_to_each_other() -> None:
    x = torch.cat([start(FAR, 1), start(NEAR, 1), start(1.0, 1)])
    torch.testing.assert_close(guided(x, 0.3), torch.cat([guided(row, 0.3) for row in x.split(1)]))


def test_it_works_where_no_gradients_are_kept() -> None:
    x = start(FAR)
    expected = guided(x, 0.3)
    with torch.inference_mode():
        assert torch.equal(guided(x.clone(), 0.3), expected)
    assert not guided(x, 0.3).requires_grad


def test_what_is_no_scale_or_interval_is_refused() -> None:
    with pytest.raises(ToileError, match="scale"):
        guided(start(FAR), math.nan)
    with pytest.raises(ToileError, match="interval"):
        guided(start(FAR), 0.3, (2.0, 1.0))
