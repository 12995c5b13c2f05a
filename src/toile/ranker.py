"""Whether pictures show what a prompt says: classifiers of attributes, asked for those that it names.

To make several pictures and keep what another network likes best is the rejection sampling of Razavi et al. 2019
("VQ-VAE-2") and the reranking of Ramesh et al. 2021 ("DALL-E"). Latents are looked at, not pictures: to lead a sampler,
gradients then need not come back through the autoencoder's decoder, which takes several times as long as all else.
Shapes: B pictures, C x h x w their scaled latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from toile.errors import ToileError
from toile.models.classifier import (
    ARTICLE_TYPE,
    BASE_COLOUR,
    FIELDS,
    AttributeClassifier,
    AttributeClassifierConfig,
    AttributeLabels,
)
from toile.text.reader import PromptReader
from toile.text.word_tables import WordTables
from toile.weights.folder import load_component
from toile.weights.mapping import FLOAT32_ON_CPU, Placement

# Where a reading says what an attribute is; the article's type is that of its counts. Usage is not asked for: it is
# seen by the article, if at all, and classifiers that look for it miss what matters more (docs/runs.md).
_SLOTS: Mapping[str, str] = {BASE_COLOUR: "colour", "gender": "people", "pattern": "pattern"}


Wanted = Mapping[str, tuple[int, ...]]
"""For each attribute that a prompt names, which of the classifier's outputs are right, any of them."""


