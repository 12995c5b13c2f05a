"""Attention: both ways of computing it are the same function, and tokens go back to the pixels they came from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toile.nn import attention
from toile.nn.attention import (
    Attention,
    SpatialSelfAttention,
    SpatialTransformer,
    attend,
    pixels_to_tokens,
    tokens_to_pixels,
)

BATCH, HEADS, DIM = 2, 3, 5


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype).requires_grad_()


@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (7, 4), (4, 7), (1, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_written_out_attention_is_the_fused_one(queries: int, keys: int, causal: bool) -> None:
    query = draw(BATCH, HEADS, queries, DIM, seed=0)
    key, value = draw(BATCH, HEADS, keys, DIM, seed=1), draw(BATCH, HEADS, keys, DIM, seed=2)
    weights = draw(BATCH, HEADS, queries, DIM, seed=3)
    ours = attend(query, key, value, causal=causal)
    theirs = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for got, expected in zip(
        torch.autograd.grad((ours * weights).sum(), (query, key, value)),
        torch.autograd.grad((theirs * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_which_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fused(query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
        calls.append(key.shape[-2])
        return query

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", fused)
    query, longest = draw(1, 1, 2, 4, seed=0), attention._LONGEST_WRITTEN_OUT_ROW
    for keys in (longest, longest + 1):
        key = draw(1, 1, keys, 4, seed=1)
        attend(query, key, key)
        with torch.no_grad():
            attend(query, key, key)
    assert calls == [longest, longest + 1, longest + 1]


def test_a_causal_row_does_not_see_the_future() -> None:
    query, key = draw(1, 1, 6, 4, seed=0), draw(1, 1, 6, 4, seed=1)
    value = draw(1, 1, 6, 4, seed=2)
    changed = value.detach().clone()
    changed[:, :, 4:] += 1
    before, after = attend(query, key, value, causal=True), attend(query, key, changed, causal=True)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.allclose(before[:, :, 4], after[:, :, 4])


def test_both_ways_in_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    layer, tokens = Attention(16, None, 2), draw(2, 9, 16, seed=0, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        written_out = layer(tokens)
        with torch.no_grad():
            fused = layer(tokens)
    assert written_out.dtype == fused.dtype == torch.bfloat16
    torch.testing.assert_close(written_out, fused, rtol=0.02, atol=0.01)
    torch.testing.assert_close(written_out.float(), layer(tokens), rtol=0.05, atol=0.02)


def test_tokens_are_pixels_in_reading_order() -> None:
    features = torch.arange(24.0).view(1, 2, 3, 4)
    tokens = pixels_to_tokens(features)
    assert tokens[0, :, 0].tolist() == list(range(12))
    assert torch.equal(tokens_to_pixels(tokens, 3, 4), features)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    assert pixels_to_tokens(channels_last).data_ptr() == channels_last.data_ptr()
    assert tokens_to_pixels(tokens.contiguous(), 3, 4).is_contiguous(memory_format=torch.channels_last)


def test_both_projections_of_a_transformer_compute_the_same() -> None:
    torch.manual_seed(0)
    convolutions = SpatialTransformer(8, 6, 2, num_groups=4, linear_projection=False)
    linear = SpatialTransformer(8, 6, 2, num_groups=4, linear_projection=True)
    weights = convolutions.state_dict()
    for name in ("proj_in.weight", "proj_out.weight"):
        weights[name] = weights[name].flatten(1)
    linear.load_state_dict(weights)
    features, cond = torch.randn(2, 8, 3, 5), torch.randn(2, 4, 6)
    torch.testing.assert_close(convolutions(features, cond), linear(features, cond), rtol=0, atol=0)
    proj_in = convolutions.proj_in
    as_convolution = F.conv2d(features, proj_in.weight, proj_in.bias)
    torch.testing.assert_close(proj_in(pixels_to_tokens(features)), pixels_to_tokens(as_convolution))


def test_attention_does_not_depend_on_the_order_of_the_words() -> None:
    torch.manual_seed(0)
    layer, tokens, words = Attention(8, 6, 2), torch.randn(2, 5, 8), torch.randn(2, 4, 6)
    torch.testing.assert_close(layer(tokens, words), layer(tokens, words.flip(1)))
    assert not torch.allclose(layer(tokens, words), layer(tokens, words + 1))


def test_attention_over_pixels_sees_all_of_them() -> None:
    torch.manual_seed(0)
    layer, features = SpatialSelfAttention(8, 4), torch.randn(1, 8, 3, 4)
    features.requires_grad_()
    [gradient] = torch.autograd.grad(layer(features)[0, 0, 0, 0], features)
    assert bool((gradient.abs().amax(dim=1) > 0).all())
