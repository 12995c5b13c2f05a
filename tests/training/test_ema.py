"""Power-function averages against the closed form of the paper (Karras et al. 2024)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from toile.training.ema import PowerEMA, gamma_of


@pytest.mark.parametrize(("relative_width", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_is_that_of_the_paper(relative_width: float, gamma: float) -> None:
    assert gamma_of(relative_width) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("relative_width", [0.02, 0.05, 0.10, 0.25])
def test_gamma_has_the_asked_width(relative_width: float) -> None:
    gamma = gamma_of(relative_width)
    # Their equation 126: the standard deviation of a profile that grows like time to the power of gamma.
    assert np.sqrt(gamma + 1) / (gamma + 2) / np.sqrt(gamma + 3) == pytest.approx(relative_width, rel=1e-9)


def profile(gamma: float, num_updates: int) -> np.ndarray:
    """The weight that each update has in the average at the end."""
    updates = np.arange(1, num_updates + 1)
    beta = (1 - 1 / updates) ** (gamma + 1)
    kept = np.append(np.cumprod(beta[::-1])[::-1][1:], 1.0)
    return (1 - beta) * kept


@pytest.mark.parametrize("relative_width", [0.05, 0.10])
def test_the_average_is_the_weighted_sum_of_all_updates(relative_width: float) -> None:
    draws = torch.randn(40, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = nn.Linear(2, 3, bias=False).double()
    average = PowerEMA(module, relative_width)
    for update, weights in enumerate(draws, start=1):
        with torch.no_grad():
            module.weight.copy_(weights)
        average.update(module, update)
    shares = profile(average.gamma, 40)
    assert shares.sum() == pytest.approx(1.0)
    expected = torch.einsum("t,tij->ij", torch.from_numpy(shares), draws)
    torch.testing.assert_close(average.averages["weight"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("relative_width", [0.05, 0.10])
def test_the_profile_covers_its_share_of_the_run_whatever_the_length(relative_width: float) -> None:
    for num_updates in (2_000, 20_000):
        shares, time = profile(gamma_of(relative_width), num_updates), np.arange(1, num_updates + 1) / num_updates
        mean = (shares * time).sum()
        assert np.sqrt((shares * (time - mean) ** 2).sum()) == pytest.approx(relative_width, rel=0.01)


def test_swapping_twice_changes_no_bit() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 3)).to(memory_format=torch.channels_last)
    average = PowerEMA(module, 0.1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape))
    average.update(module, 7)
    live = {name: p.detach().clone() for name, p in module.named_parameters()}
    averages = {name: value.clone() for name, value in average.averages.items()}
    average.swap(module)
    assert all(torch.equal(p, averages[name]) for name, p in module.named_parameters())
    average.swap(module)
    assert all(torch.equal(p, live[name]) for name, p in module.named_parameters())
    assert all(torch.equal(value, averages[name]) for name, value in average.averages.items())


def test_the_first_update_forgets_the_start_and_frozen_weights_stay() -> None:
    module = nn.Linear(3, 3)
    frozen = module.bias.detach().clone()
    average = PowerEMA(module, 0.05)
    with torch.no_grad():
        module.weight.fill_(2.0)
    average.update(module, 1)
    assert torch.equal(average.averages["weight"], module.weight)
    for update in range(2, 20):
        average.update(module, update)
    assert torch.equal(average.averages["bias"], frozen)
    assert torch.equal(average.averages["weight"], module.weight)


def test_loading_restores_and_needs_every_name() -> None:
    module = nn.Linear(2, 2)
    saved = {name: torch.full_like(value, 3.0) for name, value in PowerEMA(module, 0.1).averages.items()}
    average = PowerEMA(module, 0.1)
    average.load(saved)
    assert all(torch.equal(value, saved[name]) for name, value in average.averages.items())
    with pytest.raises(KeyError):
        average.load({"weight": saved["weight"]})
