"""The server's own dialect: jobs that are submitted, watched and fetched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, StreamingResponse

from toile.generation.request import GenerateRequest
from toile.picture_recipe import Toward
from toile.web.api.bodies import Settings, base64_of, file_of, job_request
from toile.web.api.event_stream import SIGN, event_stream, events_of, server_sent
from toile.web.api.waiting import owner_of, place_of
from toile.web.jobs.engine import Engine
from toile.web.jobs.events import Ended, JobEvent, PictureReady, Progress, Queued
from toile.web.jobs.job import Job, PictureInfo

JobId = Annotated[str, Path(pattern="^[0-9a-f]{24}$")]
Number = Annotated[int, Path(ge=0, le=10_000)]


class TowardBody(BaseModel):
    """Another prompt and seed that pictures lie towards: variations."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    seed: int = 0
    share: float


class JobBody(Settings):
    """Pictures to make."""

    prompt: str | list[str] = Field(description="One, or several, each of which gets `n` pictures.")
    n: int = Field(1, description="Pictures for each prompt.")
    model: str | None = None
    quality: str | None = None
    original: str | None = Field(None, description="A prompt whose pictures lead the layout (prompt-to-prompt).")
    toward: TowardBody | None = None
    maps: bool = Field(False, description="Also tell which word drew which part.")
    image: str | None = Field(None, description="A picture to begin with: a PNG, JPEG or WebP file in base64.")
    mask: str | None = Field(None, description="A picture that is bright where `image` is repainted.")
    fit: str = "pad"
    mask_blur: float = 0.0
    deadline_seconds: float | None = None

    def more(self) -> dict[str, Any]:
        """What `JobRequest` has besides the request and files."""
        return {"fit": self.fit, "mask_blur": self.mask_blur, "embeddings": tuple(self.embeddings)}

    def wanted(self) -> GenerateRequest:
        """What the engine makes of it."""
        toward = None if self.toward is None else Toward(self.toward.prompt, self.toward.seed, self.toward.share)
        prompts = (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)
        return GenerateRequest(
            prompts,
            num_images=self.n,
            maps=self.maps,
            quality=self.quality,
            original=self.original,
            toward=toward,
            **self.chosen(),
        )


class ThumbBody(BaseModel):
    """What a person thinks of a picture."""

    model_config = ConfigDict(extra="forbid")

    thumb: Literal[-1, 0, 1]


class PictureKey(BaseModel):
    """A picture."""

    model_config = ConfigDict(extra="forbid")

    job: str
    number: int


class PairBody(BaseModel):
    """Which of two pictures a person prefers."""

    model_config = ConfigDict(extra="forbid")

    a: PictureKey
    b: PictureKey
    choice: Literal["a", "b", "tie"]


