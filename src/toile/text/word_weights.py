"""What the weight of a word does: two meanings, from which the setting `word_weights` chooses.

- "embedding": the word's text states are multiplied by its weight, and the row is brought back to its former mean: the
  A1111 web UI's "original" emphasis, from 0 on. It acts on what the U-Net looks for and on what it finds, and on all
  other words a little, through the mean.
- "attention": what the word brings to every cross-attention is multiplied by its weight, and where the picture looks
  stays as it is (attention re-weighting of Hertz et al. 2022, sec. 3.2). There, `sum_j w_j p_j v_j`, with p the
  softmax's probabilities, not normalised again: a word brings its own value. But a text encoder is causal, so the
  tokens after a word hold it too, the ends of a row most of all, and weighing its own value alone changes little. What
  it brings to them is what they lack when they are encoded with the word hidden from them.

Shapes: B prompts, R rows, L tokens of a row, D width of the text states.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WORD_WEIGHTS = ("embedding", "attention")
LATER_SHARE = 0.4  # chosen by benchmarks/word_weights.py: with more, weights change the article too
_LARGEST_FACTOR = 10.0  # a share of the mean below a tenth is as good as none


EncodeWithout = Callable[[Tensor], Tensor]
"""Encodes the same prompts with some tokens hidden from all others: (B, R, L) bool -> (B, R, L, D)."""


def weigh_states(states: Tensor, weights: Tensor, encode_without: EncodeWithout) -> Tensor:
    """The meaning "embedding".

    The mean is over one row of one prompt, so that other prompts and rows do not matter. If the tokens' means have one
    sign, as in the encoders the A1111 web UI was made for, the weighted mean is the former times an average of the
    weights, and dividing by that average brings it back. In other encoders means cancel and their quotient says
    nothing: where it lies outside the weights' range, is negative or below a tenth, the row keeps the mean it has.

    Below 0 the web UI's meaning has nothing more to take away. There, what the word brings is taken from the states of
    weight 0, as in "attention": continuous at 0, and going on in the same direction.

    Args:
        states: (B, R, L, D).
        weights: (B, R, L).

    Returns:
        (B, R, L, D) of the dtype of states; rows whose weights are all 1 are unchanged bit for bit.
    """
    before = states.float()
    shares = weights.clamp(min=0)[..., None]
    weighted = before * shares
    factor = before.mean(dim=(-2, -1), keepdim=True) / weighted.mean(dim=(-2, -1), keepdim=True)
    lowest, highest = shares.amin(dim=-2, keepdim=True), shares.amax(dim=-2, keepdim=True)
    in_range = (factor * lowest <= 1) & (factor * highest >= 1)
    usable = (factor > 0) & (factor <= _LARGEST_FACTOR) & in_range  # all false for NaN
    weighted = weighted * factor.where(usable, torch.ones_like(factor))
    return _with_more(weighted, weights.clamp(max=0), states, encode_without).to(states.dtype)


def weigh_values(states: Tensor, weights: Tensor, encode_without: EncodeWithout) -> Tensor:
    """The meaning "attention": states for keys and states for values.

    Values are a linear function of states, without bias, so states are weighed in their place: a token's become
    `states + (w - 1) * brought`, summed over all words.

    Args:
        states: (B, R, L, D).
        weights: (B, R, L).

    Returns:
        (B, 2, R, L, D) of the dtype of states; both are the states bit for bit where all weights are 1.
    """
    values = _with_more(states.float(), weights - 1, states, encode_without)
    return torch.stack([states, values.to(states.dtype)], dim=1)


def brought(states: Tensor, without: Tensor, hidden: Tensor) -> Tensor:
    """What words bring to every token: their states to their own, `LATER_SHARE` of the difference to later ones.

    Args:
        states: (B, R, L, D).
        without: (B, R, L, D), encoded with the words hidden from all other tokens.
        hidden: (B, R, L) bool, the words' tokens.

    Returns:
        (B, R, L, D) float32; 0 for tokens before the first hidden one of a row, which know nothing of it.
    """
    later = (hidden.cumsum(-1) > 0)[..., None]
    difference = LATER_SHARE * (states.float() - without.float()) * later
    return torch.where(hidden[..., None], states.float(), difference)


def _with_more(base: Tensor, amounts: Tensor, states: Tensor, encode_without: EncodeWithout) -> Tensor:
    """Adds what words bring, times an amount (B, R, L) for each token; words of one amount are hidden together."""
    for amount in amounts[amounts != 0].unique().tolist():
        hidden = amounts == amount
        base = base + amount * brought(states, encode_without(hidden), hidden)
    return base
