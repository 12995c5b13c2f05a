"""Near-duplicate pictures: candidates by perceptual hash, proof by thumbnail, groups by union-find.

A hash alone is no proof: among pictures of products on white, thousands of different ones share a hash. So a pair whose
hashes are near must also look the same at 16x16 pixels in every place, in colour.

Shapes: N pictures, S x S the thumbnail, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from toile.errors import ToileError

HASH_BITS = 64
MAX_RADIUS = 16
# Two pale, thin things on white differ little, whatever they are: 10 of 255 is much where 20 is all there is.
CONTRAST_SHARE = 0.1
_ALWAYS_ALLOWED = 1.0
_ROUNDING = 1e-3
_PAIRS_AT_ONCE = 1 << 20
_PROVEN_AT_ONCE = 1 << 13


def near_pairs(hashes: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of hashes that differ in at most `radius` bits, each once, in pieces.

    The bits are dealt into radius + 1 bands. Two hashes within the radius agree in at least one whole band, so only
    hashes that share a band are compared, and none is missed (Norouzi et al. 2012, sec. 2).

    Args:
        hashes: (N,) uint64.
        radius: 0 to 16.

    Yields:
        positions (P,) and (P,) of the first and the second of each pair.
    """
    if not 0 <= radius <= MAX_RADIUS:
        raise ToileError(f"radius {radius} is not possible; give 0 to {MAX_RADIUS} differing bits of {HASH_BITS}")
    if len(hashes) < 2:
        return
    # Every so many-th bit: neighbouring frequencies are alike, and dealt apart they make smaller buckets.
    bands = [sum(1 << bit for bit in range(band, HASH_BITS, radius + 1)) for band in range(radius + 1)]
    masks = np.array(bands, dtype=np.uint64)
    for number, mask in enumerate(masks):
        values = hashes & mask
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.diff(values[order])) + 1
        for bucket in np.split(order, starts):
            if number and (hashes[bucket] == hashes[bucket[0]]).all():
                continue  # equal hashes agree in the first band already
            for left, right in _pairs_in(bucket, hashes, radius):
                agree = (hashes[left] ^ hashes[right])[:, None] & masks[None, :number] == 0
                new = ~agree.any(axis=1)  # what an earlier band has told is not told again
                yield left[new], right[new]


