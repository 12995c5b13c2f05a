"""Learned words (textual inversion): files found by name or path, which give a model words of its own."""

from __future__ import annotations

from collections.abc import Sequence

from toile.add_ons import AddOns
from toile.latent_diffusion import LatentDiffusion
from toile.weights.embedding_file import read_embedding

EMBEDDINGS = AddOns("embedding", "TOILE_EMBEDDINGS", "embeddings")


def with_embeddings(model: LatentDiffusion, sources: Sequence[str]) -> LatentDiffusion:
    """The same model, weights shared, whose prompts may hold the words of these files.

    Args:
        model: as `LatentDiffusion.load` gives it; the words that it has already are left out.
        sources: names in the folder of embeddings, or paths.

    Raises:
        ToileError: a file is not there, is damaged, or is for text encoders of another width; two have one word.
    """
    return model.with_embeddings([read_embedding(EMBEDDINGS.find(source)) for source in sources])
