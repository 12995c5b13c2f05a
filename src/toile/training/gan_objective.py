"""Training a conditional GAN by simultaneous gradient descent: one loss whose gradient gives each player its own.

The discriminator sees made pictures without their history, so its loss moves the discriminator alone. The generator's
loss passes a discriminator whose weights are taken as constants, so it moves the generator alone. Their sum is what the
loop descends (Mescheder et al. 2017, "The Numerics of GANs", eq. 4: the vector field of both gradients at once).

Shapes: B batch, Z noise, D words, H x W pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from toile.data.records import Record
from toile.errors import ToileError
from toile.models.gan import ConditionalGAN, ConditionalGANConfig, Discriminator
from toile.training.caption_words import CaptionWords
from toile.training.draws import ShuffledOrder, example_noise, seed_of
from toile.training.objective import Loss
from toile.training.picture_word_distance import mean_distance, picture_word_distance, thumbnails
from toile.training.pictures import PictureSet
from toile.training.placing import brought_to, device_of

_SAMPLES = 16
_KINDS, _OF_A_KIND = 8, 8
_KIND_FIELDS = ("articleType", "class")
_TOGETHER = 256
_LEAST_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class GANObjectiveConfig:
    """The losses of both players.

    Attributes:
        mismatch_weight: share of real pictures with the words of others among what the discriminator must refuse, the
            rest are made pictures (Reed et al. 2016, Alg. 1: 0.5); 0 leaves them out, and the words count for less.
        r1_weight: gamma of the penalty on the discriminator's gradient at real pictures (Mescheder et al. 2018, eq. 9);
            0 leaves it out, and the players may circle each other.
        r1_every: the penalty is computed every so many steps and counts so many times as much (Karras et al. 2020,
            app. B, "lazy regularization").
        mode_seeking_weight: of a loss of the generator that falls as pictures of one caption differ more (Mao et al.
            2019, eq. 4); 0 leaves it out, and noise may come to mean nothing. It costs a second pass of the generator.
    """

    mismatch_weight: float = 0.5
    r1_weight: float = 1.0
    r1_every: int = 4
    mode_seeking_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.mismatch_weight < 1:
            raise ToileError(f"mismatch_weight {self.mismatch_weight}: from 0 up, below 1")
        if not self.r1_weight >= 0 or self.r1_every < 1:
            raise ToileError(f"r1_weight {self.r1_weight}, r1_every {self.r1_every}: at least 0 and at least 1")
        if not self.mode_seeking_weight >= 0:
            raise ToileError(f"mode_seeking_weight {self.mode_seeking_weight}: 0 or more")


@dataclass(frozen=True)
class GANBatch:
    """images: (B, 3, H, W) in [-1, 1], real; words, mismatched: (B, D), theirs and those of other pictures; noise,
    other_noise: (B, Z).
    """

    images: Tensor
    words: Tensor
    mismatched: Tensor
    noise: Tensor
    other_noise: Tensor


@dataclass(frozen=True)
class HeldOutGANBatch(GANBatch):
    """For each of K kinds of article one caption and M draws of noise, and how different M real pictures are.

    kind_words: (K * M, D), M equal rows for each kind; kind_noise: (K * M, Z); spread: (K,), mean distance of the
    thumbnails of real pictures of the kind.
    """

    kind_words: Tensor
    kind_noise: Tensor
    spread: Tensor


class Players(nn.Module):
    """Both networks, as one module to train, save and average."""

    def __init__(self, config: ConditionalGANConfig) -> None:
        super().__init__()
        self.generator, self.discriminator = ConditionalGAN(config), Discriminator(config)


class GANObjective:
    """Non-saturating losses of both players (Goodfellow et al. 2014, sec. 3), words read by a frozen text encoder.

    Losses of the players say nothing about the pictures, so the held-out loss is another: `picture_word_distance`
    between thumbnails of held-out pictures and of those made of their full captions with fixed noise. It sees colours,
    outlines and layout, and no detail.
    """

    def __init__(
        self,
        players: Players,
        words: CaptionWords,
        pictures: PictureSet,
        config: GANObjectiveConfig,
        seed: int,
        num_validation: int = 512,
    ) -> None:
        self.module = players.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.words, self.pictures, self.config, self.seed = words, pictures, config, seed
        self.num_validation = min(num_validation, len(pictures.validation))
        self._order = ShuffledOrder(len(pictures.train), seed)
        self._kinds = kinds_of(pictures.records, pictures.validation)

    @property
    def generator(self) -> ConditionalGAN:
        """What makes pictures of noise and words."""
        return self.module.generator

    def batch(self, examples: range) -> GANBatch:
        """Pictures in shuffled order; caption, other caption and noise of each depend on the example's number alone."""
        train = self.pictures.train
        positions = train[self._order.positions(examples)]
        others = train[[seed_of(self.seed, "mismatch", example) % len(train) for example in examples]]
        return GANBatch(
            self.pictures.images(positions),
            self.words.written(positions, examples),
            self.words.written(others, examples),
            self._noise("noise", examples),
            self._noise("other noise", examples),
        )

    def loss(self, batch: GANBatch, step: int) -> Loss:
        """The sum of both players' losses in nats; held out, a distance between real and made pictures.

        Parts: "d_real", "d_fake", the mean probabilities of being real that the discriminator gives; "loss_d",
        "loss_g"; where there is a penalty, "r1", the mean square of the gradient, and "likeness"; held out,
        "diversity", how different pictures of one caption are, where 1 is as different as real pictures of one kind of
        article.
        """
        if isinstance(batch, HeldOutGANBatch):
            return self._held_out_loss(batch)
        generator, discriminator = self.module.generator, self.module.discriminator
        made = generator.decode(batch.noise, batch.words)
        penalty_is_due = self.config.r1_weight > 0 and (step + 1) % self.config.r1_every == 0
        features = discriminator.look(batch.images)
        real = discriminator.judge(features, batch.words).float()
        fake = discriminator(made.detach(), batch.words).float()
        refused = F.softplus(fake).mean()
        if self.config.mismatch_weight:
            other = discriminator.judge(features, batch.mismatched).float()
            refused = torch.lerp(refused, F.softplus(other).mean(), self.config.mismatch_weight)
        loss_d = F.softplus(-real).mean() + refused
        constants = {name: weight.detach() for name, weight in discriminator.named_parameters()}
        loss_g = F.softplus(-functional_call(discriminator, constants, (made, batch.words)).float()).mean()
        total = loss_d + loss_g
        parts = {
            "d_real": real.detach().sigmoid().mean(),
            "d_fake": fake.detach().sigmoid().mean(),
            "loss_d": loss_d.detach(),
            "loss_g": loss_g.detach(),
        }
        if self.config.mode_seeking_weight:
            others = generator.decode(batch.other_noise, batch.words)
            likeness = likeness_by_noise(made, others, batch.noise, batch.other_noise)
            total = total + self.config.mode_seeking_weight * likeness
            parts["likeness"] = likeness.detach()
        if penalty_is_due:
            r1 = gradient_penalty(discriminator, batch.images, batch.words)
            total = total + 0.5 * self.config.r1_weight * self.config.r1_every * r1
            parts["r1"] = r1.detach()
        return Loss(total, parts)

    def _held_out_loss(self, batch: HeldOutGANBatch) -> Loss:
        generator, discriminator = self.module.generator, self.module.discriminator
        made = generator.decode(batch.noise, batch.words).float()
        distance = picture_word_distance(thumbnails(batch.images), thumbnails(made), batch.words)
        of_kinds = thumbnails(generator.decode(batch.kind_noise, batch.kind_words)).unflatten(
            0, (len(batch.spread), -1)
        )
        spread = torch.stack([mean_distance(rows) for rows in of_kinds])
        parts = {
            "d_real": discriminator(batch.images, batch.words).float().sigmoid().mean(),
            "d_fake": discriminator(made, batch.words).float().sigmoid().mean(),
            "diversity": spread.mean() / batch.spread.mean(),
        }
        return Loss(distance, {name: value.detach() for name, value in parts.items()})

    def validation_batches(self) -> Iterator[HeldOutGANBatch]:
        """Held-out pictures with full captions, all with fixed noise."""
        firsts = np.repeat([positions[0] for positions in self._kinds], _OF_A_KIND)
        kind_words, kind_noise = self.words.full(firsts), self._noise("kinds", range(len(firsts)))
        spread = torch.stack([mean_distance(thumbnails(self.pictures.images(rows))) for rows in self._kinds])
        for first in range(0, self.num_validation, _TOGETHER):
            examples = range(first, min(first + _TOGETHER, self.num_validation))
            positions = self.pictures.validation[examples.start : examples.stop]
            images, words = self.pictures.images(positions), self.words.full(positions)
            noise = self._noise("validation", examples)
            others = words.roll(1, 0), noise.roll(1, 0)
            yield HeldOutGANBatch(images, words, others[0], noise, others[1], kind_words, kind_noise, spread)

    def samples(self) -> Tensor:
        """New pictures (up to 16, 3, H, W) of held-out captions, from fixed noise."""
        positions = self.pictures.validation[:_SAMPLES]
        drawn = self._noise("samples", range(len(positions))), self.words.full(positions)
        return self.generator.decode(*brought_to(device_of(self.module), drawn)).float()

    def _noise(self, purpose: str, examples: range) -> Tensor:
        """(B, Z)."""
        return example_noise(self.seed, purpose, examples, (self.generator.config.noise_dim,))


