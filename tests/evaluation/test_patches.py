"""Patches of large pictures: where they are cut, and that their distance orders pictures as they are blurred."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from toile.errors import ToileError
from toile.evaluation.feature_networks import RANDOM, open_feature_network
from toile.evaluation.frechet import FeatureStatistics, frechet_distance
from toile.evaluation.patches import (
    crossed_distance,
    cut_patches,
    draw_places,
    extrapolate_patch_distance,
    patch_distance,
    patch_features,
)
from toile.evaluation.spectrum import deal_pictures
from toile.evaluation.texture import open_texture_network


class MeanColour:
    """Sees the mean colour of a patch, so that tests know what it must say."""

    name, sha256, feature_dim, preparation, trained_on = "mean colour", "", 3, "as they are", None
    made_of: frozenset[str] = frozenset()

    def features(self, pixels: torch.Tensor, batch_size: int | None = None) -> torch.Tensor:
        return pixels.float().mean(dim=(1, 2))


def gaussian(num: int, each: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, each, width, generator=torch.Generator().manual_seed(seed))


def test_patches_are_cut_where_there_is_something() -> None:
    mask = torch.zeros(2, 40, 30, dtype=torch.bool)
    mask[0, 20, 12] = True  # one place: all patches are centred on it
    mask[1, 39, 29] = True  # in the corner: moved inside
    places = draw_places(mask, side=8, num_each=5)
    assert places.shape == (2, 5, 2)
    assert places[0].tolist() == [[16, 8]] * 5 and places[1].tolist() == [[32, 22]] * 5


def test_places_are_spread_evenly_over_what_there_is() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 16:48, 20:28] = True
    centres = draw_places(mask, side=2, num_each=1500)[0].double() + 1
    assert centres.amin(0).tolist() == [16, 20] and centres.amax(0).tolist() == [47, 27]
    torch.testing.assert_close(centres.mean(0), torch.tensor([31.5, 23.5]).double(), rtol=0.03, atol=0.0)


def test_a_picture_with_nothing_in_it_is_cut_anywhere() -> None:
    places = draw_places(torch.zeros(1, 30, 20, dtype=torch.bool), side=6, num_each=400)
    assert places.amin(dim=1).tolist() == [[0, 0]] and places.amax(dim=1).tolist() == [[24, 14]]


def test_places_depend_on_the_seed_and_the_number_of_the_picture_alone() -> None:
    masks = torch.ones(4, 32, 32, dtype=torch.bool)
    places = draw_places(masks, 8, 3, seed=1)
    assert torch.equal(places[:2], draw_places(masks[:2], 8, 3, seed=1))
    assert not torch.equal(places, draw_places(masks, 8, 3, seed=2))
    assert not torch.equal(places[0], places[1])
    torch.testing.assert_close(places, draw_places(masks, 8, 4, seed=1)[:, :3])


def test_masks_that_differ_by_a_few_pixels_give_nearly_the_same_places() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 10:50, 10:50] = True
    grown = mask.clone()
    grown[0, 50, 10:50] = True
    assert int((draw_places(mask, 8) - draw_places(grown, 8))[..., 0].abs().max()) <= 2


def test_patches_are_what_is_there() -> None:
    pixels = torch.arange(2 * 12 * 10 * 3).reshape(2, 12, 10, 3)
    patches = cut_patches(pixels, torch.tensor([[[0, 0], [8, 6]], [[3, 2], [1, 5]]]), side=4)
    assert patches.shape == (2, 2, 4, 4, 3)
    assert torch.equal(patches[0, 1], pixels[0, 8:12, 6:10]) and torch.equal(patches[1, 1], pixels[1, 1:5, 5:9])


def test_features_are_those_of_the_patches() -> None:
    """A picture that is red where there is something: all its patches are as red as the mask is full around them."""
    pixels = torch.full((20, 40, 30, 3), 255, dtype=torch.uint8)
    pixels[:, 10:30, 5:25] = torch.tensor([200, 0, 0], dtype=torch.uint8)
    features = patch_features(MeanColour(), pixels, side=4, num_each=3)
    assert features.shape == (20, 3, 3)
    assert float(features[..., 0].min()) >= 200.0 and float(features[..., 2].median()) == 0.0
    torch.testing.assert_close(features[:17], patch_features(MeanColour(), pixels[:17], side=4, num_each=3))


def test_the_distance_is_that_of_all_patches() -> None:
    a, b = gaussian(30, 4, 5), gaussian(40, 4, 5, seed=1) + 1.0
    statistics = FeatureStatistics.of(b.reshape(-1, 5))
    expected = frechet_distance(FeatureStatistics.of(a.reshape(-1, 5)), statistics)
    assert patch_distance(a, statistics) == expected > 0.0


def test_patches_of_one_picture_count_as_one_picture_for_sets_without_end() -> None:
    """Each picture's patches are copies of one: only a line over numbers of pictures sees how few there are."""
    width, num, truth = 6, 48, 0.0
    reference = FeatureStatistics.of(gaussian(20_000, 1, width, seed=99).flatten(0, 1))
    plain, followed = [], []
    for seed in range(12):
        judged = gaussian(num, 1, width, seed).expand(-1, 8, -1)
        plain.append(patch_distance(judged, reference))
        followed.append(extrapolate_patch_distance(judged, reference))
    assert np.mean(plain) > truth + 0.3
    assert abs(np.mean(followed) - truth) < 0.35 * np.mean(plain)


