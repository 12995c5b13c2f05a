"""The check itself: looks at every picture and every caption once, and says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from toile.data.captions import CaptionWriter
from toile.data.records import Source
from toile.data.sources import MAX_BAD_FRACTION
from toile.data_check.duplicates import MAX_RADIUS, duplicate_groups, superfluous
from toile.data_check.findings import Case, Diagnosis, Finding, cases_of
from toile.data_check.leaks import equal_contents, equal_titles, shared_across, sides_of_folders, sides_of_training
from toile.data_check.looks import Looks, look_at
from toile.data_check.match import similarities
from toile.data_check.reader import ModelReader
from toile.data_check.word_findings import Words, find_in_words, read_words
from toile.errors import ToileError
from toile.model_files.clip_pair import ClipPair

DEFAULT_MIN_SIZE = 64
_SHARE_OF_LOOKING = 0.8
PEOPLE = (
    "several people or articles in one picture: no means that is cheap and sound is known; only words that say so are "
    "found (several-in-words)"
)
NO_CLIP = "captions that do not match their picture: give a CLIP with --clip FOLDER"


@dataclass(frozen=True)
class CheckConfig:
    """What a check looks at and where it draws the lines.

    Attributes:
        limit: look at the first so many records only; None = all.
        min_size: shortest side in pixels below which a picture is tiny; None = 64, or half the median where that is
            less, so that a data set of small pictures is not one fault.
        radius: bits of 64 in which hashes of near-duplicates may differ, 0 to 16.
        tolerance: largest difference of near-duplicates at 16x16 pixels, of 255.
        split_seed: of the split that training makes.
        num_mismatches: how many of the worst pairs of caption and picture are listed.
    """

    limit: int | None = None
    min_size: int | None = None
    radius: int = 6
    tolerance: float = 12.0
    split_seed: int = 0
    num_mismatches: int = 48

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ToileError(f"limit {self.limit} leaves nothing to look at; give at least 1")
        if self.min_size is not None and self.min_size < 1:
            raise ToileError(f"min_size {self.min_size} is not possible; give at least 1 pixel")
        if not 0 <= self.radius <= MAX_RADIUS:
            raise ToileError(f"radius {self.radius} is not possible; give 0 to {MAX_RADIUS} bits")
        if not 0 <= self.tolerance <= 255:
            raise ToileError(f"tolerance {self.tolerance} is not possible; give 0 to 255")
        if self.num_mismatches < 1:
            raise ToileError(f"num_mismatches {self.num_mismatches} is not possible; give at least 1")


@dataclass(frozen=True)
class Progress:
    """How far a check is: a share from 0 to 1, and what it does."""

    fraction: float
    note: str


def check_source(
    source: Source, reader: ModelReader, config: CheckConfig | None = None, matcher: ClipPair | None = None
) -> Iterator[Progress | Diagnosis]:
    """Checks a data set; nothing of it is changed.

    Args:
        source: pictures and words.
        reader: the model whose tokenizer counts.
        config: where the lines are drawn.
        matcher: a CLIP that judges whether captions match; None = not asked.

    Yields:
        progress, and at last the diagnosis.
    """
    config = config or CheckConfig()
    num_checked = min(len(source.records), config.limit or len(source.records))
    indices = range(num_checked)
    share = _SHARE_OF_LOOKING / 2 if matcher else _SHARE_OF_LOOKING
    looks: Looks | None = None
    for event in look_at(source, indices):
        if isinstance(event, Looks):
            looks = event
        else:
            yield Progress(event * share, "reading pictures")
    assert looks is not None
    yield Progress(share, "reading captions")
    writer = CaptionWriter()
    words = read_words(source, indices, writer)
    word_findings = find_in_words(words, reader)
    yield Progress(share + 0.1, "comparing pictures")
    sight = _Sight(source, looks, config)
    clip_findings: list[Finding] = []
    if matcher is not None:
        seen = looks.indices.tolist()
        captions = [writer.full(source.records[index]) for index in seen]
        for step in similarities(matcher, source, seen, captions):
            if isinstance(step, float):
                yield Progress(share + 0.1 + step * (0.9 - share), "asking CLIP")
            else:
                clip_findings = [_mismatches(source, seen, captions, step, config)]
    tiny = sight.tiny()
    unfit = {case.records[0] for case in tiny.cases} | words.blank | _unlistable(source, indices)
    duplicates, going = sight.duplicates(unfit, words)
    kept = tuple(index for index in looks.indices.tolist() if index not in unfit and index not in going)
    findings = (*_left_out(source), sight.unreadable(), tiny, *duplicates, *sight.leaks(), *word_findings)
    yield Progress(1.0, "done")
    yield Diagnosis(
        num_records=len(source.records),
        num_checked=num_checked,
        findings=(*findings, *clip_findings),
        kept=kept,
        not_checked=(PEOPLE,) if matcher else (PEOPLE, NO_CLIP),
        facts={
            "source": source.identity,
            "model": reader.name,
            "tokens": reader.tokenizer.max_length - 2,
            "min_size": sight.min_size,
            "median_short_side": sight.median_side,
            "radius": config.radius,
            "tolerance": config.tolerance,
            "split_seed": config.split_seed,
        },
    )


def _left_out(source: Source) -> Iterator[Finding]:
    """What the source itself left out while it was read, a finding for each reason."""
    meaning = "Entries that no picture with words could be made of. Training leaves them out as well."
    for reason, count in sorted(source.report.counts.items()):
        cases = tuple(Case((), (name,), reason) for name in source.report.examples[reason])
        yield Finding(f"left-out: {reason}", f"Left out: {reason}", meaning, count, cases, "not in the list")


def _unlistable(source: Source, indices: Sequence[int]) -> set[int]:
    """Records whose key would be two lines of a list."""
    return {index for index in indices if len(source.records[index].key.splitlines()) != 1}


class _Sight:
    """What the looks of pictures tell."""

    def __init__(self, source: Source, looks: Looks, config: CheckConfig) -> None:
        self.source, self.looks, self.config = source, looks, config
        self.keys = [record.key for record in source.records]
        short_sides = looks.sizes.min(axis=1, initial=2**31)
        self.short_sides = short_sides
        self.median_side = int(np.median(short_sides)) if len(short_sides) else 0
        self.min_size = config.min_size or max(1, min(DEFAULT_MIN_SIZE, self.median_side // 2))
        self.groups = duplicate_groups(looks.contents, looks.hashes, looks.thumbs, config.radius, config.tolerance)

    def unreadable(self) -> Finding:
        bad = self.looks.unreadable
        meaning = "Pictures that are truncated, empty, damaged, of an unknown kind or too large to be read."
        if len(bad) > MAX_BAD_FRACTION * (len(bad) + len(self.looks.indices)):
            meaning += f" They are more than {MAX_BAD_FRACTION:.0%}: training would stop because of them."
        return Finding("unreadable", "Unreadable pictures", meaning, len(bad), cases_of(self.keys, bad), "left out")

    def tiny(self) -> Finding:
        notes = {}
        for place in np.flatnonzero(self.short_sides < self.min_size).tolist():
            width, height = self.looks.sizes[place].tolist()
            notes[int(self.looks.indices[place])] = f"{width}x{height}"
        below = int((self.short_sides < DEFAULT_MIN_SIZE).sum())
        meaning = f"The shorter side has fewer than {self.min_size} pixels"
        if self.config.min_size is None and self.min_size < DEFAULT_MIN_SIZE:
            meaning += (
                f": half the median of this data, {self.median_side}. Fewer than {DEFAULT_MIN_SIZE} have {below:,} of "
                f"{len(self.short_sides):,}; --min-size draws the line elsewhere"
            )
        return Finding("tiny", "Tiny pictures", f"{meaning}.", len(notes), cases_of(self.keys, notes), "left out")

    def duplicates(self, unfit: set[int], words: Words) -> tuple[list[Finding], set[int]]:
        """The groups as findings, and which records go because another of their group stays."""
        looks, going = self.looks, dict[int, int]()
        fit = np.array([index not in unfit for index in looks.indices.tolist()], dtype=np.int64)
        said = np.array([index in words.spoken for index in looks.indices.tolist()], dtype=np.int64)
        area = np.minimum(looks.sizes.prod(axis=1), 2**40)
        rank = fit * 2**42 + said * 2**41 + area
        same: list[Case] = []
        near: list[Case] = []
        num_contradicting = 0
        for group in self.groups:
            gone = superfluous(group, looks.contents, looks.thumbs, rank, self.config.tolerance)
            going |= gone
            members = sorted(group.tolist(), key=lambda position: (position in gone, position))
            equal = len({looks.contents[position] for position in members}) == 1
            stay = len(members) - len(gone)
            note = f"{len(members)} pictures, " + (f"{stay} differ enough to stay" if stay > 1 else "the first stays")
            said_of = {words.captions[int(looks.indices[position])][:1] for position in members}
            if equal and len(said_of) > 1:
                # One of them is wrong or says less, so these come first.
                same.insert(num_contradicting, self._case(members, f"{note}; their captions differ"))
                num_contradicting += 1
            else:
                (same if equal else near).append(self._case(members, note))
        findings = [
            Finding(
                "same-picture",
                "The same picture several times",
                "Groups of records whose pictures are equal byte for byte; first those whose captions differ.",
                len(same),
                tuple(same),
                "one of each stays",
            ),
            Finding(
                "near-duplicate",
                "Near-duplicate pictures",
                f"Groups joined by pairs whose perceptual hashes differ in at most {self.config.radius} of 64 bits and "
                f"which differ by at most {self.config.tolerance:g} of 255 anywhere at 16x16 pixels: the same picture "
                "in another size or compression. Learnt by heart sooner, and seen on both sides of a split.",
                len(near),
                tuple(near),
                "the largest stays, and what differs",
            ),
        ]
        return findings, {int(looks.indices[position]) for position in going}

    def leaks(self) -> Iterator[Finding]:
        looks, source = self.looks, self.source
        indices = looks.indices.tolist()
        titles = [source.title(index) for index in indices]
        near = [group.tolist() for group in self.groups]
        groups = {
            "same-picture": ("the same picture", equal_contents(looks.contents), ""),
            "same-title": ("the same title", equal_titles(titles), ""),
            "near-duplicate": ("near-duplicates", near, "one of each group stays, on one side"),
        }
        training = sides_of_training(looks.contents, titles, self.config.split_seed)
        splits = [("leak", "training's split", training)]
        own = sides_of_folders([self.keys[index] for index in indices])
        if own is not None:
            splits.append(("own-leak", "the data's own folders", own))
        for prefix, split, sides in splits:
            for kind, (what, together, remedy) in groups.items():
                cases = tuple(self._case(group, told) for group, told in shared_across(sides, together))
                meaning = f"Groups of pictures on more than one side of {split}: scores on held-out pictures flatter."
                if kind != "near-duplicate" and prefix == "own-leak":
                    remedy = "one of each stays" if kind == "same-picture" else ""
                title = f"On several sides of {split}: {what}"
                yield Finding(f"{prefix}-{kind}", title, meaning, len(cases), cases, remedy)

    def _case(self, positions: Sequence[int], note: str) -> Case:
        records = tuple(int(self.looks.indices[position]) for position in positions)
        return Case(records, tuple(self.keys[index] for index in records), note)


def _mismatches(
    source: Source, indices: Sequence[int], captions: Sequence[str], scores: np.ndarray, config: CheckConfig
) -> Finding:
    """The pairs with the lowest similarity: a list to look through, not a verdict."""
    worst = np.argsort(scores, kind="stable")[: config.num_mismatches].tolist()
    cases = tuple(
        Case((indices[place],), (source.records[indices[place]].key,), f"{scores[place]:.3f}: {captions[place]}")
        for place in worst
    )
    middle = float(np.median(scores)) if len(scores) else 0.0
    meaning = (
        f"The pairs of caption and picture with the lowest similarity in the CLIP's space (median {middle:.3f}); the "
        "worst first, to be looked through. There are always some; a low number alone is no fault."
    )
    return Finding("mismatch", "Captions that match least", meaning, len(cases), cases)
