"""Blind rating: what is drawn, what the page tells and does not tell, and what files of answers may hold."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toile.errors import ToileError
from toile.evaluation.contestants import FolderContestant
from toile.evaluation.rating import (
    QUESTIONS,
    Rating,
    RatingKey,
    build_rating,
    draw_trials,
    key_facts,
    pair_up,
    read_answers,
    read_key,
)
from toile.evaluation.rating_page import Shown, render_page
from toile.weights.files import write_json_atomically

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)> & \u2028 \x00 {width}'
NAMES = ("Secret maker one", "Secret maker two")


def pictures(count: int, level: int, height: int = 20, width: int = 16) -> list[np.ndarray]:
    return [np.full((height, width, 3), level + number, dtype=np.uint8) for number in range(count)]


def rating_of(count: int = 8, seed: int = 0) -> Rating:
    prompts = [f"shirt {number} {HOSTILE if number == 1 else ''}" for number in range(count)]
    return build_rating(NAMES, prompts, (pictures(count, 20), pictures(count, 180, 40, 40)), seed)


class Elements(HTMLParser):
    """Every element of a page, with the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and (tag := self.elements[-1][0]) in self.texts and data.strip():
            self.texts[tag].append(data)


def data_of(page: str) -> dict:
    return json.loads(Elements(page).texts["script"][0])


@pytest.mark.parametrize("count", [1, 3, 4, 40, 41])
def test_every_pair_comes_once_and_some_again_with_sides_swapped(count: int) -> None:
    trials = draw_trials(count, 0, "some")
    first = {trial.pair: trial for trial in trials if not trial.again}
    again = [trial for trial in trials if trial.again]
    assert sorted(first) == list(range(count)) and len(first) + len(again) == len(trials)
    assert len(again) == {1: 0, 3: 0, 4: 2, 40: 6, 41: 6}[count] == len({trial.pair for trial in again})
    for trial in again:
        assert trial.a_left != first[trial.pair].a_left
        assert trials.index(first[trial.pair]) < count // 2 <= trials.index(trial)
    assert abs(sum(trial.a_left for trial in first.values()) - count / 2) <= 0.5


def test_draws_are_functions_of_seed_and_content() -> None:
    assert draw_trials(40, 3, "x") == draw_trials(40, 3, "x")
    assert len({draw_trials(40, 3, "x"), draw_trials(40, 4, "x"), draw_trials(40, 3, "y")}) == 3
    for count in (0, 501):
        with pytest.raises(ToileError, match="allowed: 1 to 500"):
            draw_trials(count, 0, "x")


def test_the_key_says_whose_picture_the_page_shows() -> None:
    rating = rating_of()
    data = data_of(rating.page)
    for shown, trial in zip(data["shown"], rating.key.trials, strict=True):
        for side, of_a in (("left", trial.a_left), ("right", not trial.a_left)):
            encoded = data["pictures"][shown[side]].removeprefix("data:image/jpeg;base64,")
            image = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
            assert image.shape == (480, 384, 3)
            level = (20 if of_a else 180) + trial.pair
            assert abs(int(image[240, 192, 0]) - level) <= 2
        assert shown["prompt"].startswith(f"shirt {trial.pair}")


def test_the_page_tells_nothing_of_the_makers() -> None:
    rating = rating_of()
    data = data_of(rating.page)
    assert not any(name in rating.page for name in NAMES)
    assert set(data) == {"format", "session", "questions", "shown", "pictures"}
    assert all(set(shown) == {"left", "right", "prompt"} for shown in data["shown"])
    numbers = [number for shown in data["shown"] for number in (shown["left"], shown["right"])]
    first_seen = list(dict.fromkeys(numbers))
    assert first_seen == sorted(first_seen)  # numbered as they appear: the numbers say nothing either
    swapped = build_rating(NAMES[::-1], rating.key.prompts, (pictures(8, 180), pictures(8, 20)))
    assert swapped.key.session != rating.key.session


