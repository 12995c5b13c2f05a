"""No picture and no title on two sides, whatever the data; more data moves nothing it does not touch (D4)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toile.data.split import SIDES, Split, first_seed_with_held_out, normalise_title, split_by_content
from toile.errors import ToileError

products = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["", " ", "a", "A!", "b", "c d", "C-d", "e", "f"])))


def content(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@given(products, st.integers(0, 5))
def test_no_hash_and_no_title_on_two_sides(items: list[tuple[int, str]], seed: int) -> None:
    hashes = [content(number) for number, _ in items]
    titles = [title for _, title in items]
    split = split_by_content(hashes, titles, (0.4, 0.3, 0.3), seed)
    sides = [split.train, split.validation, split.test]
    assert sorted(np.concatenate(sides).tolist()) == list(range(len(items)))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        for values in (hashes, [normalise_title(title) for title in titles]):
            shared = {values[i] for i in sides[first]} & {values[i] for i in sides[second]}
            assert shared <= {""}


@given(products, products)
def test_more_data_moves_nothing_it_does_not_touch(items: list[tuple[int, str]], more: list[tuple[int, str]]) -> None:
    other = [(number + 1000, f"new {title}") for number, title in more]
    grown = other + items
    before = split_by_content([content(n) for n, _ in items], [t for _, t in items], (0.4, 0.3, 0.3))
    after = split_by_content([content(n) for n, _ in grown], [t for _, t in grown], (0.4, 0.3, 0.3))
    for side in SIDES:
        old = getattr(before, side) + len(other)
        assert set(old.tolist()) <= set(getattr(after, side).tolist())


def test_a_chain_of_hashes_and_titles_stays_whole() -> None:
    # picture 0 shares a title with 1, which shares its picture with 2, and so on through 400 products
    hashes = [content(position // 2) for position in range(400)]
    titles = [f"title {(position + 1) // 2}" for position in range(400)]
    split = split_by_content(hashes, titles, (0.4, 0.3, 0.3))
    assert sorted(len(getattr(split, side)) for side in SIDES) == [0, 0, 400]


def test_blank_titles_connect_nothing_and_shares_come_out() -> None:
    hashes = [content(number) for number in range(4000)]
    split = split_by_content(hashes, [""] * 4000)
    shares = [len(getattr(split, side)) / 4000 for side in SIDES]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.015)
    other = split_by_content(hashes, ["-"] * 4000, seed=1)
    assert set(other.test.tolist()) != set(split.test.tolist())
    assert len(split_by_content(hashes, [""] * 4000, (0.5, 0.5, 0.0)).test) == 0


def test_saved_by_content_and_applied_in_another_order(tmp_path: Path) -> None:
    hashes = [content(number) for number in range(300)]
    split = split_by_content(hashes, [""] * 300, (0.6, 0.2, 0.2))
    split.save(tmp_path / "split.json")
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]
    again = Split.load(tmp_path / "split.json").apply(hashes[::-1])
    for side in SIDES:
        assert sorted(299 - getattr(again, side)) == getattr(split, side).tolist()
    part = Split.load(tmp_path / "split.json").apply(hashes[:10])
    assert sum(len(getattr(part, side)) for side in SIDES) == 10
    with pytest.raises(ToileError, match="1 of 2 pictures are not in this split"):
        split.apply([hashes[0], content(999)])


def test_damaged_split_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    for damaged in ("{", "[]", '{"format": "other"}'):
        path.write_text(damaged)
        with pytest.raises(ToileError, match="split"):
            Split.load(path)
    path.write_text(json.dumps({"format": "toile-split/1", "train": ["a"], "validation": [], "test": ["a"]}))
    with pytest.raises(ToileError, match="two sides"):
        Split.load(path)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ToileError, match="1 hashes and 2 titles"):
        split_by_content(["a"], ["x", "y"])
    with pytest.raises(ToileError, match="sum 1"):
        split_by_content(["a"], ["x"], (0.9, 0.2, 0.1))


def test_few_pictures_get_a_seed_under_which_some_are_held_out() -> None:
    for num in (2, 5, 20):
        hashes, titles = [f"{num}-{number}" for number in range(num)], [""] * num
        split = split_by_content(hashes, titles, seed=first_seed_with_held_out(hashes, titles, 1000))
        assert len(split.train) and len(split.validation)
    assert first_seed_with_held_out(["a"], [""]) == 0  # nothing can be done
