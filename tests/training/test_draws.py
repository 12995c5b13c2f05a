"""Draws of a run: functions of seed, purpose and number alone, and an order that shows every picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toile.training.draws import ShuffledOrder, example_noise, generator, seed_of


def test_a_seed_depends_on_every_argument_and_never_changes() -> None:
    seeds = {
        seed_of(0, "noise", 1),
        seed_of(1, "noise", 1),
        seed_of(0, "timestep", 1),
        seed_of(0, "noise", 2),
        seed_of(0, "noise", 1, 1),
        seed_of(0, "noise", 11),
        seed_of(0, "noise"),
    }
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Else runs saved by earlier versions would go on differently.
    assert seed_of(0, "noise", 1) == 5_330_316_744_298_693_051


def test_seeds_are_spread_evenly() -> None:
    places = np.array([seed_of(0, "uncond", example) / 2**63 for example in range(2000)])
    assert places.mean() == pytest.approx(0.5, abs=0.03)
    assert (places < 0.1).mean() == pytest.approx(0.1, abs=0.03)


def test_noise_of_an_example_does_not_depend_on_its_batch() -> None:
    whole = example_noise(3, "train", range(10, 20), (2, 4, 3))
    assert whole.shape == (10, 2, 4, 3) and whole.dtype == torch.float32
    assert torch.equal(whole[4:7], example_noise(3, "train", range(14, 17), (2, 4, 3)))
    assert not torch.equal(whole, example_noise(4, "train", range(10, 20), (2, 4, 3)))
    assert not torch.equal(whole, example_noise(3, "validation", range(10, 20), (2, 4, 3)))
    assert len({row.numpy().tobytes() for row in whole}) == 10
    many = example_noise(0, "train", range(2000), (8,))
    assert float(many.mean()) == pytest.approx(0, abs=0.03) and float(many.std()) == pytest.approx(1, abs=0.03)


def test_generators_leave_the_global_one_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    torch.rand(100, generator=generator(0, "noise", 1))
    ShuffledOrder(10, 0).positions(range(30))
    assert torch.equal(torch.rand(3), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 5))
def test_every_picture_is_shown_once_an_epoch(num_pictures: int, seed: int, epoch: int) -> None:
    order = ShuffledOrder(num_pictures, seed)
    positions = order.positions(range(epoch * num_pictures, (epoch + 1) * num_pictures))
    assert sorted(positions) == list(range(num_pictures))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 150), st.integers(1, 50), st.integers(1, 50))
def test_the_order_does_not_depend_on_how_it_is_asked(num_pictures: int, start: int, length: int, cut: int) -> None:
    whole = ShuffledOrder(num_pictures, 0).positions(range(start, start + length))
    order, cut = ShuffledOrder(num_pictures, 0), min(cut, length)
    later = order.positions(range(start + cut, start + length))  # asked for out of turn
    assert [*order.positions(range(start, start + cut)), *later] == list(whole)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order = ShuffledOrder(50, 0)
    first, second = list(order.positions(range(50))), list(order.positions(range(50, 100)))
    assert first != second != list(range(50)) != first
    assert first != list(ShuffledOrder(50, 1).positions(range(50)))
