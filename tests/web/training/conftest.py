"""A desk beside the tiny model, and pictures to learn from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toile.lora import LORAS
from toile.user_folders import CACHE_VARIABLE
from toile.web.jobs.shelf import ServedModel, open_shelf
from toile.web.training.desk import Desk, DeskConfig
from toile.web.training.picture_sets import PictureSet
from toile.web.training.trainer import Training
from toile.web.training.wish import Wish

WISH = Wish(steps=40, batch=2, rank=2, width=16, height=16, prompts=("red belt",))


@pytest.fixture(autouse=True)
def folders_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRAs and caches of the tests alone; processes that train inherit them."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(LORAS.variable, str(tmp_path / "loras"))


@pytest.fixture
def base(tiny_folder: Path) -> ServedModel:
    return open_shelf([str(tiny_folder)])["tiny"]


@pytest.fixture
def pictures(picture_folder: Path, tmp_path: Path) -> Path:
    """A folder of one set, "shapes"."""
    shutil.copytree(picture_folder, tmp_path / "pictures" / "shapes")
    return tmp_path / "pictures"


@pytest.fixture
def desk(tmp_path: Path, pictures: Path) -> Iterator[Desk]:
    opened = Desk(DeskConfig(tmp_path / "studio", (pictures,), threads=1, niceness=0))
    yield opened
    opened.close()


@pytest.fixture
def shapes(desk: Desk) -> PictureSet:
    [found] = desk.pictures.all().values()
    return found


def until(desk: Desk, condition: Callable[[Training], Any], seconds: float = 120.0) -> Training:
    """The training as soon as a condition holds."""
    end = time.monotonic() + seconds
    while True:
        training = desk.trainer.now()
        assert training is not None
        if condition(training):
            return training
        assert time.monotonic() < end and training.error is None, training
        time.sleep(0.02)
