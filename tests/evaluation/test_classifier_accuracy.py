"""What a classifier learns from pictures, tested on others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.classifier_accuracy import SHRINK, accuracy, learn, lesson
from toile.evaluation.feature_networks import open_feature_network
from toile.models.classifier import MISSING


def clouds(seed: int, num: int = 300) -> tuple[Tensor, Tensor]:
    """Three clouds in five dimensions, far enough apart to be told apart most of the time."""
    rng = np.random.default_rng(seed)
    targets = torch.from_numpy(rng.integers(0, 3, num))
    centres = 2.0 * torch.eye(3, 5)
    return centres[targets] + torch.from_numpy(rng.normal(size=(num, 5))).float(), targets


def test_it_names_what_it_was_taught_as_well_as_the_best_rule_does() -> None:
    classifier = learn(*clouds(0, 2000), num_classes=3)
    lessons, targets = clouds(1, 2000)
    nearest = torch.cdist(lessons, 2.0 * torch.eye(3, 5)).argmin(1)  # the best there is for these clouds
    best = float((nearest == targets).double().mean())
    assert accuracy(classifier, lessons, targets) == pytest.approx(best, abs=0.02) and best > 0.8


def test_labels_that_are_unknown_do_not_count() -> None:
    lessons, targets = clouds(0)
    half = targets.clone()
    half[::2] = MISSING
    first, second = learn(lessons, half, 3), learn(lessons[1::2], targets[1::2], 3)
    torch.testing.assert_close(first.weights, second.weights)
    assert accuracy(first, lessons, half) == accuracy(first, lessons[1::2], targets[1::2])


def test_wrong_labels_teach_nothing() -> None:
    lessons, targets = clouds(0, 1000)
    shuffled = targets[torch.from_numpy(np.random.default_rng(2).permutation(len(targets)))]
    assert accuracy(learn(lessons, shuffled, 3), *clouds(1, 1000)) == pytest.approx(1 / 3, abs=0.12)


def test_there_is_one_solution() -> None:
    """The order of pictures does not matter, so two trainings on the same pictures never differ by luck."""
    lessons, targets = clouds(0)
    order = torch.from_numpy(np.random.default_rng(3).permutation(len(lessons)))
    one, other = learn(lessons, targets, 3), learn(lessons[order], targets[order], 3)
    torch.testing.assert_close(one.weights, other.weights, atol=5e-3, rtol=0)


def test_a_lesson_is_features_and_the_picture_shrunken() -> None:
    pixels = torch.full((2, 16, 24, 3), 51, dtype=torch.uint8)
    network = open_feature_network("random")
    seen = lesson(network.features(pixels), pixels)
    assert seen.shape == (2, network.feature_dim + 3 * (16 // SHRINK) * (24 // SHRINK))
    torch.testing.assert_close(seen[:, network.feature_dim :], torch.full((2, 72), 0.2))


def test_nothing_to_learn_or_test_is_refused() -> None:
    lessons, targets = clouds(0)
    unknown = torch.full_like(targets, MISSING)
    with pytest.raises(ToileError, match="no picture has a label to learn"):
        learn(lessons, unknown, 3)
    with pytest.raises(ToileError, match="no picture has a label to be tested"):
        accuracy(learn(lessons, targets, 3), lessons, unknown)
