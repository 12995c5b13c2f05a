"""Mappings into dataclasses: every field converted or refused by name, nothing guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from toile.errors import ToileError
from toile.schema import build_config


@dataclass(frozen=True)
class Inner:
    size: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ToileError(f"size is {self.size}; allowed: 0 or more")


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    flag: bool = False
    widths: tuple[int, ...] = (1, 2)
    pair: tuple[float, str] = (0.0, "")
    heads: int | tuple[int, ...] = 8
    place: Path | None = None
    anything: Any = None
    labels: tuple[str, ...] = field(default_factory=tuple)

    IGNORED: ClassVar[frozenset[str]] = frozenset({"act_fn"})


LEAST: dict[str, Any] = {"name": "n", "inner": {"size": 3}}


def test_defaults_and_nesting() -> None:
    assert build_config(Outer, LEAST, "f") == Outer("n", Inner(3))
    assert build_config(Outer, {"name": "n", "inner": Inner(4)}, "f").inner == Inner(4)


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("flag", True, True),
        ("widths", [3, 4, 5], (3, 4, 5)),
        ("widths", [], ()),
        ("pair", [1, "a"], (1.0, "a")),
        ("heads", 4, 4),
        ("heads", [1, 2], (1, 2)),
        ("place", "a/b", Path("a/b")),
        ("place", None, None),
        ("anything", {"x": [1]}, {"x": [1]}),
        ("inner", {"size": 1, "share": 2}, Inner(1, 2.0)),
    ],
)
def test_values_are_converted(key: str, given: object, expected: object) -> None:
    got = getattr(build_config(Outer, {**LEAST, key: given}, "f"), key)
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("name", 3),
        ("name", None),
        ("flag", 1),
        ("flag", "true"),
        ("widths", 3),
        ("widths", "12"),
        ("widths", [1, 2.5]),
        ("widths", [1, True]),
        ("pair", [1.0]),
        ("pair", ["a", 1.0]),
        ("heads", 2.0),
        ("heads", True),
        ("heads", ["a"]),
        ("place", 3),
        ("inner", 3),
        ("inner", {"size": 1.5}),
        ("inner", {"size": 1, "share": "much"}),
        ("inner", {"size": 1, "share": True}),
    ],
)
def test_values_of_another_type_are_refused_by_name(key: str, given: object) -> None:
    with pytest.raises(ToileError, match=f"^file: {key}.*expected"):
        build_config(Outer, {**LEAST, key: given}, "file")


def test_unknown_keys_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ToileError, match="^file: unknown key 'widhts'; did you mean 'widths'"):
        build_config(Outer, {**LEAST, "widhts": [1]}, "file")
    with pytest.raises(ToileError, match="file: inner: unknown key 'zzz'; known keys: size, share"):
        build_config(Outer, {"name": "n", "inner": {"size": 1, "zzz": 1}}, "file")


def test_missing_keys_are_named() -> None:
    with pytest.raises(ToileError, match="^file: 'name' is missing"):
        build_config(Outer, {"inner": {"size": 1}}, "file")
    with pytest.raises(ToileError, match="^file: inner: 'size' is missing"):
        build_config(Outer, {"name": "n", "inner": {}}, "file")


def test_ignored_keys_and_private_ones_are_skipped() -> None:
    assert build_config(Outer, {**LEAST, "act_fn": "silu", "_class_name": "X"}, "f") == Outer("n", Inner(3))


def test_a_value_that_the_class_refuses_is_an_error_of_the_class() -> None:
    with pytest.raises(ToileError, match="size is -1"):
        build_config(Outer, {"name": "n", "inner": {"size": -1}}, "f")
