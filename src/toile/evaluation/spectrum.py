"""How much detail of each fineness pictures have: the radially averaged power spectrum of their luminance.

A made picture may look right from afar and be blurred (too little power at high frequencies), noisy, or patterned (too
much at some). Power is in squared levels of 255 and told in dB; frequencies are in cycles per pixel, 0.5 is Nyquist.
Shapes: N pictures, H x W their size, K bins of frequency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.scores import Score
from toile.evaluation.suites import Prompt

NYQUIST = 0.5
NUM_BINS = 40
LIMIT = 0.8 * NYQUIST
"""Up to where spectra are held to each other: beyond, enlarging and compressing left little of real pictures too."""
ROUNDING_POWER = 1.0 / 12
"""What rounding to whole levels adds at every frequency (Bennett 1948): less than this is nothing to be seen."""
_LUMINANCE = (0.299, 0.587, 0.114)
_BATCH = 16  # what is transformed together; it changes no result


def bin_edges(num_bins: int = NUM_BINS) -> Tensor:
    """(K + 1,) float64: bins of equal width from 0 to Nyquist, in cycles per pixel."""
    return torch.linspace(0.0, NYQUIST, num_bins + 1, dtype=torch.float64)


def bin_centres(num_bins: int = NUM_BINS) -> Tensor:
    """(K,) float64, in cycles per pixel."""
    edges = bin_edges(num_bins)
    return (edges[1:] + edges[:-1]) / 2


def radial_spectra(pixels: Tensor, num_bins: int = NUM_BINS) -> Tensor:
    """The power of each picture by radial frequency, whichever way the waves run.

    The picture's mean is taken off and a Hann window laid over it (Welch 1967): where an article is cut by the border,
    the picture does not go on at the other side, and without a window that jump would hide what little power real
    pictures have at high frequencies. White borders lose nothing by it, as there is nothing in them. Power is divided
    by that of the window, so white noise of variance v has v at all frequencies. A picture's rows and columns may
    differ in number: what counts are cycles per pixel. Frequencies beyond Nyquist, in the corners, are left out.

    Args:
        pixels: (N, H, W, 3) uint8, or floats in levels 0 to 255.
        num_bins: K, at most half of the shorter side, so that each has frequencies in it.

    Returns:
        (N, K) float64, squared levels.

    Raises:
        ToileError: another shape, no pictures, too many bins, or values that are not finite.
    """
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or not len(pixels):
        raise ToileError(f"pixels are {tuple(pixels.shape)}; give (pictures, H, W, 3), at least one picture")
    height, width = pixels.shape[1:3]
    if not 1 <= num_bins <= min(height, width) // 2:
        raise ToileError(
            f"{num_bins} bins of frequency for pictures of {width}x{height}; give 1 to {min(height, width) // 2}"
        )
    window = _hann(height)[:, None] * _hann(width)
    shares = _shares_of_bins(height, width, num_bins)
    weights = torch.tensor(_LUMINANCE, dtype=torch.float64)
    found = []
    for part in pixels.split(_BATCH):
        luminance = part.double() @ weights
        if not bool(luminance.isfinite().all()):
            raise ToileError("pixels hold NaN or infinity; look at what made them")
        # The mean under the window, so that nothing of it is left to leak into the lowest bin.
        mean = (luminance * window).sum(dim=(1, 2), keepdim=True) / window.sum()
        power = torch.fft.rfft2((luminance - mean) * window).abs().square() / window.square().sum()
        found.append(power.flatten(1) @ shares)
    return torch.cat(found)


def _hann(length: int) -> Tensor:
    return torch.hann_window(length, periodic=True, dtype=torch.float64)


def _shares_of_bins(height: int, width: int, num_bins: int) -> Tensor:
    """(H * (W // 2 + 1), K): what each number of `rfft2` adds to the mean of each bin."""
    down = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    across = torch.fft.rfftfreq(width, dtype=torch.float64)
    radius = (down.square() + across.square()).sqrt().flatten()
    # rfft2 leaves out waves that are the mirror image of others; those count for two.
    alone = (across == 0.0) | (across == NYQUIST)
    count = torch.where(alone, 1.0, 2.0).double().expand(height, -1).flatten()
    bins = (radius * (num_bins / NYQUIST)).long().clamp(max=num_bins - 1)
    inside = (radius > 0.0) & (radius <= NYQUIST)
    shares = torch.zeros(len(radius), num_bins, dtype=torch.float64)
    shares[inside, bins[inside]] = count[inside]
    return shares / shares.sum(dim=0)


def mean_decibels(spectra: Tensor) -> Tensor:
    """(N, K) power -> (K,) dB of the mean over pictures: the power spectral density of the set.

    Few pictures with hard patterns, such as stripes, decide over single bins of it.
    """
    return 10.0 * torch.log10(spectra.mean(dim=0).clamp(min=torch.finfo(torch.float64).tiny))


def typical_decibels(spectra: Tensor) -> Tensor:
    """(N, K) power -> (K,) mean over pictures of their dB: of a usual picture, each counting alike.

    Rounding noise is added to all, or the dB of flat pictures would be without end.
    """
    return 10.0 * torch.log10(spectra + ROUNDING_POWER).mean(dim=0)


@dataclass(frozen=True)
class SpectrumGap:
    """How the spectrum of judged pictures differs from that of real ones.

    Attributes:
        decibels: (K,) float64, judged less real, by bin; below 0 is detail that is missing.
        worst_frequency: centre of the bin that differs most, up to the limit, in cycles per pixel.
        worst: the size of that difference in dB, with the 95 % interval of the difference in this bin. The largest of
            many differences is never 0, so read it beside that of real pictures.
    """

    decibels: Tensor
    worst_frequency: float
    worst: Score


def spectrum_gap(
    judged: Tensor, real: Tensor, sets: PictureSets, limit: float = LIMIT, typical: bool = False
) -> SpectrumGap:
    """The difference of two spectra, and the worst of it.

    Args:
        judged, real: (N, K) power from `radial_spectra`. Row by row they may be of the same products; what these have
            in common then widens no interval.
        sets: of the N rows, of both sides alike.
        limit: bins that end at most there count, in cycles per pixel.
        typical: compare `typical_decibels` instead of `mean_decibels`.

    Raises:
        ToileError: shapes that differ, or no bin ends below the limit.
    """
    if judged.shape != real.shape or judged.ndim != 2 or len(judged) != len(sets.prompts):
        raise ToileError(
            f"spectra are {tuple(judged.shape)} and {tuple(real.shape)}, sets are of {len(sets.prompts)} pictures; "
            "give as many pictures of both, and the same bins"
        )
    num_bins = judged.shape[1]
    # Half a millionth of a bin: an edge that is the limit but for rounding counts.
    counted = int((bin_edges(num_bins)[1:] <= limit * (1 + 1e-9)).sum())
    if not counted:
        raise ToileError(f"none of {num_bins} bins ends at {limit:g} cycles per pixel or before; give more bins")
    decibels_of = typical_decibels if typical else mean_decibels

    def gaps(rows: Tensor) -> Tensor:
        return decibels_of(judged[rows]) - decibels_of(real[rows])

    whole = gaps(torch.arange(len(judged)))
    place = int(whole[:counted].abs().argmax())
    sign = -1.0 if whole[place] < 0 else 1.0
    worst = sets.score(lambda rows: sign * float(gaps(rows)[place]))
    return SpectrumGap(whole, float(bin_centres(num_bins)[place]), worst)


def deal_pictures(num_pictures: int, num_sets: int, seed: int = 0) -> PictureSets:
    """Disjoint sets of pictures that each stand for themselves.

    Raises:
        ToileError: fewer than 2 sets, or fewer pictures than sets.
    """
    if not 2 <= num_sets <= num_pictures:
        raise ToileError(f"{num_sets} sets of {num_pictures} pictures; give at least 2 sets, and a picture for each")
    return PictureSets([Prompt("", position=position) for position in range(num_pictures)], num_sets, seed)


def decibels_by_set(spectra: Tensor, sets: PictureSets) -> np.ndarray:
    """(sets, K) dB of the mean over the pictures of each set, for bands in plots."""
    return np.stack([mean_decibels(spectra[rows]).numpy() for rows in sets.rows])
