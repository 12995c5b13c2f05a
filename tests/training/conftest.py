"""Fixtures of the training tests: small folders of pictures with words, and a toy objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from toile.training.draws import ShuffledOrder, example_noise
from toile.training.objective import Loss
from toile.training.pictures import DataConfig, PictureSet

NUM_PICTURES = 90
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 160, 30), "black": (20, 20, 20)}
SHAPES = {
    "bar": (slice(2, 14), slice(6, 10)),
    "belt": (slice(6, 10), slice(1, 15)),
    "box": (slice(4, 12), slice(4, 12)),
}


def write_picture_folder(folder: Path) -> Path:
    """90 pictures of 16x16, a coloured shape on white with some noise, each with a caption file.

    They are BMP files, because another version of a codec would change their bytes and so the split.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        colour, shape = list(COLOURS)[number % 4], list(SHAPES)[number // 4 % 3]
        pixels = np.full((16, 16, 3), 255, dtype=np.uint8)
        pixels[SHAPES[shape]] = COLOURS[colour]
        pixels[SHAPES[shape]] += rng.integers(0, 30, pixels[SHAPES[shape]].shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.bmp")
        (folder / f"{number}.txt").write_text(f"{colour} {shape}\n{shape} in {colour}", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_picture_folder(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="session")
def pictures(picture_folder: Path) -> PictureSet:
    """The pictures of `picture_folder`, split; do not change it."""
    return PictureSet(DataConfig(width=16, height=16, path=picture_folder))


@dataclass(frozen=True)
class ToyBatch:
    """x: (B, 2, 4, 4); target: (B, 2, 4, 4); examples: their numbers."""

    x: Tensor
    target: Tensor
    examples: range


class ToyNetwork(nn.Module):
    """Two convolutions around a scalar: matrices, vectors and a parameter of no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))) * self.scale


class ToyObjective:
    """Learns to blur; the loss of the examples in `poisoned` is not a number, and every batch's numbers are noted."""

    def __init__(self, poisoned: frozenset[int] = frozenset()) -> None:
        torch.manual_seed(0)
        self.module = ToyNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.poisoned = poisoned
        self.seen: list[int] = []
        self.order = ShuffledOrder(10, seed=0)
        self.held_out_of: Callable[[ToyNetwork], float] | None = None

    def batch(self, examples: range) -> ToyBatch:
        positions = self.order.positions(examples)
        self.seen += [int(position) for position in positions]
        x = example_noise(0, "toy", examples, (2, 4, 4)) + torch.from_numpy(positions).float().view(-1, 1, 1, 1) / 10
        return ToyBatch(x, x.mean(dim=(2, 3), keepdim=True).expand_as(x), examples)

    def loss(self, batch: ToyBatch, step: int) -> Loss:
        errors = (self.module(batch.x) - batch.target).square().mean(dim=(1, 2, 3))
        if not self.module.training and self.held_out_of is not None:
            return Loss(torch.tensor(self.held_out_of(self.module)), {})
        if self.module.training and not self.poisoned.isdisjoint(batch.examples):
            errors = errors * float("nan")
        return Loss(errors.mean(), {"largest": errors.detach().max()})

    def validation_batches(self) -> Iterator[ToyBatch]:
        x = example_noise(0, "held out", range(4), (2, 4, 4))
        yield ToyBatch(x, x.mean(dim=(2, 3), keepdim=True).expand_as(x), range(4))

    def samples(self) -> Tensor:
        return self.module(next(self.validation_batches()).x).clamp(-1, 1)


@pytest.fixture
def toy() -> type[ToyObjective]:
    return ToyObjective
