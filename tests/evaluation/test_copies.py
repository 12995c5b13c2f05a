"""MiFID by hand, and an audit that finds copies and leaves held-out pictures alone (E3)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from toile.errors import ToileError
from toile.evaluation import feature_sets
from toile.evaluation.copies import (
    ALARM_LEVEL,
    NearestTraining,
    audit_copies,
    chances_of_so_many,
    memorisation_distance,
    mifid,
    mifid_of,
    nearest_training,
)
from toile.evaluation.frechet import FeatureStatistics, frechet_distance


def features(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def at_distances(distances: torch.Tensor) -> NearestTraining:
    return NearestTraining(distances, torch.zeros(len(distances), dtype=torch.int64))


def test_mifid_by_hand() -> None:
    """Cosines to the nearest training picture: 1 (at the back of it), 0.8, and a row of zeros, which is left out."""
    training = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    judged = torch.tensor([[-3.0, 0.0], [0.6, 0.8], [0.0, 0.0]])
    assert memorisation_distance(judged, training) == pytest.approx((0.0 + 0.2) / 2)
    covariances = [np.cov(each.double().numpy().T) for each in (judged, training)]
    means = [each.double().numpy().mean(0) for each in (judged, training)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    frechet = float(((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1]) - 2 * roots)
    found = mifid(judged, training, epsilon=0.11)
    assert found.frechet == pytest.approx(frechet, rel=1e-9)
    assert found.memorisation == found.penalty == pytest.approx(0.1)
    assert found.value == pytest.approx(frechet / (0.1 + 1e-14), rel=1e-6)
    relaxed = mifid(judged, training, epsilon=0.09)
    assert (relaxed.penalty, relaxed.value) == (1.0, pytest.approx(frechet, rel=1e-9))


def test_at_epsilon_nothing_is_punished_and_copies_are_punished_without_bound() -> None:
    assert mifid_of(30.0, 0.1).value == pytest.approx(30.0)
    assert mifid_of(30.0, 0.0999).value == pytest.approx(30.0 / 0.0999)
    training = features(40, 6, 0)
    copies = mifid(training[:20], training)
    assert copies.memorisation == 0.0 and copies.value == pytest.approx(1e14 * copies.frechet)
    apart = mifid(features(30, 6, 1), training)
    expected = frechet_distance(FeatureStatistics.of(features(30, 6, 1)), FeatureStatistics.of(training))
    assert apart.frechet == expected


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 12))
def test_the_nearest_training_picture_is_found(seed: int, num: int, num_training: int) -> None:
    judged, training = features(num, 4, seed), features(num_training, 4, seed + 1)
    cosines = torch.nn.functional.cosine_similarity(judged[:, None].double(), training[None].double(), dim=2)
    found = nearest_training(judged, training)
    torch.testing.assert_close(found.distances, 1 - cosines.amax(1))
    assert torch.equal(found.indices, cosines.argmax(1))
    assert memorisation_distance(judged, training) == pytest.approx(float((1 - cosines.abs().amax(1)).mean()))


def test_copies_are_at_distance_zero_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    training = 50.0 * features(30, 8, 0)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    whole = nearest_training(3.0 * training[order], training)
    assert torch.equal(whole.distances, torch.zeros(30, dtype=torch.float64)) and torch.equal(whole.indices, order)
    monkeypatch.setattr(feature_sets, "MOST_PAIRS", 100)
    assert torch.equal(nearest_training(3.0 * training[order], training).indices, order)
    nothing = nearest_training(torch.zeros(1, 8), training)
    assert float(nothing.distances) == 1.0


@pytest.mark.parametrize(
    ("num_judged", "near", "num_held_out"), [(20, 3, 100), (400, 1, 150), (50, 0, 120), (9, 99, 100)]
)
def test_chances_are_those_of_fishers_exact_test(num_judged: int, near: int, num_held_out: int) -> None:
    chances = chances_of_so_many(num_judged, near, num_held_out)
    assert float(chances[0]) == pytest.approx(1.0)
    for count in range(0, num_judged + 1, 3):
        table = [[count, num_judged - count], [near, num_held_out - near]]
        expected = fisher_exact(table, alternative="greater").pvalue
        assert float(chances[count]) == pytest.approx(expected, rel=1e-6, abs=1e-300)


def test_pictures_like_the_held_out_ones_seldom_raise_the_alarm() -> None:
    """1,000 audits of pictures that come from the same distribution: no more alarms than the stated rate."""
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(1000):
        distances = torch.from_numpy(rng.random(700))
        judged, held_out = (at_distances(part) for part in (distances[:300], distances[300:]))
        alarms.append(audit_copies(judged, held_out).alarm)
    assert 0.0 < np.mean(alarms) < ALARM_LEVEL


def test_copies_raise_the_alarm_and_held_out_pictures_do_not() -> None:
    training, held_out, fresh = features(600, 16, 0), features(300, 16, 1), features(200, 16, 2)
    yardstick = nearest_training(held_out, training)
    clean = audit_copies(nearest_training(fresh, training), yardstick)
    assert not clean.alarm and clean.p_value > ALARM_LEVEL
    assert clean.sentence.startswith("No sign of copies") and f"{clean.alarm_from:,} or more" in clean.sentence
    # A tenth of the pictures: exact copies, and copies with a little noise.
    for noise in (0.0, 0.02):
        judged = fresh.clone()
        judged[:20] = training[100:120] + noise * features(20, 16, 3)
        audit = audit_copies(nearest_training(judged, training), yardstick)
        assert audit.alarm and audit.num_near >= 20 and audit.p_value < 1e-4
        assert set(audit.most_alike[:20].tolist()) == set(range(20))
        assert audit.nearest.indices[:20].tolist() == list(range(100, 120))
        assert audit.share == audit.num_near / 200
        assert audit.sentence.startswith(f"Copies: {audit.num_near} of 200 pictures")


def test_the_alarm_is_raised_from_the_stated_number_on() -> None:
    held_out = at_distances(torch.linspace(0.1, 1.0, 500, dtype=torch.float64))
    clean = audit_copies(at_distances(torch.full((100,), 0.9, dtype=torch.float64)), held_out)
    assert (clean.num_near, clean.num_held_out_near) == (0, 5) and clean.p_value == pytest.approx(1.0)
    for num_near in (clean.alarm_from - 1, clean.alarm_from):
        distances = torch.full((100,), 0.9, dtype=torch.float64)
        distances[:num_near] = 0.05
        audit = audit_copies(at_distances(distances), held_out)
        assert audit.alarm == (num_near == clean.alarm_from) == (audit.p_value <= ALARM_LEVEL)


def test_near_duplicates_of_the_data_are_in_the_yardstick() -> None:
    """When 30 % of held-out pictures are copies too, 30 % of judged ones are no alarm; 60 % are."""
    held_out = at_distances(torch.tensor([0.0] * 60 + [0.5] * 140, dtype=torch.float64))
    for share, alarm in ((0.3, False), (0.6, True)):
        num = int(200 * share)
        audit = audit_copies(at_distances(torch.tensor([0.0] * num + [0.5] * (200 - num)).double()), held_out)
        assert (audit.alarm, audit.num_held_out_near, audit.limit) == (alarm, 60, 0.0)


def test_unfit_input_is_refused() -> None:
    a = features(120, 4, 0)
    with pytest.raises(ToileError, match="width 4 and 3"):
        nearest_training(a, features(5, 3, 0))
    with pytest.raises(ToileError, match="0 pictures are too few for a search"):
        nearest_training(a[:0], a)
    with pytest.raises(ToileError, match="NaN"):
        nearest_training(torch.full((5, 4), torch.nan), a)
    with pytest.raises(ToileError, match="NaN"):
        memorisation_distance(a, torch.full((5, 4), torch.nan))
    with pytest.raises(ToileError, match="all features are 0"):
        memorisation_distance(torch.zeros(5, 4), a)
    with pytest.raises(ToileError, match="3 pictures are too few for a Frechet distance in 4 features"):
        mifid(a[:3], a)
    with pytest.raises(ToileError, match="epsilon is 0"):
        mifid(a, a, epsilon=0.0)
    enough = at_distances(torch.linspace(0, 1, 100).double())
    with pytest.raises(ToileError, match="99 held-out pictures are too few"):
        audit_copies(enough, at_distances(enough.distances[:99]))
    with pytest.raises(ToileError, match="1 pictures are too few to tell"):
        audit_copies(at_distances(enough.distances[:1]), enough)
    with pytest.raises(ToileError, match="all held-out pictures are equally near"):
        audit_copies(enough, at_distances(torch.zeros(100).double()))
