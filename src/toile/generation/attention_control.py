"""Looking into a U-Net's attention while it works, and changing it: what word maps and prompt-to-prompt stand on.

Shapes: B rows, K heads, N positions of a feature map, L tokens (of the words, or the positions themselves).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from toile.diffusion.denoiser import DenoiserLike
from toile.nn.attention import Attention, TransformerBlock


@dataclass(frozen=True)
class AttentionPlace:
    """One attention of a U-Net.

    Attributes:
        name: of the module, as in its weights.
        is_cross: from positions to words, rather than among positions.
    """

    name: str
    is_cross: bool


Edit = Callable[[AttentionPlace, Tensor], Tensor]
"""Takes probabilities (B, K, N, L) float32 and returns those to be used, of the same shape."""


Recall = Callable[[AttentionPlace, Callable[[], Tensor]], Tensor]
"""Given what computes the values as the heads mix them, (B, N, C), returns those to be used, of the same width."""


def attention_edited(network: nn.Module, edit: Edit) -> contextlib.AbstractContextManager[None]:
    """While it is open, every attention of the network's transformers asks `edit` for its probabilities."""
    return _hooked(attentions_of(network), "edit", edit)


def cross_attention_recalled(network: nn.Module, recall: Recall) -> contextlib.AbstractContextManager[None]:
    """While it is open, every attention to words asks `recall` for what it has mixed."""
    cross = {place: attention for place, attention in attentions_of(network).items() if place.is_cross}
    return _hooked(cross, "recall", recall)


def attentions_of(network: nn.Module) -> dict[AttentionPlace, Attention]:
    """The attentions of a network's transformers, in the order of its layers."""
    return {
        AttentionPlace(f"{name}.{child}", is_cross): getattr(module, child)
        for name, module in network.named_modules()
        if isinstance(module, TransformerBlock)
        for child, is_cross in (("attn1", False), ("attn2", True))
    }


@contextlib.contextmanager
def _hooked(
    attentions: dict[AttentionPlace, Attention], hook: Literal["edit", "recall"], called: Callable[..., Any]
) -> Iterator[None]:
    for place, attention in attentions.items():
        setattr(attention, hook, partial(called, place))
    try:
        yield
    finally:
        for attention in attentions.values():
            setattr(attention, hook, None)


class EditedAttention:
    """A denoiser whose network's attention is edited at every call.

    Args:
        denoiser: the denoiser to wrap, usually with guidance.
        network: the U-Net inside it.
        edit: see `Edit`; told of no step, so it counts calls itself if it must.
    """

    def __init__(self, denoiser: DenoiserLike, network: nn.Module, edit: Edit) -> None:
        self.denoiser = denoiser
        self.network = network
        self.edit = edit

    @property
    def prediction_type(self) -> str:
        """What the network inside predicts: "epsilon" or "v_prediction"."""
        return self.denoiser.prediction_type

    def __call__(self, x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor:
        """Estimates the clean latents; the shapes are the wrapped denoiser's."""
        with attention_edited(self.network, self.edit):
            return self.denoiser(x, sigma, cond)
