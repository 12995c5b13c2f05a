"""Leaks: what is on two sides is found, what is together is not."""

from __future__ import annotations

from toile.data_check.leaks import equal_contents, equal_titles, shared_across, sides_of_folders, sides_of_training


def test_groups_on_several_sides_are_told_with_one_of_each_side_first() -> None:
    sides = ["train", "train", "test", "validation", "train", ""]
    found = shared_across(sides, [[0, 1, 2], [0, 4], [2, 3], [1, 5]])
    assert found == [((0, 2, 1), "train 2, test 1"), ((3, 2), "validation 1, test 1")]


def test_equal_titles_know_no_case_and_blank_ones_no_equals() -> None:
    assert equal_titles(["Red Dress!", "", "red  dress", "", "blue"]) == [[0, 2]]
    assert equal_contents(["a", "b", "a"]) == [[0, 2]]


def test_sides_of_folders() -> None:
    assert sides_of_folders(["Train/a.png", "val/b.png", "test/c/d.png", "other/e.png", "f.png"]) == [
        "train", "validation", "test", "", "",
    ]  # fmt: skip
    assert sides_of_folders(["train/a.png", "train/b.png", "test.png"]) is None
    assert sides_of_folders([]) is None


def test_the_split_of_training_has_neither_contents_nor_titles_on_two_sides() -> None:
    contents = [f"picture {number // 2}" for number in range(600)]
    titles = [f"Title {number % 250}" for number in range(600)]
    sides = sides_of_training(contents, titles, seed=0)
    assert shared_across(sides, equal_contents(contents)) == [] == shared_across(sides, equal_titles(titles))
    alone = sides_of_training([str(number) for number in range(600)], [""] * 600, seed=0)
    assert set(alone) == {"train", "validation", "test"}
    assert alone != sides_of_training([str(number) for number in range(600)], [""] * 600, seed=1)
