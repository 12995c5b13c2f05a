"""What the page is told of jobs, pictures and models, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from toile.generation.request import GenerateRequest
from toile.web.jobs.engine import Engine
from toile.web.jobs.events import Ended, JobEvent, PictureReady, Progress, Queued
from toile.web.jobs.job import Job, PictureInfo
from toile.web.jobs.shelf import ServedModel
from toile.web.page.bodies import SETTINGS

Thumbs = Mapping[tuple[str, int], int]


def job_facts(job: Job, thumbs: Thumbs) -> dict[str, Any]:
    """A job with its pictures, in the words of `JobBody`."""
    wanted = job.request.wanted
    return {
        "id": job.id,
        "state": job.state,
        "position": job.position,
        "fraction": job.fraction,
        "error": job.error,
        "created": job.created,
        "model": job.request.model,
        "prompt": wanted.prompts[0],
        "negative": wanted.negative,
        "seed": str(wanted.seed),
        "num": job.request.num_pictures,
        "quality": wanted.quality,
        "settings": _settings(wanted),
        "loras": [{"name": use.source, "strength": use.strength} for use in job.request.loras],
        "share": None if wanted.toward is None else wanted.toward.share,
        "pictures": [picture_facts(job.id, picture, thumbs) for picture in job.pictures],
    }


def picture_facts(job: str, picture: PictureInfo, thumbs: Thumbs) -> dict[str, Any]:
    """A picture, and which thumb it was given."""
    return {**asdict(picture), "seed": str(picture.seed), "job": job, "thumb": thumbs.get((job, picture.number), 0)}


def event_facts(job: str, event: JobEvent) -> dict[str, Any]:
    """An event of a job; previews are data in base64."""
    if isinstance(event, Queued):
        return {"job": job, "kind": "queued", "position": event.position}
    if isinstance(event, Progress):
        preview = None if event.preview is None else base64.b64encode(event.preview).decode("ascii")
        return {"job": job, "kind": "progress", "fraction": event.fraction, "preview": preview}
    if isinstance(event, PictureReady):
        return {"job": job, "kind": "picture", "picture": picture_facts(job, event.picture, {})}
    assert isinstance(event, Ended)
    return {"job": job, "kind": "ended", "state": event.state, "error": event.error}


def model_facts(model: ServedModel) -> dict[str, Any]:
    """What sliders need to know of a model."""
    defaults = model.settings.defaults
    return {
        "name": model.name,
        "width": defaults.width,
        "height": defaults.height,
        "multiple": model.multiple,
        "steps": defaults.steps,
        "guidance": defaults.guidance,
        "sampler": defaults.sampler,
        "strength": defaults.strength,
        "negative": defaults.negative,
        "qualities": {
            name: {"steps": of.steps, "guidance": of.guidance, "sampler": of.sampler}
            for name, of in model.settings.qualities.items()
        },
        "enlarges": None if model.enlarges is None else {"from": model.enlarges[0], "to": model.enlarges[1]},
    }


def thumbs_of(engine: Engine, owner: str) -> Thumbs:
    """All thumbs that an owner gave."""
    return {(rating.job, rating.number): rating.thumb for rating in engine.ratings(owner)[0]}


def _settings(wanted: GenerateRequest) -> dict[str, Any]:
    return {name: value for name in SETTINGS if (value := getattr(wanted, name)) is not None}
