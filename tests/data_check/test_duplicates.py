"""Near-duplicates: none within the radius is missed, copies are found, and what merely resembles is not."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw

from toile.data_check.duplicates import count_bits, duplicate_groups, look_the_same, near_pairs, superfluous
from toile.data_check.looks import perceptual_hash, small_square, thumb_of
from toile.errors import ToileError


def scene(seed: int, size: tuple[int, int] = (96, 128)) -> Image.Image:
    """A smooth picture of coarse random colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file).convert("RGB")


def groups_of(images: list[Image.Image], radius: int = 6, tolerance: float = 12.0) -> list[list[int]]:
    squares = [small_square(image) for image in images]
    hashes = np.array([perceptual_hash(square) for square in squares], dtype=np.uint64)
    thumbs = np.stack([thumb_of(square) for square in squares])
    names = [str(number) for number in range(len(images))]
    return [group.tolist() for group in duplicate_groups(names, hashes, thumbs, radius, tolerance)]


def test_bits_are_counted() -> None:
    values = np.array([0, 1, 2**64 - 1, 2**63, 0x0123456789ABCDEF], dtype=np.uint64)
    assert count_bits(values).tolist() == [int(value).bit_count() for value in values.tolist()]


@pytest.mark.parametrize("radius", [0, 1, 3, 6, 16])
def test_no_pair_within_the_radius_is_missed_and_none_beyond_is_found(radius: int) -> None:
    rng = np.random.default_rng(radius)
    hashes = rng.integers(0, 2**64, 40, dtype=np.uint64).repeat(6)
    chance = np.tile([0.0, 0.1, 0.2, 0.4, 0.7, 1.0], 40)
    for _ in range(10):  # neighbours of each, at distances around every radius
        flips = np.uint64(1) << rng.integers(0, 64, len(hashes), dtype=np.uint64)
        hashes ^= np.where(rng.random(len(hashes)) < chance, flips, np.uint64(0))
    values = hashes.tolist()
    expected = {
        (first, second)
        for first in range(len(values))
        for second in range(first)
        if (values[first] ^ values[second]).bit_count() <= radius
    }
    found = [
        (max(pair), min(pair))
        for left, right in near_pairs(hashes, radius)
        for pair in zip(left.tolist(), right.tolist(), strict=True)
    ]
    assert set(found) == expected and expected
    assert len(found) == len(set(found))


def test_a_radius_that_is_no_radius_is_refused() -> None:
    with pytest.raises(ToileError, match="radius 17"):
        list(near_pairs(np.zeros(2, dtype=np.uint64), 17))


@pytest.mark.parametrize(
    "copy",
    [compressed, lambda image: image.resize((48, 64)), lambda image: image.resize((200, 260)), lambda image: image],
    ids=["compressed", "half", "twice", "equal"],
)
def test_copies_are_found_among_others(copy: Callable[[Image.Image], Image.Image]) -> None:
    images = [scene(seed) for seed in range(12)]
    assert groups_of([*images, copy(images[5])]) == [[5, 12]]


def test_another_colour_of_the_same_shape_is_another_picture() -> None:
    shirt, other = (Image.new("RGB", (60, 80), "white") for _ in range(2))
    ImageDraw.Draw(shirt).rectangle((15, 20, 45, 60), fill=(150, 20, 30))
    ImageDraw.Draw(other).rectangle((15, 20, 45, 60), fill=(150, 20, 60))
    assert groups_of([shirt, other]) == [] and groups_of([shirt, shirt.copy()]) == [[0, 1]]


def test_pale_thin_things_are_not_all_one() -> None:
    ring, bar = (Image.new("RGB", (160, 160), "white") for _ in range(2))
    ImageDraw.Draw(ring).ellipse((60, 60, 100, 100), outline=(225, 225, 225), width=4)
    ImageDraw.Draw(bar).line((60, 80, 100, 80), fill=(225, 225, 225), width=5)
    first, second = (thumb_of(small_square(image))[None] for image in (ring, bar))
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 12
    assert not look_the_same(first, second, 12.0)[0]
    assert look_the_same(first, first, 0.0)[0]


def test_a_difference_is_the_same_in_both_directions() -> None:
    dark, light = np.full((1, 16, 16, 3), 0, dtype=np.uint8), np.full((1, 16, 16, 3), 250, dtype=np.uint8)
    assert not look_the_same(dark, light, 12.0)[0] and not look_the_same(light, dark, 12.0)[0]


def test_a_chain_is_one_group_but_its_ends_both_stay() -> None:
    base = np.asarray(scene(3).resize((16, 16))).clip(0, 215)
    thumbs = np.stack([base + shift for shift in (0, 5, 10)]).astype(np.uint8)
    hashes, names = np.zeros(3, dtype=np.uint64), ["a", "b", "c"]
    [group] = duplicate_groups(names, hashes, thumbs, 6, 6.0)
    assert group.tolist() == [0, 1, 2]
    assert superfluous(group, names, thumbs, np.array([9, 1, 1]), 6.0) == {1: 0}
    assert superfluous(group, names, thumbs, np.array([1, 9, 1]), 6.0) == {0: 1, 2: 1}


def test_equal_bytes_are_one_group_whatever_the_number() -> None:
    names = ["same"] * 30_000 + ["other"]
    thumbs = np.zeros((len(names), 16, 16, 3), dtype=np.uint8)
    thumbs[-1] = 200
    [group] = duplicate_groups(names, np.zeros(len(names), dtype=np.uint64), thumbs, 6, 12.0)
    assert len(group) == 30_000


def test_pictures_of_one_hash_that_differ_do_not_take_for_ever() -> None:
    thumbs = np.random.default_rng(0).integers(0, 256, (3000, 16, 16, 3), dtype=np.uint8)
    names = [str(number) for number in range(3000)]
    start = time.process_time()
    assert duplicate_groups(names, np.zeros(3000, dtype=np.uint64), thumbs, 6, 12.0) == []
    assert time.process_time() - start < 20


@pytest.mark.parametrize("number", [0, 1])
def test_without_a_pair_there_is_no_group(number: int) -> None:
    assert duplicate_groups(["a"] * number, np.zeros(number, np.uint64), np.zeros((number, 16, 16, 3)), 6, 12.0) == []


def test_flat_pictures_have_no_bits_of_noise() -> None:
    hashes = {perceptual_hash(np.full((32, 32, 3), value, dtype=np.uint8)) for value in (1, 90, 255)}
    assert len(hashes) == 1
