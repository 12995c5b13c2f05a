"""The balance of a model's pictures beside that of the data: who and what is drawn, and how often.

Two questions. Of the captions of held-out pictures: does the model keep the balance of the real pictures that the
captions are of? And of words that name neither wearer nor colour ("shirt"): whom and what does it draw unasked?

A judge makes mistakes, so real pictures are counted by the judge too, never by their labels alone: its mistakes are
then on both sides. Labels are shown beside. Shapes: N pictures of H x W.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toile.data.captions import CaptionWriter
from toile.data.records import Record
from toile.errors import ToileError
from toile.evaluation.attributes import AttributeScore, score_attributes, wanted_labels
from toile.evaluation.balance import (
    OTHERS,
    Balance,
    BalanceGap,
    compare_pairs,
    compare_sets,
    count_kinds,
    with_others,
)
from toile.evaluation.features import observe
from toile.evaluation.quality import divide_held_out
from toile.models.classifier import (
    ARTICLE_TYPE,
    BASE_COLOUR,
    FIELDS,
    MISSING,
    AttributeClassifier,
    AttributeLabels,
)
from toile.training.draws import seed_of
from toile.training.pictures import PictureSet

GENDER, USAGE = "gender", "usage"
MOST_LABELS = {GENDER: 5, ARTICLE_TYPE: 15, BASE_COLOUR: 12, USAGE: 8}
UNASKED = (GENDER, BASE_COLOUR)
NUM_NEUTRAL = 8


@dataclass(frozen=True)
class AttributeBalance:
    """One attribute, on captions of held-out pictures.

    Attributes:
        attribute: of the judge.
        training: the labels of all pictures that could be learnt from; None where no field holds them.
        real, made: what the judge sees in the real pictures of the captions, and in the made ones.
        score: how often it is right on both; what it misses on real ones is its own error.
        gap: between `real` and `made`, caption by caption.
    """

    attribute: str
    training: Balance | None
    real: Balance
    made: Balance
    score: AttributeScore | None
    gap: BalanceGap


@dataclass(frozen=True)
class NeutralPrompt:
    """Words that name an article and nothing else.

    Attributes:
        text: the prompt.
        article: the article type, as in the data.
        positions: of as many real held-out pictures of the article as are made, (N,) int64.
    """

    text: str
    article: str
    positions: np.ndarray


@dataclass(frozen=True)
class UnaskedBalance:
    """What is drawn for neutral words: one attribute of one article, or of all together (article "").

    Attributes:
        prompt, article, attribute: which.
        training: the labels of all learnt pictures of the article; of all together, each article counts the same.
        real, made: what the judge sees in real held-out pictures of the article, and in the made ones.
        gap: between `real` and `made`.
    """

    prompt: str
    article: str
    attribute: str
    training: Mapping[str, float]
    real: Balance
    made: Balance
    gap: BalanceGap


@dataclass(frozen=True)
class ModelBalance:
    """All that a card says of balance.

    Attributes:
        num_captions, num_neutral: pictures made for captions, and for each neutral prompt.
        seed: of the first picture, and of the draw of captions.
        judge: name and SHA-256.
        pictures: identity of the data and its split.
        attributes, unasked: what was found.
    """

    num_captions: int
    num_neutral: int
    seed: int
    judge: tuple[str, str]
    pictures: str
    attributes: tuple[AttributeBalance, ...]
    unasked: tuple[UnaskedBalance, ...]

    def facts(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class BalanceQuestion:
    """What has to be made for a `ModelBalance`.

    Attributes:
        positions: of the held-out pictures whose captions are asked for, (N,) int64.
        captions: theirs.
        neutral: neutral prompts.
        num_neutral: pictures of each of them.
    """

    positions: np.ndarray
    captions: tuple[str, ...]
    neutral: tuple[NeutralPrompt, ...]
    num_neutral: int

    @property
    def prompts(self) -> tuple[str, ...]:
        """One for each picture to be made: captions first, then every neutral prompt so many times."""
        return (*self.captions, *(prompt.text for prompt in self.neutral for _ in range(self.num_neutral)))


def ask_for_balance(
    pictures: PictureSet, labels: AttributeLabels, num_captions: int, num_neutral: int, seed: int = 0
) -> BalanceQuestion:
    """Which pictures have to be made.

    Args:
        pictures: the data, whose held-out pictures give the captions.
        labels: of the judge; neutral prompts are of articles that it knows.
        num_captions: at most the held-out pictures but one.
        num_neutral: pictures of each neutral prompt; articles with fewer held-out pictures are not asked for.
        seed: of the draws.

    Raises:
        ToileError: there is not enough data.
    """
    held_out = np.concatenate([pictures.validation, pictures.test])
    positions = divide_held_out(held_out, num_captions, seed).prompts
    writer = CaptionWriter()
    of_article: dict[str, list[int]] = {}
    for position in held_out.tolist():
        of_article.setdefault(pictures.records[position].fields.get(FIELDS[ARTICLE_TYPE], ""), []).append(position)
    learnt = Counter(
        pictures.records[position].fields.get(FIELDS[ARTICLE_TYPE], "")
        for position in np.unique(pictures.train).tolist()
    )
    known = [article for article in labels.article_type if len(of_article.get(article, ())) >= num_neutral]
    known.sort(key=lambda article: (-learnt[article], article))
    if not known or num_neutral < 1:
        raise ToileError(f"no article has {num_neutral} held-out pictures to set beside neutral prompts; ask for fewer")
    neutral = []
    for article in known[:NUM_NEUTRAL]:
        rng = np.random.default_rng(seed_of(seed, f"neutral {article}"))
        drawn = rng.choice(np.array(of_article[article]), num_neutral, replace=False)
        text = writer.full(Record("", {FIELDS[ARTICLE_TYPE]: article}))
        neutral.append(NeutralPrompt(text, article, np.sort(drawn)))
    captions = tuple(writer.full(pictures.records[position]) for position in positions.tolist())
    return BalanceQuestion(positions, captions, tuple(neutral), num_neutral)


def answer_balance(
    question: BalanceQuestion,
    pictures: PictureSet,
    judge: AttributeClassifier,
    made: Tensor,
    named: tuple[str, str],
    seed: int = 0,
) -> ModelBalance:
    """Counts what was made.

    Args:
        pictures: that the question is of.
        judge: that looks at all pictures.
        made: (N, H, W, 3) uint8, a picture for each of `question.prompts`.
        named: name and SHA-256 of the judge.
        seed: as it was asked with, and of the bootstraps.

    Raises:
        ToileError: not as many pictures as prompts.
    """
    if len(made) != len(question.prompts):
        raise ToileError(f"{len(made)} pictures for {len(question.prompts)} prompts: give one of each")
    labels, num = judge.config.labels, len(question.captions)
    learnt = [pictures.records[position].fields for position in np.unique(pictures.train).tolist()]
    own = [pictures.records[position].fields for position in question.positions.tolist()]
    seen_made = _see(judge, made[:num])
    seen_real = _see(judge, pictures.pixels[torch.from_numpy(question.positions)])
    scores = score_attributes(
        wanted_labels(labels, own),
        {name: torch.from_numpy(kinds) for name, kinds in seen_made.items()},
        {name: torch.from_numpy(kinds) for name, kinds in seen_real.items()},
    )
    attributes = []
    for name in MOST_LABELS:
        if name not in labels.attributes:
            continue
        kept, shown = _most_frequent(name, labels, learnt)
        real, drawn = with_others(seen_real[name], kept), with_others(seen_made[name], kept)
        target = with_others(_targets(name, labels, learnt), kept)
        attributes.append(
            AttributeBalance(
                attribute=name,
                training=count_kinds(target, shown) if len(target) else None,
                real=count_kinds(real, shown),
                made=count_kinds(drawn, shown),
                score=scores.get(name),
                gap=compare_pairs(real, drawn, len(shown), seed),
            )
        )
    unasked = _unasked(question, pictures, judge, made[num:], learnt, seed)
    return ModelBalance(
        num_captions=num,
        num_neutral=question.num_neutral,
        seed=seed,
        judge=named,
        pictures=pictures.pixels_identity,
        attributes=tuple(attributes),
        unasked=unasked,
    )


def _unasked(
    question: BalanceQuestion,
    pictures: PictureSet,
    judge: AttributeClassifier,
    made: Tensor,
    learnt: Sequence[Mapping[str, str]],
    seed: int,
) -> tuple[UnaskedBalance, ...]:
    """Article by article, and first all together."""
    labels, each = judge.config.labels, question.num_neutral
    positions = np.concatenate([prompt.positions for prompt in question.neutral])
    seen_made, seen_real = _see(judge, made), _see(judge, pictures.pixels[torch.from_numpy(positions)])
    found = []
    for name in UNASKED:
        if name not in labels.attributes:
            continue
        shown = labels.of(name)
        trainings = [_label_shares(name, labels, learnt, prompt.article) for prompt in question.neutral]
        mean = {label: float(np.mean([shares[label] for shares in trainings])) for label in shown}
        rows = [("", "", mean, slice(None))]
        for number, (prompt, shares) in enumerate(zip(question.neutral, trainings, strict=True)):
            rows.append((prompt.text, prompt.article, shares, slice(each * number, each * (number + 1))))
        for text, article, training, part in rows:
            real, drawn = seen_real[name][part], seen_made[name][part]
            gap = compare_sets(real, drawn, len(shown), seed)
            real_balance, made_balance = count_kinds(real, shown), count_kinds(drawn, shown)
            found.append(UnaskedBalance(text, article, name, training, real_balance, made_balance, gap))
    return tuple(found)


def _see(judge: AttributeClassifier, pixels: Tensor) -> dict[str, np.ndarray]:
    return {name: kinds.numpy() for name, kinds in observe(judge, pixels).predictions.items()}


def _targets(name: str, labels: AttributeLabels, records: Sequence[Mapping[str, str]]) -> np.ndarray:
    """The labels of those records (N',) that the judge knows."""
    kinds = np.array([labels.target(name, fields) for fields in records], dtype=np.int64)
    return kinds[kinds != MISSING]


def _most_frequent(
    name: str, labels: AttributeLabels, learnt: Sequence[Mapping[str, str]]
) -> tuple[list[int], tuple[str, ...]]:
    """The labels that are shown, by number and by name, most frequent in the data first; the last is all others."""
    counts = np.bincount(_targets(name, labels, learnt), minlength=labels.num_classes(name))[: len(labels.of(name))]
    kept = np.argsort(-counts, kind="stable")[: MOST_LABELS[name]].tolist()
    rest = (OTHERS,) if labels.num_classes(name) > len(kept) else ()
    return kept, (*(labels.of(name)[kind] for kind in kept), *rest)


def _label_shares(
    name: str, labels: AttributeLabels, learnt: Sequence[Mapping[str, str]], article: str
) -> dict[str, float]:
    """The share of each label among the learnt records of an article; all 0 where none has one."""
    of_article = [fields for fields in learnt if fields.get(FIELDS[ARTICLE_TYPE]) == article]
    counts = np.bincount(_targets(name, labels, of_article), minlength=len(labels.of(name)))
    return dict(zip(labels.of(name), (counts / max(1, counts.sum())).tolist(), strict=True))
