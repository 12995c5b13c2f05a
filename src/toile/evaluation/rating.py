"""Blind rating: which pairs a person sees in which order, the key that says who made what, and the answers read back.

A pair is two pictures of the same words, one of each maker. Order and sides are drawn; some pairs come a second time
with their sides swapped, which tells how far a person agrees with himself. `rating_page` is what the person sees,
`rating_results` what the answers of several people say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from toile.errors import ToileError
from toile.evaluation.contestants import Contestant, FolderContestant
from toile.evaluation.rating_page import (
    ANSWERS_FORMAT,
    CHOICES,
    Shown,
    encode_picture,
    render_page,
    shown_size,
)
from toile.schema import build_config
from toile.training.draws import seed_of
from toile.weights.files import parse_json

KEY_FORMAT = "toile-rating-key/1"
REAL, WORDS = "real", "words"
QUESTIONS = {
    REAL: "Which looks more like a photograph of a real product?",
    WORDS: "Which fits the words better?",
}
REPEATED_SHARE = 0.15
MOST_PAIRS = 500
_MOST_KEY_BYTES, _MOST_ANSWER_BYTES = 2**26, 2**20
_LONGEST_NAME, _LONGEST_MESSAGE = 60, 300


@dataclass(frozen=True)
class Trial:
    """A pair as it is shown: its number, whether the first maker is on the left, and whether it was shown before."""

    pair: int
    a_left: bool
    again: bool


@dataclass(frozen=True)
class RatingKey:
    """Who made what; whoever rates must not see it.

    Attributes:
        session: the id that answers carry; it depends on the page's content alone.
        name_a, name_b: of the makers.
        prompts: of each pair.
        trials: in the order they are shown; every pair once, some again.
        seed: of the draws.
        format: of this file.
    """

    session: str
    name_a: str
    name_b: str
    prompts: tuple[str, ...]
    trials: tuple[Trial, ...]
    seed: int
    format: str = KEY_FORMAT

    def __post_init__(self) -> None:
        if self.format != KEY_FORMAT:
            raise ToileError(f"format {self.format!r:.60} is no key of a rating; this version reads {KEY_FORMAT}")
        first = sorted(trial.pair for trial in self.trials if not trial.again)
        if first != list(range(len(self.prompts))) or not first:
            raise ToileError("the key must show every pair once before any comes again")
        if any(not 0 <= trial.pair < len(self.prompts) for trial in self.trials):
            raise ToileError("the key shows a pair again that it does not have")


@dataclass(frozen=True)
class Answer:
    """What a person chose for a trial: "left", "same" or "right" for each of the questions."""

    trial: int
    real: str
    words: str

    def __post_init__(self) -> None:
        for choice in (self.real, self.words):
            if choice not in CHOICES:
                raise ToileError(f"trial {self.trial}: {choice!r:.40} is no choice; allowed: {', '.join(CHOICES)}")


@dataclass(frozen=True)
class AnswerSheet:
    """One person's answers, as the page saves them."""

    session: str
    rater: str
    answers: tuple[Answer, ...]
    format: str = ANSWERS_FORMAT

    def __post_init__(self) -> None:
        if self.format != ANSWERS_FORMAT:
            raise ToileError(f"format {self.format!r:.60} holds no answers; this version reads {ANSWERS_FORMAT}")
        if not self.rater.strip() or len(self.rater) > _LONGEST_NAME or not self.rater.isprintable():
            raise ToileError(f"the rater's name must be of 1 to {_LONGEST_NAME} signs that can be shown")
        trials = [answer.trial for answer in self.answers]
        if len(set(trials)) != len(trials):
            raise ToileError("a trial is answered twice")
        if not trials:
            raise ToileError("it holds no answers")


@dataclass(frozen=True, eq=False)
class Rating:
    """A page to rate on, and the key to it."""

    page: str
    key: RatingKey


