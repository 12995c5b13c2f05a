"""Logistic regression against scipy's minimum of the same sum, and a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from toile.evaluation.logistic_regression import fit_logistic


def test_it_is_the_minimum_that_scipy_finds() -> None:
    rng = np.random.default_rng(0)
    values, targets, ridge = rng.normal(size=(120, 3)), rng.integers(0, 3, 120), 0.02

    def loss(flat: np.ndarray) -> float:
        weights, bias = flat[:9].reshape(3, 3), flat[9:]
        return float(
            -log_softmax(values @ weights + bias, axis=1)[np.arange(120), targets].mean() + ridge * (weights**2).sum()
        )

    best = minimize(loss, np.zeros(12)).x
    weights, bias = fit_logistic(torch.from_numpy(values).float(), torch.from_numpy(targets), 3, ridge)
    assert weights.numpy() == pytest.approx(best[:9].reshape(3, 3), abs=2e-3)
    assert (bias - bias.mean()).numpy() == pytest.approx(best[9:] - best[9:].mean(), abs=2e-3)


def test_values_that_say_nothing_leave_the_shares_of_the_classes() -> None:
    with torch.no_grad():  # a caller's own setting does not matter
        weights, bias = fit_logistic(torch.zeros(8, 2), torch.tensor([0, 0, 0, 0, 0, 1, 1, 1]), 2, 0.1)
    assert not bool(weights.any()) and not weights.requires_grad
    assert float(bias[0] - bias[1]) == pytest.approx(math.log(5 / 3), abs=1e-3)


def test_a_larger_ridge_makes_smaller_weights() -> None:
    values, targets = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    lengths = [float(fit_logistic(values, targets, 2, ridge)[0].norm()) for ridge in (1e-3, 1e-2, 1e-1)]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 2 * lengths[2] > 0
