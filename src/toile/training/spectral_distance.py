"""How far the spectra of made pictures are from those of their true partners: blur and false grain both count.

Shapes: B pictures, H x W their size.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LUMINANCE = (0.299, 0.587, 0.114)
_NUM_BINS = 24
# Power of a picture's coefficient under which differences are not seen: that of rounding to 8 bits, a few times.
_FLOOR = 4 * (2 / 255) ** 2 / 12


def radial_power(images: Tensor) -> Tensor:
    """Mean power of the luminance of each picture in rings of equal width up to Nyquist's frequency.

    Args:
        images: (B, 3, H, W) in [-1, 1].

    Returns:
        (B, 24), a ring's mean square of the orthonormal Fourier coefficients; white noise of variance 1 gives 1, and a
        ring that has none, in small pictures, 0.
    """
    height, width = images.shape[2:]
    weights = images.new_tensor(_LUMINANCE)[:, None, None]
    power = torch.fft.fft2((images * weights).sum(dim=1), norm="ortho").abs().square()
    down = torch.fft.fftfreq(height, device=images.device)[:, None]
    radius = (down.square() + torch.fft.fftfreq(width, device=images.device).square()).sqrt()
    ring = (radius / 0.5 * _NUM_BINS).long()
    inside = (ring < _NUM_BINS) & (radius > 0)
    sums = power.new_zeros(len(images), _NUM_BINS).index_add_(1, ring[inside], power[:, inside])
    return sums / torch.bincount(ring[inside], minlength=_NUM_BINS).clamp_min(1)


def spectral_distance(made: Tensor, true: Tensor) -> Tensor:
    """Mean over rings of the difference in dB between each picture and its partner, 0 for the same.

    Args:
        made, true: (B, 3, H, W) in [-1, 1].

    Returns:
        (B,).
    """
    levels = [10 * torch.log10(radial_power(images) + _FLOOR) for images in (made, true)]
    return (levels[0] - levels[1]).abs().mean(dim=1)


def pattern_distance(made: Tensor, true: Tensor) -> Tensor:
    """How the power of a whole batch differs from that of its partners, wave by wave: 0 for the same.

    A pattern that a network leaves on many pictures, such as the grid of its squares, is a peak at single waves, which
    rings hide; and of the mean over a batch pictures with much texture are the greater part. A Hann window is laid over
    pictures first (Welch 1967), as crops do not go on at the other side.

    Args:
        made, true: (B, 3, H, W) in [-1, 1].

    Returns:
        a scalar, the mean over waves and colours of the difference in nepers of power (4.3 dB).
    """
    height, width = made.shape[2:]
    across = torch.hann_window(width, device=made.device)
    window = torch.hann_window(height, device=made.device)[:, None] * across
    logarithms = []
    for images in (made, true):
        power = torch.fft.rfft2(images * window, norm="ortho").abs().square() / window.square().mean()
        logarithms.append(torch.log(power.mean(dim=0) + _FLOOR))
    return (logarithms[0] - logarithms[1]).abs().mean()