def gradient_penalty(discriminator: Discriminator, images: Tensor, words: Tensor) -> Tensor:
    """R1: mean over pictures of the squared length of the score's gradient (Mescheder et al. 2018, eq. 9): a scalar.

    In float32, as rounding would be a good part of gradients of gradients.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.detach().requires_grad_(True)
        [gradient] = torch.autograd.grad(discriminator(images, words).sum(), images, create_graph=True)
        return gradient.square().flatten(1).sum(dim=1).mean()


def likeness_by_noise(images: Tensor, others: Tensor, noise: Tensor, other_noise: Tensor) -> Tensor:
    """How alike pictures of the same words are for how different their noise is (Mao et al. 2019, eq. 4, inverted).

    Args:
        images, others: (B, 3, H, W) in [-1, 1], made of the same words.
        noise, other_noise: (B, Z), of which they were made.

    Returns:
        a scalar: mean absolute difference of the noise over that of the pictures.
    """
    between_images = (images.float() - others.float()).abs().mean()
    return (noise - other_noise).abs().mean() / (between_images + _LEAST_DIFFERENCE)


def kinds_of(records: Sequence[Record], positions: np.ndarray) -> list[np.ndarray]:
    """Positions of up to 8 pictures of each of up to 8 kinds of article, the most frequent ones.

    Records without a kind make one kind together; so do all, if no kind has two pictures.

    Raises:
        ToileError: fewer than two pictures.
    """
    if len(positions) < 2:
        raise ToileError(f"{len(positions)} held-out pictures: at least 2 are needed to tell how different they are")
    rows: dict[str, list[int]] = defaultdict(list)
    for position in positions.tolist():
        fields = records[position].fields
        rows[next((fields[name] for name in _KIND_FIELDS if name in fields), "")].append(position)
    most = sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))[:_KINDS]
    kinds = [np.array(of_kind[:_OF_A_KIND]) for _, of_kind in most if len(of_kind) > 1]
    return kinds or [positions[:_OF_A_KIND]]