def test_real_pictures_have_the_floor_and_shifted_ones_their_shift() -> None:
    real = gaussian(200, 4, 3)
    sets = deal_pictures(200, 5)
    floor = crossed_distance(real, real, sets)
    shifted = crossed_distance(real + torch.tensor([2.0, 0.0, 0.0]), real, sets)
    assert 0.0 < floor.value < 0.05 and floor.n == 200 and len(floor.sets) == 5
    assert shifted.low < 4.0 < shifted.high
    assert crossed_distance(real, real, sets, is_extrapolated=True).value < floor.value


def test_no_picture_is_held_to_its_own_product() -> None:
    """Copies of the real pictures are no nearer than real pictures of other products are."""
    real = gaussian(60, 4, 3)
    sets = deal_pictures(60, 3)
    assert crossed_distance(real.clone(), real, sets).value > 0.0


def test_blurs_are_told_apart_and_ordered() -> None:
    """Real < slightly blurred < more blurred, and noise is no detail either, on textures that no two pictures share."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (60, 40, 40, 3)).astype(np.uint8)
    textures = [Image.fromarray(each).resize((64, 64), Image.Resampling.BICUBIC) for each in coarse]
    network = open_texture_network(32)

    def features(change: Callable[[Image.Image], Image.Image]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack([np.array(change(each)) for each in textures]))
        return patch_features(network, pixels, side=32, num_each=6)

    def noisy(picture: Image.Image) -> Image.Image:
        values = np.array(picture) + rng.normal(0.0, 25.0, (64, 64, 3))
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))

    def blurred(spread: float) -> torch.Tensor:
        return features(lambda picture: picture.filter(ImageFilter.GaussianBlur(spread)))

    real, sets = features(lambda picture: picture), deal_pictures(60, 3)
    floor, *distances = (
        crossed_distance(each, real, sets) for each in (real, blurred(0.4), blurred(0.8), blurred(1.5))
    )
    assert floor.high < distances[0].low
    assert all(nearer.high < further.low for nearer, further in itertools.pairwise(distances))
    assert crossed_distance(features(noisy), real, sets).low > floor.high


def test_unfit_input_is_refused() -> None:
    masks, reference = torch.ones(2, 20, 30, dtype=torch.bool), FeatureStatistics.of(gaussian(9, 4, 4).flatten(0, 1))
    with pytest.raises(ToileError, match="8 patches of 64x64 from pictures of 30x20"):
        draw_places(masks)
    with pytest.raises(ToileError, match="0 patches"):
        draw_places(masks, 8, 0)
    with pytest.raises(
        ToileError, match="3 pictures with 1 patches each are too few for a Frechet .* least 4 pictures"
    ):
        patch_distance(gaussian(3, 1, 4), reference)
    with pytest.raises(ToileError, match="3 pictures with 1 patches each are too few .* at least 8 pictures"):
        extrapolate_patch_distance(gaussian(3, 1, 4), reference)
    with pytest.raises(ToileError, match="the same pictures on both sides"):
        crossed_distance(gaussian(8, 2, 4), gaussian(9, 2, 4), deal_pictures(8, 2))
    with pytest.raises(ToileError, match="no pictures"):
        patch_features(open_feature_network(RANDOM), torch.zeros(0, 64, 64, 3, dtype=torch.uint8))
