"""Residual and resampling blocks: sizes, and doubling by joining against torch's own nearest-neighbour resize."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toile.errors import ToileError
from toile.nn.blocks import Downsample, ResnetBlock, Upsample

FROM, SIZES = (5, 3), [None, (10, 6), (9, 6), (10, 5), (9, 5)]


def features(channels: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    made = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    return made.contiguous(memory_format=torch.channels_last).requires_grad_()


def gradients(result: Tensor, x: Tensor, block: torch.nn.Module) -> list[Tensor]:
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)
    return list(torch.autograd.grad((result * weights).sum(), [x, *block.parameters()]))


@pytest.mark.parametrize("size", SIZES)
def test_upsampling_is_a_nearest_neighbour_resize_and_a_convolution(size: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    block, x = Upsample(4).double(), features(4, *FROM, torch.float64)
    ours = block(x, size)
    theirs = block.conv(F.interpolate(x, size=size or (10, 6), mode="nearest"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for got, expected in zip(gradients(ours, x, block), gradients(theirs, x, block), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(5, 3), (8, 6), (10, 7), (20, 12)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ToileError, match="6x10"):
        Upsample(4)(features(4, *FROM), size)


class TwiceUpsampled(torch.nn.Module):
    """Both ways of upsampling below a block that must be told its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.up = ResnetBlock(32, 32, num_groups=8, eps=1e-6), Upsample(32)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.below(x)
        return torch.cat([self.up(hidden).flatten(), self.up(hidden, (15, 11)).flatten()])


@pytest.mark.slow
def test_compiled_upsampling_in_bfloat16_has_the_gradient_of_float32() -> None:
    # With torch's own resize the gradient of everything below it was zero.
    torch.manual_seed(0)
    block, x = TwiceUpsampled().to(memory_format=torch.channels_last), features(32, 8, 6)  # type: ignore[call-overload]
    compiled = torch.compile(block, dynamic=False)
    with torch.autocast("cpu", torch.bfloat16):
        result = compiled(x)
    for got, expected in zip(gradients(result.float(), x, block), gradients(block(x), x, block), strict=True):
        assert float(F.cosine_similarity(got.flatten(), expected.flatten(), dim=0)) > 0.999


@pytest.mark.parametrize(("pad_end_only", "sizes"), [(True, (4, 3)), (False, (5, 4))])
def test_downsampling_halves_and_rounds(pad_end_only: bool, sizes: tuple[int, int]) -> None:
    result = Downsample(4, pad_end_only=pad_end_only)(features(4, 9, 7))
    assert result.shape == (2, 4, *sizes)
    assert Downsample(4, pad_end_only=pad_end_only)(features(4, 8, 6)).shape == (2, 4, 4, 3)


def test_a_residual_block_adds_time_and_carries_the_input_over() -> None:
    torch.manual_seed(0)
    block, x = ResnetBlock(4, 8, 6, num_groups=2, eps=1e-5), features(4, 5, 3)
    still, later = torch.zeros(2, 6), torch.ones(2, 6)
    assert block(x, still).shape == (2, 8, 5, 3)
    assert not torch.allclose(block(x, still), block(x, later))
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()  # type: ignore[union-attr]
    assert block.conv_shortcut is not None
    torch.testing.assert_close(block(x, later), block.conv_shortcut(x))


def test_a_residual_block_of_equal_widths_starts_from_its_input() -> None:
    block, x = ResnetBlock(4, 4, num_groups=2, eps=1e-5), features(4, 5, 3)
    assert block.conv_shortcut is None and block.time_emb_proj is None
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()  # type: ignore[union-attr]
    torch.testing.assert_close(block(x), x)
