"""Every kind of failure is found where it was put, and the limits are those of the real pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.failures import (
    NOT_CLOTHING,
    OUT_OF_FRAME,
    SEVERAL,
    WRONG_ARTICLE,
    FailureLimits,
    Looks,
    count_failures,
    look_at,
)
from toile.evaluation.silhouette import Shapes
from toile.models.classifier import MISSING, AttributeClassifier, AttributeClassifierConfig, AttributeLabels

NUM_TYPES = 3


def looks(num: int, seed: int = 0) -> Looks:
    """Features around 0, sure of type 0, in one piece away from the edges."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num, 6, generator=generator)
    sure = 0.8 + 0.2 * torch.rand(num, generator=generator)
    probabilities = torch.stack([sure, (1 - sure) / 2, (1 - sure) / 2], dim=1)
    pieces = torch.zeros(num, 3)
    pieces[:, 0] = 0.3
    shapes = Shapes(pieces.sum(dim=1), pieces, torch.ones(num, dtype=torch.bool), torch.zeros(num, 4))
    return Looks(features, probabilities, shapes)


def real_limits(second: Tensor | None = None) -> FailureLimits:
    real, articles = looks(400), torch.tensor([0, 1]).repeat(200)
    shapes = real.shapes
    if second is not None:
        pieces = shapes.pieces.clone()
        pieces[:, 1] = second
        shapes = replace(shapes, pieces=pieces)
    return FailureLimits.of(real, torch.zeros(400, dtype=torch.int64), shapes, articles)


def test_real_pictures_break_the_rules_as_seldom_as_they_say() -> None:
    failures = count_failures(real_limits(), looks(2000, seed=1), torch.zeros(2000, dtype=torch.int64))
    shares = {kind: float(flags.float().mean()) for kind, flags in failures.flags.items()}
    assert 0.002 < shares[NOT_CLOTHING] < 0.03
    assert 0.002 < shares[WRONG_ARTICLE] < 0.03
    assert shares[SEVERAL] == shares[OUT_OF_FRAME] == 0


def test_each_failure_is_found() -> None:
    limits, judged = real_limits(), looks(6, seed=2)
    judged.features[0] = 30.0
    judged.features[1] = 60.0
    judged.probabilities[2] = 1 / 3
    judged.probabilities[3] = torch.tensor([0.001, 0.998, 0.001])
    judged.shapes.pieces[4, 1] = 0.2
    judged.shapes.edges[5, 0] = 0.5
    wanted = torch.tensor([0, 0, MISSING, 0, 0, 0])
    failures = count_failures(limits, judged, wanted)
    found = {kind: flags.nonzero().flatten().tolist() for kind, flags in failures.flags.items()}
    assert found == {NOT_CLOTHING: [0, 1, 2], WRONG_ARTICLE: [3], SEVERAL: [4], OUT_OF_FRAME: [5]}
    assert failures.severities[NOT_CLOTHING].argsort(descending=True)[:3].tolist() == [1, 0, 2]
    for kind, severities in failures.severities.items():
        assert torch.equal(severities > 1, failures.flags[kind]) and severities.dtype == torch.float32
    unknown = count_failures(limits, judged, torch.full((6,), MISSING))
    assert not bool(unknown.flags[WRONG_ARTICLE].any())


def test_a_real_picture_is_as_far_from_the_others_as_the_nearest_of_them() -> None:
    """The limit of distance leaves each picture out of those it is held against; a picture of the reference has 0."""
    real = looks(300)
    gaps = torch.cdist(real.features.double(), real.features.double()).fill_diagonal_(torch.inf)
    limits = FailureLimits.of(real, torch.zeros(300, dtype=torch.int64), real.shapes, torch.zeros(300).long())
    assert limits.distance == pytest.approx(float(gaps.amin(dim=1).quantile(0.995)))
    far = replace(limits, certainty=0.0)
    assert bool((count_failures(far, real, torch.full((300,), MISSING)).severities[NOT_CLOTHING] == 0).all())


def test_what_comes_in_pairs_may_fall_into_two() -> None:
    """Type 1 has two pieces of one size, type 0 one; of type 2 there are too few, so what any type has counts."""
    second = 0.3 * torch.tensor([0.0, 0.9]).repeat(200)
    limits = real_limits(second)
    assert limits.second[:2].tolist() == pytest.approx([0.05, 0.9])
    assert limits.second[2] == limits.second[3] == pytest.approx(0.9)
    pair = looks(4)
    pair.shapes.pieces[:, 1] = 0.3 * 0.8
    failures = count_failures(limits, pair, torch.tensor([0, 1, 2, MISSING]))
    assert failures.flags[SEVERAL].tolist() == [True, False, False, False]
    alone = replace(pair, shapes=replace(pair.shapes, beside=torch.zeros(4, dtype=torch.bool)))
    assert not bool(count_failures(limits, alone, torch.zeros(4, dtype=torch.int64)).flags[SEVERAL].any())


def test_looks_are_the_judge_s_own() -> None:
    torch.manual_seed(0)
    labels = AttributeLabels(("Shirts", "Jeans"))
    classifier = AttributeClassifier(AttributeClassifierConfig((8, 16), 4, labels))
    pixels = torch.full((3, 20, 16, 3), 255, dtype=torch.uint8)
    pixels[1, 4:12, 4:12] = 20
    seen = look_at(classifier, pixels)
    assert seen.features.shape == (3, 16) and seen.probabilities.shape == (3, NUM_TYPES)
    assert torch.equal(seen.features[0], seen.features[2]) and not torch.equal(seen.features[0], seen.features[1])
    torch.testing.assert_close(seen.probabilities.sum(dim=1), torch.ones(3))
    assert seen.shapes.area.tolist() == pytest.approx([0, 64 / 320, 0])


def test_too_little_is_refused() -> None:
    few = looks(20)
    with pytest.raises(ToileError, match="at least 50 real pictures"):
        FailureLimits.of(few, torch.zeros(20, dtype=torch.int64), few.shapes, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(ToileError, match="3 wanted types for 4 pictures"):
        count_failures(real_limits(), looks(4), torch.zeros(3, dtype=torch.int64))