def native_routes(engine: Engine) -> APIRouter:
    """All routes of this dialect."""
    routes = APIRouter(prefix="/api", tags=["jobs"])

    @routes.post("/jobs", status_code=202)
    async def submit(body: JobBody, request: Request, response: Response) -> dict[str, Any]:
        """Takes a job. It goes on when the client has left."""
        files = {name: file_of(name, getattr(body, name)) for name in ("image", "mask")}
        wanted = job_request(engine, body.model, body.wanted(), **files, **body.more())
        owner, place, seconds = owner_of(request), place_of(request), body.deadline_seconds
        job = await run_in_threadpool(engine.submit, wanted, owner, deadline_seconds=seconds, place=place)
        response.headers["Location"] = f"/api/jobs/{job.id}"
        return job_facts(job)

    @routes.get("/jobs")
    async def history(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[str | None, Query(pattern="^[0-9a-f]{24}$")] = None,
    ) -> dict[str, Any]:
        """Your jobs, the last ones first; `before` a job means older than that."""
        jobs = await run_in_threadpool(engine.history, owner_of(request), limit, before)
        return {"jobs": [job_facts(job) for job in jobs]}

    @routes.get("/jobs/{job_id}")
    async def job(job_id: JobId, request: Request) -> dict[str, Any]:
        """A job as it is now."""
        return job_facts(engine.job(job_id, owner_of(request)))

    @routes.get("/jobs/{job_id}/events", response_class=StreamingResponse)
    async def events(job_id: JobId, request: Request, previews: bool = False) -> StreamingResponse:
        """What happens to a job until it has ended, as server-sent events: queued, progress, picture, ended."""
        return event_stream(_told(engine, engine.job(job_id, owner_of(request)), previews))

    @routes.post("/jobs/{job_id}/cancel")
    async def cancel(job_id: JobId, request: Request) -> dict[str, Any]:
        """Cancels a job; its work stops within a step. One that has ended stays as it is."""
        return job_facts(engine.cancel(job_id, owner_of(request)))

    @routes.delete("/jobs/{job_id}", status_code=204)
    async def forget(job_id: JobId, request: Request) -> Response:
        """Deletes a job and its pictures."""
        await run_in_threadpool(engine.forget, job_id, owner_of(request))
        return Response(status_code=204)

    @routes.get("/jobs/{job_id}/pictures/{number}", response_class=FileResponse)
    async def picture(job_id: JobId, number: Number, request: Request) -> FileResponse:
        """A finished picture, a PNG file with its recipe inside."""
        path = engine.picture_file(job_id, owner_of(request), number)
        return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, max-age=31536000"})

    @routes.get("/jobs/{job_id}/pictures/{number}/maps")
    async def maps(job_id: JobId, number: Number, request: Request) -> dict[str, Any]:
        """Where a picture looked for each word of its prompt: rows of shares, at the size of the latents."""
        found = await run_in_threadpool(engine.word_maps, job_id, owner_of(request), number)
        return {"words": list(found.words), "heat": [heat.round(6).tolist() for heat in found.heat]}

    @routes.put("/jobs/{job_id}/pictures/{number}/thumb", status_code=204)
    async def rate(job_id: JobId, number: Number, body: ThumbBody, request: Request) -> Response:
        """Keeps what a person thinks of a picture: 1 up, -1 down, 0 takes it back."""
        engine.rate(job_id, owner_of(request), number, body.thumb)
        return Response(status_code=204)

    @routes.post("/pairs", status_code=204)
    async def rate_pair(body: PairBody, request: Request) -> Response:
        """Keeps which of two pictures is better."""
        a, b = (body.a.job, body.a.number), (body.b.job, body.b.number)
        engine.rate_pair(owner_of(request), a, b, body.choice)
        return Response(status_code=204)

    @routes.get("/ratings")
    async def ratings(request: Request) -> dict[str, Any]:
        """All your thumbs and pairs, the oldest first."""
        thumbs, pairs = engine.ratings(owner_of(request))
        return {"thumbs": [asdict(thumb) for thumb in thumbs], "pairs": [asdict(pair) for pair in pairs]}

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """The models that are served, the default first."""
        return {
            "models": [
                {
                    "name": model.name,
                    "defaults": asdict(model.settings.defaults),
                    "qualities": list(model.settings.qualities),
                    "multiple": model.multiple,
                }
                for model in engine.models().values()
            ]
        }

    @routes.get("/loras")
    async def loras() -> dict[str, Any]:
        """Names of the LoRAs that are there now."""
        return {"loras": list(engine.loras())}

    @routes.get("/embeddings")
    async def embeddings() -> dict[str, Any]:
        """Files of learned words that are there now, with the words that prompts may then hold."""
        known = (await run_in_threadpool(engine.embeddings)).values()
        return {"embeddings": [{"name": file.name, "words": list(file.words)} for file in known]}

    @routes.get("/samplers")
    async def samplers() -> dict[str, Any]:
        """The samplers, and what to know of them."""
        known = engine.samplers().values()
        return {"samplers": [{"name": s.name, "label": s.label, "description": s.description} for s in known]}

    return routes


def job_facts(job: Job) -> dict[str, Any]:
    """A job as JSON; its request without files."""
    return {
        "id": job.id,
        "state": job.state,
        "position": job.position,
        "fraction": round(job.fraction, 4),
        "pictures": [_picture_facts(job.id, picture) for picture in job.pictures],
        "error": job.error,
        "reason": job.reason,
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "request": json.loads(job.request.as_json()),
    }


def _picture_facts(job_id: str, picture: PictureInfo) -> dict[str, Any]:
    return {**asdict(picture), "url": f"/api/jobs/{job_id}/pictures/{picture.number}"}


async def _told(engine: Engine, job: Job, previews: bool) -> AsyncIterator[str]:
    async with aclosing(events_of(engine, job, previews)) as events:
        async for event in events:
            yield SIGN if event is None else server_sent(*_event_facts(job.id, event))


def _event_facts(job_id: str, event: JobEvent) -> tuple[str, dict[str, Any]]:
    if isinstance(event, Queued):
        return "queued", {"position": event.position}
    if isinstance(event, Progress):
        preview = None if event.preview is None else base64_of(event.preview)
        return "progress", {"fraction": round(event.fraction, 4), "preview": preview}
    if isinstance(event, PictureReady):
        return "picture", _picture_facts(job_id, event.picture)
    assert isinstance(event, Ended)
    return "ended", {"state": event.state, "error": event.error, "reason": event.reason}
