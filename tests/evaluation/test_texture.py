"""The texture network against closed forms: what one wave, its strength, its direction and its beat must give."""

from __future__ import annotations

import math

import pytest
import torch

from toile.errors import ToileError
from toile.evaluation.texture import (
    FEATURE_DIM,
    FLOOR_LEVEL,
    NUM_ANGLES,
    NUM_SCALES,
    morlet_bank,
    open_texture_network,
    scattering,
)

SIDE = 64
BANK = morlet_bank(SIDE)


def wave(frequency: float, angle: float, amplitude: float, colour: tuple[float, ...] = (1.0, 1.0, 1.0)) -> torch.Tensor:
    """One patch (1, S, S, 3); frequency in radians per pixel, angle from the horizontal."""
    steps = torch.arange(SIDE).double()
    phase = frequency * (steps * math.cos(angle) + steps[:, None] * math.sin(angle))
    return 128.0 + amplitude * torch.cos(phase)[None, ..., None] * torch.tensor(colour)


def first_order(features: torch.Tensor) -> torch.Tensor:
    """(J, L) of the luminance, in dB, of one patch."""
    step = NUM_ANGLES + NUM_ANGLES**2 * torch.tensor([NUM_SCALES - 1 - scale for scale in range(NUM_SCALES)])
    starts = [int(step[:scale].sum()) for scale in range(NUM_SCALES)]
    return torch.stack([features[0, start : start + NUM_ANGLES] for start in starts])


def test_nothing_passes_of_the_mean_and_only_one_sign_of_frequency() -> None:
    assert BANK.shape == (NUM_SCALES, NUM_ANGLES, SIDE, SIDE)
    assert float(BANK[..., 0, 0].abs().max()) == 0.0
    forward, backward = BANK[1, 0, 0, 1 : SIDE // 2], BANK[1, 0, 0, SIDE // 2 + 1 :]
    assert float(backward.abs().max()) < 0.12 * float(forward.max())


@pytest.mark.parametrize("scale", range(NUM_SCALES))
@pytest.mark.parametrize("turn", [0, 2])
def test_a_wave_has_its_amplitude_where_it_belongs(scale: int, turn: int) -> None:
    """24 / 2^j waves in a patch are the middle of scale j."""
    found = first_order(scattering(wave(2 * math.pi * 24 / 2**scale / SIDE, math.pi * turn / NUM_ANGLES, 40.0), BANK))
    # The sum of flanks that come back over Nyquist is a little more than the bump alone.
    assert float(found[scale, turn]) == pytest.approx(20 * math.log10(40.0 + FLOOR_LEVEL), abs=0.3)
    assert int(found.argmax()) == scale * NUM_ANGLES + turn


def test_flat_patches_have_the_floor_and_colour_alone_is_no_texture() -> None:
    white = torch.full((1, SIDE, SIDE, 3), 255, dtype=torch.uint8)
    red = torch.zeros_like(white)
    red[..., 0] = 200
    features = scattering(torch.cat([white, red]), BANK)
    assert features.shape == (2, FEATURE_DIM) and FEATURE_DIM == 84
    torch.testing.assert_close(features[0], features[1], rtol=0.0, atol=1e-3)
    assert float(first_order(features).max()) == pytest.approx(20 * math.log10(FLOOR_LEVEL), abs=1e-3)


def test_twice_as_strong_is_six_decibels_in_the_first_order_and_nothing_in_the_second() -> None:
    draws = torch.randn(1, SIDE, SIDE, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, -1, 3)
    soft, hard = (scattering(128.0 + spread * draws, BANK) for spread in (500.0, 1000.0))
    luminance = NUM_SCALES * NUM_ANGLES + NUM_ANGLES**2 * NUM_SCALES * (NUM_SCALES - 1) // 2
    gap = (hard - soft)[0, :luminance]
    assert float((first_order(hard) - first_order(soft)).mean()) == pytest.approx(20 * math.log10(2.0), abs=0.03)
    is_first = (gap - gap.max()).abs() < 0.5
    assert int(is_first.sum()) == NUM_SCALES * NUM_ANGLES and float(gap[~is_first].abs().max()) < 0.3


def test_the_second_order_tells_lines_apart_from_an_even_texture() -> None:
    """Waves whose strength beats have as much detail as even ones, and more in the second order."""
    even = wave(2 * math.pi * 24 / SIDE, 0.0, 40.0)
    beat = 1.0 + torch.cos(2 * math.pi * 6 * torch.arange(SIDE).double() / SIDE)
    beating = 128.0 + (even - 128.0) * beat[None, None, :, None]
    a, b = scattering(even, BANK)[0], scattering(beating, BANK)[0]
    assert abs(float(a[0] - b[0])) < 1.0
    coarser_of_first = slice(NUM_ANGLES, NUM_ANGLES + NUM_ANGLES * (NUM_SCALES - 1))
    assert float(b[coarser_of_first].max() - a[coarser_of_first].max()) > 6.0


def test_colour_that_is_not_grey_is_in_its_own_channels() -> None:
    grey = scattering(wave(1.2, 0.0, 40.0), BANK)[0, -2 * NUM_SCALES * NUM_ANGLES :]
    assert float(grey.max()) == pytest.approx(20 * math.log10(FLOOR_LEVEL), abs=1e-3)
    blue = scattering(wave(1.2, 0.0, 40.0, (0.0, 0.0, 1.0)), BANK)[0, -2 * NUM_SCALES * NUM_ANGLES :]
    assert float(blue.max()) > 20 * math.log10(0.4 * 40.0)


def test_the_network_is_one_of_those_that_look_at_pictures() -> None:
    network = open_texture_network(SIDE)
    pixels = torch.randint(0, 256, (3, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = network.features(pixels)
    assert features.shape == (3, network.feature_dim) and features.dtype == torch.float32
    torch.testing.assert_close(features[2:], network.features(pixels[2:]), rtol=1e-5, atol=1e-4)
    assert network.trained_on is None and network.made_of == {network.sha256}
    assert network.sha256 == open_texture_network(SIDE).sha256 != open_texture_network(32).sha256


def test_unfit_input_is_refused() -> None:
    with pytest.raises(ToileError, match="patches of 16x16 are too small for 3 scales; give 32"):
        morlet_bank(16)
    with pytest.raises(ToileError, match=r"give \(patches, 64, 64, 3\)"):
        scattering(torch.zeros(2, 32, 32, 3), BANK)
