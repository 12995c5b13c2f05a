"""The judge's objective: learns, varies pictures as it says, and takes its labels from the training side alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.data.records import Record
from toile.errors import ToileError
from toile.models.classifier import MISSING, AttributeClassifierConfig, AttributeLabels
from toile.training.classifier_objective import (
    ClassifierBatch,
    ClassifierObjective,
    ClassifierObjectiveConfig,
    build_classifier,
    find_labels,
    shifted,
)
from toile.training.pictures import DataConfig, PictureSet

KINDS = ("Shirts", "Jeans", "Watches")
COLOURS = {"Red": (220, 30, 30), "Blue": (30, 30, 220)}
MODEL = AttributeClassifierConfig((8, 16), 4)


@pytest.fixture(scope="module")
def pictures(write_products: Callable[..., Path]) -> PictureSet:
    """60 small products: the shape says the type, the colour the colour; some rows lack labels."""
    products, rng = [], np.random.default_rng(0)
    for number in range(60):
        kind, (colour, rgb) = KINDS[number % 3], list(COLOURS.items())[number // 3 % 2]
        pixels = np.full((20, 16, 3), 255, dtype=np.uint8)
        rows_of = {"Shirts": slice(3, 9), "Jeans": slice(5, 18), "Watches": slice(9, 12)}[kind]
        pixels[rows_of, 4:12] = rgb
        pixels[rows_of, 4:12] += rng.integers(0, 20, pixels[rows_of, 4:12].shape, dtype=np.uint8)
        gender = "" if number % 10 == 0 else "Men" if kind == "Jeans" else "Women"
        products.append((pixels, {"gender": gender, "articleType": kind, "baseColour": colour}))
    return PictureSet(DataConfig(width=16, height=20, path=write_products(products)))


def build(pictures: PictureSet, latents: torch.Tensor | None = None, **changes: object) -> ClassifierObjective:
    usual = {"num_article_types": 2, "min_label_count": 5, "max_shift": 2}
    config = ClassifierObjectiveConfig(**{**usual, **changes})  # type: ignore[arg-type]
    model = MODEL if latents is None else replace(MODEL, in_channels=latents.shape[1], conv_in_stride=1)
    torch.manual_seed(0)
    return ClassifierObjective(build_classifier(model, pictures, config), pictures, config, seed=0, latents=latents)


def test_overfits_one_batch(pictures: PictureSet) -> None:
    objective = build(pictures)
    batch = objective.batch(range(16))
    optimizer = torch.optim.AdamW(objective.module.parameters(), lr=1e-2)
    first = float(objective.loss(batch, 0).total.detach())
    for step in range(80):
        optimizer.zero_grad()
        loss = objective.loss(batch, step)
        loss.total.backward()
        optimizer.step()
    assert float(loss.total.detach()) < 0.02 < 2.0 < first
    assert {name: float(part) for name, part in loss.parts.items()} == dict.fromkeys(objective.module.attributes, 1.0)


def test_a_batch_is_a_function_of_its_numbers(pictures: PictureSet) -> None:
    objective = build(pictures)
    whole, part = objective.batch(range(10, 30)), build(pictures).batch(range(14, 20))
    assert torch.equal(whole.inputs[4:10], part.inputs)
    assert torch.equal(whole.targets[4:10], part.targets)


def test_targets_go_with_their_pictures(pictures: PictureSet) -> None:
    objective = build(pictures)
    batch = objective.batch(range(50))
    blue = objective.module.config.labels.base_colour.index("Blue")
    bluer = batch.inputs[:, 2].mean(dim=(1, 2)) > batch.inputs[:, 0].mean(dim=(1, 2))
    assert torch.equal(bluer, batch.targets[:, objective.module.attributes.index("base_colour")] == blue)


def test_training_and_held_out_pictures_are_disjoint(pictures: PictureSet) -> None:
    objective = build(pictures, max_shift=0)
    seen = {image.numpy().tobytes() for image in objective.batch(range(2 * len(pictures.train))).inputs}
    held_out = [image for batch in objective.validation_batches() for image in batch.inputs]
    assert len(seen) == len(pictures.train)
    assert len(held_out) == len(pictures.validation) > 0
    assert not seen & {image.numpy().tobytes() for image in held_out}


def test_missing_labels_do_not_count(pictures: PictureSet) -> None:
    objective = build(pictures)
    batch = objective.batch(range(8))
    gender = objective.module.attributes.index("gender")
    without = batch.targets.clone()
    without[:, gender] = MISSING
    loss = objective.loss(ClassifierBatch(batch.inputs, without), 0)
    loss.total.backward()
    assert bool(loss.total.isfinite())
    assert float(objective.module.heads["gender"].weight.grad.abs().max()) == 0.0
    assert float(objective.module.heads["usage"].bias.grad.abs().max()) == 0.0  # one label only: nothing to learn
    assert float(objective.module.heads["article_type"].weight.grad.abs().max()) > 0.0


def test_labels_come_from_the_training_side(pictures: PictureSet) -> None:
    counts = Counter(pictures.records[int(position)].fields["articleType"] for position in pictures.train)
    labels = build(pictures).module.config.labels
    assert labels.article_type == tuple(sorted(KINDS, key=lambda kind: (-counts[kind], kind)))[:2]
    assert set(labels.base_colour) == set(COLOURS)
    assert build(pictures).module.config.trained_on == pictures.identity


def test_rare_labels_are_left_out() -> None:
    fields = [{"articleType": "A", "gender": "Men"}] * 3 + [{"articleType": "B", "gender": "Women"}] * 2
    records = [Record(str(index), each) for index, each in enumerate(fields)]
    both = ("article_type", "gender")
    assert find_labels(records, both, 5, 3) == AttributeLabels(article_type=("A", "B"), gender=("Men",))
    assert find_labels(records, both, 1, 1) == AttributeLabels(article_type=("A",), gender=("Men", "Women"))


def test_only_what_is_asked_for_is_judged(pictures: PictureSet) -> None:
    objective = build(pictures, attributes=("article_type", "gender"))
    assert objective.module.attributes == ("article_type", "gender")
    assert set(objective.module(objective.batch(range(2)).inputs)) == {"article_type", "gender"}
    with pytest.raises(ToileError, match="article_type and any of"):
        ClassifierObjectiveConfig(attributes=("gender",))
    with pytest.raises(ToileError, match="pattern: no label is on 5 training pictures"):
        build(pictures, attributes=("article_type", "pattern"))


def test_shifts_bring_in_white() -> None:
    images = torch.zeros(2, 3, 4, 5)
    images[:, :, 1, 2] = 0.5
    down_left, still = shifted(images, torch.tensor([[2, -1], [0, 0]]), 1.0)
    assert torch.equal(still, images[1])
    assert float(down_left[0, 3, 1]) == 0.5
    assert bool((down_left[:, :2] == 1.0).all() and (down_left[:, :, 4] == 1.0).all())
    assert int((down_left == 0.5).sum()) == 3


def test_what_comes_in_may_be_what_is_next_to_it() -> None:
    latents = torch.arange(12.0).view(1, 1, 3, 4)
    [moved] = shifted(latents, torch.tensor([[1, 1]]), None)
    assert moved[0].tolist() == [[0, 0, 1, 2], [0, 0, 1, 2], [4, 4, 5, 6]]


def test_latents_are_looked_at_instead_of_pictures(pictures: PictureSet) -> None:
    latents = torch.arange(len(pictures.records)).half().view(-1, 1, 1, 1).expand(-1, 4, 5, 4)
    objective = build(pictures, latents, max_noise=0.25)
    assert objective.module(objective.batch(range(3)).inputs)["gender"].shape == (3, 2)
    for batch in objective.validation_batches():  # each picture's are its number, without noise
        numbers = batch.inputs[:, 0, 0, 0].long()
        assert torch.equal(batch.inputs, latents[numbers].float())
        records = [pictures.records[int(number)].fields for number in numbers]
        assert torch.equal(batch.targets, objective.module.targets(records))
    numbers = build(pictures, latents).batch(range(48)).inputs[:, 0, 0, 0]
    noise = objective.batch(range(48)).inputs - numbers.view(-1, 1, 1, 1)
    stds = noise.flatten(1).std(1)
    assert float(stds.amax()) < 0.35 and float(stds.amin()) < 0.05 and abs(float(stds.mean()) - 0.125) < 0.03
    assert torch.equal(objective.batch(range(10, 20)).inputs, objective.batch(range(48)).inputs[10:20])


def test_unfit_configs_are_refused() -> None:
    with pytest.raises(ToileError, match="at least 1"):
        ClassifierObjectiveConfig(num_article_types=0)
    with pytest.raises(ToileError, match="max_noise"):
        ClassifierObjectiveConfig(max_noise=float("nan"))


def test_the_loss_is_computed_where_the_network_is(pictures: PictureSet, learns_elsewhere: Callable[..., None]) -> None:
    learns_elsewhere(build(pictures, max_noise=0.2))
