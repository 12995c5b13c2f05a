"""Attention over long rows in bfloat16 on CPUs without matrix units, in which the softmax is part of the products.

On such CPUs a fused attention kernel spends most of its time on exponentials: it goes over the scores several times.
(With matrix units, AMX, PyTorch has another kernel, which takes half of the time of what is here.) Here nothing goes
over them. Far below zero the logistic function is the exponential, `1 / (1 + e^-s) = e^s (1 - e^s + ...)`,
and oneDNN can apply it to the result of a matrix product while that is still in registers. So every row of scores is
shifted below zero within the product itself, by one more column of queries and keys, and its sum comes out of the
second product, by one more column of values. The shift is the same for a whole row and cancels in the quotient.

Shapes: B batch, K heads, N queries, L keys, d width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from toile.nn.layers import has_fused_kernels

_SHORTEST_ROW = 1024  # below, the fused kernel is as fast
_MARGIN = 8.0  # the logistic function is the exponential to a part in e^8 = 2,981; bfloat16 rounds to one in 256
_LARGEST_SHIFT = 60.0  # e^-(60 + 8) leaves e^19 above the smallest number of bfloat16 for the rest of the row
_ROWS_AT_ONCE = 1024  # so that their scores stay in the cache
_COLUMNS = 16  # matrices get a multiple of so many columns, which kernels like best


def suits(query: Tensor, key: Tensor) -> bool:
    """Whether `attend_long` can be used, and is worth it: long rows in bfloat16, no gradients, a CPU without AMX."""
    return (
        query.dtype == torch.bfloat16
        and not torch.cpu._is_amx_tile_supported()
        and min(query.shape[-2], key.shape[-2]) >= _SHORTEST_ROW
        and has_fused_kernels(query)
    )


def attend_long(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, rounded as bfloat16 rounds.

    Keys are centred first, which changes no softmax. Then a row's scores have mean 0, so its largest is at least 0 and
    at most `|q| max |k|` (Cauchy-Schwarz), which is the shift. Heads in which a shift is larger than what bfloat16 can
    hold go through the fused kernel.

    Args:
        query: (B, K, N, d) bfloat16.
        key, value: (B, K, L, d).

    Returns:
        (B, K, N, d), in memory (B, N, K, d).
    """
    batch, heads, count, width = query.shape
    centred = key.float()
    centred = (centred - centred.mean(-2, keepdim=True)) * width**-0.5
    shift = query.float().norm(dim=-1) * centred.norm(dim=-1).amax(-1, keepdim=True)  # (B, K, N)
    fits = (shift.amax(-1) <= _LARGEST_SHIFT).tolist()  # false for what is not finite
    queries = _with_column(query, -(shift + _MARGIN).to(query.dtype))
    keys = _with_column(centred.to(query.dtype), key.new_ones(key.shape[:-1]))
    values = _with_column(value, value.new_ones(value.shape[:-1])).transpose(-1, -2).contiguous()
    result = query.new_empty(batch, count, heads, width).transpose(1, 2)
    for image in range(batch):
        for head in range(heads):
            place = image, head
            if fits[image][head]:
                _one_head(queries[place], keys[place], values[place], result[place])
            else:
                one_head = query[place][None, None], key[place][None, None], value[place][None, None]
                result[place] = F.scaled_dot_product_attention(*one_head)[0, 0]
    return result


def _one_head(queries: Tensor, keys: Tensor, values: Tensor, result: Tensor) -> None:
    product, width = torch.ops.mkldnn._linear_pointwise, result.shape[-1]
    for rows, into in zip(queries.split(_ROWS_AT_ONCE), result.split(_ROWS_AT_ONCE), strict=True):
        parts = product(rows, keys, None, "sigmoid", [], "none")  # (rows, L), e^(score - shift)
        sums = product(parts, values, None, "none", [], "none")  # (rows, d + 1 + padding)
        torch.div(sums[:, :width], sums[:, width : width + 1], out=into)


def _with_column(x: Tensor, column: Tensor) -> Tensor:
    """(..., d) and (...) -> (..., d + 1 and zeros up to a multiple of `_COLUMNS`), contiguous."""
    padding = -(x.shape[-1] + 1) % _COLUMNS
    return F.pad(torch.cat([x, column[..., None]], dim=-1), (0, padding))
