"""What every source of pictures hands out: records, an exact account of what was left out, and one protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol


@dataclass(frozen=True)
class Record:
    """One picture's words.

    key: the name of the picture inside its source (an id, a file name, an index).
    fields: attributes such as articleType or baseColour; blank ones are absent.
    captions: ready captions, if the source has them.
    repeats: how often training shows it while it shows others once.
    """

    key: str
    fields: Mapping[str, str]
    captions: tuple[str, ...] = ()
    repeats: int = 1


@dataclass(frozen=True)
class DropReport:
    """How many entries were read, kept, dropped for each reason, and kept after a repair.

    Always total_read == kept + sum(counts.values()). examples holds a few keys for each reason.
    """

    total_read: int
    kept: int
    counts: Mapping[str, int]
    examples: Mapping[str, tuple[str, ...]]
    repaired: Mapping[str, int]

    @property
    def dropped(self) -> int:
        """How many entries were left out, for any reason."""
        return self.total_read - self.kept

    def summary(self) -> str:
        """One paragraph for people."""
        text = f"{self.total_read:,} read, {self.kept:,} kept, {self.dropped:,} dropped"
        if self.counts:
            text += ": " + "; ".join(
                f"{count:,} {reason} (such as {', '.join(self.examples[reason])})"
                for reason, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
            )
        if self.repaired:
            text += ". Repaired: " + "; ".join(f"{count:,} {what}" for what, count in sorted(self.repaired.items()))
        return text + "."


@dataclass
class DropCounter:
    """Collects the entries of a DropReport while a source is being read."""

    counts: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, key: str) -> None:
        """Counts one entry left out for this reason."""
        self.counts[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < 3:
            shown.append(key[:80])

    def repair(self, what: str) -> None:
        """Counts one entry that was kept after mending."""
        self.repaired[what] += 1

    def report(self, kept: int) -> DropReport:
        """The account, given how many entries were kept."""
        return DropReport(
            total_read=kept + sum(self.counts.values()),
            kept=kept,
            counts=MappingProxyType(dict(self.counts)),
            examples=MappingProxyType({reason: tuple(keys) for reason, keys in self.examples.items()}),
            repaired=MappingProxyType(dict(self.repaired)),
        )


class Source(Protocol):
    """Pictures with words: a product table, an image folder, idx files."""

    @property
    def records(self) -> tuple[Record, ...]:
        """The kept records; an index below means a position in this tuple."""

    @property
    def report(self) -> DropReport:
        """What was read, kept and dropped."""

    @property
    def identity(self) -> str:
        """A hash that changes when the data changes."""

    def read_picture(self, index: int) -> bytes:
        """The encoded bytes of one picture; raises ToileError if they cannot be read."""

    def title(self, index: int) -> str:
        """The product's title, by which the split finds near twins; empty if there is none."""