def draw_trials(num_pairs: int, seed: int, content: str) -> tuple[Trial, ...]:
    """The order and the sides of a rating, with about 15 % of the pairs (at least two, if there are four) shown again.

    Each maker is on the left equally often (but for one). Those shown again come from the first half, with sides
    swapped, among the second half: so far apart that memory helps little.

    Args:
        num_pairs: 1 to `MOST_PAIRS`.
        seed: of the draws.
        content: a text that differs between ratings of different pictures, so that nobody learns the sides by heart.
    """
    if not 1 <= num_pairs <= MOST_PAIRS:
        raise ToileError(f"{num_pairs} pairs to rate; allowed: 1 to {MOST_PAIRS}")
    rng = np.random.default_rng(seed_of(seed, f"rating {content}"))
    order = rng.permutation(num_pairs)
    on_left = rng.permutation(np.arange(num_pairs) % 2 == rng.integers(2))
    first = [Trial(int(pair), bool(on_left[pair]), False) for pair in order]
    half = num_pairs // 2
    num_again = min(half, max(2, round(REPEATED_SHARE * num_pairs)))
    chosen: list[int] = rng.choice(half, num_again, replace=False).tolist() if half >= 2 else []
    again = [replace(first[place], a_left=not first[place].a_left, again=True) for place in chosen]
    later: list[Trial] = [*first[half:], *again]
    return (*first[:half], *(later[place] for place in rng.permutation(len(later))))


def build_rating(
    names: tuple[str, str],
    prompts: Sequence[str],
    pictures: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    seed: int = 0,
) -> Rating:
    """The page and the key of a rating.

    Args:
        names: of the two makers; they stand in the key only.
        prompts: of N pairs.
        pictures: N of each maker, (H, W, 3) uint8, in the order of the prompts.
        seed: of order and sides.

    Raises:
        ToileError: the numbers do not match, or too many pairs.
    """
    if not len(prompts) == len(pictures[0]) == len(pictures[1]):
        raise ToileError(
            f"{len(prompts)} prompts, {len(pictures[0])} and {len(pictures[1])} pictures: give one of each a pair"
        )
    if not prompts:
        raise ToileError("no pairs to rate; give at least one prompt")
    first = pictures[0][0]
    size = shown_size([(first.shape[1], first.shape[0])])
    encoded = [[encode_picture(each, size) for each in of_one] for of_one in pictures]
    content = hashlib.sha256("\n".join(prompts).encode("utf-8", errors="replace"))
    for picture in (picture for of_one in encoded for picture in of_one):
        content.update(hashlib.sha256(picture).digest())
    trials = draw_trials(len(prompts), seed, content.hexdigest())
    on_page: list[bytes] = []
    number_of: dict[tuple[int, int], int] = {}  # by maker and pair, in the order of appearance, which is a random one
    shown = []
    for trial in trials:
        sides = (0, 1) if trial.a_left else (1, 0)
        for maker in sides:
            if (maker, trial.pair) not in number_of:
                number_of[maker, trial.pair] = len(on_page)
                on_page.append(encoded[maker][trial.pair])
        left, right = (number_of[maker, trial.pair] for maker in sides)
        shown.append(Shown(left, right, prompts[trial.pair]))
    # Of the page alone, so that it tells nothing; with the seed in `trials` there is a new session for another order.
    digest = hashlib.sha256(repr(shown).encode("utf-8", errors="replace"))
    for picture in on_page:
        digest.update(picture)
    session = digest.hexdigest()[:16]
    page = render_page(session, shown, on_page, QUESTIONS, size)
    return Rating(page, RatingKey(session, *names, tuple(prompts), trials, seed))


