"""What a model makes, as examples: labelled by classifiers of pictures, kept, and mixed among real latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.models.classifier import MISSING, AttributeClassifier, AttributeClassifierConfig, AttributeLabels
from toile.training.classifier_objective import ClassifierObjective, ClassifierObjectiveConfig, build_classifier
from toile.training.made_latents import MadeConfig, MadeLatents, load_made_latents
from toile.training.pictures import DataConfig, PictureSet
from toile.user_folders import CACHE_VARIABLE
from toile.weights.folder import save_component

LABELS = AttributeLabels(("Shirts", "Jeans"), ("Red",))


@pytest.fixture(scope="module")
def pictures(write_products: Callable[..., Path]) -> PictureSet:
    noise = np.random.default_rng(0).integers(0, 256, (60, 32, 24, 3), dtype=np.uint8)
    folder = write_products((noise[number], {"articleType": ("Shirts", "Jeans")[number % 2]}) for number in range(60))
    return PictureSet(DataConfig(width=24, height=32, path=folder))


@pytest.fixture
def teacher(tmp_path: Path) -> AttributeClassifier:
    torch.manual_seed(0)
    classifier = AttributeClassifier(AttributeClassifierConfig((8, 16), 4, LABELS)).eval()
    save_component(tmp_path / "teacher", classifier, classifier.config, {}, torch.float32)
    return classifier


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def test_labels_are_what_teachers_see(
    tiny_model: LatentDiffusion, pictures: PictureSet, teacher: AttributeClassifier, tmp_path: Path
) -> None:
    config = MadeConfig((tmp_path / "teacher",), num=40, steps=2)
    made = load_made_latents(tiny_model, pictures, LABELS, config)
    assert made.latents.shape == (40, 4, 8, 6) and made.latents.isfinite().all()
    assert {name: rows.shape for name, rows in made.opinions.items()} == {
        "article_type": (40, 3),
        "base_colour": (40, 1),
    }
    with torch.no_grad():
        seen = teacher(tiny_model.decode_latents(made.latents.float()).clamp(-1, 1))["article_type"].softmax(1)
    torch.testing.assert_close(made.opinions["article_type"].float(), seen, atol=5e-3, rtol=0)
    assert not torch.equal(made.latents[0], made.latents[1])


def test_they_are_made_once_for_runs_of_any_share(
    tiny_model: LatentDiffusion,
    pictures: PictureSet,
    teacher: AttributeClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = MadeConfig((tmp_path / "teacher",), num=3, steps=1)
    first = load_made_latents(tiny_model, pictures, LABELS, config)
    monkeypatch.setattr(LatentDiffusion, "decode_latents", None)  # so that none can be made
    again = load_made_latents(tiny_model, pictures, LABELS, replace(config, share=0.9))
    assert torch.equal(first.latents, again.latents) and first.opinions.keys() == again.opinions.keys()
    with pytest.raises(TypeError):
        load_made_latents(tiny_model, pictures, LABELS, replace(config, seed=1))


def test_unfit_teachers_are_refused(
    tiny_model: LatentDiffusion, pictures: PictureSet, teacher: AttributeClassifier, tmp_path: Path
) -> None:
    config = MadeConfig((tmp_path / "teacher",), num=1)
    with pytest.raises(ToileError, match="other labels"):
        load_made_latents(tiny_model, pictures, AttributeLabels(("Belts",)), config)
    of_latents = AttributeClassifier(replace(teacher.config, in_channels=4))
    save_component(tmp_path / "latents", of_latents, of_latents.config, {}, torch.float32)
    with pytest.raises(ToileError, match="looks at latents"):
        load_made_latents(tiny_model, pictures, LABELS, replace(config, teachers=(tmp_path / "latents",)))
    with pytest.raises(ToileError, match="no such folder; recipes"):
        load_made_latents(tiny_model, pictures, LABELS, replace(config, teachers=(tmp_path / "absent",)))
    for wrong in ({"num": 5}, {"teachers": (tmp_path,)}, {"share": 1.0}, {"steps": 0}):
        with pytest.raises(ToileError, match="objective.made"):
            MadeConfig(**wrong)  # type: ignore[arg-type]


def test_they_stand_among_real_ones_and_only_opinions_count_there(pictures: PictureSet) -> None:
    real = torch.zeros(len(pictures.records), 4, 8, 6, dtype=torch.float16)
    opinions = {"article_type": torch.tensor([[0.2, 0.8, 0.0]] * 7).half(), "base_colour": torch.ones(7, 1).half()}
    made = MadeLatents(torch.ones(7, 4, 8, 6, dtype=torch.float16), opinions)
    config = ClassifierObjectiveConfig(
        2, 5, ("article_type", "base_colour"), 0, made=MadeConfig((Path(),), 7, share=0.3)
    )
    model = build_classifier(AttributeClassifierConfig((8, 16), 4, in_channels=4, conv_in_stride=1), pictures, config)
    objective = ClassifierObjective(model, pictures, config, 0, latents=real, made=made)
    batch = objective.batch(range(40))
    is_made = batch.inputs[:, 0, 0, 0] == 1
    assert 10 < int(is_made.sum()) < 14
    assert bool((batch.targets[is_made] == MISSING).all() and (batch.targets[~is_made] != MISSING).all())
    assert torch.equal(batch.opinions["article_type"].sum(1) > 0.5, is_made)
    parts = objective.batch(range(10)), objective.batch(range(10, 40))
    assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
    with torch.no_grad():
        seen = {name: logits.log_softmax(1) for name, logits in model(batch.inputs).items()}
        expected = sum(
            -seen[name][~is_made].gather(1, batch.targets[~is_made, place : place + 1]).mean()
            - (opinions[name][:1].float() * seen[name][is_made]).sum(1).mean()
            for place, name in enumerate(model.attributes)
        )
        torch.testing.assert_close(objective.loss(batch, 0).total, torch.as_tensor(expected), atol=2e-3, rtol=0)
    assert all(not held_out.opinions for held_out in objective.validation_batches())
