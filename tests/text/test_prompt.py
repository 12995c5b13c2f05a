"""The prompt grammar: what weighs how much, what is text, and what is refused."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toile.errors import ToileError
from toile.text.prompt import MAX_WEIGHT, Piece, escape_prompt, parse_prompt, unparse_prompt

SIGNS = st.sampled_from(["(", ")", "[", "]", "\\", ":", "1.3", ":0.5)", ":-2)", "BREAK", " ", "red", "dress", ",", "."])
PROMPTS = st.one_of(st.lists(SIGNS, max_size=25).map("".join), st.text(max_size=60))


def pieces(text: str) -> list[tuple[str, float]]:
    """The only part of a prompt, weights rounded."""
    [part] = parse_prompt(text)
    return [(piece.text, round(piece.weight, 6)) for piece in part]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red dress", [("red dress", 1)]),
        ("a (red) dress", [("a ", 1), ("red", 1.1), (" dress", 1)]),
        ("a [red] dress", [("a ", 1), ("red", 0.909091), (" dress", 1)]),
        ("a (red:1.3) dress", [("a ", 1), ("red", 1.3), (" dress", 1)]),
        ("((red)) [[dress]]", [("red", 1.21), (" ", 1), ("dress", 0.826446)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        ("(red:0) (blue:-1.5)", [("red", 0), (" ", 1), ("blue", -1.5)]),
        ("(a: +.5 )", [("a", 0.5)]),
        ("(a:2.)", [("a", 2)]),
        ("(one)(two)", [("onetwo", 1.1)]),
        ("([one] two)", [("one", 1), (" two", 1.1)]),
        ("([a)b] c", [("a", 1), ("b", 0.909091), (" c", 1)]),
    ],
)
def test_brackets_weigh_as_in_the_a1111_web_ui(text: str, expected: list[tuple[str, float]]) -> None:
    assert pieces(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"dress \(red\)", "dress (red)"),
        (r"\[a\] \\ b", r"[a] \ b"),
        (r"a\b c", "ab c"),
        ("smile :) and frown :(", "smile :) and frown :("),
        ("a:1.3) b", "a:1.3) b"),
        ("a] b) [c (d", "a] b) [c (d"),
        ("[a:1.3) b", "[a:1.3) b"),
        ("12:30", "12:30"),
    ],
)
def test_what_is_escaped_or_unbalanced_is_text(text: str, expected: str) -> None:
    assert pieces(text) == [(expected, 1)]


def test_of_unbalanced_brackets_only_the_unmatched_are_text() -> None:
    assert pieces("((a)") == [("(", 1), ("a", 1.1)]
    assert pieces("(a)) b") == [("a", 1.1), (") b", 1)]


@pytest.mark.parametrize("text", ["(a:1.2.3)", "(a:1e3)", "(a:)", "(a:...)", "(a:1,5)"])
def test_what_is_no_number_is_text(text: str) -> None:
    assert pieces(text) == [(text[1:-1], 1.1)]


def test_break_ends_a_part() -> None:
    assert parse_prompt("a BREAK b") == ((Piece("a"),), (Piece("b"),))
    assert parse_prompt("(a  BREAK\n b:2) c") == ((Piece("a", 2.0),), (Piece("b", 2.0), Piece(" c")))
    assert parse_prompt("BREAK a BREAK") == ((), (Piece("a"),), ())
    assert parse_prompt("(a )BREAK( b)") == ((Piece("a", 1.1),), (Piece("b", 1.1),))


@pytest.mark.parametrize("text", ["BREAKFAST", "break", "a_BREAK"])
def test_break_is_a_word_of_its_own_in_capitals(text: str) -> None:
    assert parse_prompt(text) == ((Piece(text),),)
    assert parse_prompt(rf"\BREAK {text}") == ((Piece(f"BREAK {text}"),),)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("(a:nan)", "nan"),
        ("(a:-Infinity)", "-Infinity"),
        ("(a:101)", "101"),
        ("(a:-101)", "-101"),
        ("((a:60):2)", "120"),
        ("(a:" + "9" * 400 + ")", "99999"),
        ("(" * 60 + "a" + ")" * 60, "304"),
    ],
)
def test_weights_beyond_all_sense_are_refused(text: str, named: str) -> None:
    with pytest.raises(ToileError, match="weight in the prompt.*from -100 to 100") as caught:
        parse_prompt(text)
    assert named in str(caught.value)
    assert len(str(caught.value)) < 200


def test_weights_up_to_the_limit_are_taken() -> None:
    assert parse_prompt(f"(a:{MAX_WEIGHT:g})(b:-{MAX_WEIGHT:g})") == ((Piece("a", 100.0), Piece("b", -100.0)),)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="\\()[]"), max_size=80))
@example("a : b, c\n\0\udcff 1.3")
def test_text_without_signs_is_itself_with_weight_one(text: str) -> None:
    if "BREAK" not in text:
        assert parse_prompt(text) == (((Piece(text),) if text else ()),)


@settings(deadline=None)
@given(PROMPTS)
@example("BREAK")
@example("\\BREAK")
@example("BREAK\\ BREAK")
def test_escaped_text_is_itself_with_weight_one(text: str) -> None:
    assert parse_prompt(escape_prompt(text)) == (((Piece(text),) if text else ()),)


@settings(deadline=None)
@given(PROMPTS)
@example("(a )BREAK( b)")
@example("[a:1.3) (b:0.1234567890123456789)")
def test_unparsed_means_the_same(text: str) -> None:
    parts = parse_prompt(text)
    assert parse_prompt(unparse_prompt(parts)) == parts


@settings(deadline=None)
@given(PROMPTS)
def test_pieces_have_text_and_neighbours_differ(text: str) -> None:
    for part in parse_prompt(text):
        assert all(piece.text and math.isfinite(piece.weight) for piece in part)
        assert all(one.weight != other.weight for one, other in zip(part, part[1:], strict=False))


@pytest.mark.parametrize("unit", ["(", ":1", ": ", " ", "\\", "BREAK ", "[(", "(a)", ":", "1"])
def test_long_rows_of_signs_take_no_long_time(unit: str) -> None:
    started = time.process_time()
    parse_prompt(unit * (50_000 // len(unit)))
    parse_prompt(":" + unit * (50_000 // len(unit)))
    assert time.process_time() - started < 5.0  # a second try at every position would take minutes


def test_brackets_too_deep_are_refused_at_once() -> None:
    started = time.process_time()
    with pytest.raises(ToileError, match="more than 100 deep"):
        parse_prompt("([" * 20_000 + "a" + "])" * 20_000)
    assert time.process_time() - started < 5.0
