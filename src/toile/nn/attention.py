"""Attention between pixels, and between pixels and words.

Shapes: B batch, N pixels (tokens of the picture), L words, C channels, M width of the words, K heads.
Parameter names are those of diffusers (`to_q`, `to_out.0`, `ff.net.0.proj`, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from toile.nn.layers import GatedLinear, GroupNorm, Linear, PixelLinear, linear_together
from toile.nn.long_attention import attend_long, suits

_LONGEST_WRITTEN_OUT_ROW = 1024


def attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, eq. 1).

    Args:
        query: (B, K, N, d).
        key, value: (B, K, L, d).
        causal: row n sees keys 0..n only.

    Returns:
        (B, K, N, d).
    """
    in_training = torch.is_grad_enabled() and query.device.type == "cpu"
    if not causal and suits(query, key):
        return attend_long(query, key, value)
    if not in_training or key.shape[-2] > _LONGEST_WRITTEN_OUT_ROW:
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    # Backwards, the fused kernel of CPUs takes 2 to 5 times as long as these products for rows of 20 to 320 tokens.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    return scores.softmax(-1).to(value.dtype) @ value


def probabilities(query: Tensor, key: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) of queries (B, K, N, d) and keys (B, K, L, d): (B, K, N, L) float32, rows sum to 1."""
    return ((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)).float().softmax(-1)


class Attention(nn.Module):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, sec. 3.2).

    Args:
        dim: C, width of the queries and of the result; divisible by `num_heads`.
        cond_dim: M, width of what is attended to; `None` for self-attention.
        num_heads: K.

    Attributes:
        edit: looks at the probabilities (B, K, N, L), float32, and returns those that are used instead; None for none.
        recall: given what computes the values as the heads mix them, (B, N, C) before the last layer, returns those
            that are used; None for none.
    """

    edit: Callable[[Tensor], Tensor] | None = None
    recall: Callable[[Callable[[], Tensor]], Tensor] | None = None

    def __init__(self, dim: int, cond_dim: int | None, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self._of_words = WeakTensorKeyDictionary()  # forgets keys and values with the words they are of
        source_dim = dim if cond_dim is None else cond_dim
        self.to_q = Linear(dim, dim, bias=False)
        self.to_k = Linear(source_dim, dim, bias=False)
        self.to_v = Linear(source_dim, dim, bias=False)
        # A list of one, because diffusers keeps a dropout at index 1.
        self.to_out = nn.ModuleList([Linear(dim, dim)])

    def forward(self, tokens: Tensor, cond: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
        """Mixes what the queries look for.

        Args:
            tokens: (B, N, C) queries.
            cond: (B, L, M) words; or (B, 2, L, M), the words as keys and as values, which differ where words are
                weighted; or `None` for the tokens themselves.
            plus: (B, N, C), what the result is added to.

        Returns:
            (B, N, C).
        """
        if self.recall is None:
            mixed = self._mixed(tokens, cond)
        else:
            mixed = self.recall(lambda: self._mixed(tokens, cond))
        return self.to_out[0](mixed, plus)

    def _mixed(self, tokens: Tensor, cond: Tensor | None) -> Tensor:
        if cond is None:
            query, key, value = linear_together([self.to_q, self.to_k, self.to_v], tokens)
        else:
            query, (key, value) = self.to_q(tokens), self._keys_and_values(cond)
        query, key, value = self._heads(query), self._heads(key), self._heads(value)
        if self.edit is None:
            mixed = attend(query, key, value)
        else:
            mixed = self.edit(probabilities(query, key)).to(value.dtype) @ value
        return mixed.transpose(1, 2).flatten(2)

    def _keys_and_values(self, cond: Tensor) -> Sequence[Tensor]:
        """Of words; computed once for all steps of a picture, which come with the same tensor of words."""
        weights = [*self.to_k.parameters(), *self.to_v.parameters()]
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or any(weight.is_inference() for weight in weights):
            return self._fresh_keys_and_values(cond)
        mark = [(weight.data_ptr(), weight._version) for weight in weights]  # a version counts the changes in place
        known = self._of_words.get(cond)
        if known is None or known[0] != mark:
            known = self._of_words[cond] = mark, self._fresh_keys_and_values(cond)
        return known[1]

    def _fresh_keys_and_values(self, cond: Tensor) -> Sequence[Tensor]:
        if cond.ndim == 3:
            return linear_together([self.to_k, self.to_v], cond)
        return self.to_k(cond[:, 0].contiguous()), self.to_v(cond[:, 1].contiguous())

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_of_words"}

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__({**state, "_of_words": WeakTensorKeyDictionary()})  # weak references cannot be pickled

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, L, C) -> (B, K, L, C / K)


class GEGLU(nn.Module):
    """The first layer of a feed-forward part; a module of its own for its name's sake: (..., in) -> (..., out)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = GatedLinear(in_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class FeedForward(nn.Module):
    """GEGLU to four times the width, and back."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # Index 1 is a dropout in diffusers; an Identity keeps the names.
        self.net = nn.ModuleList([GEGLU(dim, 4 * dim), nn.Identity(), Linear(4 * dim, dim)])

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        return self.net[2](self.net[0](x), plus)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the words, feed-forward; each normalised first and added back."""

    def __init__(self, dim: int, cond_dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, None, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, cond_dim, num_heads)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, tokens: Tensor, cond: Tensor) -> Tensor:
        """(B, N, C) and words of G B rows -> (G B, N, C)."""
        tokens = self.attn1(self.norm1(tokens), plus=tokens)
        tokens = repeat_rows(tokens, len(cond))
        tokens = self.attn2(self.norm2(tokens), cond, plus=tokens)
        return self.ff(self.norm3(tokens), plus=tokens)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map (Rombach et al. 2022, appendix E.2.1).

    Args:
        dim: C, channels of the feature map.
        cond_dim: M, width of the words.
        num_heads: K.
        num_layers: transformer blocks.
        linear_projection: the two outer projections are linear layers (SD 2.x) instead of 1x1 convolutions (SD 1.x);
            they compute the same, only the shape of the weights differs.
    """

    def __init__(
        self, dim: int, cond_dim: int, num_heads: int, num_layers: int = 1, *, num_groups: int, linear_projection: bool
    ) -> None:
        super().__init__()
        self.norm = GroupNorm(num_groups, dim, eps=1e-6)
        projection = Linear if linear_projection else PixelLinear
        self.proj_in = projection(dim, dim)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(dim, cond_dim, num_heads) for _ in range(num_layers))
        self.proj_out = projection(dim, dim)

    def forward(self, features: Tensor, cond: Tensor) -> Tensor:
        """(B, C, H, W), words of G B rows as `Attention` takes them -> (G B, C, H, W)."""
        tokens = self.proj_in(pixels_to_tokens(self.norm(features)))
        for block in self.transformer_blocks:
            tokens = block(tokens, cond)
        tokens = self.proj_out(tokens, plus=pixels_to_tokens(repeat_rows(features, len(tokens))))
        return tokens_to_pixels(tokens, features.shape[-2], features.shape[-1])


def repeat_rows(x: Tensor, rows: int) -> Tensor:
    """A batch again and again until it has so many rows: (B, ...) -> (rows, ...), for rows a multiple of B."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


def pixels_to_tokens(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C); free of copies when the features are channels_last."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def tokens_to_pixels(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W) in channels_last memory."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


class SpatialSelfAttention(nn.Module):
    """The autoencoder's single attention over pixels: GroupNorm, self-attention with biases, residual."""

    def __init__(self, dim: int, num_groups: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.group_norm = GroupNorm(num_groups, dim, eps=eps)
        self.to_q = Linear(dim, dim)
        self.to_k = Linear(dim, dim)
        self.to_v = Linear(dim, dim)
        self.to_out = nn.ModuleList([Linear(dim, dim)])

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        tokens = pixels_to_tokens(self.group_norm(features))
        query, key, value = (layer(tokens)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        mixed = attend(query, key, value).squeeze(1)
        mixed = self.to_out[0](mixed, plus=pixels_to_tokens(features))
        return tokens_to_pixels(mixed, features.shape[-2], features.shape[-1])
