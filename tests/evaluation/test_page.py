"""The page: all that was measured is there, nothing runs or is fetched, and what it says fits the numbers."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from toile.evaluation.page import render_page
from toile.evaluation.page_pictures import CopyPair, CopyPairs, Pictures, PromptRow, prompts_shown
from toile.evaluation.scores import Score, WorstCase
from toile.evaluation.standing import headline, standing_in

HOSTILE = '</td><script src="https://evil.example/x.js">alert(1)</script><img src=x onerror="alert(2)">\u202e\x07'


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img", "br", "path", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "circle"):
            assert self.open and self.open[-1] == tag, f"{tag} closes {self.open[-3:]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data.replace("\xa0", " ")


def section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}">')[1].split("</section>")[0]


def test_everything_that_was_measured_is_on_the_page(plausible: Any) -> None:
    evaluation = plausible.evaluation()
    page = render_page(evaluation, plausible.pictures(evaluation))
    read = Reader(page)
    assert not read.open
    table = Reader(section(page, "scores")).text
    for entry in (*evaluation.entries, *evaluation.controls):
        assert entry.name in table and entry.protocol_id in table and entry.meaning in table
        for measure in plausible.measures.values():
            assert measure.worded(entry.scores[measure.key].value) in table
    for measure in plausible.measures.values():
        assert measure.title in table and measure.meaning in Reader(section(page, "protocol")).text
    assert all(found.sentence in read.text for found in evaluation.verdicts)
    assert evaluation.protocol.id in page and "ab12" * 16 in page and "17.3 machine minutes" in page
    assert "Captions are templates." in read.text


def test_sections_come_in_the_order_of_importance(plausible: Any) -> None:
    evaluation = plausible.evaluation()
    page = render_page(evaluation, plausible.pictures(evaluation))
    places = [page.index("<h1")] + [match.start() for match in re.finditer("<section", page)]
    names = re.findall('<section id="([a-z]+)"', page)
    assert places == sorted(places)
    assert names == ["pictures", "scores", "charts", "variety", "originality", "worst", "protocol"]
    assert re.findall('<a href="#([a-z]+)"', page) == names


def test_text_from_anywhere_stays_text_and_nothing_is_fetched(plausible: Any) -> None:
    plain = plausible.evaluation(names=(HOSTILE, "b"), num=4)
    hostile = dataclasses.replace(
        plain,
        measures={
            key: dataclasses.replace(found, title=HOSTILE, meaning=HOSTILE) for key, found in plain.measures.items()
        },
        entries=tuple(
            dataclasses.replace(
                entry,
                settings={HOSTILE: [HOSTILE]},
                facts={"run": HOSTILE},
                notes=(HOSTILE,),
                worst=(WorstCase(1, HOSTILE),),
                protocol_id=HOSTILE,
                step=100 * row,
            )
            for row, entry in enumerate(plain.entries)
        ),
        verdicts=tuple(dataclasses.replace(found, sentence=HOSTILE) for found in plain.verdicts),
        captions=(HOSTILE,) * 4,
        notes=(HOSTILE,),
        protocol=dataclasses.replace(plain.protocol, suite=HOSTILE, networks={HOSTILE: (HOSTILE, HOSTILE)}),
    )
    pictures = plausible.pictures(hostile)
    pictures = dataclasses.replace(
        pictures,
        nearest={HOSTILE: CopyPairs([CopyPair(0, np.zeros((8, 6, 3), np.uint8), 0.1)], HOSTILE, True)},
        variety={HOSTILE: [PromptRow(HOSTILE, np.zeros((2, 8, 6, 3), np.uint8))]},
    )
    page = render_page(hostile, pictures)
    read = Reader(page)
    assert not read.open and "\u202e" not in page and "\x07" not in page
    assert not {tag for tag, _ in read.tags} & {"script", "iframe", "link", "object", "embed", "base", "form"}
    for tag, attributes in read.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert attributes.get("href", "#").startswith("#")
    assert "default-src 'none'" in page and not re.search(r"url\(|@import", page)
    assert html.escape(HOSTILE[:40]) in page


def test_equal_input_gives_equal_bytes(plausible: Any) -> None:
    evaluation = plausible.evaluation()
    assert render_page(evaluation, plausible.pictures(evaluation)) == render_page(
        plausible.evaluation(), plausible.pictures(evaluation)
    )


def test_a_value_that_is_not_there_is_a_dash_everywhere(plausible: Any) -> None:
    plain = plausible.evaluation(names=("a", "b"), num=2)
    nothing = Score(math.nan, math.nan, math.nan, 2000)
    empty = dataclasses.replace(
        plain.entries[1], scores={key: nothing for key in plausible.measures if key != "type"}, worst=(), step=2
    )
    first = dataclasses.replace(plain.entries[0], step=1)
    evaluation = dataclasses.replace(plain, entries=(first, empty), verdicts=())
    page = render_page(evaluation, plausible.pictures(evaluation))
    cells = re.findall(r'<td class="number"[^>]*>(?:<span class="value">)?([^<]*)<', section(page, "scores"))
    assert cells.count("-") == len(plausible.measures) and not re.search(r"\bnan\b", page, re.IGNORECASE)


@pytest.mark.parametrize("with_controls", [False, True])
def test_one_maker_alone(plausible: Any, with_controls: bool) -> None:
    evaluation = plausible.evaluation(names=("ours",), controls=plausible.controls if with_controls else (), num=3)
    pictures = Pictures({"ours": plausible.pictures(evaluation).made["ours"]})
    page = render_page(evaluation, pictures)
    assert re.findall('<section id="([a-z]+)"', page) == ["pictures", "scores", "charts", "worst", "protocol"]
    text = Reader(page).text
    if with_controls:
        assert "Article type 86.0 %: 92 % of the way from shuffled prompts (7.0 %) to copies (93.0 %)." in text
        assert "Frechet distance 24.2: short of every control, from reconstructions (11.8) to" in text
    else:
        assert "Nothing" not in text and "No other maker and no control says what its scores could be." in text
    assert 'class="best number"' not in page and 'class="tied number"' not in page
    assert headline(evaluation)[0].startswith("ours")


def test_the_best_is_bold_only_where_it_is_told_apart(plausible: Any) -> None:
    evaluation = plausible.evaluation()
    page = section(render_page(evaluation, plausible.pictures(evaluation)), "scores")
    rows = {row.split("<span")[0]: row for row in re.findall('<tr><th scope="row">(.*?)</tr>', page)}
    kinds = {name.strip(): re.findall('<td class="(.*?) *number"', row) for name, row in rows.items()}
    assert kinds["Article type"] == ["best", *[""] * 5, *["control"] * 4]
    assert kinds["Colour"] == ["tied", "tied", *[""] * 4, *["control"] * 4]
    # Told apart from one of two others only: nobody may be called the best.
    without = tuple(found for found in evaluation.verdicts if found.worse != plausible.names[3])
    standing = standing_in(dataclasses.replace(evaluation, verdicts=without), plausible.measures["type"])
    assert standing is not None and standing.tied == (plausible.names[3],) and not standing.is_alone


def test_being_far_from_all_that_was_learnt_from_is_no_honour_and_a_copy_alarm_is_said_at_once(plausible: Any) -> None:
    evaluation = plausible.evaluation()
    assert standing_in(evaluation, plausible.measures["copies"]) is None
    assert not any(plausible.names[-1] in sentence for sentence in headline(evaluation))
    pictures = plausible.pictures(evaluation)
    calm = render_page(evaluation, pictures).split("<section")[0]
    assert "Copy alarm:" not in calm and "No copy alarm" in calm
    alarm = {**pictures.nearest, plausible.names[1]: CopyPairs((), "too near", True)}
    alarmed = render_page(evaluation, dataclasses.replace(pictures, nearest=alarm)).split("<section")[0]
    assert f"Copy alarm: {plausible.names[1]}. See Originality." in alarmed and "No copy alarm" not in alarmed


def test_prompts_are_the_same_for_all_and_their_pictures_the_right_ones(plausible: Any) -> None:
    assert prompts_shown(0) == [] and prompts_shown(3) == [0, 1, 2] and prompts_shown(1) == [0]
    assert prompts_shown(2000)[0] == 0 and prompts_shown(2000)[-1] == 1999 and len(set(prompts_shown(2000))) == 10
    evaluation = plausible.evaluation(names=("a", "b"), num=24)
    pictures = plausible.pictures(evaluation)
    shown = section(render_page(evaluation, pictures), "pictures")
    rows = re.findall("<tr><th scope=.*?</tr>", shown)
    assert len(rows) == 3
    for row, pixels in zip(rows, (pictures.real, pictures.made["a"], pictures.made["b"]), strict=True):
        decoded = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall('base64,([^"]+)', row)]
        assert [image.size for image in decoded] == [(60, 80)] * 10
        for image, index in zip(decoded, prompts_shown(24), strict=True):
            assert np.abs(np.asarray(image)[40, 30].astype(int) - pixels[index][0, 0]).max() <= 6


def test_only_rows_that_are_shown_are_read(plausible: Any) -> None:
    class Counted:
        def __init__(self) -> None:
            self.read: set[int] = set()

        def __len__(self) -> int:
            return 10_000

        def __getitem__(self, index: int) -> np.ndarray:
            self.read.add(index)
            return np.zeros((80, 60, 3), np.uint8)

    evaluation = plausible.evaluation(names=("a",), num=10_000)
    counted = Counted()
    render_page(evaluation, Pictures({"a": counted}))
    assert counted.read == {*prompts_shown(10_000), 3, 5}


def test_stages_of_a_training_have_curves_and_strips(plausible: Any) -> None:
    plain = plausible.evaluation(names=("run @ 2,000", "run @ 1,000", "run @ 500", "another"), num=12)
    steps = (2000, 1000, 500, None)
    entries = tuple(dataclasses.replace(e, step=s) for e, s in zip(plain.entries, steps, strict=True))
    evaluation = dataclasses.replace(plain, entries=entries)
    charts = section(render_page(evaluation, plausible.pictures(evaluation)), "charts")
    along = charts.split("Along the training")[1]
    assert along.count('<path class="curve c0"') == 7 and "another" not in along.split("Sheets made")[0]
    assert re.findall(r'<th scope="row">(step [\d,]+)', along) == ["step 500", "step 1,000", "step 2,000"]
    assert along.count('<figure class="stage">') == 2
    # A curve goes through its points from left to right.
    line = re.findall(r'class="curve c0" d="M([^"]*)"', along)[0]
    across = [float(point.split()[0]) for point in line.split("L")]
    assert across == sorted(across) and len(across) == 3


def test_charts_place_values_where_they_belong(plausible: Any) -> None:
    evaluation = plausible.evaluation()
    charts = section(render_page(evaluation, plausible.pictures(evaluation)), "charts")
    article = charts.split("<h4>Article type")[1].split("</svg>")[0]
    dots = [float(x) for x in re.findall(r'<circle class="dot c\d" cx="([\d.]+)"', article)]
    values = [entry.scores["type"].value for entry in evaluation.entries]
    slopes = np.diff(dots) / np.diff(values)
    np.testing.assert_allclose(slopes, slopes[0], rtol=0.02)
    assert slopes[0] > 0 and all(128 < x < 376 for x in dots)
    best = float(re.findall(r'<path class="bound" d="M([\d.]+)', article)[0])
    assert best == pytest.approx(dots[0] + slopes[0] * (0.93 - values[0]), abs=0.2)


def test_a_control_far_from_all_makers_is_said_and_not_drawn(plausible: Any) -> None:
    evaluation = plausible.evaluation()
    charts = section(render_page(evaluation, plausible.pictures(evaluation)), "charts")
    chart = charts.split("<h4>Copies")[1].split("</svg>")[0]
    dots = [float(x) for x in re.findall(r'<circle class="dot c\d" cx="([\d.]+)"', chart)]
    assert max(dots) - min(dots) > 100 and "copies at 100.0&nbsp;%" in chart and "bound worst" not in chart


def test_seven_makers_stay_small(plausible: Any) -> None:
    evaluation = plausible.evaluation(names=(*plausible.names, "one more"), num=200)
    draws = np.random.default_rng(1)
    names = [entry.name for entry in evaluation.entries]
    # Smooth pictures with some noise, which JPEG cannot make as small as flat ones.
    noise = draws.integers(90, 166, (40, 80, 60, 3), dtype=np.uint8)
    pictures = Pictures(
        {name: noise for name in names},
        noise,
        {name: CopyPairs([CopyPair(i, noise[i], 0.1) for i in range(9)], "calm") for name in names},
        {name: [PromptRow(f"prompt {i}", noise[:8]) for i in range(5)] for name in names},
    )
    assert len(render_page(evaluation, pictures)) < 2_500_000
