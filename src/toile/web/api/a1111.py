"""The API of the A1111 web UI, as far as it has a counterpart here."""

from __future__ import annotations

import io
import json
import time
from typing import Any

from fastapi import APIRouter, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

from toile.errors import ToileError
from toile.web.api.a1111_bodies import ImageBody, PictureBody, TextBody
from toile.web.api.answers import JobFailedError
from toile.web.api.bodies import base64_of, file_of
from toile.web.api.waiting import ended, owner_of, picture_files, submitted
from toile.web.jobs.engine import Engine
from toile.web.jobs.job import Job
from toile.web.jobs.limits import FILE_FORMATS

# Lists that clients ask for and that have nothing in them here.
_EMPTY = ("sd-vae", "hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "latent-upscale-modes")
_MOST_OWNERS = 1000


class _Desk:
    """What this dialect knows of each owner: the model that was chosen, and the jobs that somebody waits for."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}
        self.jobs: dict[str, list[str]] = {}

    def choose(self, owner: str, model: str) -> None:
        if len(self.models) >= _MOST_OWNERS:
            self.models.clear()
        self.models[owner] = model


def a1111_routes(engine: Engine) -> APIRouter:
    """All routes of this dialect."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["a1111"])
    desk = _Desk()

    async def make(body: TextBody, request: Request) -> dict[str, Any]:
        owner = owner_of(request)
        wanted = await run_in_threadpool(body.wanted, engine, desk.models.get(owner))
        job = await submitted(engine, request, wanted)
        mine = desk.jobs.setdefault(owner, [])
        mine.append(job.id)
        try:
            job = await ended(engine, request, job)
        finally:
            mine.remove(job.id)
            if not mine:
                desk.jobs.pop(owner, None)
        if job.state == "failed":
            raise JobFailedError(job)
        files = await picture_files(engine, job)  # of an interrupted job those that were finished
        return {
            "images": [base64_of(file) for file in files] if body.send_images else [],
            "parameters": body.model_dump(mode="json", exclude={"init_images", "mask"}),
            "info": json.dumps(_info(job, files)),
        }

    @routes.post("/txt2img")
    async def txt2img(body: TextBody, request: Request) -> dict[str, Any]:
        """Makes pictures from words, and answers when they are finished."""
        return await make(body, request)

    @routes.post("/img2img")
    async def img2img(body: ImageBody, request: Request) -> dict[str, Any]:
        """Makes pictures from a picture and words, and answers when they are finished."""
        return await make(body, request)

    @routes.get("/progress")
    async def progress(request: Request, skip_current_image: bool = False) -> dict[str, Any]:
        """How far the first of your pictures is that somebody waits for."""
        owner = owner_of(request)
        mine = desk.jobs.get(owner, [])
        job = engine.job(mine[0], owner) if mine else None
        preview = None if job is None or skip_current_image else engine.preview(job.id, owner)
        return {
            "progress": 0.0 if job is None else job.fraction,
            "eta_relative": _seconds_left(job),
            "state": _state(job, len(mine)),
            "current_image": None if preview is None else base64_of(preview),
            "textinfo": None,
        }

    @routes.post("/interrupt")
    async def interrupt(request: Request) -> dict[str, Any]:
        """Stops the first of your jobs that somebody waits for; what is finished of it is answered."""
        owner = owner_of(request)
        for job_id in desk.jobs.get(owner, [])[:1]:
            engine.cancel(job_id, owner)
        return {}

    @routes.post("/skip")
    async def skip(request: Request) -> dict[str, Any]:
        """The same."""
        return await interrupt(request)

    @routes.get("/samplers")
    async def samplers() -> list[dict[str, Any]]:
        """The samplers, by the names they have there."""
        return [{"name": s.label, "aliases": [s.name], "options": {}} for s in engine.samplers().values()]

    @routes.get("/schedulers")
    async def schedulers() -> list[dict[str, Any]]:
        """How noise levels may be spaced."""
        names = ("Automatic", "Karras")
        return [{"name": name.lower(), "label": name, "aliases": None, "default_rho": -1} for name in names]

    @routes.get("/sd-models")
    async def sd_models() -> list[dict[str, Any]]:
        """The models that are served."""
        return [
            {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
            for name in engine.models()
        ]

    @routes.get("/loras")
    async def loras() -> list[dict[str, Any]]:
        """The LoRAs that are there; a prompt names one as <lora:name:0.8>."""
        return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in engine.loras()]

    @routes.get("/upscalers")
    async def upscalers() -> list[dict[str, Any]]:
        """What enlarges pictures between two passes."""
        facts = {"model_name": None, "model_path": None, "model_url": None, "scale": 4}
        return [{"name": name, **facts} for name in ("None", "Lanczos")]

    @routes.get("/options")
    async def options(request: Request) -> dict[str, Any]:
        """The model that your requests use, if they name no other."""
        chosen = desk.models.get(owner_of(request), next(iter(engine.models())))
        return {"sd_model_checkpoint": chosen, "samples_format": "png", "CLIP_stop_at_last_layers": 1}

    @routes.post("/options")
    async def set_options(body: dict[str, Any], request: Request) -> dict[str, Any]:
        """Chooses the model of your later requests. What is being made is finished with the old one."""
        model = body.pop("sd_model_checkpoint", None)
        if body:
            raise ToileError(f"{next(iter(body))[:80]!r} is not set here; only sd_model_checkpoint is")
        if model is not None and (not isinstance(model, str) or model not in engine.models()):
            raise ToileError(f"sd_model_checkpoint is {str(model)[:80]!r}; served are: {', '.join(engine.models())}")
        if model is not None:
            desk.choose(owner_of(request), model)
        return {}

    @routes.post("/png-info")
    async def png_info(body: PictureBody) -> dict[str, Any]:
        """The settings that a picture carries."""
        content = file_of("image", body.image) or b""
        return await run_in_threadpool(_texts, engine, content)

    @routes.get("/scripts")
    async def scripts() -> dict[str, Any]:
        """There are none."""
        return {"txt2img": [], "img2img": []}

    @routes.get("/embeddings")
    async def embeddings() -> dict[str, Any]:
        """Files of learned words that are there; a prompt uses one by its word."""
        loaded = (await run_in_threadpool(engine.embeddings)).values()
        skipped = await run_in_threadpool(engine.refused_embeddings)
        return {
            "loaded": {file.name: _embedding_facts(file.width, sum(file.words.values())) for file in loaded},
            "skipped": {name: _embedding_facts(0, 0) for name in skipped},
        }

    @routes.get("/cmd-flags")
    async def cmd_flags() -> dict[str, Any]:
        """There are none that matter here."""
        return {}

    @routes.get("/memory")
    async def memory() -> dict[str, Any]:
        """See /metrics for it."""
        return {"ram": {}, "cuda": {}}

    @routes.post("/refresh-checkpoints")
    @routes.post("/refresh-embeddings")
    @routes.post("/refresh-loras")
    async def refresh() -> None:
        """There is nothing to do: LoRAs and learned words are looked up each time, models when the server starts."""

    async def empty() -> list[dict[str, Any]]:
        """There are none."""
        return []

    for name in _EMPTY:
        routes.add_api_route(f"/{name}", empty, methods=["GET"], name=name)
    return routes


def _embedding_facts(width: int, vectors: int) -> dict[str, Any]:
    return {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": width, "vectors": vectors}


def _seconds_left(job: Job | None) -> float:
    if job is None or job.started is None or job.fraction <= 0:
        return 0.0
    return (time.time() - job.started) * (1 - job.fraction) / job.fraction


def _state(job: Job | None, count: int) -> dict[str, Any]:
    steps = 0 if job is None else job.request.wanted.steps or 0
    return {
        "skipped": False,
        "interrupted": False,
        "job": "" if job is None else job.id,
        "job_count": count,
        "job_timestamp": "0" if job is None else str(int(job.created)),
        "job_no": 0,
        "sampling_step": 0 if job is None else int(job.fraction * steps),
        "sampling_steps": steps,
    }


def _info(job: Job, files: list[bytes]) -> dict[str, Any]:
    wanted = job.request.wanted
    seeds = [picture.seed for picture in job.pictures]
    texts = [Image.open(io.BytesIO(file)).info.get("parameters", "") for file in files]
    first = job.pictures[0] if job.pictures else None
    return {
        "prompt": wanted.prompts[0],
        "all_prompts": list(wanted.prompts) * len(seeds),
        "negative_prompt": wanted.negative or "",
        "seed": wanted.seed,
        "all_seeds": seeds,
        "subseed": wanted.toward.seed if wanted.toward else wanted.seed,
        "subseed_strength": wanted.toward.share if wanted.toward else 0,
        "width": None if first is None else first.width,
        "height": None if first is None else first.height,
        "sampler_name": wanted.sampler,
        "cfg_scale": wanted.guidance,
        "steps": wanted.steps,
        "batch_size": len(seeds),
        "sd_model_name": job.request.model,
        "denoising_strength": wanted.strength,
        "infotexts": texts,
        "index_of_first_image": 0,
        "warnings": sorted({warning for picture in job.pictures for warning in picture.warnings}),
    }


def _texts(engine: Engine, content: bytes) -> dict[str, Any]:
    engine.config.limits.check_file("image", content)
    with Image.open(io.BytesIO(content), formats=FILE_FORMATS) as image:
        items = {str(name): text for name, text in image.info.items() if isinstance(text, str)}
    info = items.pop("parameters", "")
    return {"info": info, "items": items, "parameters": {"parameters": info} if info else {}}
