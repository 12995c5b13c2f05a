"""Keeping what a model knows of a class while it learns one thing of it (DreamBooth, Ruiz et al. 2023, sec. 3.2).

Before it learns, the model makes pictures of the class. Then every example is accompanied by one of these.

Shapes: B batch, C x h x w latents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from toile.errors import ToileError
from toile.training.denoising_objective import DenoisingBatch, DenoisingObjective, MixedBatch, sample_latents
from toile.training.draws import example_noise, seed_of
from toile.training.objective import Loss
from toile.weights.cache import cached

_MADE_TOGETHER = 16


@dataclass(frozen=True)
class PriorConfig:
    """What the model is to keep.

    Attributes:
        prompt: the class, for example "dress for women".
        weight: of the loss of these pictures beside that of the examples; lambda in eq. 2.
        num: pictures of the class.
        steps, guidance: with which they are made.
    """

    prompt: str
    weight: float = 1.0
    num: int = 100
    steps: int = 20
    guidance: float = 2.0

    def __post_init__(self) -> None:
        if not self.weight > 0 or self.num < 1 or self.steps < 1:
            raise ToileError(f"prior: weight {self.weight} above 0, num {self.num} and steps {self.steps} at least 1")


@dataclass(frozen=True)
class AccompaniedBatch:
    """Examples, and as many of what is to be kept."""

    own: DenoisingBatch | MixedBatch
    prior: DenoisingBatch


class PriorPreservation:
    """An objective that also keeps a class: its loss is `own + weight * prior` (eq. 2).

    Args:
        objective: what is to be learnt.
        prior: (N, C, h, w) latents of the class, see `prior_latents`.
        config: what it is.
    """

    def __init__(self, objective: DenoisingObjective, prior: Tensor, config: PriorConfig) -> None:
        self.objective, self.prior, self.config = objective, prior, config

    @property
    def module(self) -> nn.Module:
        """What learns."""
        return self.objective.module

    def batch(self, examples: range) -> AccompaniedBatch:
        """Each example with one of the class, of the same timestep."""
        seed = self.objective.seed
        numbers = [seed_of(seed, "prior", example) % len(self.prior) for example in examples]
        captions = [self.config.prompt] * len(examples)
        prior = self.objective.assemble(self.prior[numbers].float(), captions, examples, "prior")
        return AccompaniedBatch(self.objective.batch(examples), prior)

    def loss(self, batch: AccompaniedBatch | DenoisingBatch | MixedBatch, step: int) -> Loss:
        """Held out, the objective's own."""
        if not isinstance(batch, AccompaniedBatch):
            return self.objective.loss(batch, step)
        own, prior = self.objective.loss(batch.own, step), self.objective.loss(batch.prior, step)
        parts = {**own.parts, "own": own.total.detach(), "prior": prior.total.detach()}
        return Loss(own.total + self.config.weight * prior.total, parts)

    def validation_batches(self) -> Iterator[DenoisingBatch | MixedBatch]:
        """The objective's."""
        return self.objective.validation_batches()

    def samples(self) -> Tensor:
        """The objective's."""
        return self.objective.samples()


def prior_latents(objective: DenoisingObjective, config: PriorConfig, base: str) -> Tensor:
    """Latents (N, C, h, w) float16 of the class as the model draws it now, from the cache if they are there.

    Args:
        objective: before anything was learnt.
        config: what to make.
        base: the hash of the model.
    """
    shape, seed = objective.sample_shape, objective.seed
    weight = objective.networks.unet.conv_in.weight
    content = f"{base}:{shape}:{seed}:{sorted(asdict(config).items())}:{weight.device.type}:{weight.dtype}"

    def make() -> dict[str, Tensor]:
        made = []
        for first in range(0, config.num, _MADE_TOGETHER):
            numbers = range(first, min(first + _MADE_TOGETHER, config.num))
            noise = example_noise(seed, "prior pictures", numbers, shape)
            prompts = [config.prompt] * len(numbers)
            latents = sample_latents(objective, prompts, noise, config.steps, config.guidance)
            made.append(latents.to("cpu", torch.float16))
        return {"latents": torch.cat(made)}

    found = cached("latents of the class", hashlib.sha256(content.encode()).hexdigest(), make)
    objective.pictures.tell(found.note)
    return found.tensors["latents"]
