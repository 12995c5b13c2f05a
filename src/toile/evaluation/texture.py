"""A network that learnt nothing and sees texture: wavelets, moduli, wavelets again, means (Bruna & Mallat 2013).

Networks that learnt to name things look through blur, and so do random ones: what changes their features most is colour
and shape. Here every feature is the strength of a band of detail, or of how that detail is spread, in decibels, so what
enlarging a picture leaves out or invents is seen, and nothing else is.
Shapes: B patches of S x S, J scales, L angles, F features.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.feature_networks import LoadedNetwork

TEXTURE = "texture"
NUM_SCALES, NUM_ANGLES = 3, 4
FEATURE_DIM = 3 * NUM_SCALES * NUM_ANGLES + NUM_ANGLES**2 * NUM_SCALES * (NUM_SCALES - 1) // 2
FLOOR_LEVEL = 0.5
"""Added to strengths, in levels of 255: what is weaker is lost when pixels are rounded to whole levels."""
# Luminance and two differences of colour, each of which grey has none of (JPEG's, ITU-R BT.601).
_CHANNELS = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_FREQUENCY, _WIDTH = 3 * math.pi / 4, 0.8  # of the finest wavelet: radians per pixel, pixels
_BATCH = 16  # small enough to stay in the cache of a core


def morlet_bank(side: int, num_scales: int = NUM_SCALES, num_angles: int = NUM_ANGLES) -> Tensor:
    """Morlet wavelets as transfer functions: (J, L, S, S) float32, of `fft2`.

    Scale j passes waves around `3 pi / 4 / 2^j` radians per pixel, angle l those that run at `pi l / L` from the
    horizontal, with Gaussian flanks; nothing passes of a picture's mean (Bruna & Mallat 2013, sec. 2.1, with the
    constants of Andreux et al. 2020, Kymatio). Only waves of one sign of frequency pass, so the modulus of what passes
    is its envelope. The gain is 2 in the middle: a wave of amplitude A there has an envelope of A.

    Raises:
        ToileError: patches too small for the coarsest scale.
    """
    if side < 4 * 2**num_scales:
        raise ToileError(f"patches of {side}x{side} are too small for {num_scales} scales; give {4 * 2**num_scales}")
    steps = 2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64)
    slant = 4.0 / num_angles
    bank = torch.zeros(num_scales, num_angles, side, side, dtype=torch.float64)
    for scale in range(num_scales):
        frequency, width = _FREQUENCY / 2**scale, _WIDTH * 2**scale
        for turn in range(num_angles):
            angle = math.pi * turn / num_angles
            # Flanks beyond Nyquist come back from the other side, as in any sampled filter.
            for down in (-1, 0, 1):
                for across in (-1, 0, 1):
                    y, x = steps[:, None] + 2 * math.pi * down, steps + 2 * math.pi * across
                    along, beside = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
                    flank = torch.exp(-0.5 * (beside * width / slant).square())
                    bump = torch.exp(-0.5 * ((along - frequency) * width).square())
                    centre = torch.exp(-0.5 * (along * width).square())
                    bank[scale, turn] += flank * (bump - math.exp(-0.5 * (frequency * width) ** 2) * centre)
    bank[..., 0, 0] = 0.0
    return (2.0 * bank).float()


def scattering(pixels: Tensor, bank: Tensor) -> Tensor:
    """Strengths of detail in patches, in dB (Bruna & Mallat 2013, eq. 5, to the second order; Sifre & Mallat 2013).

    First order: the mean envelope of each wavelet, of luminance and of both differences of colour, 20 log10 of levels.
    Second order, of luminance: the mean envelope of coarser wavelets of an envelope, relative to that: whether detail
    is spread evenly, in lines or in spots. Means are under a Hann window, so that the patch's border, where it does not
    go on, hardly counts.

    Args:
        pixels: (B, S, S, 3) uint8, or floats in levels 0 to 255.
        bank: (J, L, S, S), `morlet_bank`.

    Returns:
        (B, F) float32, `F = 3 J L + L^2 J (J - 1) / 2`.
    """
    side = bank.shape[-1]
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (side, side, 3):
        raise ToileError(f"patches are {tuple(pixels.shape)}; give (patches, {side}, {side}, 3)")
    window = torch.hann_window(side, periodic=True)
    window = window[:, None] * window / window.sum().square()
    channels = (pixels.float() @ torch.tensor(_CHANNELS).T).permute(0, 3, 1, 2)
    channels = channels - channels.mean(dim=(2, 3), keepdim=True)
    found = []
    for number in range(3):
        transform = torch.fft.fft2(channels[:, number])
        for scale, wavelets in enumerate(bank):
            envelopes = torch.fft.ifft2(transform[:, None] * wavelets).abs()
            first = (envelopes * window).sum(dim=(2, 3))
            found.append(_decibels(first + FLOOR_LEVEL))
            if number or scale + 1 == len(bank):
                continue
            coarser = bank[scale + 1 :].flatten(0, 1)
            transforms = torch.fft.fft2(envelopes)
            for turn in range(bank.shape[1]):
                spread = torch.fft.ifft2(transforms[:, turn, None] * coarser).abs()
                second = (spread * window).sum(dim=(2, 3))
                found.append(_decibels((second + FLOOR_LEVEL) / (first[:, turn, None] + FLOOR_LEVEL)))
    return torch.cat(found, dim=1)


def _decibels(strengths: Tensor) -> Tensor:
    return 20.0 * torch.log10(strengths)


def open_texture_network(side: int) -> LoadedNetwork:
    """The network for patches of S x S; a `FeatureNetwork` that may judge all models, as it learnt from no picture."""
    bank = morlet_bank(side)
    digest = hashlib.sha256(f"{_CHANNELS}:{FLOOR_LEVEL}:".encode() + bank.numpy().tobytes()).hexdigest()
    return LoadedNetwork(
        TEXTURE,
        digest,
        FEATURE_DIM,
        f"{side}x{side}, as they are",
        lambda pixels: pixels,
        lambda pixels: scattering(pixels, bank),
        batch_size=_BATCH,
    )
