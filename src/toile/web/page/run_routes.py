"""What the page asks for about runs and reports: what became of them, curves, samples, what differs, pages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import FileResponse

from toile.errors import ToileError
from toile.training.curve_points import CurvePoints
from toile.web.page.owners import Owner
from toile.web.training.desk import Desk
from toile.web.training.run_shelf import MOST_COMPARED, ShownRun

# A report may hold names and captions of strangers: it runs nothing, fetches nothing, and is nobody on this server.
_REPORT_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Cache-Control": "no-store",
}


def run_routes(desk: Desk) -> APIRouter:
    """The routes of one studio."""
    routes = APIRouter()

    @routes.get("/runs")
    def runs(owner: Owner) -> dict[str, Any]:
        return {"runs": [run_facts(run) for run in desk.runs.all()]}

    @routes.get("/runs/{run}")
    def one(run: str, owner: Owner) -> dict[str, Any]:
        return {
            **run_facts(desk.runs.one(run)),
            "recipe": {key: plain(value) for key, value in desk.runs.recipe(run).items()},
            "sheets": list(desk.runs.sheets(run)),
            **_curves(desk, run),
        }

    @routes.get("/runs/{run}/sheets/{step}.png")
    def sheet(run: str, step: int, owner: Owner) -> FileResponse:
        path = desk.runs.sheets(run).get(step)
        if path is None:
            raise HTTPException(404, "there is no such sheet")
        # A run that is resumed from an earlier state draws a sheet anew.
        return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, no-cache"})

    @routes.get("/comparisons")
    def compared(owner: Owner, run: Annotated[list[str], Query(max_length=MOST_COMPARED)]) -> dict[str, Any]:
        found = desk.runs.compare(run)
        return {
            "runs": [{**run_facts(desk.runs.one(each)), **_curves(desk, each)} for each in run],
            "differences": {key: [plain(value) for value in values] for key, values in found.differences.items()},
            "not_comparable": list(found.not_comparable),
        }

    @routes.get("/reports")
    def reports(owner: Owner) -> dict[str, Any]:
        return {
            "reports": [
                {name: value for name, value in vars(report).items() if name != "page"} for report in desk.reports.all()
            ],
            "folders": [str(folder) for folder in desk.config.reports],
        }

    @routes.get("/reports/{report}/page")
    def page(report: str, owner: Owner) -> FileResponse:
        return FileResponse(desk.reports.page(report), media_type="text/html; charset=utf-8", headers=_REPORT_HEADERS)

    return routes


def run_facts(run: ShownRun) -> dict[str, Any]:
    """A run for the page."""
    return {**asdict(run.summary), "id": run.id, "is_own": run.is_own, "can_resume": run.can_resume}


def plain(value: Any) -> str:
    """A value of a recipe as people write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return str(value)


def _curves(desk: Desk, run: str) -> dict[str, Any]:
    """The curves of a run, or why they cannot be read."""
    try:
        return {"curves": asdict(desk.runs.curves(run)), "damage": ""}
    except ToileError as error:
        return {"curves": asdict(CurvePoints()), "damage": str(error)}
