"""Spectra of pictures: white noise is flat, blur and grain are both seen, rounding to 8 bits is not."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from toile.training.spectral_distance import pattern_distance, radial_power, spectral_distance


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def grey(values: Tensor) -> Tensor:
    """(B, H, W) -> (B, 3, H, W)."""
    return values[:, None].repeat(1, 3, 1, 1)


def test_white_noise_has_the_power_of_its_variance_at_all_frequencies() -> None:
    power = radial_power(0.5 * grey(noise(16, 96, 64)))
    assert power.shape == (16, 24)
    torch.testing.assert_close(power.mean(0), torch.full((24,), 0.25), rtol=0.2, atol=0)


def test_a_wave_has_its_power_in_the_ring_of_its_frequency() -> None:
    down = torch.arange(96.0)[:, None].expand(96, 64)
    power = radial_power(grey((2 * math.pi * down * 36 / 96).cos()[None]))[0]  # 0.375 cycles a pixel, 18.0 rings
    assert power.argmax() == 18
    assert float(power[18] / power.sum()) > 0.999


def test_blur_and_grain_are_far_and_rounding_is_not() -> None:
    true = F.avg_pool2d(noise(4, 3, 98, 66), 3, 1).clamp(-1, 1)
    blurred = F.avg_pool2d(F.pad(true, (1, 1, 1, 1), mode="replicate"), 3, 1)
    grainy = true + 0.2 * noise(4, 3, 96, 64)
    rounded = (true * 127.5).round() / 127.5
    assert spectral_distance(true, true).tolist() == [0.0] * 4
    assert float(spectral_distance(blurred, true).min()) > 3
    assert float(spectral_distance(grainy, true).min()) > 1
    assert float(spectral_distance(rounded, true).max()) < 0.1
    torch.testing.assert_close(spectral_distance(blurred, true), spectral_distance(true, blurred))


def test_a_pattern_is_seen_wave_by_wave_and_twice_the_power_is_its_logarithm() -> None:
    true = 0.3 * noise(16, 3, 48, 48)
    assert float(pattern_distance(true, true)) == 0.0
    torch.testing.assert_close(float(pattern_distance(math.sqrt(2) * true, true)), math.log(2), rtol=1e-2, atol=0)
    # The same power, at one wave or in its ring: rings see no difference, waves do.
    down = torch.arange(48.0)[:, None].expand(48, 48)
    woven = true + 0.3 * (2 * math.pi * down / 4).cos()
    grainy = true + 0.3 * math.sqrt(0.5) * noise(16, 3, 49, 49)[..., 1:, 1:]
    assert float(pattern_distance(woven, true)) > 0.01
    assert float(pattern_distance(grainy, true)) > 0.2
