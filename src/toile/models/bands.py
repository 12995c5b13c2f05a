"""The autoencoder's levels in bands of rows: the result of the whole picture, in less than half of its memory.

Layers follow each other as always, but each works through the picture band by band, and what lives only inside a layer
(what is normalised, enlarged, on its way through a convolution) exists for one band at a time. A band is read with the
one row above and below that a 3x3 convolution looks at. The mean and variance of a group normalisation are those of the
whole picture, put together from those of the bands. So bands leave no seam and change no colour: the result is that of
the whole but for rounding.

Shapes: C channels, H x W positions of one picture, G groups of a normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.nn.blocks import Downsample, ResnetBlock, Upsample
from toile.nn.layers import Conv2d, GroupNorm

BAND_POSITIONS = 2**15
"""How many positions a band has, at most; but at least one row."""
_PIXELS_TOGETHER = 512 * 512


class _Rows(Protocol):
    """Features of a picture whose rows can be asked for."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""

    def rows(self, start: int, stop: int) -> Tensor:
        """(1, C, stop - start, W)."""


@dataclass(frozen=True, eq=False)
class _Stored:
    """Features (1, C, H, W) in memory."""

    features: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return self.features.shape[-2], self.features.shape[-1]

    def rows(self, start: int, stop: int) -> Tensor:
        return self.features[..., start:stop, :]


