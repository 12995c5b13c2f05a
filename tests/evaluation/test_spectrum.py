"""Power spectra against closed forms: white noise, one wave, Parseval's theorem, a blur whose transfer is known."""

from __future__ import annotations

import math

import pytest
import torch

from toile.errors import ToileError
from toile.evaluation.spectrum import (
    LIMIT,
    NUM_BINS,
    ROUNDING_POWER,
    bin_centres,
    bin_edges,
    deal_pictures,
    mean_decibels,
    radial_spectra,
    spectrum_gap,
    typical_decibels,
)

HEIGHT, WIDTH = 128, 96


def grey(luminance: torch.Tensor) -> torch.Tensor:
    """Pictures (N, H, W, 3) whose luminance is this, (N, H, W)."""
    return luminance[..., None].expand(*luminance.shape, 3)


def noise(count: int, spread: float, seed: int = 0) -> torch.Tensor:
    draws = torch.randn(count, HEIGHT, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return grey(128.0 + spread * draws)


def waves(cycles_down: float, cycles_across: float, amplitude: float) -> torch.Tensor:
    """One picture of waves, in cycles per pixel."""
    down, across = torch.arange(HEIGHT).double()[:, None], torch.arange(WIDTH).double()
    return grey(100.0 + amplitude * torch.cos(2 * math.pi * (cycles_down * down + cycles_across * across)))[None]


def frequencies() -> torch.Tensor:
    """(H, W) cycles per pixel of `fft2`."""
    down, across = torch.fft.fftfreq(HEIGHT).double()[:, None], torch.fft.fftfreq(WIDTH).double()
    return (down.square() + across.square()).sqrt()


def test_white_noise_is_flat_at_its_variance() -> None:
    spectrum = radial_spectra(noise(30, 7.0)).mean(dim=0)
    assert spectrum.shape == (NUM_BINS,)
    # The first bins have few waves in them, of which the mean is taken off.
    torch.testing.assert_close(spectrum[2:10], torch.full((8,), 49.0).double(), rtol=0.2, atol=0.0)
    torch.testing.assert_close(spectrum[10:], torch.full((NUM_BINS - 10,), 49.0).double(), rtol=0.05, atol=0.0)
    assert float(spectrum[2:].mean()) == pytest.approx(49.0, rel=0.01)


@pytest.mark.parametrize("angle", [0.0, 0.6, math.pi / 2])
def test_a_wave_is_in_one_bin_whichever_way_it_runs(angle: float) -> None:
    """Also in pictures that are not square: a wave's length in pixels counts, not its number in the picture."""
    place = 5  # of 8, which are wider than what the window spreads a wave over
    frequency = float(bin_centres(8)[place])
    spectrum = radial_spectra(waves(frequency * math.cos(angle), frequency * math.sin(angle), 30.0), 8)[0]
    assert int(spectrum.argmax()) == place
    elsewhere = torch.cat([spectrum[:place], spectrum[place + 1 :]])
    assert float(elsewhere.max()) < 1e-3 * float(spectrum[place])


def test_all_power_is_found_again() -> None:
    """Parseval: the squared levels under the window, over those of the window, are the mean over all frequencies."""
    pixels = noise(1, 20.0) * torch.tensor([1.0, 1.0, 1.0])
    # Waves beyond Nyquist, in the corners, are left out: take pictures that have none.
    spectrum = torch.fft.fft2(pixels[0, :, :, 0] - 128.0)
    spectrum[frequencies() > 0.45] = 0.0
    luminance = torch.fft.ifft2(spectrum).real
    window = torch.hann_window(HEIGHT, dtype=torch.float64)[:, None] * torch.hann_window(WIDTH, dtype=torch.float64)
    centred = (luminance - (luminance * window).sum() / window.sum()) * window
    expected = float(centred.square().sum() / window.square().sum()) * HEIGHT * WIDTH
    found = radial_spectra(grey(luminance + 128.0)[None])[0]
    bins = (frequencies() * NUM_BINS / 0.5).long().clamp(max=NUM_BINS - 1)[frequencies() <= 0.5]
    counts = torch.bincount(bins, minlength=NUM_BINS).double()
    counts[0] -= 1  # the mean, which was taken off
    assert float((found * counts).sum()) == pytest.approx(expected, rel=1e-3)


def test_a_blur_lowers_by_its_transfer_function() -> None:
    """A Gaussian of spread s passes `exp(-2 pi^2 s^2 f^2)` of amplitudes."""
    spread, pixels = 0.8, noise(20, 10.0)
    transfer = torch.exp(-2 * math.pi**2 * spread**2 * frequencies().square())
    blurred = grey(torch.fft.ifft2(torch.fft.fft2(pixels[..., 0]) * transfer).real)
    sharp, soft = radial_spectra(pixels), radial_spectra(blurred)
    gap = spectrum_gap(soft, sharp, deal_pictures(20, 4))
    inside = frequencies() <= 0.5
    bins = (frequencies() * NUM_BINS / 0.5).long().clamp(max=NUM_BINS - 1)[inside]
    passed = torch.zeros(NUM_BINS, dtype=torch.float64).index_add_(0, bins, transfer.square()[inside])
    expected = 10 * torch.log10(passed / torch.bincount(bins, minlength=NUM_BINS))
    torch.testing.assert_close(gap.decibels, expected, rtol=0.0, atol=0.15)
    assert gap.worst_frequency == pytest.approx(LIMIT - 0.25 / NUM_BINS)
    assert gap.worst.value == pytest.approx(-float(expected[31]), abs=0.1)
    assert gap.worst.low < gap.worst.value < gap.worst.high


def test_a_cut_at_the_border_makes_no_detail() -> None:
    """A ramp does not go on at the other side; without a window that jump has power everywhere."""
    ramp = grey(torch.linspace(0, 255, HEIGHT, dtype=torch.float64)[:, None].expand(HEIGHT, WIDTH))[None]
    spectrum = radial_spectra(ramp)[0]
    without = torch.fft.fft2(ramp[0, :, :, 0]).abs().square()[HEIGHT // 4, 0] / (HEIGHT * WIDTH)
    assert float(without) > 100.0 * ROUNDING_POWER
    assert float(spectrum[8:].max()) < 2.0 * ROUNDING_POWER and float(spectrum[20:].max()) < 1e-3


def test_flat_pictures_have_no_power() -> None:
    white = torch.full((2, HEIGHT, WIDTH, 3), 255, dtype=torch.uint8)
    assert float(radial_spectra(white).max()) < 1e-20
    assert float(typical_decibels(radial_spectra(white)).max()) == pytest.approx(10 * math.log10(1 / 12))


def test_rounding_to_whole_levels_is_white_noise_of_a_twelfth() -> None:
    exact = noise(10, 15.0)
    rounded = radial_spectra(exact.round() - exact + 128.0).mean()
    assert float(rounded) == pytest.approx(1 / 12, rel=0.03)


def test_pictures_are_alone_in_their_batch_and_pixels_are_floats() -> None:
    pixels = (noise(19, 20.0)).round().clamp(0, 255).to(torch.uint8)
    together = radial_spectra(pixels)
    torch.testing.assert_close(together[17:18], radial_spectra(pixels[17:18].float()), rtol=1e-12, atol=0.0)


def test_the_luminance_is_that_of_television() -> None:
    pixels = noise(1, 10.0).clone()
    pixels[..., 1:] = 0.0
    red = radial_spectra(pixels)
    torch.testing.assert_close(red, 0.299**2 * radial_spectra(noise(1, 10.0)))


def test_identical_sets_do_not_differ_and_the_gap_has_two_sides() -> None:
    sets = deal_pictures(12, 4)
    a, b = radial_spectra(noise(12, 5.0)), radial_spectra(noise(12, 5.0, seed=1))
    same = spectrum_gap(a, a, sets)
    assert same.worst.value == 0.0 and float(same.decibels.abs().max()) == 0.0
    forth, back = spectrum_gap(a, b, sets), spectrum_gap(b, a, sets)
    torch.testing.assert_close(forth.decibels, -back.decibels)
    assert forth.worst.value == pytest.approx(back.worst.value) and forth.worst.value > 0.0


def test_a_few_hard_patterns_move_the_mean_but_not_the_typical_picture() -> None:
    calm, sets = radial_spectra(noise(20, 5.0)), deal_pictures(20, 5)
    striped = calm.clone()
    striped[3, 20] *= 400.0
    mean, typical = spectrum_gap(striped, calm, sets), spectrum_gap(striped, calm, sets, typical=True)
    assert mean.worst_frequency == typical.worst_frequency == pytest.approx(float(bin_centres()[20]))
    assert mean.worst.value == pytest.approx(10 * math.log10(1 + 399 * float(calm[3, 20] / calm[:, 20].sum())))
    assert typical.worst.value == pytest.approx(10 * math.log10(400) / 20, rel=0.01)


def test_only_bins_up_to_the_limit_count() -> None:
    a = torch.ones(6, NUM_BINS, dtype=torch.float64)
    b = a.clone()
    b[:, 32:] = 100.0  # the first bin beyond 80 % of Nyquist
    assert float(bin_edges()[32]) == pytest.approx(LIMIT)
    assert spectrum_gap(b, a, deal_pictures(6, 3)).worst.value == 0.0
    assert spectrum_gap(b, a, deal_pictures(6, 3), limit=0.5).worst.value == pytest.approx(20.0)
    assert mean_decibels(b)[-1] == pytest.approx(20.0)


def test_unfit_input_is_refused() -> None:
    with pytest.raises(ToileError, match="at least one picture"):
        radial_spectra(torch.zeros(0, 8, 8, 3))
    with pytest.raises(ToileError, match=r"\(8, 8, 3\)"):
        radial_spectra(torch.zeros(8, 8, 3))
    with pytest.raises(ToileError, match="40 bins of frequency for pictures of 60x80; give 1 to 30"):
        radial_spectra(torch.zeros(1, 80, 60, 3))
    with pytest.raises(ToileError, match="NaN"):
        radial_spectra(torch.full((1, 80, 80, 3), torch.nan))
    with pytest.raises(ToileError, match="as many pictures of both"):
        spectrum_gap(torch.ones(3, 4), torch.ones(4, 4), deal_pictures(4, 2))
    with pytest.raises(ToileError, match="give more bins"):
        spectrum_gap(torch.ones(4, 1), torch.ones(4, 1), deal_pictures(4, 2))
    with pytest.raises(ToileError, match="5 sets of 4 pictures"):
        deal_pictures(4, 5)
