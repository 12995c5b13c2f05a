"""What happens to a job, as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse

from toile.web.jobs.engine import Engine
from toile.web.jobs.events import JobEvent
from toile.web.jobs.job import Job

_SECONDS_BETWEEN_SIGNS = 15.0  # of life, so that nothing on the way takes a quiet stream for a dead one
SIGN = ": still there\n\n"


def event_stream(texts: AsyncIterator[str]) -> StreamingResponse:
    """The answer that sends them as they come."""
    return StreamingResponse(texts, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def server_sent(kind: str, facts: Mapping[str, Any]) -> str:
    """One event as it is sent."""
    return f"event: {kind}\ndata: {json.dumps(facts)}\n\n"


async def events_of(engine: Engine, job: Job, previews: bool) -> AsyncGenerator[JobEvent | None, None]:
    """What happens to a job until it has ended; None where nothing has for a while."""
    async with aclosing(engine.watch(job.id, job.owner, previews)) as events:
        coming = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                await asyncio.wait({coming}, timeout=_SECONDS_BETWEEN_SIGNS)
                if not coming.done():
                    yield None
                    continue
                event = coming.result()
                if event is None:
                    return
                yield event
                coming = asyncio.ensure_future(anext(events, None))
        finally:
            coming.cancel()
            await asyncio.wait({coming})
