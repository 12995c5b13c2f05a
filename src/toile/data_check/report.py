"""The files of a report: a page, the findings as JSON, and the cleaned list."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toile.data.records import Source
from toile.data_check.findings import FORMAT, Diagnosis
from toile.data_check.page import render_page
from toile.errors import ToileError
from toile.weights.files import write_atomically, write_text_atomically

PAGE_NAME, FINDINGS_NAME, KEPT_NAME = "index.html", "findings.json", "kept.txt"


@dataclass(frozen=True)
class ReportFiles:
    """Where the parts of a report are; `kept` is None where no cleaned list was asked for."""

    page: Path
    findings: Path
    kept: Path | None


def check_outside(folder: Path, data: Path) -> None:
    """Refuses a folder for results that lies in the data: what is written there would belong to it from then on."""
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise ToileError(f"--out {folder} is inside the data {data}, which must not change; give a folder elsewhere")


def check_report_folder(folder: Path, data: Path) -> None:
    """Refuses a folder for the report that would change the data, or whose files are no earlier report.

    Raises:
        ToileError: it lies in the data, is a file, or has files of the report's names that are something else.
    """
    check_outside(folder, data)
    if folder.exists() and not folder.is_dir():
        raise ToileError(f"--out {folder} is a file; give a folder")
    taken = [name for name in (PAGE_NAME, FINDINGS_NAME, KEPT_NAME) if (folder / name).exists()]
    if taken and not _is_report(folder / FINDINGS_NAME):
        raise ToileError(f"--out {folder} has a {taken[0]} that is no report of a data check; give another folder")


def _is_report(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def write_report(folder: Path, diagnosis: Diagnosis, source: Source, data: Path, fix: bool) -> ReportFiles:
    """Writes the report, in place of an earlier one.

    Args:
        folder: made if absent; see `check_report_folder`.
        diagnosis: the result of a check of the source.
        data: where the source is.
        fix: also write the cleaned list, the keys of the records that stay, one a line; else one of an earlier check
            is deleted, because it belongs to other findings.
    """
    page, findings, kept = folder / PAGE_NAME, folder / FINDINGS_NAME, folder / KEPT_NAME
    # First of all the file by which the folder is known as a report.
    write_text_atomically(findings, json.dumps(as_json(diagnosis, data), indent=1) + "\n")
    write_text_atomically(page, render_page(diagnosis, source, data.name or str(data)))
    if fix:
        lines = [source.records[index].key + "\n" for index in diagnosis.kept]
        write_atomically(kept, b"".join(map(os.fsencode, lines)))
    else:
        kept.unlink(missing_ok=True)
    return ReportFiles(page, findings, kept if fix else None)


def as_json(diagnosis: Diagnosis, data: Path) -> dict[str, Any]:
    """The whole diagnosis for programs: every case, with the keys of its records."""
    return {
        "format": FORMAT,
        "data": str(data),
        "records": diagnosis.num_records,
        "checked": diagnosis.num_checked,
        "kept": len(diagnosis.kept),
        "facts": dict(diagnosis.facts),
        "not_checked": list(diagnosis.not_checked),
        "findings": [
            {
                "kind": finding.kind,
                "title": finding.title,
                "meaning": finding.meaning,
                "count": finding.count,
                "remedy": finding.remedy,
                "cases": [{"names": list(case.names), "note": case.note} for case in finding.cases],
            }
            for finding in diagnosis.findings
        ],
    }
