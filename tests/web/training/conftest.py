"""A desk for trainings of the tiny model, and pictures to learn from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from toile.lora import LORAS
from toile.user_folders import CACHE_VARIABLE
from toile.web.jobs.shelf import open_shelf
from toile.web.training.desk import Desk, DeskConfig
from toile.web.training.trainer import Training
from toile.web.training.wish import Wish


@dataclass(frozen=True)
class Atelier:
    """A desk, and what tests ask of it."""

    desk: Desk
    tiny: Path

    WISH = Wish(steps=16, batch=2, rank=2, width=16, height=16, prompts=("red belt",))

    def plan(self, name: str = "linen", wish: Wish = WISH) -> Training:
        """Begins to plan a training on the only set there is."""
        [pictures] = self.desk.pictures.all()
        return self.desk.plan(name, wish, open_shelf([str(self.tiny)])["tiny"], pictures)

    def until(self, condition: Callable[[Training], Any], seconds: float = 120.0) -> Training:
        """The training as soon as a condition holds."""
        end = time.monotonic() + seconds
        while True:
            training = self.desk.trainer.now()
            assert training is not None
            if condition(training):
                return training
            assert time.monotonic() < end, training
            time.sleep(0.02)

    def planned(self, name: str = "linen", wish: Wish = WISH) -> Training:
        """A plan that waits."""
        self.plan(name, wish)
        return self.until(lambda training: training.state == "planned")

    def running(self, name: str = "linen", wish: Wish = WISH) -> Training:
        """A training that has made a step."""
        self.desk.trainer.start(self.planned(name, wish).run)
        return self.until(lambda training: training.step > 0)

    def run_folder(self, name: str = "linen") -> Path:
        """Of a training."""
        return self.desk.config.own_runs / name


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRAs and caches of one test alone; processes that train inherit them."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(LORAS.variable, str(tmp_path / "loras"))


@pytest.fixture
def atelier(tmp_path: Path, picture_folder: Path, tiny_folder: Path, own_folders: None) -> Iterator[Atelier]:
    """With one set of pictures, "shapes"."""
    shutil.copytree(picture_folder, tmp_path / "pictures" / "shapes")
    desk = Desk(DeskConfig(tmp_path / "studio", (tmp_path / "pictures",), threads=1, niceness=0))
    yield Atelier(desk, tiny_folder)
    desk.close()
