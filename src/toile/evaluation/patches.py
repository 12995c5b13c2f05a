"""How far apart two sets of large pictures are in their patches: cloth, seams and edges instead of whole articles.

A network that looks at a large picture brought to its own small size sees nothing of what enlarging adds. So it is
shown squares of the picture, pixel by pixel as they are, at places where there is something.
Shapes: N and M pictures, H x W their size, K patches of each of S x S, F features.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.feature_networks import FeatureNetwork
from toile.evaluation.frechet import FeatureStatistics, frechet_distance
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.scores import Score
from toile.evaluation.silhouette import silhouettes
from toile.training.draws import seed_of

PATCH_SIDE = 64
NUM_EACH = 8
_BATCH = 16  # pictures whose patches are looked at together; it changes no result
_HALVING_SEED = 1
_NUM_SIZES = 7


def draw_places(masks: Tensor, side: int = PATCH_SIDE, num_each: int = NUM_EACH, seed: int = 0) -> Tensor:
    """Where patches are cut: around places drawn evenly from where there is something, moved inside the picture.

    A picture's places depend on the seed, its number and its mask alone. The same number comes from each picture, so
    large articles do not count for more than small ones. Where a mask is empty, the whole picture counts.

    Args:
        masks: (N, H, W) bool, such as `silhouettes`.
        side: S.
        num_each: K.
        seed: of the draw.

    Returns:
        (N, K, 2) int64, the row and the column of each patch's upper left corner.

    Raises:
        ToileError: patches that are larger than pictures, or none.
    """
    height, width = masks.shape[1:]
    if not 1 <= side <= min(height, width) or num_each < 1:
        raise ToileError(
            f"{num_each} patches of {side}x{side} from pictures of {width}x{height}; give at least 1, of a side of "
            f"1 to {min(height, width)}"
        )
    places = np.empty((len(masks), num_each, 2), dtype=np.int64)
    for number, mask in enumerate(masks.numpy()):
        inside = mask if mask.any() else np.ones_like(mask)
        shares = np.random.default_rng(seed_of(seed, "patches", number)).random((num_each, 2))
        # A row by how much is in it, then a place in that row: masks that differ little, as those of a picture and of
        # its enlargement do, give places that differ little.
        in_rows = inside.sum(axis=1).cumsum()
        rows = np.searchsorted(in_rows, (shares[:, 0] * in_rows[-1]).astype(np.int64), side="right")
        for place, (row, share) in enumerate(zip(rows.tolist(), shares[:, 1].tolist(), strict=True)):
            columns = np.flatnonzero(inside[row])
            places[number, place] = row, columns[int(share * len(columns))]
    most = torch.tensor([height - side, width - side])
    return (torch.from_numpy(places) - side // 2).clamp(min=0).minimum(most)


def cut_patches(pixels: Tensor, places: Tensor, side: int = PATCH_SIDE) -> Tensor:
    """Squares of pictures.

    Args:
        pixels: (N, H, W, 3).
        places: (N, K, 2) int64, upper left corners.

    Returns:
        (N, K, S, S, 3).
    """
    steps = torch.arange(side)
    rows, columns = places[..., 0, None] + steps, places[..., 1, None] + steps
    pictures = torch.arange(len(pixels))[:, None, None, None]
    return pixels[pictures, rows[..., :, None], columns[..., None, :]]


def patch_features(
    network: FeatureNetwork, pixels: Tensor, side: int = PATCH_SIDE, num_each: int = NUM_EACH, seed: int = 0
) -> Tensor:
    """What a network sees in patches of pictures, at places where there is something.

    Args:
        network: what looks. Best one that takes patches as they are: what brings them to another size blurs all alike.
        pixels: (N, H, W, 3) uint8, N at least 1.
        side, num_each, seed: of `draw_places`.

    Returns:
        (N, K, F) float32.

    Raises:
        ToileError: no pictures, or patches that are larger than they are.
    """
    if not len(pixels):
        raise ToileError("no pictures to look at; give at least one")
    places = draw_places(silhouettes(pixels), side, num_each, seed)
    found = []
    for first in range(0, len(pixels), _BATCH):
        some = slice(first, first + _BATCH)
        patches = cut_patches(pixels[some], places[some], side)
        found.append(network.features(patches.flatten(0, 1)).unflatten(0, patches.shape[:2]))
    return torch.cat(found)


def patch_distance(judged: Tensor, reference: FeatureStatistics) -> float:
    """The Frechet distance of the patches of judged pictures, (N, K, F), to a reference of patches.

    Raises:
        ToileError: fewer patches than features, or as `frechet_distance`.
    """
    num_pictures, num_each, width = judged.shape
    if num_pictures * num_each < width:
        raise ToileError(
            f"{num_pictures} pictures with {num_each} patches each are too few for a Frechet distance in {width} "
            f"features; give at least {math.ceil(width / num_each)} pictures, or take more patches of each"
        )
    return frechet_distance(FeatureStatistics.of(judged.flatten(0, 1)), reference)


def extrapolate_patch_distance(judged: Tensor, reference: FeatureStatistics, seed: int = 0) -> float:
    """The distance that pictures without end would have (Chong & Forsyth 2020, sec. 3.2), as `extrapolate_frechet`.

    Patches of one picture are alike, so what makes the distance too large is the number of pictures, not of patches:
    subsets are of pictures with all their patches, and the line is followed to 1 / N = 0.

    Args:
        judged: (N, K, F), with at least 4 F patches.
        seed: of the order in which pictures come into subsets.

    Raises:
        ToileError: as `frechet_distance`, or too few patches for a line.
    """
    num_pictures, num_each, width = judged.shape
    smallest = max(num_pictures // 4, math.ceil(width / num_each))
    if 2 * smallest > num_pictures:
        raise ToileError(
            f"{num_pictures} pictures with {num_each} patches each are too few to extrapolate a distance in {width} "
            f"features; give at least {2 * math.ceil(width / num_each)} pictures"
        )
    shuffled = judged[torch.from_numpy(np.random.default_rng(seed).permutation(num_pictures))]
    sizes = np.unique(np.linspace(smallest, num_pictures, _NUM_SIZES).round().astype(np.int64))
    means = []
    for size in sizes.tolist():
        parts = shuffled.split(size)[: num_pictures // size]
        means.append(math.fsum(patch_distance(part, reference) for part in parts) / len(parts))
    return float(np.polyfit(1.0 / sizes, means, 1)[1])


def crossed_distance(judged: Tensor, real: Tensor, sets: PictureSets, is_extrapolated: bool = False) -> Score:
    """The distance of judged pictures to real ones of other products, with its interval.

    Products are halved. Judged pictures of each half are held to real pictures of the other, and the mean of the two
    distances is taken: so all pictures count on both sides, and none is held to a picture of its own product. Real
    pictures themselves, judged so, give the floor.

    Args:
        judged, real: (N, K, F) of the same N products, row by row.
        sets: of the N rows; they are left out of the judged side, one after the other.
        is_extrapolated: follow distances to pictures without end.

    Raises:
        ToileError: shapes that differ, or as `extrapolate_patch_distance`.
    """
    if judged.shape != real.shape or judged.ndim != 3 or len(judged) != len(sets.prompts):
        raise ToileError(
            f"features are {tuple(judged.shape)} and {tuple(real.shape)}, sets are of {len(sets.prompts)} pictures; "
            "give (pictures, patches, features) of the same pictures on both sides"
        )
    in_first = torch.from_numpy(np.random.default_rng(_HALVING_SEED).permutation(len(judged)) % 2 == 0)
    halves = [(half, FeatureStatistics.of(real[~half].flatten(0, 1))) for half in (in_first, ~in_first)]
    distance_of = extrapolate_patch_distance if is_extrapolated else patch_distance

    def value(rows: Tensor) -> float:
        return math.fsum(distance_of(judged[rows[half[rows]]], reference) for half, reference in halves) / 2

    return sets.score(value)
