"""Doubling a feature map in both directions and convolving it, in less than half the arithmetic.

Shapes: B batch, C channels, H x W positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toile.nn.layers import Conv2d, has_fused_kernels, packed_kernel

_ALL_ROUND = ((1, 1), (1, 1), (1, 1), 1)  # padding, stride, dilation, groups


class DoublingConv2d(Conv2d):
    """A 3x3 convolution of a feature map in which every position stands twice in each direction.

    Among the nine positions that the kernel sees, at most four differ. So the map need not be doubled: each of the four
    results that a position becomes is a 2x2 convolution of the map as it is, whose weights are sums of the kernel's.
    Gradients flow through the plain way.
    """

    can_replace = False  # the kernel cannot be told from its sums

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def doubled(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        if not has_fused_kernels(x) or self.weight.is_inference() or self.lora is not None:
            return self(doubled(x))
        kernels = self.packed([self.weight], ("doubled", x.shape), lambda: self._kernels(x))
        batch, channels, height, width = x.shape
        result = x.new_empty(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
        convolve = torch.ops.mkldnn._convolution_pointwise
        for number, kernel in enumerate(kernels):
            below, right = divmod(number, 2)
            corner = convolve(x, kernel, self.bias, *_ALL_ROUND, "none", [], "none")  # (B, C, H + 1, W + 1)
            result[..., below::2, right::2] = corner[..., below : below + height, right : right + width]
        return result

    def _kernels(self, x: Tensor) -> tuple[Tensor, ...]:
        kernels = [k.to(memory_format=torch.channels_last) for k in summed_kernels(self.weight.detach()).chunk(4)]
        return tuple(packed_kernel(kernel, x, _ALL_ROUND) if self.packs else kernel for kernel in kernels)


def doubled(x: Tensor) -> Tensor:
    """Repeats every position in both directions: (B, C, H, W) -> (B, C, 2 H, 2 W), in channels_last memory."""
    # Not F.interpolate: its gradient in bfloat16 under torch.compile is zero on CPUs (torch 2.13). In channels_last
    # memory a pixel, or a row, is repeated by joining it with itself.
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1)
    wide = torch.cat([rows, rows], dim=3).reshape(batch, height, 2 * width * channels)
    return torch.cat([wide, wide], dim=2).reshape(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def summed_kernels(weight: Tensor) -> Tensor:
    """3x3 kernels (out, in, 3, 3) -> 2x2 kernels (4 out, in, 2, 2): of the results above left, above right, below left,
    below right.

    The first result in a direction sees the position before it once and its own twice, the second its own twice and the
    one after it once.
    """
    first, middle, last = weight.float().unbind(2)
    halves = [torch.stack([first, middle + last], 2), torch.stack([first + middle, last], 2)]
    kernels = []
    for half in halves:
        first, middle, last = half.unbind(3)
        kernels += [torch.stack([first, middle + last], 3), torch.stack([first + middle, last], 3)]
    return torch.cat(kernels).to(weight.dtype)
