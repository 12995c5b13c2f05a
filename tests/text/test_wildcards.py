"""Wildcards: choices in prompts, made by the seed, always the same way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toile.errors import ToileError
from toile.text.wildcards import has_choices, load_wildcards, resolve_wildcards

WILDCARDS = {
    "colour": ("red", "blue", "green"),
    "hair_colour": ("black",),
    "shoes/heel": ("high", "low"),
    "nested": ("{a|b} __colour__",),
    "loop": ("x __loop__",),
}


def all_results(text: str, num_seeds: int = 300) -> Counter[str]:
    return Counter(resolve_wildcards(text, seed, WILDCARDS) for seed in range(num_seeds))


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(0, 2**64 - 1))
def test_text_without_choices_is_itself(text: str, seed: int) -> None:
    if not has_choices(text):
        assert resolve_wildcards(text, seed) == text


@settings(deadline=None)
@given(st.lists(st.sampled_from(["{", "}", "|", "\\", "__", "_", "a", "{}"]), max_size=20).map("".join))
def test_any_row_of_signs_gives_a_text_for_every_seed(text: str) -> None:
    results = {resolve_wildcards(text, seed) for seed in range(5)}
    assert has_choices(text) or results == {text}


def test_every_alternative_is_as_likely_as_the_others() -> None:
    counts = all_results("{red|blue|dark green} dress", 3000)
    assert set(counts) == {"red dress", "blue dress", "dark green dress"}
    assert min(counts.values()) > 900  # 1,000 expected, standard deviation 26


def test_every_line_of_a_wildcard_is_as_likely_as_the_others() -> None:
    counts = all_results("__colour__ dress", 3000)
    assert set(counts) == {f"{colour} dress" for colour in WILDCARDS["colour"]}
    assert min(counts.values()) > 900


def test_choices_of_one_prompt_are_independent() -> None:
    counts = all_results("{a|b}{c|d}", 2000)
    assert set(counts) == {"ac", "ad", "bc", "bd"}
    assert min(counts.values()) > 400  # 500 expected


def test_a_seed_always_chooses_the_same() -> None:
    chosen = [resolve_wildcards("{a|b|c} __colour__ {d|e}", seed, WILDCARDS) for seed in (0, 1, 7, 2**64 - 1)]
    assert chosen == ["c blue e", "a red e", "a blue d", "a green e"]


def test_alternatives_nest_and_may_be_empty() -> None:
    assert set(all_results("{a|{b|c} d|}!")) == {"a!", "b d!", "c d!", "!"}
    assert set(all_results("__nested__")) == {f"{x} {colour}" for x in "ab" for colour in WILDCARDS["colour"]}


def test_names_may_have_underscores_and_folders() -> None:
    assert set(all_results("__hair_colour__, __shoes/heel__")) == {"black, high", "black, low"}


@pytest.mark.parametrize(
    "text", ["{a} b", "a | b", "{a|b", "a}|{b", r"\{a|b\}", r"\__colour\__", "____", "__ a __", "{prompt}", "__a\nb__"]
)
def test_what_is_no_choice_is_text(text: str) -> None:
    assert resolve_wildcards(text, 3, WILDCARDS) == text
    assert not has_choices(text, WILDCARDS)


def test_a_single_text_in_braces_stays_but_what_is_in_it_is_chosen() -> None:
    assert set(all_results("{ {a|b} }")) == {"{ a }", "{ b }"}


def test_without_a_folder_names_are_text() -> None:
    assert resolve_wildcards("__init__ __colour__", 1) == "__init__ __colour__"
    assert has_choices("__colour__", WILDCARDS)
    assert not has_choices("__colour__")


def test_unknown_names_and_loops_are_refused() -> None:
    with pytest.raises(ToileError, match="no wildcard 'colours'; near it: colour"):
        resolve_wildcards("__colours__", 1, WILDCARDS)
    with pytest.raises(ToileError, match="lead back to itself"):
        resolve_wildcards("__loop__", 1, WILDCARDS)
    with pytest.raises(ToileError, match="more than 32 deep"):
        resolve_wildcards("{" * 40 + "}" * 40, 1)


def test_a_prompt_that_grows_without_end_is_refused() -> None:
    doubling = {f"w{n}": (f"__w{n + 1}__ __w{n + 1}__",) for n in range(30)} | {"w30": ("a long text",)}
    with pytest.raises(ToileError, match="more than 100,000 characters"):
        resolve_wildcards("__w0__", 1, doubling)


def test_a_folder_of_wildcards_is_read(tmp_path: Path) -> None:
    (tmp_path / "shoes").mkdir()
    (tmp_path / "colour.txt").write_bytes("\ufeffred\r\n\r\n# dark ones\r\n  navy blue \r\n".encode())
    (tmp_path / "shoes" / "heel.txt").write_text("high")
    (tmp_path / "notes.md").write_text("no wildcard")
    assert load_wildcards(tmp_path) == {"colour": ("red", "navy blue"), "shoes/heel": ("high",)}


def test_folders_without_choices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ToileError, match="is no folder"):
        load_wildcards(tmp_path / "absent")
    with pytest.raises(ToileError, match="holds no .txt file"):
        load_wildcards(tmp_path)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ToileError, match="empty.txt holds nothing"):
        load_wildcards(tmp_path)
    (tmp_path / "empty.txt").write_bytes(b"\xff")
    with pytest.raises(ToileError, match="no UTF-8 text"):
        load_wildcards(tmp_path)
