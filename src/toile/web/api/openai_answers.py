"""How pictures are answered in OpenAI's dialect: all when they are finished, or as they come, and before that."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi import Request
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from toile.errors import ToileError
from toile.web.api.answers import error_facts, failure_of
from toile.web.api.bodies import base64_of
from toile.web.api.event_stream import SIGN, event_stream, events_of, server_sent
from toile.web.api.waiting import finished, owner_of, picture_files
from toile.web.jobs.engine import Engine
from toile.web.jobs.events import Ended, JobEvent, PictureReady, Progress
from toile.web.jobs.job import Job
from toile.web.jobs.request import JobRequest

Format = Literal["png", "jpeg", "webp"]
MOST_PARTIAL_IMAGES = 3  # as OpenAI has it
# Nothing is counted in tokens here, but clients read the field.
_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


@dataclass(frozen=True)
class Delivery:
    """How the pictures of a request are to be answered.

    Attributes:
        noun: of the events: "image_generation" or "image_edit".
        form: "url" or "b64_json"; None is the latter.
        file_format, compression: of the files; PNG files have their recipe inside.
        quality: as it was asked for; None is "auto".
        is_streamed: whether events come as they happen.
        partial_images: how many pictures of what it looks like come before the first finished one, 0 to 3; fewer if it
            is finished before.

    Raises:
        ToileError: pictures of what it looks like, or a stream, where there can be none.
    """

    noun: str
    form: str | None
    file_format: Format
    compression: int
    quality: str | None
    is_streamed: bool
    partial_images: int

    def __post_init__(self) -> None:
        if self.is_streamed and self.form == "url":
            raise ToileError("response_format is 'url'; allowed with stream: b64_json")
        if self.partial_images and not self.is_streamed:
            raise ToileError(f"partial_images is {self.partial_images}; allowed without stream: 0")

    def encoded(self, file: bytes) -> str:
        """A picture's file as text, in the format that was asked for."""
        if Image.open(io.BytesIO(file)).format != self.file_format.upper():
            converted = io.BytesIO()
            image = Image.open(io.BytesIO(file)).convert("RGB")
            image.save(converted, self.file_format.upper(), quality=self.compression)
            file = converted.getvalue()
        return base64_of(file)


async def delivered(
    engine: Engine, request: Request, wanted: JobRequest, delivery: Delivery
) -> dict[str, Any] | StreamingResponse:
    """Has pictures made, and answers them.

    Raises:
        ToileError: the job was not taken.
        JobFailedError: it came to nothing; of a stream that is an event.
    """
    if delivery.is_streamed:
        job = await run_in_threadpool(engine.submit, wanted, owner_of(request), attached=True)
        return event_stream(_streamed(engine, job, delivery))
    return await _whole(engine, request, await finished(engine, request, wanted), delivery)


async def _whole(engine: Engine, request: Request, job: Job, delivery: Delivery) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    files = [] if delivery.form == "url" else await picture_files(engine, job)
    for number, picture in enumerate(job.pictures):
        entry: dict[str, Any] = {"revised_prompt": picture.reading or job.request.wanted.prompts[0]}
        if delivery.form == "url":
            entry["url"] = str(request.base_url.replace(path=f"/api/jobs/{job.id}/pictures/{picture.number}"))
        else:
            entry["b64_json"] = await run_in_threadpool(delivery.encoded, files[number])
        data.append(entry)
    first = job.pictures[0]
    return {
        "created": int(time.time()),
        "data": data,
        "background": "opaque",
        "output_format": delivery.file_format,
        "size": f"{first.width}x{first.height}",
    }


async def _streamed(engine: Engine, job: Job, delivery: Delivery) -> AsyncIterator[str]:
    """The events of a job; if the client goes away, its work stops."""
    shown = 0
    try:
        async with aclosing(events_of(engine, job, delivery.partial_images > 0)) as events:
            async for event in events:
                if event is None:
                    yield SIGN
                elif isinstance(event, Ended) and event.state != "done":
                    failure = failure_of(event.state, event.error, event.reason)
                    yield server_sent("error", {"error": error_facts(*failure)})
                elif isinstance(event, PictureReady):
                    shown = MOST_PARTIAL_IMAGES
                    path = engine.picture_file(job.id, job.owner, event.picture.number)
                    file = await run_in_threadpool(Path.read_bytes, path)
                    size = f"{event.picture.width}x{event.picture.height}"
                    facts = await run_in_threadpool(_facts, delivery, job, "completed", file, size)
                    yield server_sent(facts["type"], {**facts, "usage": _USAGE})
                elif (preview := _due(event, shown, delivery.partial_images)) is not None:
                    width, height = Image.open(io.BytesIO(preview)).size
                    facts = await run_in_threadpool(
                        _facts, delivery, job, "partial_image", preview, f"{width}x{height}"
                    )
                    yield server_sent(facts["type"], {**facts, "partial_image_index": shown})
                    shown += 1
    finally:
        engine.cancel(job.id, job.owner)  # does nothing to a job that has ended


def _due(event: JobEvent, shown: int, wanted: int) -> bytes | None:
    """The preview that an event brings, if it is time for the next one: they divide the work into equal parts."""
    if not isinstance(event, Progress) or shown >= wanted or event.fraction < shown / wanted:
        return None
    return event.preview


def _facts(delivery: Delivery, job: Job, what: str, file: bytes, size: str) -> dict[str, Any]:
    return {
        "type": f"{delivery.noun}.{what}",
        "b64_json": delivery.encoded(file),
        "background": "opaque",
        "created_at": int(time.time()),
        "output_format": delivery.file_format,
        "quality": delivery.quality or "auto",
        "size": size,
    }