@dataclass(frozen=True, eq=False)
class _Upsampled:
    """Features of twice the height and width of stored ones (1, C, H, W); rows are computed whenever asked for."""

    upsample: Upsample
    features: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return 2 * self.features.shape[-2], 2 * self.features.shape[-1]

    def rows(self, start: int, stop: int) -> Tensor:
        first = max(0, (start - 1) // 2)
        enlarged = self.upsample(self.features[..., first : stop // 2 + 1, :])
        return enlarged[..., start - 2 * first : stop - 2 * first, :]


@torch.no_grad()
def through_levels(levels: Iterable[nn.Module], features: Tensor) -> Tensor:
    """What levels of residual blocks and samplers make of features, one picture at a time.

    Args:
        levels: each with `resnets` and either `upsamplers` or `downsamplers`, which may be empty.
        features: (B, C, H, W); their memory is used for results.

    Returns:
        (B, C', H', W'), what calling the levels one after the other gives.
    """
    layers = [layer for level in levels for part in level.children() for layer in part.children()]

    def of_picture(features: Tensor) -> Tensor:
        source: _Rows = _Stored(features)
        for layer in layers:
            source = _through(layer, source)
        return source.rows(0, source.size[0])

    return _one_by_one(of_picture, features)


@torch.no_grad()
def normalise_and_convolve(norm: GroupNorm, conv: Conv2d, features: Tensor) -> Tensor:
    """Group normalisation, SiLU and a 3x3 convolution, one picture at a time: (B, C, H, W) -> (B, C', H, W)."""

    def of_picture(features: Tensor) -> Tensor:
        source = _Stored(features)
        normalise = _normalisation(norm, source)
        [result] = _collected(source, lambda rows: [conv(normalise(rows))])
        return result

    return _one_by_one(of_picture, features)


def _one_by_one(of_picture: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    results = [of_picture(picture) for picture in features.split(1)]
    return results[0] if len(results) == 1 else torch.cat(results)


def _through(layer: nn.Module, source: _Rows) -> _Rows:
    if isinstance(layer, ResnetBlock):
        return _residual(layer, source)
    assert isinstance(source, _Stored)  # samplers follow residual blocks
    if isinstance(layer, Upsample):
        return _Upsampled(layer, source.features)
    assert isinstance(layer, Downsample)
    return _downsampled(layer, source.features)


def _residual(block: ResnetBlock, source: _Rows) -> _Stored:
    normalise = _normalisation(block.norm1, source)
    if isinstance(source, _Stored) and block.conv_shortcut is None:
        [hidden] = _collected(source, lambda rows: [block.conv1(normalise(rows))])
        result = source.features
    else:
        shortcut = block.conv_shortcut or nn.Identity()
        hidden, result = _collected(source, lambda rows: [block.conv1(normalise(rows)), shortcut(rows)])
    halfway = _Stored(hidden)
    normalise_again = _normalisation(block.norm2, halfway)
    for start, stop in _bands(halfway.size):
        [change] = _for_band(halfway, start, stop, lambda rows: [block.conv2(normalise_again(rows))])
        result[..., start:stop, :] += change
    return _Stored(result)


def _downsampled(downsample: Downsample, features: Tensor) -> _Stored:
    size = (features.shape[-2] // 2, features.shape[-1] // 2)
    bands = ([downsample(features[..., 2 * start : 2 * stop + 1, :])] for start, stop in _bands(size))
    [result] = _joined(size, bands)
    return _Stored(result)


def _collected(source: _Rows, function: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
    """The results of a function that looks at most one row up and down, for all rows of the source."""
    bands = (_for_band(source, start, stop, function) for start, stop in _bands(source.size))
    return _joined(source.size, bands)


def _for_band(source: _Rows, start: int, stop: int, function: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
    first = max(0, start - 1)
    rows = source.rows(first, min(stop + 1, source.size[0]))
    return [result[..., start - first : stop - first, :] for result in function(rows)]


def _joined(size: tuple[int, int], bands: Iterable[list[Tensor]]) -> list[Tensor]:
    """Bands (1, C, rows, W) of each of several results, from the top: each result (1, C, H, W), in channels_last."""
    joined: list[Tensor] = []
    stop = 0
    for band in bands:
        joined = joined or [_empty(part, size) for part in band]
        start, stop = stop, stop + band[0].shape[-2]
        for whole, part in zip(joined, band, strict=True):
            whole[..., start:stop, :] = part
    return joined


def _empty(part: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.empty(
        (1, part.shape[1], *size), dtype=part.dtype, device=part.device, memory_format=torch.channels_last
    )


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    height, width = size
    rows = max(1, BAND_POSITIONS // width)
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def _normalisation(norm: GroupNorm, source: _Rows) -> Callable[[Tensor], Tensor]:
    """Group normalisation and SiLU of any rows of a picture, with the mean and variance of all of it."""
    mean, variance = _statistics(norm.num_groups, source)
    repeats = norm.num_channels // norm.num_groups
    mean, variance = mean.repeat_interleave(repeats), variance.repeat_interleave(repeats)
    weight, bias = norm.weight.to(mean.dtype), norm.bias.to(mean.dtype)

    def normalise(rows: Tensor) -> Tensor:
        # Batch normalisation is the one that takes mean and variance as they are given.
        return F.silu(F.batch_norm(rows, mean, variance, weight, bias, eps=norm.eps), inplace=True)

    return normalise


def _statistics(num_groups: int, source: _Rows) -> tuple[Tensor, Tensor]:
    """Mean and variance (G,) of each group over all positions, in float32 or better (Chan et al. 1979, eq. 2.1)."""
    shares, means, variances = [], [], []
    for start, stop in _bands(source.size):
        rows = source.rows(start, stop)
        groups = rows.to(torch.promote_types(rows.dtype, torch.float32)).unflatten(1, (num_groups, -1))
        variance, mean = torch.var_mean(groups, dim=(0, 2, 3, 4), correction=0)
        shares.append((stop - start) / source.size[0])
        means.append(mean)
        variances.append(variance)
    each, weights = torch.stack(means), means[0].new_tensor(shares)[:, None]
    mean = (weights * each).sum(0)
    return mean, (weights * (torch.stack(variances) + (each - mean).square())).sum(0)


def pictures_together(pixels: int) -> int:
    """How many pictures of so many pixels pass the autoencoder together: as many as one of 512x512 is large, or one.

    It depends on nothing else, so that pictures are rounded alike wherever they are made again.
    """
    return max(1, _PIXELS_TOGETHER // pixels)
