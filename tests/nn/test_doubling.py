"""Doubling and convolving at once: the same as one after the other, with weights that change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toile.nn.doubling import DoublingConv2d, doubled, summed_kernels
from toile.nn.layers import pack_weights


def features(height: int, width: int, dtype: torch.dtype) -> Tensor:
    drawn = torch.randn(2, 16, height, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    return drawn.contiguous(memory_format=torch.channels_last)


def layer() -> DoublingConv2d:
    torch.manual_seed(0)
    return DoublingConv2d(16).requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def one_after_the_other(conv: DoublingConv2d, x: Tensor) -> Tensor:
    larger = F.interpolate(x.float(), scale_factor=2, mode="nearest")
    assert conv.bias is not None
    return F.conv2d(larger, conv.weight.float(), conv.bias.float(), padding=1)


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize(("height", "width"), [(5, 3), (1, 1), (8, 8)])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
@torch.no_grad()
def test_at_once_is_one_after_the_other(
    height: int, width: int, dtype: torch.dtype, rounding: float, packs: bool
) -> None:
    conv, x = layer().to(dtype), features(height, width, dtype)
    if packs:
        pack_weights(conv)
    result, expected = conv.doubled(x), one_after_the_other(conv, x)
    assert result.shape == expected.shape and result.is_contiguous(memory_format=torch.channels_last)
    assert float((result.float() - expected).norm() / expected.norm()) < rounding


@torch.no_grad()
def test_it_follows_changes_of_the_weights() -> None:
    conv, x = layer(), features(4, 4, torch.float32)
    conv.doubled(x)
    conv.weight.mul_(2)
    torch.testing.assert_close(conv.doubled(x), one_after_the_other(conv, x), rtol=1e-4, atol=1e-5)
    again = copy.deepcopy(conv)
    again.weight.add_(1)
    torch.testing.assert_close(again.doubled(x), one_after_the_other(again, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packs", [False, True])
@torch.no_grad()
def test_both_uses_of_one_layer_for_inputs_of_one_size(packs: bool) -> None:
    # Odd sizes are doubled, cut and convolved; the next picture may have just that size before it is doubled.
    conv, x = layer(), features(4, 4, torch.float32)
    if packs:
        pack_weights(conv)
    for _ in range(2):
        torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))
        torch.testing.assert_close(conv.doubled(x), one_after_the_other(conv, x), rtol=1e-4, atol=1e-5)


def test_doubling_is_a_nearest_neighbour_resize() -> None:
    x = features(3, 5, torch.float32)
    assert torch.equal(doubled(x), F.interpolate(x, scale_factor=2, mode="nearest"))


def test_sums_of_a_kernel() -> None:
    weight = torch.arange(9.0).view(1, 1, 3, 3)  # 0 1 2 / 3 4 5 / 6 7 8
    expected = [
        [[0, 1 + 2], [3 + 6, 4 + 5 + 7 + 8]],
        [[0 + 1, 2], [3 + 4 + 6 + 7, 5 + 8]],
        [[0 + 3, 1 + 2 + 4 + 5], [6, 7 + 8]],
        [[0 + 1 + 3 + 4, 2 + 5], [6 + 7, 8]],
    ]
    assert summed_kernels(weight)[:, 0].tolist() == expected
