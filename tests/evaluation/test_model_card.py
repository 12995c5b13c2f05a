"""The card says what was measured and what was not, whatever the names hold; balance is counted by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.data.records import Record
from toile.errors import ToileError
from toile.evaluation.attributes import AttributeScore
from toile.evaluation.balance import Balance, BalanceGap
from toile.evaluation.card_scores import read_scores
from toile.evaluation.card_text import plain
from toile.evaluation.copies import NearestTraining, audit_copies
from toile.evaluation.model_balance import (
    AttributeBalance,
    ModelBalance,
    UnaskedBalance,
    answer_balance,
    ask_for_balance,
)
from toile.evaluation.model_card import MARK, CardSubject, render_card, section_of
from toile.evaluation.scores import Entry, Evaluation, Measure, Protocol, Score
from toile.models.classifier import AttributeClassifier, AttributeClassifierConfig, AttributeLabels
from toile.training.pictures import PictureSet
from toile.weights.files import write_json_atomically
from toile.weights.provenance import Provenance

LABELS = AttributeLabels(("Shirts", "Jeans"), ("Red", "Blue"), ("Men", "Women"), ("Casual",))
HOSTILE = "</td><script>alert(1)</script> | `x` \n# heading [link](http://x)"
SUBJECT = CardSubject(
    model="fashion",
    hash="c0ffee",
    parts=(("unet", 1_000_000, 2.0), ("vae", 234_567, 0.5)),
    components={"unet": "abc123"},
    details={"latents": "4 channels"},
    settings={"steps": 20, "negative": ""},
    readme="---\nlicense: apache-2.0\n---\n# Title\n\n## Data\nShirts of a shop.\n\n## Limits\n- Small.\n",
    provenance=None,
)
TRAINED = Provenance(
    "0.1.0",
    {"task": "denoising", "loop": {"batch_size": 64}, "data": {"source": "products"}},
    "p",
    "h",
    500,
    {"vae": "ff"},
)
AUDIT = audit_copies(
    NearestTraining(torch.tensor([0.0] + [0.9] * 199).double(), torch.zeros(200, dtype=torch.int64)),
    NearestTraining(torch.linspace(0.1, 0.9, 200).double(), torch.zeros(200, dtype=torch.int64)),
).sentence
OF_BASE, OF_LORA = {"hash": "c0ffee"}, Score(0.75, 0.7, 0.8, 500)  # a LoRA's entry has the hash of its base
GAP = BalanceGap(0.3, 0.2, 0.4, 0.1, 0.001)
EVEN = BalanceGap(0.05, 0.0, 0.1, 0.1, 0.6)
MEN, MADE = Balance(("Men", "Women"), (60, 40)), Balance(("Men", "Women"), (90, 10))
BALANCE = ModelBalance(
    100,
    25,
    7,
    ("attributes", "beef" * 16),
    "data:64x80",
    (AttributeBalance("gender", MEN, MEN, MEN, AttributeScore(100, 80, 10, 5), EVEN),),
    (
        UnaskedBalance("", "", "gender", {"Men": 0.55, "Women": 0.45}, MEN, MADE, GAP),
        UnaskedBalance("shirt", "Shirts", "gender", {"Men": 0.99, "Women": 0.01}, MEN, MEN, EVEN),
    ),
)


def test_a_card_without_measurements_says_what_would_make_them() -> None:
    card = render_card(SUBJECT, None, None)
    assert card.startswith(MARK) and "1,234,567 parameters" in card and "`c0ffee`" in card
    assert card.count("Not measured.") == 3
    assert "`toile card fashion` does" in card and "`toile evaluate fashion` writes evaluation.json" in card
    assert "Shirts of a shop." in card and "- Small." in card
    assert "| weights | fashion | apache-2.0 |" in card
    headings = [line for line in card.splitlines() if line.startswith("## ")]
    assert [line.split()[1].strip(":") for line in headings] == [
        "Intended",
        "How",
        "Balance",
        "Originality",
        "Scores",
        "Limits",
        "Licence",
    ]
    bare = render_card(replace(SUBJECT, readme=""), None, None)
    assert "there is no provenance.json" in bare and "| pictures | not known | not known |" in bare
    assert "not said: ask whoever trained them" in bare


def test_provenance_is_told() -> None:
    card = render_card(replace(SUBJECT, provenance=TRAINED), None, None)
    assert "500 steps, 32,000 pictures seen" in card and "network that took part, vae: `ff`" in card
    assert "Kaggle, paramagarwal | MIT" in card
    own = replace(TRAINED, recipe={"data": {"source": "products", "path": "mine.zip"}})
    assert "| mine.zip | not known here" in render_card(replace(SUBJECT, provenance=own), None, None)


def test_balance_stands_with_intervals_and_errors() -> None:
    card = render_card(SUBJECT, BALANCE, None)
    assert "| Men | 60.0% | 60.0% (50.2-69.1) | 60.0% (50.2-69.1) |" in card
    assert "in 85.0% (76.7-90.7) of the real pictures" in card
    assert "No difference of balance is shown: total variation distance 0.050 (0.000 to 0.100)" in card
    row = "| all of these together | Men 55%, Women 45% | Men 60%, Women 40% | Men 90%, Women 10% |"
    assert f"{row} **0.30 (0.20 to 0.40)** | 0.10 |" in card
    assert '| "shirt" | Men 99% |' in card
    assert "Asked for no gender, it draws another balance than real pictures" in card


def test_hostile_names_make_no_markup() -> None:
    subject = replace(SUBJECT, model=HOSTILE, parts=((HOSTILE, 1, 1.0),), details={HOSTILE: HOSTILE})
    balance = replace(BALANCE, judge=(HOSTILE, HOSTILE), pictures=HOSTILE)
    card = render_card(subject, balance, None)
    outside_of_code = re.sub(r"(?<!\\)`[^`]*`", "", card)
    assert "<script>" in card and "<script>" not in outside_of_code and not re.search(r"(?<!\\)\]\(", outside_of_code)
    assert "\n# heading" not in card
    assert plain("a|b\n<c>") == "a\\|b \\<c\\>" and len(plain("x" * 10_000)) == 400


def test_sections_of_a_readme() -> None:
    text = "# T\nintro\n## Data\none\n### More\ntwo\n## Limits\nthree"
    assert section_of(text, "Data") == "one"
    assert section_of(text, "Nothing", "Limits") == "three" and section_of(text, "Nothing") == ""


def evaluation(tmp_path: Path, **changed: object) -> Path:
    measures = {
        "copies": Measure("copies", "copies", "...", "originality", "lower", True),
        "frechet[a]": Measure("frechet[a]", "Frechet distance (a)", "...", "realism", "lower"),
    }
    scores = {"copies": Score(0.011, 0.005, 0.02, 400), "frechet[a]": Score(2.5, float("nan"), float("nan"), 500)}
    entries = [
        Entry("fashion", scores, "id-1", settings={"loras": []}, facts={"hash": "c0ffee"}, notes=("Slow.",)),
        Entry("tuned", {**scores, "copies": OF_LORA}, "id-2", settings={"loras": [{"source": "x"}]}, facts=OF_BASE),
        Entry("other", scores, "id-1"),
    ]
    control = Entry("real pictures", {"frechet[a]": Score(1.25, 1.0, 1.5, 500)}, "id", True, "What is best.")
    protocol = Protocol("p", "s", "0", 500, 5, 100, 0, 0, "64x80", {})
    notes = ("Each of up to 4 comparisons is made at 95 %.",)
    whole = Evaluation(protocol, measures, tuple(entries), (control,), (), (), notes, left_out=("Words: unknown.",))
    facts = whole.facts()
    path = tmp_path / "evaluation.json"
    write_json_atomically(path, {**facts, **changed})
    return path


def test_scores_come_from_the_evaluation(tmp_path: Path) -> None:
    card = render_card(SUBJECT, None, read_scores(evaluation(tmp_path), "c0ffee"))
    assert "Protocol `id-1`" in card and "- Slow." in card and "Of 500 pictures each" in card
    assert "- real pictures: What is best." in card and "- Not measured: Words: unknown." in card
    assert "comparisons" not in card  # a card compares nobody
    assert "| Frechet distance (a) (lower is better) | 2.5 | 1.25 (1 to 1.5) |" in card
    originality = card.split("## Originality")[1].split("##")[0]
    assert "| copies (lower is better) | 1.1 % (0.5 to 2.0 %), n = 400 | - |" in originality
    assert card.count("Not measured.") == 3  # balance, faithfulness, variety


@pytest.mark.parametrize("sentence", [AUDIT, "Copies: 9 of 10 pictures."])
def test_the_audit_for_copies_stands_under_originality(sentence: str, tmp_path: Path) -> None:
    entries = json.loads(evaluation(tmp_path).read_text(encoding="utf-8"))["entries"]
    entries[0]["notes"] = ["Slow.", sentence]
    card = render_card(SUBJECT, None, read_scores(evaluation(tmp_path, entries=entries), "c0ffee"))
    originality, scores = card.split("## Originality")[1].split("\n## ")[:2]
    assert plain(sentence) in originality and card.count(plain(sentence)) == 1
    assert scores.startswith("Scores") and "- Slow." in scores


def test_what_a_lora_makes_is_no_score_of_its_base(tmp_path: Path) -> None:
    card = render_card(SUBJECT, None, read_scores(evaluation(tmp_path), "c0ffee"))
    assert "tuned" not in card and "id-2" not in card and "75.0 %" not in card
    facts = json.loads(evaluation(tmp_path).read_text(encoding="utf-8"))
    with pytest.raises(ToileError, match="no scores of these weights alone, but of tuned; run toile evaluate"):
        read_scores(evaluation(tmp_path, entries=[facts["entries"][1]]), "c0ffee")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "else"}, "is no evaluation of the format"),
        ({"entries": []}, "no scores of these weights"),
        ({"entries": [3]}, "is damaged"),
        ({"entries": [{"name": "x", "facts": {"hash": "c0ffee"}, "protocol_id": "i", "notes": []}]}, "is damaged"),
        ({"measures": {"copies": {"key": "copies"}}}, "'title' is missing"),
        ({"minutes": "long"}, "is damaged"),
        ({"controls": None}, "is damaged"),
    ],
)
def test_a_damaged_evaluation_is_refused_in_a_line(changed: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ToileError, match=message) as caught:
        read_scores(evaluation(tmp_path, **changed), "c0ffee")
    assert "\n" not in str(caught.value)


class FewPictures(PictureSet):
    """A set of 60 shirts and jeans: 20 learnt, 40 held out; every picture shows its number."""

    def __init__(self) -> None:
        fields = [
            {
                "articleType": "Shirts" if number % 2 else "Jeans",
                "gender": "Men" if number % 3 else "Women",
                "baseColour": "Red" if number % 5 else "Blue",
                "usage": "Casual",
            }
            for number in range(60)
        ]
        self.records = tuple(Record(str(number), each) for number, each in enumerate(fields))
        self.train, self.validation, self.test = np.arange(20), np.arange(20, 40), np.arange(40, 60)
        self._pixels = (torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 16, 16, 3).clone(),)
        self.places = None
        self.pixels_identity = self.identity = "few"


@pytest.fixture
def judge() -> AttributeClassifier:
    torch.manual_seed(0)
    return AttributeClassifier(AttributeClassifierConfig((4, 8), 2, LABELS, trained_on="few")).eval()


def test_the_question_asks_for_captions_and_for_articles_alone() -> None:
    pictures = FewPictures()
    question = ask_for_balance(pictures, LABELS, 10, 4, seed=1)
    assert len(question.captions) == 10 and len(question.prompts) == 10 + 2 * 4
    assert {prompt.text for prompt in question.neutral} == {"shirt", "jeans"}
    assert set(question.positions.tolist()) <= set(range(20, 60))
    for prompt in question.neutral:
        assert {pictures.records[position].fields["articleType"] for position in prompt.positions} == {prompt.article}
        assert set(prompt.positions.tolist()) <= set(range(20, 60))
    again, other = (ask_for_balance(pictures, LABELS, 10, 4, seed) for seed in (1, 2))
    assert again.captions == question.captions != other.captions
    with pytest.raises(ToileError, match="no article has 50 held-out pictures"):
        ask_for_balance(pictures, LABELS, 10, 50)


def test_the_real_pictures_themselves_have_the_balance_of_real_pictures(judge: AttributeClassifier) -> None:
    pictures = FewPictures()
    question = ask_for_balance(pictures, LABELS, 10, 4)
    places = np.concatenate([question.positions, *(prompt.positions for prompt in question.neutral)])
    made = pictures.pixels[torch.from_numpy(places)]
    balance = answer_balance(question, pictures, judge, made, ("few", "0"))
    assert [each.attribute for each in balance.attributes] == ["gender", "article_type", "base_colour", "usage"]
    for each in (*balance.attributes, *balance.unasked):
        assert each.gap.value == 0.0 and each.real == each.made and each.real.total in (4, 8, 10)
    gender = balance.attributes[0]
    assert gender.training == Balance(("Men", "Women"), (13, 7))
    assert gender.score.num_only_judged == gender.score.num_only_real == 0
    together, *alone = [each for each in balance.unasked if each.attribute == "gender"]
    assert (together.article, together.real.total, len(alone)) == ("", 8, 2)
    means = np.mean([[each.training["Men"], each.training["Women"]] for each in alone], axis=0)
    assert [together.training["Men"], together.training["Women"]] == pytest.approx(means.tolist())
    assert json.loads(json.dumps(balance.facts()))["num_captions"] == 10
    assert "## Balance" in render_card(SUBJECT, balance, None)
    with pytest.raises(ToileError, match="17 pictures for 18 prompts"):
        answer_balance(question, pictures, judge, made[1:], ("few", "0"))
