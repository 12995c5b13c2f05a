"""Prompt-to-prompt editing (Hertz et al. 2022): the picture of a changed prompt keeps the layout of the original's.

Original and edited picture are made together, from the same noise. For a share of the steps the edited one looks where
the original looks: its cross-attention is the original's, word by word as the two prompts align, and its attention
among positions is the original's too.

Shapes: B = 2 P rows, original and edited of each of P pairs one after the other; K heads, N positions, L tokens.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toile.diffusion.denoiser import DenoiserLike
from toile.diffusion.schedule import steps_done
from toile.errors import ToileError
from toile.generation.attention_control import AttentionPlace, attention_edited
from toile.text.rows import PromptTokens, PromptWord


@dataclass(frozen=True)
class EditShares:
    """For which share of the steps, from the first on, the original leads.

    Attributes:
        cross: where words act, 0 to 1; less lets new words change shapes.
        self: which positions belong together, 0 to 1; more keeps the outline.

    Raises:
        ToileError: a share outside 0 to 1.
    """

    cross: float = 0.8
    self: float = 0.4

    def __post_init__(self) -> None:
        for name, share in (("cross", self.cross), ("self", self.self)):
            if not 0 <= share <= 1:
                raise ToileError(f"the share of {name}-attention is {share!r}; allowed: 0 to 1")


@dataclass(frozen=True, eq=False)
class Alignment:
    """How the tokens of an edited prompt follow those of the original.

    Attributes:
        matrix: (L, L) float32; column j says what token j gets of the original's attention to each token.
        own: (L,) float32; 1 where a token is new and keeps its own attention, else 0.
    """

    matrix: Tensor
    own: Tensor

    def applied(self, original: Tensor, edited: Tensor) -> Tensor:
        """Probabilities (..., L) of both -> (..., L) to be used for the edited picture."""
        matrix, own = self.matrix.to(original), self.own.to(original)
        return original @ matrix + edited * own


def align(original: PromptTokens, edited: PromptTokens, num_rows: int) -> Alignment:
    """Aligns two prompts: equal words with each other, replaced words with what replaces them, new words with nothing.

    Of words that are replaced by words of another number of tokens, all tokens share all the attention (sec. 3.2).

    Args:
        original, edited: the two prompts.
        num_rows: R, rows of both after padding; L = R times the length of a row.
    """
    row = original.ids.shape[1]
    matrix, own = torch.zeros(num_rows * row, num_rows * row), torch.zeros(num_rows * row)
    before, after = ([word.text.casefold() for word in prompt.words] for prompt in (original, edited))
    for kind, i, i_end, j, j_end in difflib.SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        sources, targets = original.words[i:i_end], edited.words[j:j_end]
        if kind == "insert":
            own[_positions(targets)] = 1
        elif kind != "delete":
            _match(matrix, sources, targets)
    for number in range(num_rows):
        _match_frame(matrix, original, edited, number, row)
    return Alignment(matrix, own)


class PromptToPrompt:
    """A denoiser of pairs: the edited picture of each looks where the original of its pair looks.

    Args:
        denoiser: the denoiser to wrap, with or without guidance; of a doubled batch the last B rows are edited.
        network: the U-Net inside it.
        alignments: of the P pairs.
        sigmas: (N + 1,) the noise levels of the run, which tell how far it is.
        shares: of the steps in which the original leads.
    """

    def __init__(
        self,
        denoiser: DenoiserLike,
        network: nn.Module,
        alignments: Sequence[Alignment],
        sigmas: Tensor,
        shares: EditShares,
    ) -> None:
        self.denoiser = denoiser
        self.network = network
        self.alignments = alignments
        self.sigmas = sigmas
        self.shares = shares

    @property
    def prediction_type(self) -> str:
        """What the network inside predicts: "epsilon" or "v_prediction"."""
        return self.denoiser.prediction_type

    def __call__(self, x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor:
        """Estimates the clean latents (2 P, C, h, w) of pairs."""
        done = steps_done(self.sigmas, sigma) / (len(self.sigmas) - 1)
        leads = {True: done < self.shares.cross, False: done < self.shares.self}
        if not any(leads.values()):
            return self.denoiser(x, sigma, cond)

        def edit(place: AttentionPlace, probabilities: Tensor) -> Tensor:
            return self._edited(place, probabilities) if leads[place.is_cross] else probabilities

        with attention_edited(self.network, edit):
            return self.denoiser(x, sigma, cond)

    def _edited(self, place: AttentionPlace, probabilities: Tensor) -> Tensor:
        rows = 2 * len(self.alignments)
        result = probabilities.clone()
        pairs = result[-rows:]
        for pair, alignment in enumerate(self.alignments):
            original, edited = pairs[2 * pair], pairs[2 * pair + 1]
            edited.copy_(alignment.applied(original, edited) if place.is_cross else original)
        return result


def _positions(words: Sequence[PromptWord]) -> list[int]:
    return [position for word in words for position in word.positions]


def _match(matrix: Tensor, sources: Sequence[PromptWord], targets: Sequence[PromptWord]) -> None:
    """Attention to the sources goes to the targets: one to one if they are as many, else shared."""
    if len(sources) == len(targets) > 1:
        for source, target in zip(sources, targets, strict=True):
            _match(matrix, [source], [target])
        return
    start, end = _positions(sources), _positions(targets)
    if len(start) == len(end):
        matrix[start, end] = 1
    else:
        for position in end:
            matrix[start, position] = 1 / len(end)


def _match_frame(matrix: Tensor, original: PromptTokens, edited: PromptTokens, number: int, length: int) -> None:
    """A row's start with the other's, and its end and padding, which hold what the words left, with the other's."""
    first, used = number * length, []
    for prompt in (original, edited):
        in_row = [p - first for word in prompt.words for p in word.positions if first <= p < first + length]
        used.append(max(in_row, default=0) + 1)
    matrix[first, first] = 1
    after_original, after_edited = (list(range(first + count, first + length)) for count in used)
    for index, position in enumerate(after_original):
        matrix[position, after_edited[min(index, len(after_edited) - 1)]] = 1
