"""Prompts as the U-Net reads them, and what they must have in common to pass it together.

Shapes: B prompts, R rows of L tokens each, D width of text states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from toile.text.rows import PromptTokens


@dataclass(frozen=True)
class PromptForm:
    """What prompts must have in common to pass the U-Net together; those of one form do not change each other.

    Attributes:
        num_rows: R, rows of tokens; prompts that need fewer are padded with rows of the empty prompt.
        has_values: whether keys and values of cross-attention have states of their own.
    """

    num_rows: int
    has_values: bool


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Prompts as the U-Net reads them.

    Attributes:
        states: (B, R * L, D), or (B, 2, R * L, D) with states for keys and for values, in the model's dtype and on its
            device.
        cut: for each prompt the end that did not fit into `MAX_ROWS` rows; "" if all of it did.
        tokens: of each prompt, before padding to R rows.
    """

    states: Tensor
    cut: tuple[str, ...]
    tokens: tuple[PromptTokens, ...]


def form_together(prompts: Sequence[PromptTokens], word_weights: str) -> PromptForm:
    """The form of prompts that pass the U-Net together: as many rows as the longest needs, values if any needs them."""
    has_values = word_weights == "attention" and any(prompt.is_weighted for prompt in prompts)
    return PromptForm(max(prompt.num_rows for prompt in prompts), has_values)