def test_the_page_runs_its_own_script_only_and_fetches_nothing() -> None:
    page = rating_of().page
    parsed = Elements(page)
    policy = next(attrs["content"] for tag, attrs in parsed.elements if attrs.get("http-equiv"))
    _, script = parsed.texts["script"]
    [style] = parsed.texts["style"]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src '{sha256_of(style)}'; script-src '{sha256_of(script)}'"
    )
    assert Counter(tag for tag, _ in parsed.elements)["script"] == 2
    for tag, attrs in parsed.elements:
        assert not {"src", "href", "style", "onerror", "onclick", "onload"} & set(attrs), tag
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|import\(", page)


def sha256_of(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def test_hostile_words_stay_words() -> None:
    page = rating_of().page
    assert HOSTILE[:40] not in page and html.escape(HOSTILE)[:40] not in page
    words = {shown["prompt"] for shown in data_of(page)["shown"]}
    shown = HOSTILE.replace("\x00", " ").replace("\u2028", " ")
    assert f"shirt 1 {shown}" in words
    longest = build_rating(NAMES, ["long " * 1000], (pictures(1, 0), pictures(1, 9)))
    assert len(data_of(longest.page)["shown"][0]["prompt"]) == 500
    with pytest.raises(ToileError, match="shows picture 2, but has 1"):
        render_page("s", [Shown(0, 2, "")], [b""], QUESTIONS, (1, 1))


def test_equal_input_gives_equal_pages() -> None:
    assert rating_of().page == rating_of().page != rating_of(seed=1).page
    with pytest.raises(ToileError, match="2 prompts, 1 and 2 pictures"):
        build_rating(NAMES, ["a", "b"], (pictures(1, 0), pictures(2, 0)))
    with pytest.raises(ToileError, match="no pairs"):
        build_rating(NAMES, [], ([], []))


def folder(name: str, prompts: str) -> FolderContestant:
    return FolderContestant(name, tuple(Path(f"{n}.png") for n in range(len(prompts))), tuple(prompts.strip("-")))


def test_folders_are_paired_by_words() -> None:
    a, b, texts = pair_up(folder("one", "xyxz"), folder("two", "zxqx"), None, 40, 0)
    assert texts == ("x", "x", "z")
    assert isinstance(a, FolderContestant) and isinstance(b, FolderContestant)
    assert [path.name for path in a.paths] == ["0.png", "2.png", "3.png"]
    assert [path.name for path in b.paths] == ["1.png", "3.png", "0.png"]
    assert a.prompts == b.prompts == texts
    assert len(pair_up(folder("one", "xyxz"), folder("two", "zxqx"), None, 2, 0)[2]) == 2
    with pytest.raises(ToileError, match="no picture of the same words"):
        pair_up(folder("one", "x"), folder("two", "y"), None, 40, 0)
    with pytest.raises(ToileError, match="leave out prompts"):
        pair_up(folder("one", "x"), folder("two", "x"), ["x"], 40, 0)
    with pytest.raises(ToileError, match="hold no recipe"):
        pair_up(FolderContestant("one", (Path("0.png"),), ("",)), folder("two", "x"), None, 40, 0)


def test_keys_and_answers_come_back(tmp_path: Path) -> None:
    key = rating_of().key
    write_json_atomically(tmp_path / "key.json", key_facts(key))
    assert read_key(tmp_path / "key.json") == key
    path = write_answers(tmp_path / "a.json", key, answers=[{"trial": 3, "real": "left", "words": "same"}])
    [sheet] = read_answers([path], key)
    assert (sheet.rater, sheet.answers[0].words) == ("Ada", "same")


def write_answers(path: Path, key: RatingKey, **changed: object) -> Path:
    answers = [{"trial": number, "real": "left", "words": "right"} for number in range(len(key.trials))]
    content = {"format": "toile-answers/1", "session": key.session, "rater": "Ada", "answers": answers, **changed}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


UNFIT = {
    "another page": ({"session": "0" * 16}, "answers to another page"),
    "another format": ({"format": "x" * 5000}, "holds no answers"),
    "no answers": ({"answers": []}, "no answers"),
    "an answer twice": ({"answers": [{"trial": 0, "real": "left", "words": "left"}] * 2}, "answered twice"),
    "a trial too many": ({"answers": [{"trial": 10**400, "real": "left", "words": "left"}]}, "is not on the page"),
    "a trial before the first": ({"answers": [{"trial": -1, "real": "left", "words": "left"}]}, "is not on the page"),
    "a true trial": ({"answers": [{"trial": True, "real": "left", "words": "left"}]}, "expected int"),
    "half a trial": ({"answers": [{"trial": 0, "real": "left"}]}, "'words' is missing"),
    "no choice": ({"answers": [{"trial": 0, "real": "\x1b[31m" * 99, "words": "left"}]}, "is no choice"),
    "a list of lists": ({"answers": [[]]}, "expected Answer"),
    "a long wrong value": ({"answers": "\x1b[2J" * 10**5}, "expected"),
    "no name": ({"rater": "  "}, "rater's name"),
    "a name that rings": ({"rater": "Ada\x07\n"}, "rater's name"),
    "a name without end": ({"rater": "A" * 10**5}, "rater's name"),
    "unknown keys": ({"note": "hello"}, "unknown key"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_unfit_answers_are_refused_in_a_line(what: str, tmp_path: Path) -> None:
    key = rating_of(4).key
    changed, message = UNFIT[what]
    check_refused([write_answers(tmp_path / "a.json", key, **changed)], key, message)


def check_refused(paths: list[Path], key: RatingKey, message: str) -> None:
    with pytest.raises(ToileError) as caught:
        read_answers(paths, key)
    told = str(caught.value)
    assert message in told and str(paths[-1]) in told
    assert told.isprintable() and len(told) < 400 + len(str(paths[-1]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"\x89PNG\r\n", "not UTF-8"),
        (b"[1, 2]", "must be a JSON object"),
        (b'{"rater": "a", "rater": "b"}', "appears twice"),
        (b'{"format": NaN}', "NaN is not allowed"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b" " * (2**20 + 1), "more than 1,048,576 bytes"),
    ],
)
def test_what_is_no_json_is_refused_in_a_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    check_refused([tmp_path / "a.json"], rating_of(4).key, message)


def test_files_that_are_missing_or_by_one_person(tmp_path: Path) -> None:
    key = rating_of(4).key
    check_refused([tmp_path / "none.json"], key, "cannot read")
    paths = [write_answers(tmp_path / f"{name.strip()}.json", key, rater=name) for name in ("Ada", " ADA")]
    check_refused(paths, key, "both by ADA")
    with pytest.raises(ToileError, match="no answers to read"):
        read_answers([], key)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "toile-answers/1"}, "no key of a rating"),
        ({"trials": []}, "every pair once"),
        ({"trials": [{"pair": 0, "a_left": True, "again": False}] * 2}, "every pair once"),
        ({"prompts": [], "trials": []}, "every pair once"),
        ({"trials": [{"pair": 0, "a_left": 1, "again": False}]}, "expected bool"),
    ],
)
def test_unfit_keys_are_refused(changed: dict, message: str, tmp_path: Path) -> None:
    write_json_atomically(tmp_path / "key.json", {**key_facts(rating_of(4).key), **changed})
    with pytest.raises(ToileError, match=message):
        read_key(tmp_path / "key.json")
