"""Which part of the training side is learnt: a share of it, or all but some pairs of colour and article."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from toile.data.records import Record
from toile.errors import ToileError
from toile.training.pictures import DataConfig, PictureSet, balancing_repeats, colour_and_article, learnt_of


def test_a_share_is_drawn_at_random_and_holds_out_the_same(picture_folder: Path) -> None:
    whole = PictureSet(DataConfig(16, 16, path=picture_folder))
    half = PictureSet(DataConfig(16, 16, path=picture_folder, train_share=0.5, train_seed=1))
    other = PictureSet(DataConfig(16, 16, path=picture_folder, train_share=0.5, train_seed=2))
    assert len(half.train) == round(len(whole.train) / 2)
    assert set(half.train) < set(whole.train) and set(half.train) != set(other.train)
    for side in ("validation", "test"):
        np.testing.assert_array_equal(getattr(half, side), getattr(whole, side))
    assert len({whole.pixels_identity, half.pixels_identity, other.pixels_identity}) == 1
    assert len({whole.identity, half.identity, other.identity}) == 3


def records() -> list[Record]:
    pairs = [("Pink", "Ties"), ("Pink", "Shirts"), ("Blue", "Ties")] * 4
    named = [Record(str(number), {"baseColour": a, "articleType": b}) for number, (a, b) in enumerate(pairs)]
    return [*named, Record("12", {"articleType": "Ties"})]


def test_unseen_pairs_are_left_out_of_the_training_side_alone() -> None:
    train = np.array([0, 1, 2, 3, 4, 5, 12])
    kept = learnt_of(train, records(), DataConfig(16, 16, unseen=("Pink Ties",)))
    assert kept.tolist() == [1, 2, 4, 5, 12]
    assert colour_and_article(records()[12].fields) == ""


def test_a_pair_that_no_record_has_is_refused() -> None:
    with pytest.raises(ToileError, match="no record is of 'Green Ties'"):
        learnt_of(np.arange(4), records(), DataConfig(16, 16, unseen=("Green Ties",)))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(ToileError, match="train_share"):
        DataConfig(16, 16, train_share=share)


def test_nothing_left_is_refused() -> None:
    with pytest.raises(ToileError, match="no picture to learn from"):
        learnt_of(np.arange(4), records(), DataConfig(16, 16, train_share=0.01))


def test_rarer_articles_are_repeated_but_not_without_end() -> None:
    types = ["Shirts"] * 1600 + ["Ties"] * 100 + ["Rings"] + [""] * 400
    repeats = balancing_repeats([{"articleType": name} if name else {} for name in types], 0.5)
    assert {name: int(repeats[types.index(name)]) for name in set(types)} == {"Shirts": 1, "Ties": 4, "Rings": 8, "": 2}
    assert set(balancing_repeats([{"articleType": name} for name in types], 0.0).tolist()) == {1}


def test_what_is_balanced_is_the_training_side_alone(write_products: Callable[..., Path]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)
    types = ["Shirts" if number % 10 else "Ties" for number in range(80)]
    folder = write_products((pixels, {"articleType": name}) for pixels, name in zip(noise, types, strict=True))
    plain, even = (PictureSet(DataConfig(8, 8, path=folder, balance=balance)) for balance in (0.0, 1.0))
    counts = Counter(even.train.tolist())
    assert sorted(counts) == plain.train.tolist()
    assert {even.records[place].fields["articleType"]: times for place, times in counts.items()}["Shirts"] == 1
    assert min(times for place, times in counts.items() if even.records[place].fields["articleType"] == "Ties") > 4
    for side in ("validation", "test"):
        np.testing.assert_array_equal(getattr(plain, side), getattr(even, side))
    assert plain.identity != even.identity and plain.pixels_identity == even.pixels_identity
    with pytest.raises(ToileError, match="balance"):
        DataConfig(8, 8, balance=1.5)
    with pytest.raises(ToileError, match="upscaler"):
        DataConfig(8, 8, balance=0.5).check_use("upscaling", sharded=False, compiles=False)


def test_what_has_no_articles_cannot_be_balanced(picture_folder: Path) -> None:
    with pytest.raises(ToileError, match="no record has a field articleType"):
        PictureSet(DataConfig(16, 16, path=picture_folder, balance=0.5))
