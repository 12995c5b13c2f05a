"""Which of several pictures shows best what a prompt says: a classifier of attributes, asked for those that it names.

To make several pictures and keep what another network likes best is the rejection sampling of Razavi et al. 2019
("VQ-VAE-2") and the reranking of Ramesh et al. 2021 ("DALL-E").
Shapes: K pictures, H x W their size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from toile.models.classifier import ARTICLE_TYPE, BASE_COLOUR, FIELDS, AttributeClassifier, AttributeClassifierConfig
from toile.text.reader import PromptReader
from toile.text.word_tables import WordTables
from toile.weights.folder import load_component
from toile.weights.mapping import FLOAT32_ON_CPU, Placement

# Where a reading says what an attribute is; the article's type is that of its counts.
_SLOTS: Mapping[str, str] = {BASE_COLOUR: "colour", "gender": "people", "usage": "usage", "pattern": "pattern"}


@dataclass(frozen=True, eq=False)
class Ranker:
    """Looks at pictures with a classifier that learnt from the pictures the model learnt from, and judges nothing else.

    Attributes:
        classifier: names attributes of pictures, in the terms of a catalogue.
        reader: finds them in prompts, and knows what captions say for a term.
    """

    classifier: AttributeClassifier
    reader: PromptReader

    @classmethod
    def load(cls, folder: Path, reader: PromptReader, placement: Placement = FLOAT32_ON_CPU) -> Ranker:
        """Reads the folder of a classifier (config.json and weights), always in float32, as near scores decide.

        Raises:
            ToileError: a part is missing, damaged or does not fit.
        """
        placement = replace(placement, dtype=torch.float32)
        classifier = load_component(folder, AttributeClassifier, AttributeClassifierConfig, placement)
        return cls(classifier.eval().requires_grad_(False), reader)

    def wanted(self, prompt: str) -> dict[str, tuple[int, ...]]:
        """For each attribute that a prompt names, which of the classifier's outputs are right, any of them."""
        # Only what it says, whatever else stands in it: nothing is drawn, and no word taken for a slip of the pen.
        fields = self.reader.read(prompt, keep_unknown=True).fields
        labels, tables = self.classifier.config.labels, self.reader.tables
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

    @torch.inference_mode()
    def scores(self, images: Tensor, prompt: str) -> Tensor:
        """How surely pictures show all that a prompt says.

        Args:
            images: (K, 3, H, W) around [-1, 1].
            prompt: in words that the reader knows.

        Returns:
            (K,) float32, the least probability of the attributes it names; 1 where it names none that the classifier
            knows.
        """
        wanted = self.wanted(prompt)
        if not wanted:
            return torch.ones(len(images))
        device = self.classifier.conv_in.weight.device
        outputs = self.classifier(images.to(device, torch.float32).clamp(-1, 1))
        return torch.stack([outputs[name].softmax(1)[:, list(right)].sum(1) for name, right in wanted.items()]).amin(0)


def _said(tables: WordTables, slot: str, label: str) -> str:
    """What captions say for a label of the catalogue."""
    phrase = " ".join(label.lower().replace("-", " ").split())
    return tables.meanings.get(slot, {}).get(phrase, (phrase,))[0]
