"""Per-image noise: a picture does not depend on who is in the batch with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toile.diffusion.noise import (
    NUM_SEEDS,
    ImageNoise,
    add_salt_and_pepper,
    draw_seed,
    image_seeds,
    noise_between,
    salt_and_pepper_share,
)
from toile.errors import ToileError

SHAPE = (4, 5, 4)
seeds = st.integers(0, NUM_SEEDS - 1)


@given(st.lists(seeds, min_size=1, max_size=5), st.integers(0, 50))
@settings(deadline=None)
def test_noise_depends_on_seed_and_draw_alone(batch: list[int], index: int) -> None:
    together = ImageNoise(batch, SHAPE).draw(index)
    reverse = ImageNoise(batch[::-1], SHAPE).draw(index)

    assert together.shape == (len(batch), *SHAPE)
    assert together.dtype == torch.float32
    assert torch.equal(reverse.flip(0), together)
    for i, seed in enumerate(batch):
        assert torch.equal(ImageNoise([seed], SHAPE).draw(index)[0], together[i])


def test_draws_may_be_taken_in_any_order_and_twice() -> None:
    noise = ImageNoise([7], SHAPE)
    late, early = noise.draw(9), noise.draw(2)
    assert torch.equal(noise.draw(2), early)
    assert torch.equal(noise.draw(9), late)
    assert not torch.equal(early, late)


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 1, NUM_SEEDS - 1])
def test_draw_zero_is_what_pytorch_gives_for_the_seed(seed: int) -> None:
    expected = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(ImageNoise([seed], SHAPE).draw(0), expected)


def test_draw_seeds_are_splitmix64() -> None:
    # the first outputs of the reference implementation for seed 1234567
    assert [draw_seed(1234567, k) for k in (1, 2, 3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_neighbouring_seeds_and_draws_are_independent_standard_normal() -> None:
    noise = ImageNoise(image_seeds(100, 8), (4, 32, 32))
    draws = torch.stack([noise.draw(k) for k in range(4)]).reshape(32, -1)

    correlation = torch.corrcoef(draws)
    assert float((correlation - torch.eye(32)).abs().max()) < 0.07  # 4.5 standard errors of 1 / sqrt(4096)
    assert abs(float(draws.mean())) < 0.01
    assert float(draws.std()) == pytest.approx(1, abs=0.01)


def test_image_seeds_count_up_and_around() -> None:
    assert image_seeds(7, 3) == [7, 8, 9]
    assert image_seeds(NUM_SEEDS - 1, 2) == [NUM_SEEDS - 1, 0]


@pytest.mark.parametrize("seed", [-1, NUM_SEEDS, 1.5, True, "7"])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(ToileError, match="seed is"):
        image_seeds(seed, 1)
    with pytest.raises(ToileError, match="seed is"):
        ImageNoise([3, seed], SHAPE)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ToileError, match="no seeds"):
        ImageNoise([], SHAPE)
    with pytest.raises(ToileError, match="number of images is 0"):
        image_seeds(7, 0)
    with pytest.raises(ToileError, match="draw -1"):
        ImageNoise([7], SHAPE).draw(-1)


def test_noise_between_two_has_the_spread_of_both_and_ends_at_them() -> None:
    first, second = (ImageNoise([seed, seed + 7], (4, 32, 32)).draw(0) for seed in (1, 2))
    assert torch.equal(noise_between(first, second, 0), first)
    assert torch.equal(noise_between(first, second, 1), second)
    for share in (0.1, 0.5, 0.9):
        between = noise_between(first, second, share)
        torch.testing.assert_close(between.std(dim=(1, 2, 3)), torch.ones(2), rtol=0, atol=0.05)
    half = noise_between(first, second, 0.5)
    for row in range(2):
        distances = [float((half[row] - end[row]).norm()) for end in (first, second)]
        assert distances[0] == pytest.approx(distances[1], rel=3e-2)


def test_noise_between_equals_is_that_noise() -> None:
    noise = ImageNoise([3], (4, 8, 8)).draw(0)
    torch.testing.assert_close(noise_between(noise, noise.clone(), 0.3), noise)


def test_salt_and_pepper_change_as_much_as_gaussian_noise_of_that_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 100, 100, generator=generator) * torch.tensor([0.1, 1.0, 2.0]).view(3, 1, 1, 1) - 1
    noise = ImageNoise([1, 2, 3], (1, 100, 100)).draw(0)
    share = salt_and_pepper_share(images, 0.3)
    noisy = add_salt_and_pepper(images, share, noise)
    assert noisy.sub(images).square().flatten(1).mean(1).tolist() == pytest.approx([0.3] * 3, rel=0.06)
    changed = (noisy != images).any(1).flatten(1)
    assert changed.float().mean(1).tolist() == pytest.approx(share.tolist(), rel=0.06)
    white, black = ((noisy == value).all(1).float().mean() for value in (1.0, -1.0))
    assert float(white) == pytest.approx(float(black), rel=0.1)


def test_salt_and_pepper_from_nothing_to_everything() -> None:
    images, noise = torch.full((1, 3, 8, 8), 0.25), ImageNoise([5], (1, 8, 8)).draw(0)
    assert torch.equal(add_salt_and_pepper(images, torch.zeros(1), noise), images)
    everything = add_salt_and_pepper(images, torch.ones(1), noise)
    assert torch.equal(everything.abs(), torch.ones_like(images))
    assert torch.equal(everything[:, :1].expand(-1, 3, -1, -1), everything), "all colours at once"
    little = add_salt_and_pepper(images, torch.full((1,), 0.3), noise) != images
    more = add_salt_and_pepper(images, torch.full((1,), 0.6), noise) != images
    assert bool((more | ~little).all()) and more.sum() > little.sum()
    for mean_square in (1.2, -0.1):
        with pytest.raises(ToileError, match="salt and pepper"):
            salt_and_pepper_share(images, mean_square)
