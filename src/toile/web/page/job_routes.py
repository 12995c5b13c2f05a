"""What the page asks for about jobs: taking them, telling of them, cancelling and forgetting them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from toile.errors import ToileError
from toile.web.jobs.engine import Engine
from toile.web.jobs.errors import NoSuchJobError
from toile.web.jobs.job import Job
from toile.web.jobs.request import JobRequest
from toile.web.page.answers import event_facts, job_facts, thumbs_of
from toile.web.page.bodies import AxisBody, GridBody, JobBody
from toile.web.page.owners import Owner

_SECONDS_BETWEEN_SIGNS = 15.0  # of life, without which a browser's leaving goes unnoticed
MOST_WATCHED = 128


def job_routes(engine: Engine) -> APIRouter:
    """The routes of one engine."""
    routes = APIRouter()

    @routes.post("/jobs")
    def submit(body: JobBody, owner: Owner) -> dict[str, Any]:
        return job_facts(engine.submit(body.request(engine), owner), {})

    @routes.post("/grids")
    def submit_grid(body: GridBody, owner: Owner) -> dict[str, Any]:
        rows = body.requests(engine)
        jobs = _submit_all(engine, [request for row in rows for request in row], owner)
        columns = len(rows[0])
        return {
            "columns": _titles(body.x),
            "rows": [""] if body.y is None else _titles(body.y),
            "cells": [
                [job_facts(job, {}) for job in jobs[start : start + columns]] for start in range(0, len(jobs), columns)
            ],
        }

    @routes.get("/jobs")
    def history(owner: Owner, limit: int = 30, before: str | None = None) -> dict[str, Any]:
        thumbs = thumbs_of(engine, owner)
        return {"jobs": [job_facts(job, thumbs) for job in engine.history(owner, limit, before)]}

    @routes.get("/jobs/{job_id}")
    def job(job_id: str, owner: Owner) -> dict[str, Any]:
        return job_facts(engine.job(job_id, owner), thumbs_of(engine, owner))

    @routes.post("/jobs/{job_id}/cancel")
    def cancel(job_id: str, owner: Owner) -> dict[str, Any]:
        return job_facts(engine.cancel(job_id, owner), thumbs_of(engine, owner))

    @routes.delete("/jobs/{job_id}")
    def forget(job_id: str, owner: Owner) -> dict[str, Any]:
        engine.forget(job_id, owner)
        return {}

    @routes.get("/events")
    async def events(
        owner: Owner, job: Annotated[list[str], Query(min_length=1, max_length=MOST_WATCHED)]
    ) -> StreamingResponse:
        for job_id in job:
            engine.job(job_id, owner)  # says that there is no such job while it still can
        return StreamingResponse(
            _told(engine, owner, job), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    return routes


def _titles(axis: AxisBody) -> list[str]:
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in axis.axis().values]


def _submit_all(engine: Engine, requests: list[JobRequest], owner: str) -> list[Job]:
    """Takes all jobs or none."""
    jobs: list[Job] = []
    try:
        for request in requests:
            jobs.append(engine.submit(request, owner))
    except ToileError:
        for job in jobs:
            engine.forget(job.id, owner)
        raise
    return jobs


async def _told(engine: Engine, owner: str, jobs: list[str]) -> AsyncIterator[str]:
    """The events of several jobs in one stream, as browsers keep few connections; it ends when all jobs have."""
    waiting: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(maxsize=2 * len(jobs))

    async def watch(job_id: str) -> None:
        with contextlib.suppress(NoSuchJobError):  # it was deleted meanwhile
            async with contextlib.aclosing(engine.watch(job_id, owner, previews=True)) as events:
                async for event in events:
                    await waiting.put(event_facts(job_id, event))
        await waiting.put(None)

    watchers = [asyncio.create_task(watch(job_id)) for job_id in dict.fromkeys(jobs)]
    left = len(watchers)
    try:
        while left:
            try:
                facts = await asyncio.wait_for(waiting.get(), _SECONDS_BETWEEN_SIGNS)
            except TimeoutError:
                yield ": still here\n\n"
                continue
            if facts is None:
                left -= 1
            else:
                yield f"data: {json.dumps(facts)}\n\n"
        yield 'data: {"kind": "over"}\n\n'
    finally:
        for watcher in watchers:
            watcher.cancel()
