"""InceptionV3: names, shapes and sums as published, and its blocks against a second formulation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toile.errors import ToileError
from toile.models.inception import ConvNormReLU, InceptionA, InceptionConfig, InceptionE, InceptionV3, mean_pool
from toile.weights.folder import build_empty

# Of every convolution in the published file: channels in and out, height and width of the kernel.
_STEM = {
    "Conv2d_1a_3x3": (3, 32, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (32, 64, 3, 3),
    "Conv2d_3b_1x1": (64, 80, 1, 1),
    "Conv2d_4a_3x3": (80, 192, 3, 3),
}
_TORCHVISION_TOTAL = 27_161_264  # parameters of torchvision's network of 1,000 classes with a second classifier
_TORCHVISION_SECOND_CLASSIFIER = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 769 * 1000


def expected_convolutions() -> dict[str, tuple[int, int, int, int]]:
    """Written down from the figures of the paper and the list of the published file, not from our classes."""
    found = dict(_STEM)
    for block, dim, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        for name, shape in {
            "branch1x1": (dim, 64, 1, 1),
            "branch5x5_1": (dim, 48, 1, 1),
            "branch5x5_2": (48, 64, 5, 5),
            "branch3x3dbl_1": (dim, 64, 1, 1),
            "branch3x3dbl_2": (64, 96, 3, 3),
            "branch3x3dbl_3": (96, 96, 3, 3),
            "branch_pool": (dim, pool, 1, 1),
        }.items():
            found[f"Mixed_{block}.{name}"] = shape
    for name, shape in {
        "branch3x3": (288, 384, 3, 3),
        "branch3x3dbl_1": (288, 64, 1, 1),
        "branch3x3dbl_2": (64, 96, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
    }.items():
        found[f"Mixed_6a.{name}"] = shape
    for block, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        for name, shape in {
            "branch1x1": (768, 192, 1, 1),
            "branch7x7_1": (768, inner, 1, 1),
            "branch7x7_2": (inner, inner, 1, 7),
            "branch7x7_3": (inner, 192, 7, 1),
            "branch7x7dbl_1": (768, inner, 1, 1),
            "branch7x7dbl_2": (inner, inner, 7, 1),
            "branch7x7dbl_3": (inner, inner, 1, 7),
            "branch7x7dbl_4": (inner, inner, 7, 1),
            "branch7x7dbl_5": (inner, 192, 1, 7),
            "branch_pool": (768, 192, 1, 1),
        }.items():
            found[f"Mixed_{block}.{name}"] = shape
    for name, shape in {
        "branch3x3_1": (768, 192, 1, 1),
        "branch3x3_2": (192, 320, 3, 3),
        "branch7x7x3_1": (768, 192, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7),
        "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3),
    }.items():
        found[f"Mixed_7a.{name}"] = shape
    for block, dim in (("7b", 1280), ("7c", 2048)):
        for name, shape in {
            "branch1x1": (dim, 320, 1, 1),
            "branch3x3_1": (dim, 384, 1, 1),
            "branch3x3_2a": (384, 384, 1, 3),
            "branch3x3_2b": (384, 384, 3, 1),
            "branch3x3dbl_1": (dim, 448, 1, 1),
            "branch3x3dbl_2": (448, 384, 3, 3),
            "branch3x3dbl_3a": (384, 384, 1, 3),
            "branch3x3dbl_3b": (384, 384, 3, 1),
            "branch_pool": (dim, 192, 1, 1),
        }.items():
            found[f"Mixed_{block}.{name}"] = shape
    return found


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(
                    torch.rand(tensor.shape, generator=generator) * 0.2 + (0.5 if "running_var" in name else -0.1)
                )
    return module.eval()


def test_every_tensor_has_its_published_name_and_shape() -> None:
    network = build_empty(InceptionV3, InceptionConfig())
    expected: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for name, (num_in, num_out, height, width) in expected_convolutions().items():
        expected[f"{name}.conv.weight"] = (num_out, num_in, height, width)
        expected |= {f"{name}.bn.{each}": (num_out,) for each in ("weight", "bias", "running_mean", "running_var")}
        expected[f"{name}.bn.num_batches_tracked"] = ()
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == expected
    more_classes = 8 * 2049
    total = sum(parameter.numel() for parameter in network.parameters())
    assert total == _TORCHVISION_TOTAL - _TORCHVISION_SECOND_CLASSIFIER + more_classes


def test_the_mean_leaves_out_what_is_outside() -> None:
    x = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(1))
    for row, column in itertools.product(range(4), range(5)):
        window = x[:, :, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        torch.testing.assert_close(mean_pool(x)[:, :, row, column], window.mean(dim=(2, 3)))


def by_hand(layer: ConvNormReLU, x: Tensor) -> Tensor:
    """A convolution as a product with patches, then batch normalisation by its formula with eps 0.001, then ReLU."""
    conv, norm = layer.conv, layer.bn
    patches = F.unfold(x, conv.kernel_size, padding=conv.padding, stride=conv.stride)
    height = (x.shape[2] + 2 * int(conv.padding[0]) - conv.kernel_size[0]) // conv.stride[0] + 1
    y = (conv.weight.flatten(1) @ patches).unflatten(-1, (height, -1))
    scale = (norm.weight / (norm.running_var + 0.001).sqrt())[:, None, None]
    return ((y - norm.running_mean[:, None, None]) * scale + norm.bias[:, None, None]).clamp(min=0)


@torch.no_grad()
def test_a_block_is_its_branches_side_by_side() -> None:
    block = randomize(InceptionA(6, 5))
    assert isinstance(block, InceptionA)
    x = torch.rand(2, 6, 5, 7, generator=torch.Generator().manual_seed(2))
    inside = F.unfold(F.pad(torch.ones(1, 1, 5, 7), (1, 1, 1, 1)), 3).sum(1).reshape(1, 1, 5, 7)
    sums = F.unfold(x, 3, padding=1).unflatten(1, (6, 9)).sum(2).unflatten(-1, (5, 7))
    expected = [
        by_hand(block.branch1x1, x),
        by_hand(block.branch5x5_2, by_hand(block.branch5x5_1, x)),
        by_hand(block.branch3x3dbl_3, by_hand(block.branch3x3dbl_2, by_hand(block.branch3x3dbl_1, x))),
        by_hand(block.branch_pool, sums / inside),
    ]
    torch.testing.assert_close(block(x), torch.cat(expected, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("takes_maximum", [False, True])
@torch.no_grad()
def test_the_last_block_takes_a_maximum(takes_maximum: bool) -> None:
    block = randomize(InceptionE(4, takes_maximum))
    assert isinstance(block, InceptionE)
    x = torch.rand(1, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    windows = F.unfold(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3).unflatten(1, (4, 9)).unflatten(-1, (3, 3))
    inside = windows.isfinite()
    means = windows.where(inside, torch.zeros(())).sum(2) / inside.sum(2)
    pooled = windows.amax(2) if takes_maximum else means
    single, double = by_hand(block.branch3x3_1, x), by_hand(block.branch3x3dbl_2, by_hand(block.branch3x3dbl_1, x))
    expected = [
        by_hand(block.branch1x1, x),
        *(by_hand(layer, single) for layer in (block.branch3x3_2a, block.branch3x3_2b)),
        *(by_hand(layer, double) for layer in (block.branch3x3dbl_3a, block.branch3x3dbl_3b)),
        by_hand(block.branch_pool, pooled),
    ]
    torch.testing.assert_close(block(x), torch.cat(expected, 1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_sizes_on_the_way_are_those_of_the_paper() -> None:
    network = build_empty(InceptionV3, InceptionConfig())
    sizes: dict[str, tuple[int, ...]] = {}
    for name, layer in network.named_children():
        layer.register_forward_hook(lambda _, __, result, name=name: sizes.update({name: tuple(result.shape[1:])}))
    result = network.eval()(torch.empty(2, 3, 299, 299, device="meta"))
    assert tuple(result.shape) == (2, network.feature_dim)
    assert sizes["Conv2d_2b_3x3"] == (64, 147, 147) and sizes["Conv2d_4a_3x3"] == (192, 71, 71)
    assert sizes["Mixed_5d"] == (288, 35, 35) and sizes["Mixed_6a"] == sizes["Mixed_6e"] == (768, 17, 17)
    assert sizes["Mixed_7a"] == (1280, 8, 8) and sizes["Mixed_7c"] == (2048, 8, 8)
    assert network.Mixed_7b.pool is mean_pool and network.Mixed_7c.pool is not mean_pool


def test_sizes_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ToileError, match="at least 75"):
        InceptionConfig(image_size=74)
