"""Evaluations that are shown: pages and numbers as `toile evaluate` and `toile compare` leave them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toile.errors import ToileError
from toile.evaluation.scores import EVALUATION_FORMAT
from toile.web.training.places import found_in, is_within, place_id
from toile.weights.files import read_json

PAGE_NAME, FACTS_NAME = "index.html", "evaluation.json"
_DEEPEST, _MOST = 4, 200
_LARGEST_FACTS = 32 * 1024 * 1024


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        id: what requests call it.
        name: of its folder.
        page: the HTML file.
        headline: the result in sentences; what was judged, where an earlier version wrote none.
        makers: whose pictures were judged.
        num_pictures: of each maker; None if that is not said.
        protocol: id under which scores may be compared.
        when: it was written, local time in ISO format.
        note: why its numbers cannot be read, if they cannot.
    """

    id: str
    name: str
    page: Path
    headline: tuple[str, ...]
    makers: tuple[str, ...]
    num_pictures: int | None
    protocol: str
    when: str
    note: str = ""


class ReportShelf:
    """All evaluations in some folders.

    Args:
        folders: in which they are looked for, a few folders deep.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)

    def all(self) -> list[Report]:
        """The newest first."""
        return sorted(map(_read, self._places().values()), key=lambda report: report.when, reverse=True)

    def page(self, report: str) -> Path:
        """The page of one.

        Raises:
            NoSuchPlaceError: there is none.
        """
        return found_in(self._places(), report, "report") / PAGE_NAME

    def _places(self) -> Mapping[str, Path]:
        found: dict[str, Path] = {}
        for root in self._folders:
            for folder in _evaluations(root):
                if len(found) < _MOST:
                    found[place_id(folder)] = folder
        return found


def _evaluations(root: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(root):
        path = Path(folder)
        if len(path.relative_to(root).parts) >= _DEEPEST:
            inside.clear()
        inside.sort()
        if all(name in files and is_within(path / name, root) for name in (PAGE_NAME, FACTS_NAME)):
            inside.clear()  # which hold its pictures
            yield path


def _read(folder: Path) -> Report:
    facts_file = folder / FACTS_NAME
    when = datetime.datetime.fromtimestamp(facts_file.stat().st_mtime).isoformat(" ", "minutes")
    known = Report(place_id(folder), folder.resolve().name, folder / PAGE_NAME, (), (), None, "", when)
    try:
        if facts_file.stat().st_size > _LARGEST_FACTS:
            raise ToileError(f"{FACTS_NAME} is too large")
        facts = read_json(facts_file)
        if facts.get("format") != EVALUATION_FORMAT:
            raise ToileError(f"{FACTS_NAME} is not of the format {EVALUATION_FORMAT}")
        return _told(known, facts)
    except ToileError as error:
        return Report(**{**vars(known), "note": str(error)})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return Report(
            **{**vars(known), "note": f"{FACTS_NAME} is damaged: {type(error).__name__} at {str(error)[:80]}"}
        )


def _told(known: Report, facts: Mapping[str, Any]) -> Report:
    makers = tuple(str(entry["name"]) for entry in facts["entries"])
    num_pictures = int(facts["protocol"]["num_pictures"])
    said = facts.get("headline") or [f"{', '.join(makers)}: {num_pictures:,} pictures each"]
    more = {
        "headline": tuple(map(str, said)),
        "makers": makers,
        "num_pictures": num_pictures,
        "protocol": str(facts["protocol"]["id"]),
    }
    return Report(**{**vars(known), **more})
