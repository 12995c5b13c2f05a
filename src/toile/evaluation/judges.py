"""Which networks judge which pictures, and what is left out because no judge for it suits them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toile.errors import ToileError
from toile.evaluation.bench import Bench
from toile.evaluation.clip_score import PUBLISHED_PREFIX
from toile.evaluation.copies import YARDSTICK
from toile.evaluation.feature_networks import (
    ATTRIBUTES,
    CLIP,
    RANDOM,
    RANDOM_DIM,
    SHIPPED,
    WORDS,
    FeatureNetwork,
    find_judge,
    random_spec,
)
from toile.evaluation.features import load_evaluator
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.real_side import RealSide
from toile.evaluation.suites import Prompt
from toile.model_files.clip_pair import ClipPair, load_clip_pair
from toile.models.classifier import ARTICLE_TYPE, FIELDS, AttributeClassifier
from toile.training.pictures import PictureSet

_OTHERS = f"{RANDOM}, {RANDOM}=16, inception=FILE, clip=FOLDER or dinov2=FOLDER"


@dataclass(frozen=True, eq=False)
class Judges:
    """Who judges.

    Attributes:
        networks: what looks, the most trusted first.
        attributes: names attributes; None where no network among them does.
        words: says how well pictures and words agree; None where no network among them does.
        prefix: what that is told before each prompt.
    """

    networks: tuple[FeatureNetwork, ...]
    attributes: AttributeClassifier | None
    words: ClipPair | None
    prefix: str


def has_labels(pictures: PictureSet) -> bool:
    """Whether any record says which article it shows, as judges of attributes need it."""
    return any(FIELDS[ARTICLE_TYPE] in record.fields for record in pictures.records)


def refuse_unfit(specs: Iterable[str], pictures: PictureSet) -> None:
    """Refuses judges of products for other pictures.

    Args:
        specs: as `open_feature_network` takes them.

    Raises:
        ToileError: the pictures have no labels of articles, and a judge names articles, or is one of those that come
            with the program.
    """
    for spec in specs if not has_labels(pictures) else ():
        if spec.partition("=")[0] == ATTRIBUTES or spec in SHIPPED:
            raise ToileError(
                f"{spec} learnt from products, and these pictures have no labels of articles: it is no judge of them. "
                f"Give other --networks: {_OTHERS}"
            )


def random_for(sets: PictureSets, real: RealSide) -> str:
    """The random network, with as many features as the pictures are enough for."""
    return random_spec(min(sets.fewest_without_one, len(real.reference), len(real.learnt)))


def open_judges(specs: Sequence[str], networks: Sequence[FeatureNetwork], identity: str) -> Judges:
    """The judge of attributes is the one among the networks; that of words too, or a published CLIP if it is there.

    Args:
        specs: of the networks.
        networks: opened.
        identity: of the pictures (`PictureSet.pixels_identity`).

    Raises:
        ToileError: a judge learnt from other pictures, or cannot be read.
    """

    def folder_of(kind: str) -> Path | None:
        for spec in specs:
            name, _, place = spec.partition("=")
            if name == kind:
                return Path(place) if place else find_judge(kind)
        return None

    attributes, clip, words = folder_of(ATTRIBUTES), folder_of(CLIP), folder_of(WORDS)
    place, prefix = (words, "") if clip is None else (clip, PUBLISHED_PREFIX)
    return Judges(
        tuple(networks),
        None if attributes is None else load_evaluator(attributes, identity),
        None if place is None else load_clip_pair(place),
        prefix,
    )


def left_out(bench: Bench, prompts: Sequence[Prompt], sets: PictureSets, extras: bool) -> tuple[str, ...]:
    """What is not measured, and why: a sentence each.

    Args:
        extras: whether makers make pictures of their own for what needs them.
    """
    labelled, found = has_labels(bench.real.pictures), []
    if bench.labels is None:
        why = "no network that was asked for names them" if labelled else "the real pictures have no such labels"
        found.append(
            "Article, colour, gender, usage, the failures that go by them, classifier accuracy, unseen pairs, prompts "
            f"of the reports and swapped words: {why}."
        )
    if bench.words is None:
        why = "no network that was asked for reads words"
        if not labelled:
            why = "the judge of words that comes with toile learnt captions of products only; clip=FOLDER measures it"
        found.append(f"CLIP score: {why}.")
    elif not any(prompt.text for prompt in prompts):
        found.append("CLIP score: the pictures have no words that they could be held to.")
    if (reference := len(bench.real.reference)) < YARDSTICK:
        found.append(
            f"Audit of copies: it needs {YARDSTICK} held-out pictures that give no prompts, to know how alike new "
            f"pictures are by chance, and there are {reference}."
        )
    short = [network for network in bench.networks if sets.fewest_without_one < 2 * network.feature_dim]
    if short:
        least = max(network.feature_dim for network in short) * 2 * bench.num_sets / (bench.num_sets - 1)
        names = ", ".join(network.name for network in short)
        found.append(f"Frechet distance without end ({names}): it needs about {math.ceil(least):,} pictures.")
    if not extras:
        kinds = "Variety within a prompt" + (", unseen pairs and swapped words" if bench.labels is not None else "")
        found.append(f"{kinds}: no maker was asked for the pictures that show it.")
    return tuple(found)


def notes_on(networks: Sequence[FeatureNetwork], real: RealSide) -> tuple[str, ...]:
    """What a reader must know of networks that were made small for few pictures."""
    return tuple(
        f"{network.name} has {network.feature_dim} features, for few pictures ({len(real.reference):,} real ones are "
        f"the reference): it tells less apart than one of {RANDOM_DIM} does."
        for network in networks
        if network.name.startswith(f"{RANDOM}:")
    )
