"""A tiny model with tables of words and a ranker."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from toile.latent_diffusion import LatentDiffusion
from toile.model_folder import RANKER_FOLDER, WORDS_NAME, read_model_facts
from toile.models.classifier import AttributeClassifier, AttributeClassifierConfig, AttributeLabels
from toile.ranker import Ranker
from toile.text.reader import PromptReader
from toile.text.word_tables import ArticleCounts, WordTables
from toile.weights.folder import save_component

LABELS = AttributeLabels(("Belts", "Dresses"), ("Red", "Maroon", "Burgundy", "Blue"), ("Men", "Women"))
TABLES = WordTables(
    known={"red": 9, "maroon": 9, "dress": 9, "shirt": 9, "for": 9, "women": 9},
    meanings={
        "colour": {"red": ("red",), "maroon": ("maroon",), "burgundy": ("maroon",)},
        "article": {"dress": ("dress",), "shirt": ("shirt",), "frock": ("dress",)},
        "people": {"women": ("women",), "wife": ("women",)},
    },
    articles={
        "dress": ArticleCounts("Dresses", "Apparel", 10, {}, {}, {}),
        "shirt": ArticleCounts("Shirts", "Apparel", 10, {}, {}, {}),
    },
    silent=("a", "my", "for", "and"),
    no_slips=(),
)


@pytest.fixture(scope="package")
def classifier() -> AttributeClassifier:
    torch.manual_seed(0)
    network = AttributeClassifier(AttributeClassifierConfig((8, 16), 4, LABELS, in_channels=4, conv_in_stride=1))
    for head in network.heads.values():
        torch.nn.init.normal_(head.weight, std=20.0)  # type: ignore[arg-type]  # so that like latents differ
    return network.eval()


@pytest.fixture(scope="package")
def ranked_model(
    tiny_folder: Path, classifier: AttributeClassifier, tmp_path_factory: pytest.TempPathFactory
) -> LatentDiffusion:
    folder = tmp_path_factory.mktemp("ranking") / "tiny"
    shutil.copytree(tiny_folder, folder)
    (folder / WORDS_NAME).write_text(json.dumps(asdict(TABLES)), encoding="utf-8")
    save_component(folder / RANKER_FOLDER, classifier, classifier.config, {}, torch.float32)
    assert read_model_facts(folder).hash != read_model_facts(tiny_folder).hash
    return LatentDiffusion.load(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="package")
def ranker(classifier: AttributeClassifier) -> Ranker:
    return Ranker((classifier,), PromptReader(TABLES))
