"""The colour of an article from its pixels alone: shares of palette colours in CIE Lab, without any shape.

A second opinion beside the judge's, which may guess a colour from the article. Skin, hair and other garments of people
in the pictures are in these shares too: what is near the middle counts most, and what is left of the confusion lowers
the accuracy on real pictures, which is the ceiling.

Shapes: N pictures, H x W their size, K palette colours, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.logistic_regression import fit_logistic
from toile.evaluation.silhouette import silhouettes
from toile.models.classifier import MISSING

# IEC 61966-2-1: linear sRGB to CIE XYZ, whose row sums are its white point, D65.
_XYZ_OF_RGB = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_EPSILON, _KAPPA = 216 / 24389, 24389 / 27
_BITS = 5  # of each channel that tell colours apart: differences of 8 steps are less than a palette's
_NUM_CELLS = 1 << 3 * _BITS
_CENTRE_WIDTH = 0.5  # standard deviation of the weights, in half sides of the picture
_RIDGE = 1e-5
_BATCH = 512


def lab_of_srgb(colours: Tensor) -> Tensor:
    """sRGB to CIE 1976 L*a*b* with the white point D65.

    IEC 61966-2-1 for the curve of sRGB; CIE 15:2004, eqs. 8.3 to 8.11, with the exact fractions of the CIE.

    Args:
        colours: (..., 3) in [0, 1].

    Returns:
        (..., 3) float64: L* in [0, 100]; a*, b*.
    """
    values = colours.double()
    linear = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(_XYZ_OF_RGB, dtype=torch.float64)
    xyz = linear @ matrix.T / matrix.sum(dim=1)
    roots = torch.where(xyz > _EPSILON, xyz ** (1 / 3), (_KAPPA * xyz + 16) / 116)
    x, y, z = roots.unbind(dim=-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)


@dataclass(frozen=True)
class Palette:
    """colours: (K, 3) float32 in Lab; nearest: (32768,) int64, the palette's colour for each cell of 8-bit sRGB."""

    colours: Tensor
    nearest: Tensor

    @staticmethod
    def of(pixels: Tensor, num_colours: int, seed: int = 0, num_rounds: int = 25) -> Palette:
        """The colours that pictures' articles are made of, by k-means in Lab (Lloyd 1982).

        Args:
            pixels: (N, H, W, 3) uint8.
            num_colours: K.
            seed: of the first colours, drawn among those of the articles.
        """
        counts = torch.zeros(_NUM_CELLS, dtype=torch.float64)
        for part in pixels.split(_BATCH):
            counts += torch.bincount(_cells(part)[silhouettes(part)], minlength=_NUM_CELLS)
        if int((counts > 0).sum()) < num_colours:
            raise ToileError(f"the pictures have too few colours for a palette of {num_colours}: give more pictures")
        numbers = torch.arange(_NUM_CELLS)
        channels = torch.stack([numbers >> 2 * _BITS, numbers >> _BITS, numbers], dim=1) % (1 << _BITS)
        lab = lab_of_srgb((channels + 0.5) / (1 << _BITS))
        drawn = np.random.default_rng(seed).choice(
            _NUM_CELLS, num_colours, replace=False, p=(counts / counts.sum()).numpy()
        )
        colours = lab[torch.from_numpy(drawn)]
        seen, counted = lab[counts > 0], counts[counts > 0]
        for _ in range(num_rounds):
            nearest = torch.cdist(seen, colours).argmin(dim=1)
            size = torch.zeros(num_colours, dtype=torch.float64).index_add_(0, nearest, counted)
            sums = torch.zeros_like(colours).index_add_(0, nearest, seen * counted[:, None])
            colours = torch.where(size[:, None] > 0, sums / size[:, None].clamp(min=1), colours)
        return Palette(colours.float(), torch.cdist(lab, colours).argmin(dim=1))


def _cells(pixels: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, H, W) int64, the cell of the colour cube."""
    red, green, blue = (pixels >> 8 - _BITS).long().unbind(dim=-1)
    return (red << 2 * _BITS) | (green << _BITS) | blue


def colour_shares(pixels: Tensor, palette: Palette) -> Tensor:
    """How much of each article has each colour of a palette; the middle of the picture counts most.

    Args:
        pixels: (N, H, W, 3) uint8.

    Returns:
        (N, K) float32, rows that add up to 1, or to 0 where there is nothing but backdrop.
    """
    height, width = pixels.shape[1:3]
    down, across = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    weights = torch.exp(-(down.square() + across.square()) / (2 * _CENTRE_WIDTH**2))
    shares = []
    for part in pixels.split(_BATCH):
        inside = (silhouettes(part) * weights).flatten(1)
        sums = torch.zeros(len(part), len(palette.colours)).scatter_add_(
            1, palette.nearest[_cells(part)].flatten(1), inside
        )
        shares.append(sums / sums.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny))
    return torch.cat(shares)


@dataclass(frozen=True)
class ColourTable:
    """What shares of colours say of the label.

    Attributes:
        palette: the K colours.
        weights: (K, C) float32, of the roots of the shares.
        bias: (C,) float32.
    """

    palette: Palette
    weights: Tensor
    bias: Tensor

    @staticmethod
    def of(pixels: Tensor, targets: Tensor, num_labels: int, num_colours: int = 64, seed: int = 0) -> ColourTable:
        """Learns from real pictures: logistic regression on the roots of the shares, all pictures at once.

        The roots make the distance of two rows of shares that of Hellinger, in which rare colours are heard.

        Args:
            pixels: (N, H, W, 3) uint8, of the training side.
            targets: (N,) int64 in [0, C), the labels; `MISSING` where unknown.
            num_labels: C.
            num_colours: K.
            seed: of the palette.

        Raises:
            ToileError: no labels, or too few colours.
        """
        known = targets != MISSING
        if len(pixels) != len(targets) or not bool(known.any()):
            raise ToileError(f"{len(pixels)} pictures and {int(known.sum())} known colours: give pictures with labels")
        palette = Palette.of(pixels, num_colours, seed)
        shares, labels = colour_shares(pixels[known], palette).sqrt(), targets[known]
        return ColourTable(palette, *fit_logistic(shares, labels, num_labels, _RIDGE))

    def predict(self, pixels: Tensor) -> Tensor:
        """The most probable label of each picture, (N,) int64.

        Args:
            pixels: (N, H, W, 3) uint8.
        """
        return (colour_shares(pixels, self.palette).sqrt() @ self.weights + self.bias).argmax(dim=1)
