"""What the weight of a word does: two meanings, from which the setting `word_weights` chooses.

- "embedding": the word's text states are multiplied by its weight, and the row is brought back to its former mean: the
  A1111 web UI's "original" emphasis. It acts on what the U-Net looks for and on what it finds, and on all other words a
  little, through the mean.
- "attention": the word's part in every cross-attention is multiplied by its weight: `sum_j w_j p_j v_j`, with p the
  softmax's probabilities, not normalised again (attention re-weighting of Hertz et al. 2022, sec. 3.2). Where the
  picture looks stays as it is; a weight of 0 takes what the word brings, a negative one brings its opposite.

Shapes: B prompts, L tokens of all their rows, R rows, D width of the text states.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD_WEIGHTS = ("embedding", "attention")
_LARGEST_FACTOR = 10.0  # a share of the mean below a tenth is as good as none


def weigh_states(states: Tensor, weights: Tensor) -> Tensor:
    """The meaning "embedding".

    The mean is over one row of one prompt, so that other prompts and rows do not matter. If the tokens' means have one
    sign, as in the encoders the A1111 web UI was made for, the weighted mean is the former times an average of the
    weights, and dividing by that average brings it back. In other encoders means cancel and their quotient says
    nothing: where it lies outside the weights' range, is negative or below a tenth, the row keeps the mean it has.

    Args:
        states: (B, R, L, D).
        weights: (B, R, L).

    Returns:
        (B, R, L, D) of the dtype of states; rows whose weights are all 1 are unchanged bit for bit.
    """
    before = states.float()
    weights = weights.to(states.device, torch.float32)[..., None]
    weighted = before * weights
    factor = before.mean(dim=(-2, -1), keepdim=True) / weighted.mean(dim=(-2, -1), keepdim=True)
    lowest, highest = weights.amin(dim=-2, keepdim=True), weights.amax(dim=-2, keepdim=True)
    in_range = (factor * lowest <= 1) & (factor * highest >= 1)
    usable = (factor > 0) & (factor <= _LARGEST_FACTOR) & in_range  # all false for NaN
    return (weighted * factor.where(usable, torch.ones_like(factor))).to(states.dtype)


def weigh_values(states: Tensor, weights: Tensor) -> Tensor:
    """The meaning "attention": states for keys and states for values.

    Values are a linear function of states, without bias, so V(w s) = w V(s).

    Args:
        states: (B, L, D).
        weights: (B, L).

    Returns:
        (B, 2, L, D): the states, and the states times their weights.
    """
    weighted = states.float() * weights.to(states.device, torch.float32)[..., None]
    return torch.stack([states, weighted.to(states.dtype)], dim=1)
