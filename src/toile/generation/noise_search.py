"""Choosing the noise that sampling begins with: of several, the one in which every word of the prompt finds a place.

How strongly words take hold of a picture is seen in cross-attention at the very first step (Guo et al. 2024, "InitNO",
eq. 4: the response of the word that is answered least). Here the noise is not optimised but chosen, which needs no
gradients and leaves it exactly normal for each candidate.

Shapes: K candidates, C x h x w latents, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toile.diffusion.denoiser import DenoiserLike
from toile.generation.attention_control import EditedAttention
from toile.generation.word_maps import WordMaps
from toile.text.rows import PromptTokens

_FIRST_CANDIDATE = 2**17  # number of its draw of noise, beyond those of all steps of both passes
_SMALL_WORDS = frozenset("a an and at by for from in of on or the to with".split())


def candidate_draw(candidate: int) -> int:
    """Number of the draw of noise for a candidate: the first is the picture's own, draw 0."""
    return 0 if candidate == 0 else _FIRST_CANDIDATE + candidate


def best_candidate(
    denoiser: DenoiserLike,
    network: nn.Module,
    candidates: Tensor,
    sigma: Tensor,
    cond: Tensor,
    tokens: PromptTokens,
) -> int:
    """Which of several starts answers the prompt best.

    Args:
        denoiser: without guidance.
        network: the U-Net inside it.
        candidates: (K, C, h, w), noisy latents at `sigma`.
        sigma: the first noise level.
        cond: (1, L, D) or (1, 2, L, D) text states of the prompt.
        tokens: of the prompt.

    Returns:
        0 to K - 1; 0 for a prompt without words that name anything.
    """
    words = [
        word.positions for word in tokens.words if word.text.casefold() not in _SMALL_WORDS and word.text.isalnum()
    ]
    if not words:
        return 0
    maps = WordMaps(len(candidates), (candidates.shape[-2], candidates.shape[-1]))
    EditedAttention(denoiser, network, maps)(candidates, sigma, cond.expand(len(candidates), *cond.shape[1:]))
    return int(response(maps.maps(), words).argmax())


def response(maps: Tensor, words: list[tuple[int, ...]]) -> Tensor:
    """How well the least answered word is answered: (K, L, h, w) -> (K,).

    A word's answer is its attention at the place that looks at it most.
    """
    answers = [maps[:, list(positions)].sum(1).flatten(1).amax(1) for positions in words]
    return torch.stack(answers).amin(0)
