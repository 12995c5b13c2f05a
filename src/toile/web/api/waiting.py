"""Jobs of clients that wait for the answer: if they go away, the work stops."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from toile.web.api.answers import JobFailedError
from toile.web.jobs.engine import Engine
from toile.web.jobs.job import Job
from toile.web.jobs.request import JobRequest
from toile.web.jobs.room import Place


def owner_of(request: Request) -> str:
    """Whose request it is, as the guards found."""
    return str(request.state.owner)


def place_of(request: Request) -> Place:
    """The place that the guards gave to a request for pictures."""
    place = request.state.place
    assert isinstance(place, Place)
    return place


async def submitted(engine: Engine, request: Request, wanted: JobRequest) -> Job:
    """A job that somebody waits for, who has to call `ended`.

    Raises:
        ToileError: it was not taken.
    """
    owner, place = owner_of(request), place_of(request)
    return await run_in_threadpool(engine.submit, wanted, owner, attached=True, place=place)


async def ended(engine: Engine, request: Request, job: Job) -> Job:
    """The job when it has ended; if the client goes away, that is at once."""
    waiting = asyncio.create_task(_until_end(engine, job))
    leaving = asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        leaving.cancel()
        last = engine.cancel(job.id, job.owner)  # does nothing to a job that has ended
    return last


async def finished(engine: Engine, request: Request, wanted: JobRequest) -> Job:
    """Submits a job, and waits until it has ended well.

    Raises:
        ToileError: it was not taken.
        JobFailedError: it came to nothing.
    """
    job = await ended(engine, request, await submitted(engine, request, wanted))
    if job.state != "done":
        raise JobFailedError(job)
    return job


async def picture_files(engine: Engine, job: Job) -> list[bytes]:
    """The PNG files of all its pictures."""
    paths = [engine.picture_file(job.id, job.owner, picture.number) for picture in job.pictures]
    return [await run_in_threadpool(Path.read_bytes, path) for path in paths]


async def _until_end(engine: Engine, job: Job) -> None:
    async with aclosing(engine.watch(job.id, job.owner, only_end=True)) as events:
        async for _ in events:
            pass


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
