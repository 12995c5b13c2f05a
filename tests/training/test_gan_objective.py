"""The GAN: each player gets its own gradient, batches are functions of their numbers, and collapse shows in the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from toile.data.records import Record
from toile.errors import ToileError
from toile.models.clip import CLIPTextConfig, CLIPTextModel
from toile.models.gan import ConditionalGANConfig
from toile.one_shot import OneShotModel
from toile.text.tokenizer import Tokenizer
from toile.training.caption_words import CaptionWords
from toile.training.gan_health import gan_findings
from toile.training.gan_objective import (
    GANObjective,
    GANObjectiveConfig,
    Players,
    gradient_penalty,
    kinds_of,
    likeness_by_noise,
)
from toile.training.loop import LoopConfig, train
from toile.training.picture_word_distance import mean_distance, picture_word_distance
from toile.training.pictures import DataConfig, PictureSet
from toile.training.run_folder import RunFolder, read_log
from toile.user_folders import CACHE_VARIABLE

CONFIG = ConditionalGANConfig(
    sample_size=(16, 16), words_dim=16, noise_dim=8, condition_dim=16, block_out_channels=(16, 32), norm_num_groups=4
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture
def build(pictures: PictureSet, tokenizer: Tokenizer, text_config: CLIPTextConfig) -> Callable[..., GANObjective]:
    def build_gan(seed: int = 0, of: PictureSet = pictures, **changes: Any) -> GANObjective:
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(text_config).eval().requires_grad_(False)
        words = CaptionWords(text_encoder, tokenizer, of, seed)
        return GANObjective(Players(CONFIG), words, of, GANObjectiveConfig(**changes), seed)

    return build_gan


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_each_player_gets_the_gradient_of_its_own_loss(build: Callable[..., GANObjective]) -> None:
    objective = build(r1_weight=0.0)
    batch, players = objective.batch(range(6)), objective.module
    objective.loss(batch, 0).total.backward()
    both = gradients(players)
    players.zero_grad()
    with torch.no_grad():
        made = players.generator.decode(batch.noise, batch.words)
    real, fake = players.discriminator(batch.images, batch.words), players.discriminator(made, batch.words)
    other = players.discriminator(batch.images, batch.mismatched)
    refused = 0.5 * F.softplus(fake).mean() + 0.5 * F.softplus(other).mean()
    (F.softplus(-real).mean() + refused).backward()
    expected = {f"discriminator.{name}": value for name, value in gradients(players.discriminator).items()}
    players.zero_grad()
    made = players.generator.decode(batch.noise, batch.words)
    F.softplus(-players.discriminator(made, batch.words)).mean().backward()
    expected |= {f"generator.{name}": value for name, value in gradients(players.generator).items()}
    assert both.keys() == expected.keys() == dict(players.named_parameters()).keys()
    for name, value in both.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_the_penalty_is_the_squared_gradient_and_comes_when_it_is_due(build: Callable[..., GANObjective]) -> None:
    slope = torch.linspace(-1, 1, 12).requires_grad_(True)

    class Linear(nn.Module):
        def forward(self, images: Tensor, words: Tensor) -> Tensor:
            return images.flatten(1) @ slope

    penalty = gradient_penalty(Linear(), torch.randn(4, 3, 2, 2), torch.zeros(4, 1))  # type: ignore[arg-type]
    torch.testing.assert_close(penalty, slope.square().sum())
    penalty.backward()
    torch.testing.assert_close(slope.grad, 2 * slope.detach())
    objective = build(r1_weight=2.0, r1_every=3)
    batch = objective.batch(range(4))
    totals = [objective.loss(batch, step) for step in range(4)]
    assert ["r1" in loss.parts for loss in totals] == [False, False, True, False]
    difference = totals[2].total - totals[1].total
    torch.testing.assert_close(difference.detach(), 0.5 * 2.0 * 3 * totals[2].parts["r1"])


def test_other_words_count_as_configured(build: Callable[..., GANObjective]) -> None:
    with_others, without = build(), build(mismatch_weight=0.0)
    batch = with_others.batch(range(8))
    assert not torch.equal(batch.words, batch.mismatched)
    swapped = replace(batch, mismatched=batch.words)
    assert with_others.loss(batch, 0).total != with_others.loss(swapped, 0).total
    assert without.loss(batch, 0).total == without.loss(swapped, 0).total


def test_a_batch_is_a_function_of_its_numbers(build: Callable[..., GANObjective]) -> None:
    whole, part, other = build().batch(range(80, 100)), build().batch(range(85, 90)), build(1).batch(range(80, 100))
    for name, value in vars(whole).items():
        assert torch.equal(value[5:10], vars(part)[name]), name
        assert not torch.equal(value, vars(other)[name]), name


def test_held_out_batches_are_fixed_and_held_out(build: Callable[..., GANObjective], pictures: PictureSet) -> None:
    [once], [twice] = build().validation_batches(), build().validation_batches()
    assert all(torch.equal(value, vars(twice)[name]) for name, value in vars(once).items())
    assert torch.equal(once.images, pictures.images(pictures.validation))
    assert torch.equal(once.kind_words[0], once.kind_words[7]) and not torch.equal(
        once.kind_noise[0], once.kind_noise[7]
    )


def test_pictures_of_other_noise_are_pushed_apart_as_configured(build: Callable[..., GANObjective]) -> None:
    plain, seeking = build(r1_weight=0.0), build(r1_weight=0.0, mode_seeking_weight=0.5)
    batch = plain.batch(range(4))
    without, loss = plain.loss(batch, 0), seeking.loss(batch, 0)
    torch.testing.assert_close((loss.total - without.total).detach(), 0.5 * loss.parts["likeness"], rtol=1e-4, atol=0)
    ones, noise = torch.ones(2, 3, 4, 4), torch.zeros(2, 5)
    assert float(likeness_by_noise(ones, ones - 0.5, noise, noise + 2)) == pytest.approx(2 / 0.501)
    assert float(likeness_by_noise(ones, ones, noise, noise + 2)) == pytest.approx(2 / 0.001)


def test_kinds_are_the_most_frequent_ones() -> None:
    records = [Record(str(n), {"articleType": kind} if kind else {}, ("x",)) for n, kind in enumerate("aababcdb")]
    assert [kind.tolist() for kind in kinds_of(records, np.arange(8))] == [[0, 1, 3], [2, 4, 7]]
    assert [kind.tolist() for kind in kinds_of(records, np.arange(2, 8))] == [[2, 4, 7]]
    assert [kind.tolist() for kind in kinds_of(records, np.array([0, 5, 6]))] == [[0, 5, 6]]
    with pytest.raises(ToileError, match="at least 2"):
        kinds_of(records, np.array([3]))


def test_the_distance_sees_pictures_and_their_words() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.eye(2).repeat(20, 1)
    real = words @ torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]]) + 0.1 * torch.randn(40, 3, generator=generator)
    alike = real.roll(2, 0)
    assert float(picture_word_distance(real, real, words)) == 0.0
    swapped = float(picture_word_distance(real, real.roll(1, 0), words))  # the same pictures, each of the other words
    assert float(picture_word_distance(real, alike, words)) < 0.1 * swapped
    assert swapped > 0.3
    two = torch.tensor([[0.0], [1.0]])
    apart = picture_word_distance(two, two + 1.0, torch.zeros(2, 1))
    kernel = np.exp(-np.array([0.0, 1.0, 4.0]) / 2)
    by_hand = (2 * (2 + 2 * kernel[1]) - 2 * (2 * kernel[1] + kernel[0] + kernel[2])) / 4
    assert float(apart) == pytest.approx(by_hand**0.5, rel=1e-5)


def test_mean_distance_by_hand() -> None:
    rows = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    assert float(mean_distance(rows)) == pytest.approx((2 + 2 + 8**0.5) / 3 / 2**0.5)


def test_an_exported_generator_makes_the_same_pictures(build: Callable[..., GANObjective], tmp_path: Path) -> None:
    objective = build()
    words = objective.words
    model = OneShotModel(objective.generator, words.text_encoder, words.tokenizer, 16, 16)
    model.save(tmp_path / "gan")
    prompts, seeds = ["red bar", "blue belt", "red bar"], [1, 2, 3]
    made = OneShotModel.load(tmp_path / "gan").pictures(prompts, seeds)
    assert torch.equal(made, model.pictures(prompts, seeds))
    assert torch.equal(made[1:2], model.pictures(prompts[1:2], seeds[1:2]))
    assert not torch.equal(made[0], made[2]), "noise matters"
    assert torch.equal(made[:, ::2, ::2], made[:, 1::2, 1::2]), "an untrained one draws no chequerboard"
    assert not torch.equal(made[1], model.pictures(["red bar"], [2])[0]), "words matter"


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> PictureSet:
    """120 pictures of one caption, each of another colour: all that differs is for the noise to say."""
    folder = tmp_path_factory.mktemp("colours") / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(120):
        pixels = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (16, 16, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{number}.bmp")
        (folder / f"{number}.txt").write_text("red box", encoding="utf-8")
    return PictureSet(DataConfig(width=16, height=16, path=folder))


def trained(objective: GANObjective, folder: Path) -> list[dict[str, Any]]:
    """The log of a run."""
    config = LoopConfig(
        steps=100,
        batch_size=16,
        learning_rate=2e-3,
        warmup_steps=0,
        betas=(0.5, 0.99),
        weight_decay=0.0,
        clip_norm=1000.0,
        ema_widths=(),
        precision="float32",
        validate_every=20,
    )
    run = RunFolder(folder, {})
    for record in train(objective, config, folder, {}):
        run.write(record)
    return read_log(folder / "log.jsonl")


@pytest.mark.slow
def test_a_gan_that_collapses_is_found_and_one_that_does_not_is_not(
    build: Callable[..., GANObjective], colours: PictureSet, tmp_path: Path
) -> None:
    for weight, collapses in ((0.1, False), (0.0, True)):
        lines = trained(build(of=colours, mode_seeking_weight=weight), tmp_path / str(weight))
        collapse, _ = gan_findings(lines)
        assert collapse.found == collapses, collapse.sentence


@pytest.mark.slow
def test_a_gan_comes_near_held_out_pictures(
    build: Callable[..., GANObjective], pictures: PictureSet, tmp_path: Path
) -> None:
    lines = trained(build(mode_seeking_weight=0.02), tmp_path / "run")
    distances = [line["losses"]["live"]["loss"] for line in lines if line["kind"] == "validation"]
    assert min(distances[2:]) < 0.75 * distances[0], distances
    with Image.open(tmp_path / "run" / "curves.png") as curves:
        assert curves.size == (900, 900), "with a panel of the players' parts"


@pytest.mark.parametrize("step", [0, 3])  # without and with the penalty
def test_the_loss_is_computed_where_the_networks_are(
    build: Callable[..., GANObjective], learns_elsewhere: Callable[..., None], step: int
) -> None:
    learns_elsewhere(build(mode_seeking_weight=0.1), step=step)