def pair_up(
    a: Contestant, b: Contestant, prompts: Sequence[str] | None, num: int, seed: int
) -> tuple[Contestant, Contestant, tuple[str, ...]]:
    """Which pictures are shown beside each other.

    Two folders of pictures show those of the same words, the k-th of one beside the k-th of the other; a model beside a
    folder makes pictures for the folder's words; two models make pictures for the prompts given.

    Args:
        prompts: for two models; None if there is a folder.
        num: at most so many pairs; which, is drawn.
        seed: of the draw.

    Returns:
        both, with the folders cut down to the chosen pictures, and the prompts of the pairs.

    Raises:
        ToileError: prompts missing, or given to a folder; pictures without words; no words in common.
    """
    folders = [each for each in (a, b) if isinstance(each, FolderContestant)]
    if not folders:
        if prompts is None:
            raise ToileError("two models need prompts; give --prompts-file FILE, or one prompt a pair")
        chosen = _drawn(len(prompts), num, seed)
        return a, b, tuple(prompts[place] for place in chosen)
    if prompts is not None:
        raise ToileError(f"{folders[0].name} is a folder of pictures, whose words are inside them: leave out prompts")
    for folder in folders:
        if not any(folder.prompts):
            raise ToileError(f"the pictures of {folder.name} hold no recipe, so nobody knows what they should show")
    places = [_numbered(folder.prompts) for folder in folders]
    common = [each for each in places[0] if each in places[-1]]
    if not common:
        raise ToileError(f"{a.name} and {b.name} have no picture of the same words; make both from the same prompts")
    common = [common[place] for place in _drawn(len(common), num, seed)]
    texts = tuple(prompt for prompt, _ in common)
    cut = [
        replace(folder, paths=tuple(folder.paths[of[each]] for each in common), prompts=texts)
        for folder, of in zip(folders, places, strict=True)
    ]
    first, second = (cut.pop(0) if isinstance(each, FolderContestant) else each for each in (a, b))
    return first, second, texts


def _drawn(count: int, num: int, seed: int) -> list[int]:
    """`num` of `count` places, in order; all if there are no more."""
    if num < 1:
        raise ToileError(f"{num} pairs to rate; allowed: 1 to {MOST_PAIRS}")
    order = np.random.default_rng(seed_of(seed, "rating pairs")).permutation(count)
    return sorted(order[:num].tolist())


def _numbered(prompts: Sequence[str]) -> dict[tuple[str, int], int]:
    """The place of the k-th picture of each text."""
    count: dict[str, int] = {}
    places = {}
    for place, prompt in enumerate(prompts):
        count[prompt] = count.get(prompt, -1) + 1
        if prompt:
            places[prompt, count[prompt]] = place
    return places


def read_key(path: Path) -> RatingKey:
    """Reads a key.

    Raises:
        ToileError: no such file, or it is no key; in one line, whatever the file holds.
    """
    return _read(RatingKey, path, _MOST_KEY_BYTES)


def read_answers(paths: Sequence[Path], key: RatingKey) -> tuple[AnswerSheet, ...]:
    """Reads the answers of several people to one key.

    Raises:
        ToileError: a file that is no answers, answers to another page, trials that the page does not have, or two
            files of one name.
    """
    sheets: dict[str, Path] = {}
    read = []
    for path in paths:
        sheet = _read(AnswerSheet, path, _MOST_ANSWER_BYTES)
        name = sheet.rater.strip().casefold()
        if sheet.session != key.session:
            raise ToileError(f"{path} has answers to another page than the one of this key; give that page's key")
        if wrong := [answer.trial for answer in sheet.answers if not 0 <= answer.trial < len(key.trials)]:
            raise ToileError(f"{path}: trial {str(wrong[0])[:20]} is not on the page, which has {len(key.trials)}")
        if name in sheets:
            raise ToileError(
                f"{path} and {sheets[name]} are both by {sheet.rater.strip()}: leave one out, or change the name in it"
            )
        sheets[name] = path
        read.append(sheet)
    if not read:
        raise ToileError("no answers to read; give one file or more")
    return tuple(read)


_T = TypeVar("_T")


def _read(kind: type[_T], path: Path, most_bytes: int) -> _T:
    try:
        with open(path, "rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise ToileError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > most_bytes:
        raise ToileError(f"{path} has more than {most_bytes:,} bytes, which no file of a rating has")
    try:
        return build_config(kind, parse_json(content, str(path)), str(path))
    except ToileError as error:
        told = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
        told = "".join(sign if sign.isprintable() else " " for sign in told)
        limit = _LONGEST_MESSAGE + len(str(path))
        raise ToileError(told if len(told) <= limit else told[: limit - 3] + "...") from error


def key_facts(key: RatingKey) -> dict[str, object]:
    """Plain JSON values, the format first."""
    facts = asdict(key)
    return {"format": facts.pop("format"), **facts}
