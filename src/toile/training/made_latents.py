"""Latents that a model makes of the captions it learnt from, and what classifiers of pictures see in them.

Whoever leads a sampler looks at what a model makes, not at real pictures; so it should learn from both. Labels of made
ones are the opinions of teachers (Hinton et al. 2015, "Distilling the knowledge in a neural network"): what a caption
says may not be what was made of it.
Shapes: N pictures, C x h x w latents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toile.data.captions import CaptionWriter
from toile.device import dtype_name
from toile.diffusion.denoiser import Denoiser
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.models.classifier import PICTURE_CHANNELS, AttributeClassifier, AttributeClassifierConfig, AttributeLabels
from toile.training.draws import ShuffledOrder, example_noise, seed_of
from toile.training.pictures import PictureSet, balancing_repeats
from toile.training.sampling import sample_guided
from toile.weights.cache import cached
from toile.weights.files import file_sha256
from toile.weights.folder import find_weights, load_component

_MADE_TOGETHER = 32


@dataclass(frozen=True)
class MadeConfig:
    """What is made, and by whom it is labelled.

    Attributes:
        teachers: folders of classifiers of pictures, whose mean opinion counts.
        num: latents, each of the caption of a training picture in shuffled order; none are made for 0.
        balance: how far rarer article types are repeated among these captions, as in `DataConfig`.
        steps, guidance: of the sampler, UniPC; half of them are made without guidance, as sketches are.
        share: of the examples of a batch, about.
        seed: of captions and noise; runs that share it learn from the same.
    """

    teachers: tuple[Path, ...] = field(default=())
    num: int = 0
    balance: float = 0.0
    steps: int = 5
    guidance: float = 1.7
    share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num < 0 or self.steps < 1 or not 0 < self.share < 1 or not 0 <= self.balance <= 1:
            raise ToileError("objective.made: num at least 0, steps at least 1, share between 0 and 1, balance 0 to 1")
        if bool(self.num) != bool(self.teachers):
            raise ToileError("objective.made: num and teachers go together")


@dataclass(frozen=True, eq=False)
class MadeLatents:
    """latents: (N, C, h, w) float16, scaled; opinions: for each attribute (N, classes) float16 probabilities; identity:
    of all they hang on.
    """

    latents: Tensor
    opinions: dict[str, Tensor]
    identity: str = ""


def load_made_latents(
    model: LatentDiffusion, pictures: PictureSet, labels: AttributeLabels, config: MadeConfig
) -> MadeLatents:
    """What the model makes of captions of the training side, from the cache if it is there.

    Args:
        model: from a folder.
        pictures: whose captions are taken, as many of them as `config.num`, again from the start if there are fewer.
        labels: that are told apart, in their order.
        config: what to make.

    Raises:
        ToileError: a teacher is not there, tells other labels apart, or looks at latents itself.
    """
    teachers = [_load_teacher(folder, labels).to(model.device) for folder in config.teachers]
    identity = _identity(model, pictures, config)
    where = f"{identity}-{model.device.type}-{dtype_name(model.dtype)}"
    found = cached("made latents", where, lambda: _make(model, teachers, pictures, config))
    pictures.tell(found.note)
    opinions = dict(found.tensors)
    return MadeLatents(opinions.pop("latents"), opinions, identity)


def _identity(model: LatentDiffusion, pictures: PictureSet, config: MadeConfig) -> str:
    """A hash of what makes latents (a model's ranker and upscaler do not), of whom they are labelled by, and of how."""
    assert model.facts is not None
    makers = asdict(model.facts.components) | {"ranker": "", "upscaler": ""}
    how = {name: value for name, value in asdict(config).items() if name not in ("teachers", "share")}
    teachers = [file_sha256(find_weights(folder)) for folder in config.teachers]
    return hashlib.sha256(repr((makers, how, teachers, pictures.identity)).encode()).hexdigest()[:32]


def _load_teacher(folder: Path, labels: AttributeLabels) -> AttributeClassifier:
    if not folder.is_dir():
        raise ToileError(f"objective.made.teachers: {folder}: no such folder; recipes/ranker-pictures.toml trains it")
    teacher = load_component(folder, AttributeClassifier, AttributeClassifierConfig)
    if teacher.config.in_channels != PICTURE_CHANNELS:
        raise ToileError(f"objective.made.teachers: {folder} looks at latents, not at pictures")
    if teacher.config.labels != labels:
        raise ToileError(f"objective.made.teachers: {folder} tells other labels apart: train it on the same data")
    return teacher.eval().requires_grad_(False)


@torch.no_grad()
def _make(
    model: LatentDiffusion,
    teachers: Sequence[AttributeClassifier],
    pictures: PictureSet,
    config: MadeConfig,
) -> dict[str, Tensor]:
    """(N, C, h, w) latents, and the teachers' mean opinion of each by the name of the attribute."""
    train, writer = pictures.train, CaptionWriter()
    if config.balance:
        fields = [pictures.records[position].fields for position in train]
        train = np.repeat(train, balancing_repeats(fields, config.balance))
    order = ShuffledOrder(len(train), seed_of(config.seed, "made"))
    shape = model.latent_shape(pictures.width, pictures.height)
    denoiser = Denoiser(model.unet, model.schedule, model.dtype)
    latents: list[Tensor] = []
    opinions: dict[str, list[Tensor]] = {attribute: [] for attribute in teachers[0].attributes}
    for first in range(0, config.num, _MADE_TOGETHER):
        numbers = range(first, min(first + _MADE_TOGETHER, config.num))
        captions = [writer.full(pictures.records[position]) for position in train[order.positions(numbers)]]
        noise = example_noise(config.seed, "made", numbers, shape)
        guidance = 1.0 if first // _MADE_TOGETHER % 2 else config.guidance
        states = model.encode_prompts([*captions, ""]).states
        made = sample_guided(denoiser, model.schedule, states, noise.to(model.device), config.steps, guidance, "unipc")
        images = model.decode_latents(made).clamp(-1, 1).contiguous(memory_format=torch.channels_last)
        seen = [teacher(images) for teacher in teachers]
        for attribute, rows in opinions.items():
            rows.append(torch.stack([answer[attribute].softmax(1) for answer in seen]).mean(0).to("cpu", torch.float16))
        latents.append(made.to("cpu", torch.float16))
    return {"latents": torch.cat(latents), **{attribute: torch.cat(rows) for attribute, rows in opinions.items()}}