@dataclass(frozen=True, eq=False)
class Ranker:
    """Looks at latents with classifiers that learnt from the pictures the model learnt from, and that judge nothing
    else. Several, which differ in the seed of their training, are surer together (Lakshminarayanan et al. 2017, "Deep
    ensembles"): what only one of them sees does not count for much.

    Attributes:
        classifiers: name attributes of pictures by their latents, in the terms of a catalogue; all tell the same labels
            apart.
        reader: finds them in prompts, and knows what captions say for a term.

    Raises:
        ToileError: classifiers of different labels, or of latents of different depth.
    """

    classifiers: tuple[AttributeClassifier, ...]
    reader: PromptReader

    def __post_init__(self) -> None:
        if any(classifier.config.labels != self.labels for classifier in self.classifiers):
            raise ToileError("the classifiers of a ranker must tell the same labels apart; train them on the same data")
        if len({classifier.config.in_channels for classifier in self.classifiers}) > 1:
            raise ToileError("the classifiers of a ranker must look at the latents of one autoencoder")

    @classmethod
    def load(cls, folders: Sequence[Path], reader: PromptReader, placement: Placement = FLOAT32_ON_CPU) -> Ranker:
        """Reads folders of classifiers (config.json and weights), in bfloat16 where that is asked for, else in float32:
        what is not among the largest of the gradients would be too small for float16.

        Raises:
            ToileError: a part is missing, damaged or does not fit.
        """
        dtype = torch.bfloat16 if placement.dtype == torch.bfloat16 else torch.float32
        placement = replace(placement, dtype=dtype)
        read = [load_component(path, AttributeClassifier, AttributeClassifierConfig, placement) for path in folders]
        return cls(tuple(classifier.eval().requires_grad_(False) for classifier in read), reader)

    @property
    def labels(self) -> AttributeLabels:
        """What the classifiers tell apart."""
        return self.classifiers[0].config.labels

    @property
    def dtype(self) -> torch.dtype:
        """Of the classifiers."""
        return self.classifiers[0].conv_in.weight.dtype

    def wanted(self, prompt: str) -> Wanted:
        """For each attribute that a prompt names, which of the classifier's outputs are right, any of them."""
        # Only what it says, whatever else stands in it: nothing is drawn, and no word taken for a slip of the pen.
        fields = self.reader.read(prompt, keep_unknown=True).fields
        labels, tables = self.labels, self.reader.tables
        found: dict[str, tuple[int, ...]] = {}
        counts = tables.articles.get(fields.get("article", ""))
        if counts is not None:
            found[ARTICLE_TYPE] = (labels.target(ARTICLE_TYPE, {FIELDS[ARTICLE_TYPE]: counts.kind}),)
        for attribute, slot in _SLOTS.items():
            said = fields.get(slot, "")
            names = [said, *said.split(" and ")]
            right = [number for number, label in enumerate(labels.of(attribute)) if _said(tables, slot, label) in names]
            if said and right:
                found[attribute] = tuple(right)
        return found

    def log_probabilities(self, latents: Tensor, noise: float = 0.0) -> dict[str, Tensor]:
        """What the classifiers say of pictures, together.

        Args:
            latents: (B, C, h, w).
            noise: standard deviation of what is added to them, for each classifier something else, and always the
                same. Gradients through it go along what can be seen, less along traces that only classifiers see
                (Smilkov et al. 2017, "SmoothGrad").

        Returns:
            Of each attribute (B, outputs), the logarithm of the mean of what the classifiers give it.
        """
        device = self.classifiers[0].conv_in.weight.device
        latents = _large_enough(latents.to(device, torch.float32), self.classifiers)
        seen = [latents] * len(self.classifiers)
        if noise:
            seen = [latents + noise * _grain(number, latents) for number in range(len(self.classifiers))]
        found = [
            classifier(looked_at.to(self.dtype, memory_format=torch.channels_last))
            for classifier, looked_at in zip(self.classifiers, seen, strict=True)
        ]
        return {
            attribute: torch.stack([outputs[attribute].float().log_softmax(1) for outputs in found]).logsumexp(0)
            - math.log(len(found))
            for attribute in self.labels.attributes
        }

    @staticmethod
    def answers(log_probabilities: Mapping[str, Tensor], wanted: Sequence[Wanted]) -> Tensor:
        """How surely each of B pictures shows all that is wanted of it.

        Args:
            log_probabilities: of the pictures, as `log_probabilities` gives them.
            wanted: B times what `wanted` gives.

        Returns:
            (B,) logarithm of the probability of all together, as if attributes did not depend on each other; 0 where
            nothing is wanted.
        """
        rows = []
        for row, attributes in enumerate(wanted):
            found = [log_probabilities[name][row, list(right)].logsumexp(0) for name, right in attributes.items()]
            rows.append(torch.stack(found).sum() if found else next(iter(log_probabilities.values())).new_zeros(()))
        return torch.stack(rows)

    @torch.inference_mode()
    def scores(self, latents: Tensor, prompt: str) -> Tensor:
        """How surely pictures show all that a prompt says.

        Args:
            latents: (B, C, h, w).
            prompt: in words that the reader knows.

        Returns:
            (B,) float32, the least probability of the attributes it names; 1 where it names none that the classifier
            knows.
        """
        wanted = self.wanted(prompt)
        if not wanted:
            return torch.ones(len(latents))
        found = self.log_probabilities(latents)
        return torch.stack([found[name].exp()[:, list(right)].sum(1) for name, right in wanted.items()]).amin(0)


def _large_enough(latents: Tensor, classifiers: Sequence[AttributeClassifier]) -> Tensor:
    """Latents (B, C, h, w), with their edges repeated if they are too small for the classifiers' levels."""
    configs = [classifier.config for classifier in classifiers]
    least = max(config.conv_in_stride * 2 ** (len(config.block_out_channels) - 1) for config in configs)
    height, width = latents.shape[-2:]
    missing = (0, max(0, least - width), 0, max(0, least - height))
    return F.pad(latents, missing, mode="replicate") if any(missing) else latents


def _grain(number: int, latents: Tensor) -> Tensor:
    """(C, h, w), the same for all latents of one size."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(latents.shape[1:], generator=generator).to(latents.device)


def _said(tables: WordTables, slot: str, label: str) -> str:
    """What captions say for a label of the catalogue."""
    phrase = " ".join(label.lower().replace("-", " ").split())
    return tables.meanings.get(slot, {}).get(phrase, (phrase,))[0]
