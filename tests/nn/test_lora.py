"""Changes of low rank: attached they compute what changed weights compute, and leave no trace when they go."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.nn.attention import Attention
from toile.nn.doubling import DoublingConv2d
from toile.nn.layers import AdaptableLayer, Conv2d, GatedLinear, Linear, PixelLinear, pack_weights
from toile.nn.lora import (
    Adaptation,
    LowRank,
    LowRankSum,
    MagnitudeSum,
    adaptable_layers,
    sum_of_differences,
)

LAYERS: dict[str, Callable[[], AdaptableLayer]] = {
    "linear": lambda: Linear(16, 32),
    "linear without bias": lambda: Linear(16, 32, bias=False),
    "pixel linear": lambda: PixelLinear(16, 32),
    "gated linear": lambda: GatedLinear(16, 32),
    "convolution": lambda: Conv2d(16, 32, 3, padding=1),
    "strided convolution": lambda: Conv2d(16, 32, 3, stride=2, padding=1),
    "doubling convolution": lambda: DoublingConv2d(16),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(name: str) -> AdaptableLayer:
    torch.manual_seed(0)
    return LAYERS[name]().requires_grad_(False)


def input_of(layer: AdaptableLayer) -> Tensor:
    if isinstance(layer, Conv2d):
        return draw(2, 16, 6, 4).contiguous(memory_format=torch.channels_last)
    return draw(2, 7, 16)


def run(layer: AdaptableLayer, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer.doubled(x) if isinstance(layer, DoublingConv2d) else layer(x)


def change_of(layer: AdaptableLayer, rank: int = 3, seed: int = 1, magnitude: bool = False) -> LowRank:
    out, *rest = layer.weight.shape
    down, up = draw(rank, *rest, seed=seed), draw(out, rank, *[1] * (len(rest) - 1), seed=seed + 1)
    rows = draw(out, seed=seed + 2).abs() + 0.5 if magnitude else None
    return LowRank(down * 0.2, up * 0.2, alpha=rank * 0.7, magnitude=rows)


class Held(nn.Module):
    """A network of one layer."""

    def __init__(self, layer: AdaptableLayer) -> None:
        super().__init__()
        self.layer = layer


@pytest.mark.parametrize("magnitude", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("name", LAYERS)
def test_attached_equals_merged(name: str, magnitude: bool) -> None:
    layer, merged = build(name), build(name)
    change, x = change_of(layer, magnitude=magnitude), input_of(layer)
    merged.weight.add_(change.difference(merged.weight))
    before = run(layer, x)
    with Adaptation(Held(layer), {"layer": [(change, 1.0)]}).applied():
        attached = run(layer, x)
    torch.testing.assert_close(attached, run(merged, x), rtol=1e-5, atol=1e-5)
    assert float((attached - before).abs().max()) > 0.01
    assert torch.equal(run(layer, x), before)


@pytest.mark.parametrize("name", LAYERS)
def test_packed_weights_of_half_precision_take_changes_too(name: str) -> None:
    layer, merged = build(name), build(name)
    change, x = change_of(layer), input_of(layer).bfloat16()
    merged.weight.add_(change.difference(merged.weight))
    layer = layer.bfloat16()
    pack_weights(layer)
    layer.replaces = layer.can_replace
    before = run(layer, x)
    with Adaptation(Held(layer), {"layer": [(change, 1.0)]}).applied():
        attached = run(layer, x)
    torch.testing.assert_close(attached.float(), run(merged, x.float()), rtol=0.05, atol=0.05)
    assert torch.equal(run(layer, x), before)


def test_dora_is_attached_to_weights_that_are_packed_already() -> None:
    layer = build("linear").bfloat16()
    pack_weights(layer)
    layer.replaces = True
    change, x = change_of(layer, magnitude=True), input_of(layer).bfloat16()
    before = run(layer, x)
    assert layer.weight.is_meta
    merged = build("linear")
    merged.weight.add_(change.difference(merged.weight))
    with Adaptation(Held(layer), {"layer": [(change, 1.0)]}).applied():
        torch.testing.assert_close(run(layer, x).float(), run(merged, x.float()), rtol=0.05, atol=0.05)
    assert torch.equal(run(layer, x), before)


def test_dora_has_rows_of_the_lengths_it_learnt() -> None:
    layer = build("convolution")
    change = change_of(layer, magnitude=True)
    assert change.magnitude is not None
    changed = layer.weight + change.difference(layer.weight)
    torch.testing.assert_close(changed.flatten(1).norm(dim=1), change.magnitude)


def test_several_changes_add_up_each_with_its_strength() -> None:
    layer, merged = build("linear"), build("linear")
    changes = [(change_of(layer), 0.5), (change_of(layer, 5, 10), -1.0), (change_of(layer, 2, 20, True), 0.3)]
    merged.weight.add_(sum_of_differences(merged.weight, changes))
    x = input_of(layer)
    with Adaptation(Held(layer), {"layer": changes}).applied():
        torch.testing.assert_close(run(layer, x), run(merged, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("magnitude", [False, True], ids=["LoRA", "DoRA"])
def test_strength_0_attaches_nothing(magnitude: bool) -> None:
    layer = build("linear")
    x = input_of(layer)
    before = run(layer, x)
    with Adaptation(Held(layer), {"layer": [(change_of(layer, magnitude=magnitude), 0.0)]}).applied():
        assert torch.equal(run(layer, x), before)


@pytest.mark.parametrize("name", LAYERS)
def test_what_learns_starts_as_nothing_and_freezes_the_rest(name: str) -> None:
    layer = build(name)
    x, before = input_of(layer), run(layer, input_of(layer))
    change = change_of(layer)
    up = torch.zeros_like(change.up)
    for attached in (
        LowRankSum(change.down, up, layer, 0.5),
        MagnitudeSum(change.down.clone(), up.clone(), layer, 0.5),
    ):
        layer.lora = attached
        torch.testing.assert_close(run(layer, x), before, rtol=1e-5, atol=1e-6)
        layer(x).square().sum().backward()
        assert {part for part, value in layer.named_parameters() if value.grad is not None} == {
            f"lora.{part}" for part, _ in attached.named_parameters()
        }
        layer.lora = None


def test_a_magnitude_that_learns_equals_its_formula() -> None:
    layer = build("linear")
    change = change_of(layer)
    learning = MagnitudeSum(change.down, change.up, layer, change.scale)
    with torch.no_grad():
        learning.magnitude.mul_(1.5)
    formula = LowRank(change.down, change.up, change.alpha, learning.magnitude.detach())
    expected = input_of(layer) @ formula.difference(layer.weight).T
    torch.testing.assert_close(learning(input_of(layer)), expected)


def test_words_are_read_anew_under_a_change() -> None:
    """Keys and values of words are kept from step to step: not across a change of the layers that make them."""
    torch.manual_seed(0)
    attention = Attention(16, 8, 2).requires_grad_(False)
    tokens, cond = draw(1, 5, 16), draw(1, 3, 8)
    change = change_of(attention.to_k)
    with torch.no_grad():
        before = attention(tokens, cond)
        with Adaptation(attention, {"to_k": [(change, 1.0)]}).applied():
            changed = attention(tokens, cond)
        assert torch.equal(attention(tokens, cond), before)
        merged = copy.deepcopy(attention)
        merged.to_k.weight.add_(change.difference(merged.to_k.weight))
        torch.testing.assert_close(changed, merged(tokens, cond), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(changed, before)


def test_every_layer_of_the_networks_can_be_changed(tiny_model: LatentDiffusion) -> None:
    for network in (tiny_model.unet, tiny_model.text_encoder):
        plain = {
            name
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and not name.endswith("patch_embedding")
        }
        assert set(adaptable_layers(network)) == plain


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("other", LowRank(draw(2, 16), draw(32, 2), 2), "no layer other"),
        ("layer", LowRank(draw(2, 15), draw(32, 2), 2), r"weights \[32, 15\], not \[32, 16\]"),
        ("layer", LowRank(draw(2, 32), draw(16, 2), 2), r"weights \[16, 32\], not \[32, 16\]"),
    ],
)
def test_a_change_of_another_layer_is_refused(path: str, change: LowRank, message: str) -> None:
    with pytest.raises(ToileError, match=message):
        Adaptation(Held(build("linear")), {path: [(change, 1.0)]})


@pytest.mark.parametrize(
    ("down", "up", "alpha", "magnitude"),
    [
        (draw(2, 16), draw(32, 3), 1.0, None),
        (draw(2, 16, 3, 3), draw(32, 2), 1.0, None),
        (draw(2), draw(32, 2), 1.0, None),
        (draw(2, 16), draw(32, 2), float("nan"), None),
        (draw(2, 16), draw(32, 2), 1.0, draw(31)),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    down: Tensor, up: Tensor, alpha: float, magnitude: Tensor | None
) -> None:
    with pytest.raises(ToileError):
        LowRank(down, up, alpha, magnitude)
