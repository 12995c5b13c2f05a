"""How far classes are apart: known clouds, codes that say nothing, and the mean of a class without the code itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from toile.data.records import Record
from toile.errors import ToileError
from toile.training.separability import (
    MISSING,
    class_labels,
    nearest_class_accuracy,
    separability,
    total_variance,
)


def clouds(apart: float, per_class: int = 200, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Two clouds in the plane, their means so far apart."""
    draws = torch.randn(2 * per_class, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * spread
    labels = torch.arange(2).repeat_interleave(per_class)
    draws[:, 0] += (labels - 0.5) * apart
    return draws, labels


def test_two_known_clouds() -> None:
    codes, labels = clouds(apart=3.0, per_class=4000)
    found = separability(codes, labels)
    right = 0.5 * (1 + math.erf(1.5 / math.sqrt(2)))  # on the own side of the middle
    assert found.accuracy == pytest.approx(right, abs=0.01)
    assert (found.between, found.within) == (pytest.approx(2.25, rel=0.05), pytest.approx(2.0, rel=0.05))
    assert (found.chance, found.num_classes, found.num_codes) == (0.5, 2, 8000)
    assert found.between + found.within == pytest.approx(total_variance(codes))


def test_codes_that_say_nothing_are_not_told_apart() -> None:
    labels = torch.arange(40).repeat(5)  # small classes: with the code in its own mean, half of them would look right
    codes = torch.randn(200, 30, generator=torch.Generator().manual_seed(1))
    assert separability(codes, labels).accuracy < 0.1
    nothing = separability(torch.ones(200, 30), labels)
    assert (nothing.accuracy, nothing.share_between) == (0.0, 0.0)


def test_each_code_is_left_out_of_the_mean_of_its_class() -> None:
    codes, labels = clouds(apart=1.0, per_class=9)
    right = []
    for row in range(len(codes)):
        others = torch.arange(len(codes)) != row
        means = torch.stack([codes[others & (labels == k)].mean(0) for k in range(2)])
        right.append(int((means - codes[row]).norm(dim=1).argmin()) == int(labels[row]))
    assert separability(codes, labels).accuracy == sum(right) / len(right)


def test_one_code_a_class_is_as_far_apart_as_can_be() -> None:
    labels = torch.arange(10).repeat(3)
    codes = torch.randn(10, 4, generator=torch.Generator().manual_seed(2))[labels]
    found = separability(codes, labels)
    assert found.accuracy == 1.0 and found.share_between == pytest.approx(1.0)


def test_unknown_and_single_codes_are_left_out() -> None:
    codes, labels = clouds(apart=5.0)
    more = torch.cat([codes, torch.tensor([[1e6, 0.0], [0.0, 1e6]], dtype=codes.dtype)])
    known = torch.cat([labels, torch.tensor([MISSING, 7])])
    assert separability(more, known) == separability(codes, labels)


def test_texts_among_pictures() -> None:
    codes, labels = clouds(apart=8.0)
    shrunken = codes * 0.05
    assert nearest_class_accuracy(codes, codes, labels) == 1.0
    assert nearest_class_accuracy(shrunken, codes, labels) > 0.95  # still on the right side of the middle
    assert nearest_class_accuracy(-codes, codes, labels) < 0.01
    assert total_variance(shrunken) == pytest.approx(0.0025 * total_variance(codes))


@pytest.mark.parametrize(
    ("codes", "labels", "named"),
    [
        (torch.zeros(4, 2), torch.tensor([0, 0, 1, MISSING]), "two classes with two codes"),
        (torch.full((4, 2), torch.nan), torch.tensor([0, 0, 1, 1]), "not finite"),
        (torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), r"give \(N, F\) and \(N,\)"),
    ],
)
def test_what_cannot_be_told_is_refused(codes: Tensor, labels: Tensor, named: str) -> None:
    with pytest.raises(ToileError, match=named):
        separability(codes, labels)


def test_labels_of_records() -> None:
    products = [
        Record("a", {"articleType": "Ties"}, ()),
        Record("b", {}, ()),
        Record("c", {"articleType": "Belts"}, ()),
    ]
    assert class_labels(products).tolist() == [1, MISSING, 0]
    assert class_labels([Record("a", {"class": "bag"}, ("bag",))]).tolist() == [0]
    assert class_labels([Record("a", {}, ("a red hat",))]).tolist() == [MISSING]
