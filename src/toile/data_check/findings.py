"""What a check of a data set finds: kinds of findings, their cases, and what of it stays in a cleaned list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FORMAT = "toile-data-check/1"


@dataclass(frozen=True)
class Case:
    """One thing that was found.

    Attributes:
        records: positions in the source of the records it concerns; () where the source left the entry out itself.
        names: their keys, or the name of the entry that was left out.
        note: what is the matter, for people.
    """

    records: tuple[int, ...]
    names: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """Everything of one kind that was found; a kind that was looked for and not found has the count 0.

    Attributes:
        kind: a short name that programs may rely on.
        title: the kind in a few words.
        meaning: by what means it is told, and why it matters.
        count: how many cases there are.
        cases: all of them; only the first few where the source itself keeps no more.
        remedy: what --fix does about it; "" = nothing.
    """

    kind: str
    title: str
    meaning: str
    count: int
    cases: tuple[Case, ...]
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The result of a check.

    Attributes:
        num_records: records of the source.
        num_checked: how many of them were looked at.
        findings: every kind that was looked for, in a fixed order.
        kept: positions in the source of the records that stay in a cleaned list, ascending.
        not_checked: what was not looked for, with the reason and how to have it.
        facts: what the findings depend on, such as sizes and thresholds.
    """

    num_records: int
    num_checked: int
    findings: tuple[Finding, ...]
    kept: tuple[int, ...]
    not_checked: tuple[str, ...]
    facts: Mapping[str, Any]

    def finding(self, kind: str) -> Finding:
        """The finding of this kind, which must have been looked for."""
        return next(finding for finding in self.findings if finding.kind == kind)


def cases_of(keys: Sequence[str], notes: Mapping[int, str]) -> tuple[Case, ...]:
    """A case for each record with a note, in the order of the records.

    Args:
        keys: of all records of the source.
        notes: by position in the source.
    """
    return tuple(Case((index,), (keys[index],), notes[index]) for index in sorted(notes))


def printable(text: str, longest: int = 200) -> str:
    """A text that may come from anywhere, fit to be shown: no control signs or half surrogates, not endless."""
    shown = text if len(text) <= longest else text[: longest - 3] + "..."
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in shown)
