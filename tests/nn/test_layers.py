"""Layers with what follows them: fused kernels compute what plain PyTorch computes, and packed weights stay true."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.nn import layers
from toile.nn.layers import (
    Conv2d,
    GatedLinear,
    GroupNorm,
    Linear,
    PixelLinear,
    linear_together,
    pack_for_gradients,
    pack_weights,
)

Make = Callable[[], nn.Module]
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def channels_last(*shape: int, seed: int = 0) -> Tensor:
    return draw(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


def inputs_of(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """An input, and something to add to the result."""
    if isinstance(layer, Conv2d):
        height, width = (5, 4) if layer.stride[0] == 1 else (3, 2)
        return channels_last(3, 16, 5, 4), channels_last(3, layer.out_channels, height, width, seed=1)
    return draw(3, 7, 16), draw(3, 7, 32, seed=1)


LAYERS: dict[str, Make] = {
    "linear": lambda: Linear(16, 32),
    "linear without bias": lambda: Linear(16, 32, bias=False),
    "pixel linear": lambda: PixelLinear(16, 32),
    "gated linear": lambda: GatedLinear(16, 32),
    "convolution": lambda: Conv2d(16, 32, 3, padding=1),
    "strided convolution": lambda: Conv2d(16, 32, 3, stride=2, padding=1),
    "1x1 convolution": lambda: Conv2d(16, 32, 1),
}


def build(name: str, packs: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layer = LAYERS[name]().requires_grad_(False)
    if packs:
        pack_weights(layer)
        assert all(module.packs for module in layer.modules())
    return layer


def plain(layer: nn.Module, *arguments: Tensor | None, **more: Tensor) -> Tensor:
    """The layer's result by plain PyTorch in float32, as it is computed when gradients are wanted."""
    with torch.enable_grad():
        return copy.deepcopy(layer).float()(*(x.float() if x is not None else None for x in arguments), **more)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_without_gradients_a_layer_computes_the_same(
    name: str, with_sum: bool, packs: bool, dtype: torch.dtype
) -> None:
    layer = build(name, packs).to(dtype)
    x, plus = (each.to(dtype) for each in inputs_of(layer))
    arguments = (x, plus) if with_sum else (x,)
    with torch.inference_mode():
        results = [layer(*arguments) for _ in range(2)]
    expected = plain(layer, *arguments)
    assert results[0].dtype == dtype and results[0].shape == expected.shape
    assert torch.equal(*results)
    torch.testing.assert_close(results[0].float(), expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


@pytest.mark.skipif(not layers._HAS_PACKING, reason="this build of PyTorch has no oneDNN")
@pytest.mark.parametrize("name", ["linear", "gated linear", "convolution"])
def test_the_fused_kernels_are_really_used(name: str) -> None:
    layer = build(name, packs=True).bfloat16()
    x, plus = (each.bfloat16() for each in inputs_of(layer))
    with torch.inference_mode(), torch.profiler.profile() as profile:
        layer(x, plus)
    names = {event.key for event in profile.key_averages()}
    assert any(name in names for name in ("mkldnn::_linear_pointwise", "mkldnn::_convolution_pointwise"))
    assert not names & {"aten::addmm", "aten::conv2d", "aten::gelu"}


@pytest.mark.parametrize("name", LAYERS)
def test_packed_weights_follow_every_change(name: str) -> None:
    layer = build(name, packs=True).bfloat16()
    x = inputs_of(layer)[0].bfloat16()

    def check() -> Tensor:
        with torch.inference_mode():
            result: Tensor = layer(x)
        torch.testing.assert_close(result.float(), plain(layer, x), rtol=2e-2, atol=2e-2)
        return result

    before = check()
    layer.weight.mul_(-2)
    changed = check()
    assert not torch.equal(before, changed)
    layer.load_state_dict({key: value / -2 for key, value in layer.state_dict().items()})
    check()
    layer.weight = nn.Parameter(torch.ones_like(layer.weight))
    check()
    x = x[:2]
    check()
    x, layer = x.float(), layer.float()
    check()


@pytest.mark.skipif(not layers._HAS_PACKING, reason="this build of PyTorch has no oneDNN")
@pytest.mark.parametrize("name", ["linear", "gated linear", "convolution"])
def test_sizes_used_by_turns_are_packed_once_each(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[tuple[int, ...]] = []

    def counted(pack: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(weight: Tensor, x: Tensor, *geometry: object) -> Tensor:
            packed.append(tuple(x.shape))
            return pack(weight, x, *geometry)

        return noted

    for pack in ("_packed_matrix", "packed_kernel"):
        monkeypatch.setattr(layers, pack, counted(getattr(layers, pack)))
    layer = build(name, packs=True).bfloat16()
    x = inputs_of(layer)[0].bfloat16()
    with torch.inference_mode():
        expected = [layer(x[:rows]) for rows in (1, 2, 3)]
        for _ in range(2):
            for rows, result in zip((1, 2, 3), expected, strict=True):
                assert torch.equal(layer(x[:rows]), result)
    each = 2 if name == "gated linear" else 1
    assert packed == [(rows, *x.shape[1:]) for rows in (1, 2, 3) for _ in range(each)]
    with torch.inference_mode():
        for rows in range(4, 4 + layers._MOST_LAYOUTS):
            layer(torch.cat([x] * rows)[:rows])
        assert len(layer._packed) == layers._MOST_LAYOUTS
        layer(x[:1])
    assert packed[-1] == (1, *x.shape[1:])  # what was not used for long was dropped


def test_layers_that_have_packed_their_weights_can_be_copied_and_saved() -> None:
    layer = build("convolution", packs=True)
    x = inputs_of(layer)[0]
    with torch.inference_mode():
        expected = layer(x)
        assert torch.equal(copy.deepcopy(layer)(x), expected)
    assert list(layer.state_dict()) == ["weight", "bias"]


def replaced(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A layer whose packed weights took the place of the plain ones, the same as it was, and an input."""
    layer = build(name).bfloat16().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before, x = copy.deepcopy(layer), inputs_of(layer)[0].bfloat16()
    layer.packs = layer.replaces = True
    with torch.inference_mode():
        torch.testing.assert_close(layer(x).float(), plain(before, x), rtol=2e-2, atol=2e-2)
    assert layer.weight.is_meta and layer.weight.shape == before.weight.shape
    return layer, before, x


@pytest.mark.skipif(not layers._HAS_PACKING, reason="this build of PyTorch has no oneDNN")
@pytest.mark.parametrize("name", LAYERS)
def test_packed_weights_that_replace_the_plain_ones_are_these_again_when_they_are_wanted(name: str) -> None:
    layer, before, x = replaced(name)
    with torch.inference_mode():
        expected = layer(x)
        assert torch.equal(layer(x), expected)
        larger = torch.cat([x, x])
        torch.testing.assert_close(layer(larger).float(), plain(before, larger), rtol=2e-2, atol=2e-2)
    saved = layer.state_dict()
    assert torch.equal(saved["weight"], before.weight) and saved["weight"].stride() == before.weight.stride()
    assert layer.weight.is_meta  # saving changes nothing
    copied = copy.deepcopy(layer)
    assert torch.equal(copied.weight, before.weight)
    layer, before, x = replaced(name)
    assert torch.equal(layer.float().weight, before.weight.float())
    layer, before, x = replaced(name)
    layer.load_state_dict({key: value * 2 for key, value in before.state_dict().items()})
    assert torch.equal(layer.weight, before.weight * 2)
    layer, before, x = replaced(name)
    gradient_wanted = x.clone().requires_grad_()
    layer(gradient_wanted).sum().backward()
    assert gradient_wanted.grad is not None and torch.equal(layer.state_dict()["weight"], before.weight)


def test_layers_of_the_same_input_are_one_product() -> None:
    torch.manual_seed(0)
    three = [Linear(16, width, bias=False).bfloat16().requires_grad_(False) for width in (8, 32, 24)]
    x = draw(3, 7, 16).bfloat16()
    apart = linear_together(three, x)
    pack_weights(nn.ModuleList(three))
    with torch.inference_mode():
        together = linear_together(three, x)
        for one, other in zip(together, apart, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
        three[1].weight.zero_()
        assert not linear_together(three, x)[1].any()


@pytest.mark.skipif(not layers._HAS_PACKING, reason="this build of PyTorch has no oneDNN")
def test_large_networks_keep_no_copies() -> None:
    large, small = Linear(256, 256), Linear(16, 32)
    network = nn.ModuleList([large, small])
    pack_weights(network, max_bytes=256 * 256 * 4)
    assert (large.packs, large.replaces) == (True, True)
    assert (small.packs, small.replaces) == (False, False)
    assert large.layouts == 1
    pack_weights(network, max_bytes=2 * (256 * 256 + 16 * 32) * 4)
    assert (large.packs, large.replaces) == (True, False) == (small.packs, small.replaces)
    assert large.layouts == small.layouts == 2


def test_weights_made_in_inference_mode_are_not_packed() -> None:
    with torch.inference_mode():
        made = Linear(16, 32)
        pack_weights(made)
        assert not made.keeps_packed
        assert made(draw(2, 16)).shape == (2, 32)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("grad", [False, True])
def test_a_shift_is_added_to_every_position(rows: int, grad: bool) -> None:
    layer = build("convolution")
    x, plus = inputs_of(layer)
    shift = draw(rows, 32, seed=2)
    with torch.set_grad_enabled(grad):
        result = layer(x, plus, shift=shift)
        expected = plus + F.conv2d(x, layer.weight, layer.bias, padding=1) + shift[:, :, None, None]
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shape", [(2, 32, 6, 5), (2, 64, 33, 32), (1, 128, 3, 3)])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_group_normalisation_in_any_memory_layout(
    shape: tuple[int, int, int, int], silu: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    norm = GroupNorm(8, shape[1]).to(dtype).requires_grad_(False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (channels_last(*shape) + 20).to(dtype)  # a mean far from zero, where sums of squares lose digits
    kept = x.clone()
    with torch.inference_mode():
        result = norm(x, silu=silu)
    expected = copy.deepcopy(norm).double()(x.double())
    expected = F.silu(expected) if silu else expected
    tolerance = max(1e-3, ROUNDING[dtype])
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, kept)


def test_slow_layouts_are_avoided_only_where_they_are_slow() -> None:
    narrow, wide = GroupNorm(8, 32), GroupNorm(2, 32)
    small, large = channels_last(1, 32, 4, 4), channels_last(1, 32, 32, 32)
    assert narrow._is_slow_for(small)
    assert not wide._is_slow_for(small)
    assert not narrow._is_slow_for(large)
    assert not narrow._is_slow_for(small.contiguous())


@pytest.mark.skipif(not layers._HAS_PACKING, reason="this build of PyTorch has no oneDNN")
@pytest.mark.parametrize("max_bytes", [0, 2**30], ids=["in place of the plain ones", "beside them"])
def test_gradients_pass_frozen_convolutions_packed(max_bytes: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Conv2d(16, 32, 3, padding=1), Conv2d(32, 32, 1), Conv2d(32, 64, 3, stride=2, padding=1))
    network = network.bfloat16().to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    reference = copy.deepcopy(network).float()
    layers._LARGE_LAYER, kept = 1, layers._LARGE_LAYER
    try:
        pack_for_gradients(network, max_bytes)
    finally:
        layers._LARGE_LAYER = kept
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    x, shift = channels_last(2, 16, 6, 4).bfloat16(), draw(1, 32, seed=2).bfloat16()

    def gradient(of: nn.Sequential, x: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        result = of[2](of[1](of[0](x, shift=shift), plus=torch.ones_like(shift)[:, :, None, None]))
        result.square().sum().backward()
        assert x.grad is not None
        return result.detach().float(), x.grad.float()

    for _ in range(2):
        result, grad = gradient(network, x, shift)
        expected, expected_grad = gradient(reference, x.float(), shift.float())
        torch.testing.assert_close(result, expected, rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(grad, expected_grad, rtol=5e-2, atol=0.05 * float(expected_grad.abs().max()))
    assert network[0]._packed_back is not None and network[2]._packed_back is None, "strided ones go the plain way"
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(network[0](x).float(), reference[0](x.float()), rtol=2e-2, atol=2e-2)
        for layer in network:
            layer.load_state_dict({name: value * 0 for name, value in layer.state_dict().items()})
    assert float(gradient(network, x, shift)[1].abs().max()) == 0.0, "packed weights follow the plain ones"
