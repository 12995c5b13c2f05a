"""The copy audit on real pictures: copies of training pictures raise the alarm, held-out ones do not (E3)."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toile.data.products import ProductTable
from toile.data.sources import load_pictures
from toile.data.split import split_by_content
from toile.evaluation.copies import ALARM_LEVEL, CopyAudit, NearestTraining, audit_copies, nearest_training

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

NUM_JUDGED = 400
NUM_COPIES = 40


@dataclass(frozen=True)
class Pictures:
    """Pictures (N, 80, 64, 3) uint8; how near the held-out ones come to the training ones; the mean thumbnail."""

    training: np.ndarray
    held_out: np.ndarray
    judged: np.ndarray
    yardstick: NearestTraining
    centre: torch.Tensor


def thumbnails(pixels: np.ndarray) -> torch.Tensor:
    """8 x 10 means of patches, (N, 240) float32: simple features that need no network."""
    patches = torch.from_numpy(pixels).float().reshape(len(pixels), 10, 8, 8, 8, 3)
    return patches.mean(dim=(2, 4)).flatten(1) / 255.0


@pytest.fixture(scope="module")
def pictures(shared_data: Path) -> Pictures:
    """Every fourth product, split by content as for training; the held-out side in two."""
    table = ProductTable(shared_data / "fashion-product-images-small.zip")
    loaded = load_pictures(table, 64, 80, range(0, len(table.records), 4))
    titles = [table.title(int(index)) for index in loaded.kept]
    split = split_by_content(loaded.hashes, titles, seed=0)
    held_out = np.random.default_rng(0).permutation(np.concatenate([split.validation, split.test]))
    judged, others = held_out[:NUM_JUDGED], held_out[NUM_JUDGED:]
    training = loaded.pixels[split.train]
    centre = thumbnails(training).mean(dim=0)
    yardstick = nearest_training(thumbnails(loaded.pixels[others]) - centre, thumbnails(training) - centre)
    return Pictures(training, loaded.pixels[others], loaded.pixels[judged], yardstick, centre)


def audit(pictures: Pictures, judged: np.ndarray) -> CopyAudit:
    known = thumbnails(pictures.training) - pictures.centre
    return audit_copies(nearest_training(thumbnails(judged) - pictures.centre, known), pictures.yardstick)


def noisy(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0.0, 4.0, pixels.shape)
    return (pixels + noise).round().clip(0, 255).astype(np.uint8)


def recompressed(pixels: np.ndarray) -> np.ndarray:
    def through_jpeg(picture: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=75)
        return np.asarray(Image.open(stream))

    return np.stack([through_jpeg(picture) for picture in pixels])


def test_held_out_pictures_do_not_raise_the_alarm(pictures: Pictures) -> None:
    found = audit(pictures, pictures.judged)
    assert not found.alarm and found.p_value > ALARM_LEVEL, found.sentence
    assert 0.0 < found.limit < float(pictures.yardstick.distances.median())


@pytest.mark.parametrize("change", [np.copy, noisy, recompressed], ids=["exact", "noise", "jpeg"])
def test_copies_raise_the_alarm(pictures: Pictures, change: Callable[[np.ndarray], np.ndarray]) -> None:
    chosen = np.random.default_rng(2).permutation(len(pictures.training))[:NUM_COPIES]
    judged = pictures.judged.copy()
    judged[:NUM_COPIES] = change(pictures.training[chosen])
    found = audit(pictures, judged)
    assert found.alarm and found.p_value < 1e-3, found.sentence
    # Side by side: the original is found, or one that looks the same.
    originals = pictures.training[found.nearest.indices[:NUM_COPIES].numpy()].astype(float)
    gaps = np.abs(originals - pictures.training[chosen]).mean(axis=(1, 2, 3))
    assert np.median(gaps) == 0.0
    assert set(found.most_alike[:NUM_COPIES].tolist()) & set(range(NUM_COPIES))


def test_held_out_pictures_raise_the_alarm_no_more_often_than_stated(pictures: Pictures) -> None:
    """The held-out side divided 200 times at random into judged pictures and yardstick."""
    known = thumbnails(pictures.training) - pictures.centre
    together = np.concatenate([pictures.judged, pictures.held_out])
    nearest = nearest_training(thumbnails(together) - pictures.centre, known)
    rng = np.random.default_rng(3)
    alarms = []
    for _ in range(200):
        order = torch.from_numpy(rng.permutation(len(together)))
        parts = [order[:NUM_JUDGED], order[NUM_JUDGED:]]
        alarms.append(
            audit_copies(*(NearestTraining(nearest.distances[part], nearest.indices[part]) for part in parts)).alarm
        )
    assert np.mean(alarms) <= ALARM_LEVEL + 0.01
