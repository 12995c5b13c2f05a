"""What models are asked to show: sets of prompts, each with the labels that its pictures should have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from toile.data.captions import CaptionWriter
from toile.data.records import Record
from toile.errors import ToileError
from toile.evaluation.quality import divide_held_out
from toile.training.denoising_objective import with_trigger
from toile.training.pictures import PictureSet, colour_and_article

_COLOUR, _ARTICLE = "baseColour", "articleType"
# Colours that people and judges tell apart at a glance: a swap from one to another must show.
SWAP_COLOURS = ("Black", "White", "Grey", "Blue", "Red", "Green", "Pink", "Purple", "Yellow", "Orange", "Brown")
_WITHOUT_COLOURS = ("Personal Care", "Free Items")  # their colour is that of a box


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        text: what the model is given.
        fields: labels that it asks for, named as in the records of the data (`wanted_labels` takes them).
        position: of the real picture that it describes, in its `PictureSet`; None where there is none.
    """

    text: str
    fields: Mapping[str, str] = field(default_factory=dict)
    position: int | None = None


@dataclass(frozen=True)
class Suite:
    """Prompts that are scored together.

    Attributes:
        name: of the suite.
        meaning: what its score says, in a sentence.
        prompts: in the order in which they are given to the model.
        group_size: so many prompts that follow each other belong together, and get pictures of the same seed.
    """

    name: str
    meaning: str
    prompts: tuple[Prompt, ...]
    group_size: int = 1

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts as a model takes them."""
        return tuple(prompt.text for prompt in self.prompts)

    @property
    def fields(self) -> tuple[Mapping[str, str], ...]:
        """The labels of each prompt."""
        return tuple(prompt.fields for prompt in self.prompts)

    @property
    def groups(self) -> tuple[tuple[Prompt, ...], ...]:
        """The prompts that belong together."""
        size = self.group_size
        return tuple(self.prompts[first : first + size] for first in range(0, len(self.prompts), size))


def held_out(pictures: PictureSet, num: int, seed: int = 0) -> Suite:
    """Captions of held-out pictures: those that `divide_held_out` draws.

    Raises:
        ToileError: there are not so many and one for the reference.
    """
    positions = divide_held_out(np.concatenate([pictures.validation, pictures.test]), num, seed).prompts
    writer = CaptionWriter()
    prompts = tuple(prompt_of(pictures, position, writer) for position in positions.tolist())
    return Suite("held out", "captions of pictures that were not learnt", prompts)


def prompt_of(pictures: PictureSet, position: int, writer: CaptionWriter | None = None) -> Prompt:
    """What a picture is asked for with: its full caption, after the word that calls up what was learnt."""
    record = pictures.records[position]
    text = with_trigger(pictures.trigger, (writer or CaptionWriter()).full(record))
    return Prompt(text, dict(record.fields), position)


def unseen_pairs(
    pictures: PictureSet,
    num: int | None = None,
    seed: int = 0,
    removed: Sequence[str] = (),
    min_count: int = 100,
    among: Sequence[str] = SWAP_COLOURS,
) -> Suite | None:
    """Colours and articles that are each well known, and of which no learnt picture shows both together.

    Articles of which only boxes and bottles are photographed are left out, unless `removed` names them.

    Args:
        num: at most so many pairs, drawn at random; None: all of them. Those of `removed` always come first.
        seed: of the draw.
        removed: pairs that were taken out of training on purpose (`DataConfig.unseen`), such as "Pink Ties".
        min_count: learnt pictures that a colour, and an article, must have at least.
        among: colours that are asked for, besides those of `removed`.

    Returns:
        None if there is no such pair: data without colours, or all of whose frequent pairs were learnt.

    Raises:
        ToileError: a removed pair that was learnt, or that no record has.
    """
    learnt = [pictures.records[position] for position in np.unique(pictures.train).tolist()]
    known = {colour_and_article(record.fields) for record in learnt}
    all_pairs = {colour_and_article(record.fields): record for record in pictures.records}
    if wrong := sorted(pair for pair in removed if pair in known or pair not in all_pairs):
        raise ToileError(f"{wrong[0]!r}: learnt, or in no record; give the pairs that data.unseen left out of training")
    coloured = [record.fields for record in learnt if _has_colour_of_its_own(record)]
    colours, articles = (
        sorted(value for value, count in counts.items() if value and count >= min_count)
        for counts in (Counter(fields.get(name, "") for fields in coloured) for name in (_COLOUR, _ARTICLE))
    )
    first = [(all_pairs[pair].fields[_COLOUR], all_pairs[pair].fields[_ARTICLE]) for pair in removed]
    others = [
        (colour, article)
        for colour in colours
        if colour in among
        for article in articles
        if f"{colour} {article}" not in known and (colour, article) not in first
    ]
    order = np.random.default_rng(seed).permutation(len(others)).tolist()
    pairs = [*first, *(others[place] for place in order)][:num]
    if not pairs:
        return None
    writer = CaptionWriter()
    prompts = [
        Prompt(writer.full(Record("", {_COLOUR: colour, _ARTICLE: article})), {_COLOUR: colour, _ARTICLE: article})
        for colour, article in pairs
    ]
    return Suite("unseen pairs", "colours on articles that were never seen in them", tuple(prompts))


def reports() -> Suite:
    """The prompts that five reports on such models show, word by word, with the labels they name."""
    return Suite("reports", "the prompts of the reports this project answers", _REPORTS)


_REPORTS = (
    Prompt("maroon strapless top", {_COLOUR: "Maroon", _ARTICLE: "Tops"}),
    Prompt("photograph of a 90s style top appropriate for winter", {_ARTICLE: "Tops", "season": "Winter"}),
    Prompt(
        "an image of a 2011 Fall Blue Man's Top",
        {"year": "2011", "season": "Fall", _COLOUR: "Blue", "gender": "Men", _ARTICLE: "Tops"},
    ),
    Prompt(
        "an image of a 2011 Casual Fall White Men's Sweater",
        {"year": "2011", "usage": "Casual", "season": "Fall", _COLOUR: "White", "gender": "Men", _ARTICLE: "Sweaters"},
    ),
    Prompt(
        "an image of a 2012 Casual Summer Grey Women's Dress",
        {
            "year": "2012",
            "usage": "Casual",
            "season": "Summer",
            _COLOUR: "Grey",
            "gender": "Women",
            _ARTICLE: "Dresses",
        },
    ),
    Prompt(
        "an image of a 2011 Sports Fall White Men's T-Shirt",
        {"year": "2011", "usage": "Sports", "season": "Fall", _COLOUR: "White", "gender": "Men", _ARTICLE: "Tshirts"},
    ),
    Prompt(
        "an image of a 2014 Casual Summer White Women's None",
        {"year": "2014", "usage": "Casual", "season": "Summer", _COLOUR: "White", "gender": "Women"},
    ),
    Prompt(
        "A fantasy landscape with a pine tree in the foreground and a red sun setting in the distance, "
        "trending on artstation"
    ),
)


def word_swaps(pictures: PictureSet, num: int, seed: int = 0, colours: Sequence[str] = SWAP_COLOURS) -> Suite | None:
    """Pairs of captions that differ in the word of the colour only: a held-out picture's, and one for another colour.

    Args:
        num: at most so many pairs; the suite has twice as many prompts, each pair together.
        seed: of the draw.
        colours: those that are swapped, each for every other with equal chance.

    Returns:
        None if no held-out picture can have its colour's word swapped: data without colours, or with
            captions of its own.
    """
    writer, rng = CaptionWriter(), np.random.default_rng(seed)
    prompts: list[Prompt] = []
    for position in rng.permutation(np.concatenate([pictures.validation, pictures.test])).tolist():
        if len(prompts) == 2 * num:
            break
        record = pictures.records[position]
        colour = record.fields.get(_COLOUR, "")
        if colour not in colours or record.captions or not _has_colour_of_its_own(record):
            continue
        other = colours[(colours.index(colour) + int(rng.integers(1, len(colours)))) % len(colours)]
        swapped = replace(record, fields={**record.fields, _COLOUR: other})
        texts = (writer.full(record), writer.full(swapped))
        if _differ_in_one_word(*texts):
            prompts.append(Prompt(texts[0], dict(record.fields), position))
            prompts.append(Prompt(texts[1], dict(swapped.fields)))
    if not prompts:
        return None
    return Suite("word swaps", "whether a changed word of colour changes the colour, and that alone", tuple(prompts), 2)


def _has_colour_of_its_own(record: Record) -> bool:
    return record.fields.get("masterCategory") not in _WITHOUT_COLOURS


def _differ_in_one_word(first: str, second: str) -> bool:
    words = first.split(), second.split()
    return len(words[0]) == len(words[1]) and sum(a != b for a, b in zip(*words, strict=True)) == 1
