"""The objectives of the baselines: each learns, each setting matters, and draws depend on the example's number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toile.models.clip import CLIPTextConfig, CLIPTextModel
from toile.models.cvae import ConditionalVAE, ConditionalVAEConfig
from toile.models.text_autoencoder import TextAutoencoder, TextAutoencoderConfig
from toile.one_shot import encode_words
from toile.text.tokenizer import Tokenizer
from toile.training.caption_words import CaptionWords
from toile.training.cvae_objective import CVAEObjective, CVAEObjectiveConfig
from toile.training.objective import Objective
from toile.training.pictures import PictureSet
from toile.training.text_autoencoder_objective import (
    TextAutoencoderObjective,
    TextAutoencoderObjectiveConfig,
    separability_parts,
)
from toile.user_folders import CACHE_VARIABLE

SIZE = (16, 16)
KINDS = ("linear", "convolutions", "autoencoder")
Build = Callable[..., Any]


@pytest.fixture
def text_encoder(text_config: CLIPTextConfig) -> CLIPTextModel:
    torch.manual_seed(0)
    return CLIPTextModel(text_config).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def build(pictures: PictureSet, text_encoder: CLIPTextModel, tokenizer: Tokenizer) -> Build:
    def build(kind: str, seed: int = 0, **changes: Any) -> Any:
        torch.manual_seed(0)
        words = CaptionWords(text_encoder, tokenizer, pictures, seed)
        if kind == "autoencoder":
            autoencoder = TextAutoencoder(TextAutoencoderConfig(SIZE, 16, 24, 24, (8, 16)))
            config = TextAutoencoderObjectiveConfig(**changes)
            return TextAutoencoderObjective(autoencoder, words, pictures, config, seed)
        levels = (8, 16) if kind == "convolutions" else ()
        cvae = ConditionalVAE(ConditionalVAEConfig(SIZE, 16, 8, 32, levels))
        return CVAEObjective(cvae, words, pictures, CVAEObjectiveConfig(**changes), seed)

    return build


def overfit(objective: Objective[Any], num_steps: int) -> tuple[dict[str, float], dict[str, float]]:
    """The parts of the loss of one batch before and after so many steps on it."""
    batch = objective.batch(range(8))
    optimizer = torch.optim.AdamW(objective.module.parameters(), lr=5e-3)
    found = []
    for step in range(num_steps):
        optimizer.zero_grad()
        loss = objective.loss(batch, step)
        loss.total.backward()
        optimizer.step()
        assert all(not part.requires_grad for part in loss.parts.values())
        torch.testing.assert_close(loss.total.detach(), loss.each.mean() if loss.each is not None else None)
        found.append({name: float(value) for name, value in {"loss": loss.total.detach(), **loss.parts}.items()})
    return found[0], found[-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_overfits_one_batch(kind: str, build: Build) -> None:
    objective = build(kind, text_weight=1.0) if kind == "autoencoder" else build(kind)
    first, last = overfit(objective, 80)
    assert last["psnr"] > first["psnr"] + 7
    if kind == "autoencoder":
        assert last["text"] < 0.5 * first["text"]
    else:
        assert last["loss"] < 0.3 * first["loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_depends_on_its_number_alone(kind: str, build: Build) -> None:
    objective = build(kind)
    batch = objective.batch(range(3, 11))
    for rows in (slice(0, 5), slice(2, 3)):
        part = objective.batch(range(3 + rows.start, 3 + rows.stop))
        for name, value in vars(batch).items():
            assert torch.equal(value[rows], vars(part)[name]), name
    other = build(kind, seed=1).batch(range(3, 11))
    assert not torch.equal(batch.images, other.images) and not torch.equal(batch.words, other.words)
    for one, again in zip(objective.validation_batches(), build(kind).validation_batches(), strict=True):
        assert all(torch.equal(value, vars(again)[name]) for name, value in vars(one).items())


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_those_of_the_generator(kind: str, build: Build) -> None:
    objective = build(kind)
    with torch.no_grad():
        shown, again = objective.samples(), objective.samples()
    held_out = len(objective.pictures.validation)
    assert shown.shape == (min(16, held_out), 3, *SIZE) and shown.dtype == torch.float32
    assert torch.equal(shown, again) and float(shown.abs().max()) <= 1
    noise_dim = objective.generator.config.noise_dim
    positions = objective.pictures.validation[:1]
    without = objective.generator.decode(torch.zeros(1, noise_dim), objective.words.full(positions))
    # Without noise the words decide; with it, zeros make another picture.
    assert torch.allclose(without, shown[:1], atol=1e-5) == (kind == "autoencoder")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("linear", {"kl_weight": 50.0}),
        ("linear", {"absolute_weight": 1.0}),
        ("autoencoder", {"absolute_weight": 1.0}),
        ("autoencoder", {"text_weight": 1.0}),
    ],
)
def test_each_weight_changes_the_loss(kind: str, changes: dict[str, float], build: Build) -> None:
    plain, changed = build(kind), build(kind, **changes)
    batch = plain.batch(range(4))
    assert float(changed.loss(batch, 0).total.detach()) > float(plain.loss(batch, 0).total.detach()) + 1e-3


def test_codes_of_pictures_do_not_learn_from_words(build: Build) -> None:
    objective = build("autoencoder", text_weight=100.0)
    batch = objective.batch(range(8))
    objective.loss(batch, 0).total.backward()
    gradients = {name: weight.grad.clone() for name, weight in objective.module.named_parameters()}
    alone = build("autoencoder", text_weight=0.0)
    alone.loss(batch, 0).total.backward()
    for name, weight in alone.module.named_parameters():
        if name.startswith("words_to_code"):
            assert float(gradients[name].abs().max()) > 0 and not weight.grad.any()
        else:
            torch.testing.assert_close(weight.grad, gradients[name])


def test_kl_falls_to_nothing_where_it_is_all_that_counts(build: Build) -> None:
    first, last = overfit(build("linear", kl_weight=1000.0), 60)
    assert last["kl"] < 0.2 * first["kl"]


def test_words_are_those_of_the_captions_and_come_from_the_cache(
    pictures: PictureSet, text_encoder: CLIPTextModel, tokenizer: Tokenizer, cache: Path
) -> None:
    words = CaptionWords(text_encoder, tokenizer, pictures, seed=0)
    position = int(pictures.train[0])
    captions = pictures.records[position].captions
    known = encode_words(text_encoder, tokenizer, captions)
    seen = words.written(np.full(40, position), range(40))
    which = (torch.cdist(seen, known) < 1e-6).int()
    assert which.sum(dim=1).tolist() == [1] * 40 and which.any(dim=0).all()
    validation = pictures.validation[:3]
    full = [pictures.records[position].captions[0] for position in validation]
    assert torch.equal(words.full(validation), encode_words(text_encoder, tokenizer, full))
    [path] = list(cache.glob("caption-words-*.safetensors"))
    stored, expected = path.read_bytes(), words.full(validation)
    path.write_bytes(stored[:-3] + b"abc")
    again = CaptionWords(text_encoder, tokenizer, pictures, seed=1)
    assert "caption words were damaged" in pictures.summary and path.read_bytes() == stored
    assert torch.equal(again.full(validation), expected)


def test_a_map_that_shrinks_is_seen_in_the_log() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(25)
    centres = torch.eye(4) * 5
    codes = centres[labels] + torch.randn(100, 4, generator=draws)
    parts = separability_parts(codes, 0.1 * centres[labels], labels)
    assert float(parts["text_spread"]) < 0.02
    assert float(parts["picture_class"]) > 0.95 and float(parts["text_class"]) == 1.0
    assert float(parts["text_between"]) > float(parts["picture_between"]) > 0.7
    assert set(separability_parts(codes, codes, torch.full((100,), -1))) == {"text_spread"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_computed_where_the_networks_are(
    build: Build, learns_elsewhere: Callable[..., None], kind: str
) -> None:
    learns_elsewhere(build(kind))