def _pairs_in(bucket: np.ndarray, hashes: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rows = max(1, _PAIRS_AT_ONCE // len(bucket))
    for first in range(0, len(bucket) - 1, rows):
        some, rest = bucket[first : first + rows], bucket[first:]
        near = count_bits(hashes[some][:, None] ^ hashes[rest][None, :]) <= radius
        left, right = np.nonzero(np.triu(near, k=1))
        if len(left):
            yield some[left], rest[right]


def count_bits(values: np.ndarray) -> np.ndarray:
    """How many bits of each uint64 are set, by adding neighbours (Warren, Hacker's Delight, fig. 5-2)."""
    pairs, fours, eights = (np.uint64(int(byte * 8, 16)) for byte in ("55", "33", "0f"))
    one, two, four, top = (np.uint64(shift) for shift in (1, 2, 4, 56))
    values = values - ((values >> one) & pairs)
    values = (values & fours) + ((values >> two) & fours)
    values = (values + (values >> four)) & eights
    return (values * np.uint64(0x0101010101010101)) >> top


def look_the_same(first: np.ndarray, second: np.ndarray, tolerance: float) -> np.ndarray:
    """Whether thumbnails differ by at most `tolerance` of 255 anywhere, and altogether by a tenth of their contrast.

    Both are root mean squares, of the difference and around the picture's mean colour; 1 of 255 is always allowed.

    Args:
        first, second: (P, S, S, 3) uint8.

    Returns:
        (P,) bool.
    """
    # Of unsigned numbers the larger minus the smaller, which cannot wrap around.
    difference = np.maximum(first, second) - np.minimum(first, second)
    same = difference.max(axis=(1, 2, 3), initial=0) <= tolerance
    whole = np.sqrt((difference[same].astype(np.float32) ** 2).mean(axis=(1, 2, 3)))
    contrast = np.minimum(_spread(first[same]), _spread(second[same]))
    same[same] = whole <= np.maximum(CONTRAST_SHARE * contrast, _ALWAYS_ALLOWED)
    return same


def _spread(thumbs: np.ndarray) -> np.ndarray:
    """(P, S, S, 3) -> (P,), the root mean square around the mean colour."""
    return np.sqrt(thumbs.astype(np.float32).var(axis=(1, 2)).mean(axis=1))


def duplicate_groups(
    contents: Sequence[str], hashes: np.ndarray, thumbs: np.ndarray, radius: int, tolerance: float
) -> list[np.ndarray]:
    """Groups of pictures that are joined by pairs of near-duplicates.

    Args:
        contents: N hashes of the bytes; equal ones are joined whatever they look like.
        hashes: (N,) uint64.
        thumbs: (N, S, S, 3) uint8.
        radius: of the search among the hashes, in bits.
        tolerance: see `look_the_same`.

    Returns:
        Positions of each group of two or more, ascending; groups in the order of their first picture.
    """
    first_of: dict[str, int] = {}
    parent = np.array([first_of.setdefault(name, position) for position, name in enumerate(contents)], dtype=np.int64)
    alone = np.fromiter(first_of.values(), dtype=np.int64, count=len(first_of))
    coarse = thumbs.reshape(len(thumbs), 2, 8, 2, 8, 3).mean(axis=(2, 4), dtype=np.float32).reshape(-1, 12)
    for left, right in near_pairs(hashes[alone], radius):
        left, right = alone[left], alone[right]
        apart = parent[left] != parent[right]
        left, right = left[apart], right[apart]
        # Means of quarters differ at most as much as their pixels: most pairs are settled by twelve numbers.
        near = (np.abs(coarse[left] - coarse[right]) <= tolerance + _ROUNDING).all(axis=1)
        left, right = left[near], right[near]
        for start in range(0, len(left), _PROVEN_AT_ONCE):
            some, others = left[start : start + _PROVEN_AT_ONCE], right[start : start + _PROVEN_AT_ONCE]
            apart = parent[some] != parent[others]
            some, others = some[apart], others[apart]
            same = look_the_same(thumbs[some], thumbs[others], tolerance)
            if same.any():
                parent = _joined(parent, some[same], others[same])
    order = np.argsort(parent, kind="stable")
    starts = np.flatnonzero(np.diff(parent[order], prepend=-1))
    groups = [group for group in np.split(order, starts[1:]) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def _joined(parent: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Union-find: joins pairs under the smaller root; every position then points at its root directly."""
    parents = parent.tolist()

    def find(position: int) -> int:
        while parents[position] != position:
            parents[position] = parents[parents[position]]
            position = parents[position]
        return position

    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        low, high = sorted((find(one), find(other)))
        parents[high] = low
    flat = np.array(parents, dtype=np.int64)
    while not np.array_equal(flat, flat[flat]):
        flat = flat[flat]
    return flat


def superfluous(
    group: np.ndarray, contents: Sequence[str], thumbs: np.ndarray, rank: np.ndarray, tolerance: float
) -> dict[int, int]:
    """Which pictures of a group can go, and for each the one that stays and looks the same.

    A chain of near-duplicates may join pictures that differ; so a picture goes only if it is a near-duplicate of one
    that stays, not because of a third.

    Args:
        group: positions.
        contents, thumbs: of all pictures.
        rank: of all pictures; the highest of a group is looked at first, and stays.

    Returns:
        Position that goes -> position that stays.
    """
    staying: list[int] = []
    going: dict[int, int] = {}
    for position in sorted(group.tolist(), key=lambda position: (-int(rank[position]), position)):
        equal = [other for other in staying if contents[other] == contents[position]]
        if not equal and staying:
            alike = look_the_same(thumbs[staying], thumbs[[position] * len(staying)], tolerance)
            equal = [staying[number] for number in np.flatnonzero(alike)]
        if equal:
            going[position] = equal[0]
        else:
            staying.append(position)
    return going
