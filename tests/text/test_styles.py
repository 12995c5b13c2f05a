"""Styles: read from the file of the A1111 web UI, put around a prompt, refused when they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from toile.errors import ToileError
from toile.text.styles import Style, apply_style, find_styles, load_styles

FILE = """name,prompt,negative_prompt
Studio,"{prompt}, studio light, white background",shadow
Film,grainy film,"digital, ""sharp"", clean"
"Two
lines",,blurry
,unnamed,
"""


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "styles.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_of_styles_is_read(tmp_path: Path, encoding: str, newline: str) -> None:
    styles = load_styles(write(tmp_path, FILE.replace("\n", newline), encoding))
    assert list(styles) == ["Studio", "Film", "Two\nlines"]
    assert styles["Studio"] == Style("Studio", "{prompt}, studio light, white background", "shadow")
    assert styles["Film"].negative == 'digital, "sharp", clean'


def test_old_files_call_the_prompt_text_and_have_no_negative(tmp_path: Path) -> None:
    assert load_styles(write(tmp_path, "name,text\nFilm,grainy\n")) == {"Film": Style("Film", "grainy")}


def test_rows_may_be_short_and_columns_unknown(tmp_path: Path) -> None:
    styles = load_styles(write(tmp_path, "name,prompt,negative_prompt,notes\nA\nB,b,c,d,e\n"))
    assert styles == {"A": Style("A"), "B": Style("B", "b", "c")}


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("{prompt}, grainy", "red dress, grainy"),
        ("photo of {prompt} and {prompt}", "photo of red dress and red dress"),
        ("grainy film ", "red dress, grainy film"),
        ("", "red dress"),
        (" ", "red dress"),
    ],
)
def test_a_style_is_put_around_or_behind_a_prompt(style: str, expected: str) -> None:
    assert apply_style("red dress", style) == expected


def test_a_style_without_a_prompt_stands_alone() -> None:
    assert apply_style("", "grainy") == "grainy"
    assert apply_style(" as typed ", "") == " as typed "


def test_styles_are_found_by_name_in_the_order_asked_for() -> None:
    styles = {name: Style(name, name) for name in ("Film", "Studio")}
    assert [style.name for style in find_styles(styles, ["Studio", "Film"])] == ["Studio", "Film"]
    assert find_styles(styles, []) == ()
    with pytest.raises(ToileError, match="no style 'film'; near it: Film"):
        find_styles(styles, ["film"])
    with pytest.raises(ToileError, match="near it: none"):
        find_styles({}, ["film"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns name,prompt,negative_prompt"),
        ("title,prompt\na,b\n", "columns name,prompt,negative_prompt"),
        ("name,negative_prompt\na,b\n", "columns name,prompt,negative_prompt"),
        ('name,prompt\na,"b\n', "after line 1.*quote"),
        ("name,prompt\na,b\na,c\n", "line 3: there is another style 'a'"),
        ("name,prompt\na," + "b" * 200_000 + "\n", "after line 1"),
    ],
)
def test_what_is_no_file_of_styles_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ToileError, match=message):
        load_styles(write(tmp_path, text))


def test_equal_styles_twice_are_one(tmp_path: Path) -> None:
    assert list(load_styles(write(tmp_path, "name,prompt\na,b\na,b\n"))) == ["a"]


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ToileError, match="cannot read"):
        load_styles(tmp_path / "absent.csv")
    with pytest.raises(ToileError, match=r"no UTF-8 text \(byte 5\)"):
        load_styles(write(tmp_path, "name,\xe9\n", "latin-1"))
