"""A text encoder with words of its own besides those of its vocabulary (textual inversion, Gal et al. 2022)."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

from toile.errors import ToileError
from toile.models.clip import CLIPTextModel

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def with_words(text_encoder: CLIPTextModel, learned: Tensor | None) -> CLIPTextModel:
    """The same text encoder, weights shared, that also reads the ids from `vocab_size` on.

    Args:
        text_encoder: may have learned words, which are left out.
        learned: (K, D), what the ids stand for; it may be a parameter that learns. None for no such ids.

    Raises:
        ToileError: vectors of another width.
    """
    width = text_encoder.config.hidden_size
    if learned is not None and (learned.ndim != 2 or learned.shape[1] != width):
        raise ToileError(f"learned words of shape {tuple(learned.shape)}: this text encoder has vectors of {width}")
    other = _sharing(text_encoder)
    other.text_model = _sharing(text_encoder.text_model)
    other.text_model.embeddings = embeddings = _sharing(text_encoder.text_model.embeddings)
    embeddings._parameters.pop("learned", None)
    embeddings.learned = learned
    return other


def _sharing(module: ModuleT) -> ModuleT:
    """Another module with the same parts, some of which may be replaced."""
    other = copy.copy(module)
    other._modules, other._parameters = dict(module._modules), dict(module._parameters)
    return other
