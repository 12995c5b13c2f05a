"""Choosing the noise that sampling begins with: of several, the one whose picture answers the prompt best.

Where a model has a ranker, it looks at a sketch of each, made in few steps: the picture that the full number of steps
makes of the same noise shows the same, nearly always. The first that is good enough is taken, so that most pictures
are what the model would have made anyway, and pictures stay as varied as they are. Else attention tells: how strongly
words take hold of a picture is seen at the very first step (Guo et al. 2024, "InitNO", eq. 4: the response of the word
that is answered least).
Noise is not optimised but chosen, which needs no gradients and leaves it exactly normal for each candidate.

Shapes: K candidates, C x h x w latents, L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from toile.diffusion.denoiser import DenoiserLike
from toile.generation.attention_control import EditedAttention
from toile.generation.word_maps import WordMaps
from toile.generation_settings import GenerationSettings
from toile.text.prompt import Piece, parse_prompt, unparse_prompt
from toile.text.rows import PromptTokens

_FIRST_CANDIDATE = 3 * 2**16  # number of its draw of noise, beyond those of all passes and of the upscaler
_SKETCH_STEPS, _SKETCHES_TOGETHER = 4, 8
_GOOD = 0.5
_SMALL_WORDS = frozenset("a an and at by for from in of on or the to with".split())


def candidate_draw(candidate: int) -> int:
    """Number of the draw of noise for a candidate: the first is the picture's own, draw 0."""
    return 0 if candidate == 0 else _FIRST_CANDIDATE + candidate


def sketch_settings(settings: GenerationSettings) -> GenerationSettings:
    """How a candidate is tried: in few steps, and without guidance, which tells no more and takes twice as long.

    Size and meaning of weights are those of the picture. All else is always the same, so that pictures of one seed
    which differ in their settings begin alike.
    """
    return GenerationSettings(
        settings.width,
        settings.height,
        _SKETCH_STEPS,
        guidance=1.0,
        sampler="unipc",
        spacing="trailing",
        upscale=False,
        word_weights=settings.word_weights,
        safety="off",
        vae_bands=settings.vae_bands,
    )


def tried_together(settings: GenerationSettings) -> int:
    """How many candidates pass the networks at a time, at most; 0 if there is nothing to choose."""
    return 0 if settings.noise_candidates == 1 else min(settings.noise_candidates, _SKETCHES_TOGETHER)


def unweighted(prompt: str, least: float = -math.inf) -> str:
    """A prompt whose words all weigh the same, so that pictures of one seed which differ in weights begin alike;
    without those that weighed less than `least`.
    """
    parts = parse_prompt(prompt)
    if all(piece.weight == 1 for part in parts for piece in part):
        return prompt
    return unparse_prompt([[Piece(piece.text) for piece in part if piece.weight >= least] for part in parts])


def first_good(scores: Callable[[Tensor], Tensor], candidates: Tensor) -> int:
    """The number of the first candidate that shows all that is said more probably than not, or of the likeliest.

    Args:
        scores: (B, C, h, w) noise -> (B,) probabilities; it is given few at a time, and no more than it takes.
        candidates: (K, C, h, w) noise.
    """
    found: list[float] = []
    for some in candidates.split(_SKETCHES_TOGETHER):
        found += scores(some).nan_to_num(-1.0).tolist()
        good = [number for number, score in enumerate(found) if score >= _GOOD]
        if good:
            return good[0]
    return max(range(len(found)), key=found.__getitem__)


def best_answered(
    denoiser: DenoiserLike,
    network: nn.Module,
    candidates: Tensor,
    sigma: Tensor,
    cond: Tensor,
    tokens: PromptTokens,
) -> int:
    """Which of several starts answers the prompt best, by attention.

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
