"""Attention over long rows: its softmax out of the logistic function is the softmax, also where numbers are large."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toile.nn import long_attention
from toile.nn.attention import attend
from toile.nn.long_attention import attend_long, suits

BATCH, HEADS, WIDTH = 2, 3, 40


def draw(count: int, scale: float = 1.0, mean: float = 0.0, seed: int = 0, width: int = WIDTH) -> Tensor:
    """(B, K, count, d) bfloat16, laid out as the layers before leave it."""
    drawn = torch.randn(BATCH, count, HEADS, width, generator=torch.Generator().manual_seed(seed))
    return (drawn * scale + mean).bfloat16().transpose(1, 2)


def error(result: Tensor, query: Tensor, key: Tensor, value: Tensor) -> float:
    """Relative to the same attention in float32."""
    exact = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
    return float((result.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize("width", [40, 64, 79, 80])
@pytest.mark.parametrize(("queries", "keys"), [(1024, 1024), (1500, 1100)])
@torch.no_grad()
def test_it_is_attention(queries: int, keys: int, width: int) -> None:
    query, key = draw(queries, width=width), draw(keys, 1.5, 0.5, seed=1, width=width)
    value = draw(keys, seed=2, width=width)
    result = attend_long(query, key, value)
    assert result.shape == query.shape and result.dtype == torch.bfloat16
    assert error(result, query, key, value) < 6e-3
    assert result.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(("scale", "mean"), [(0.01, 0.0), (2.0, 0.0), (0.3, 100.0), (30.0, 0.0)])
@torch.no_grad()
def test_scores_of_any_size_are_right(scale: float, mean: float) -> None:
    # A mean that all keys share changes no softmax, however large; scores of hundreds take the other way.
    query, key, value = draw(1024, scale), draw(1024, scale, mean, seed=1), draw(1024, seed=2)
    fused = F.scaled_dot_product_attention(query, key, value)
    result = attend_long(query, key, value)
    assert error(result, query, key, value) <= 3 * error(fused, query, key, value) + 1e-3


@torch.no_grad()
def test_one_head_with_large_scores_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = draw(1024), draw(1024, seed=1), draw(1024, seed=2)
    expected = attend_long(query, key, value)
    query[1, 2] *= 100
    calls: list[int] = []
    fused = F.scaled_dot_product_attention

    def counted(*rows: Tensor) -> Tensor:
        calls.append(1)
        return fused(*rows)

    monkeypatch.setattr(long_attention.F, "scaled_dot_product_attention", counted)
    result = attend_long(query, key, value)
    assert len(calls) == 1
    torch.testing.assert_close(result[1, 2], fused(query[1:, 2:], key[1:, 2:], value[1:, 2:])[0, 0])
    assert torch.equal(result[0], expected[0]) and torch.equal(result[1, :2], expected[1, :2])


@torch.no_grad()
def test_what_is_not_finite_stays_so() -> None:
    query, key, value = draw(1024), draw(1024, seed=1), draw(1024, seed=2)
    query[0, 0, 5, 0] = float("nan")
    result = attend_long(query, key, value)
    assert bool(result[0, 0, 5].isnan().all()) and bool(result[1].isfinite().all())


def without_matrix_units(monkeypatch: pytest.MonkeyPatch, lacks: bool = True) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not lacks)


def test_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    query = draw(1024)
    with torch.no_grad():
        without_matrix_units(monkeypatch, lacks=False)
        assert not suits(query, query)  # PyTorch's own kernel is twice as fast there
        without_matrix_units(monkeypatch)
        assert suits(query, query) == long_attention.has_fused_kernels(query)
        assert not suits(query[:, :, :1000], query) and not suits(query, query[:, :, :77])
        assert not suits(query.float(), query.float())
    assert not suits(query, query)  # with gradients


@torch.no_grad()
def test_attention_takes_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    without_matrix_units(monkeypatch)
    query, key, value = draw(1024), draw(1024, seed=1), draw(1024, seed=2)
    assert torch.equal(attend(query, key, value), attend_long(query, key, value))
    causal = attend(query, key, value, causal=True)
    torch.testing.assert_close(causal, F.scaled_dot_product_attention(query, key, value, is_causal=True))
