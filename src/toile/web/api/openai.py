"""The images API of OpenAI: generations, edits and the list of models.

Besides what OpenAI names, generations take the settings of the server's own dialect, which its client passes as
`extra_body`.
"""

from __future__ import annotations

import io
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Request, UploadFile
from PIL import Image, ImageOps
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from toile.data.images import open_alpha, open_image
from toile.errors import ToileError
from toile.generation.request import GenerateRequest
from toile.web.api.bodies import Settings, drawn_seed, job_request
from toile.web.api.openai_answers import MOST_PARTIAL_IMAGES, Delivery, Format, delivered
from toile.web.jobs.engine import Engine
from toile.web.jobs.errors import NoSuchJobError
from toile.web.jobs.request import JobRequest

_PROMPT_LENGTH = 32_000  # OpenAI's; the engine's own limit is told by name
_STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
# What OpenAI calls its qualities, in the names that models have for theirs.
_QUALITIES = {"low": "draft", "medium": "standard", "standard": "standard", "high": "best", "hd": "best"}


class GenerationsBody(Settings):
    """Pictures to make of a prompt."""

    prompt: str = Field(max_length=_PROMPT_LENGTH)
    model: str | None = None
    n: int | None = Field(None, ge=1)
    size: str | None = Field(None, description="width x height, as in 64x80; auto is the model's own size.")
    quality: str | None = Field(None, description="auto, low, medium, high, or a quality of the model by its name.")
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Format = "png"
    output_compression: int = Field(90, ge=0, le=100)
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    stream: bool | None = Field(None, description="Events, as they happen.")
    partial_images: int | None = Field(
        None, ge=0, le=MOST_PARTIAL_IMAGES, description="With stream: how many that are not finished yet."
    )
    user: str | None = Field(None, max_length=512)


def openai_routes(engine: Engine) -> APIRouter:
    """All routes of this dialect."""
    routes = APIRouter(prefix="/v1", tags=["openai"])

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """The models that are served."""
        return {"object": "list", "data": [_model_facts(name) for name in engine.models()]}

    @routes.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        if name not in engine.models():
            raise NoSuchJobError(f"model {name!r} is not served")
        return _model_facts(name)

    @routes.post("/images/generations", responses=_STREAMED)
    async def generations(body: GenerationsBody, request: Request) -> Any:
        """Makes pictures, and answers when they are finished; with stream, what they look like before that too."""
        delivery = Delivery(
            "image_generation",
            body.response_format,
            body.output_format,
            body.output_compression,
            body.quality,
            bool(body.stream),
            body.partial_images or 0,
        )
        chosen = body.chosen() | _size(body.size)
        quality = _quality(engine, body.model, body.quality)
        wanted = GenerateRequest((body.prompt,), num_images=body.n or 1, quality=quality, **chosen)
        job_wanted = job_request(engine, body.model, wanted, embeddings=tuple(body.embeddings))
        return await delivered(engine, request, job_wanted, delivery)

    @routes.post("/images/edits", responses=_STREAMED)
    async def edits(
        request: Request,
        prompt: Annotated[str, Form(max_length=_PROMPT_LENGTH)],
        image: Annotated[list[UploadFile] | None, File()] = None,
        images: Annotated[list[UploadFile] | None, File(alias="image[]")] = None,
        mask: Annotated[UploadFile | None, File()] = None,
        model: Annotated[str | None, Form()] = None,
        n: Annotated[int, Form(ge=1)] = 1,
        size: Annotated[str | None, Form()] = None,
        quality: Annotated[str | None, Form()] = None,
        response_format: Annotated[Literal["url", "b64_json"] | None, Form()] = None,
        output_format: Annotated[Format, Form()] = "png",
        output_compression: Annotated[int, Form(ge=0, le=100)] = 90,
        background: Annotated[Literal["auto", "opaque"] | None, Form()] = None,
        seed: Annotated[int | None, Form()] = None,
        strength: Annotated[float | None, Form()] = None,
        stream: Annotated[bool, Form()] = False,
        partial_images: Annotated[int, Form(ge=0, le=MOST_PARTIAL_IMAGES)] = 0,
        user: Annotated[str | None, Form(max_length=512)] = None,
    ) -> Any:
        """Makes pictures from a picture; where the mask is transparent, or everywhere if there is none."""
        delivery = Delivery(
            "image_edit", response_format, output_format, output_compression, quality, stream, partial_images
        )
        sent = [*(image or ()), *(images or ())]
        if len(sent) != 1:
            raise ToileError(f"image: {len(sent)} were sent; send one")
        picture = await sent[0].read()
        hole = None if mask is None else await mask.read()
        seed = drawn_seed() if seed is None else seed
        wanted = GenerateRequest(
            (prompt,), seed, n, strength=strength, quality=_quality(engine, model, quality), **_size(size)
        )
        job_wanted = await run_in_threadpool(_edit, engine, model, wanted, picture, hole)
        return await delivered(engine, request, job_wanted, delivery)

    return routes


def _model_facts(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "toile"}


def _size(text: str | None) -> dict[str, Any]:
    if text in (None, "auto"):
        return {}
    width, _, height = str(text).partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()) or len(str(text)) > 16:
        raise ToileError(f"size is {text!r}; write width x height in pixels, as in 64x80, or auto")
    return {"width": int(width), "height": int(height)}


def _quality(engine: Engine, model: str | None, name: str | None) -> str | None:
    if name in (None, "auto"):
        return None
    served = engine.models()
    known = (served.get(model or "") or next(iter(served.values()))).settings.qualities
    if name in known:
        return name
    if _QUALITIES.get(str(name)) in known:
        return _QUALITIES[str(name)]
    allowed = ", ".join(["auto", *known, *(other for other, ours in _QUALITIES.items() if ours in known)])
    raise ToileError(f"quality is {name!r}; allowed for this model: {allowed}")


def _edit(engine: Engine, model: str | None, wanted: GenerateRequest, picture: bytes, hole: bytes | None) -> JobRequest:
    """What is transparent, in the mask or else in the picture, is to be repainted."""
    limits = engine.config.limits
    limits.check_file("image", picture)
    if hole is not None:
        limits.check_file("mask", hole)
    alpha = open_alpha(picture if hole is None else hole)
    if hole is not None and alpha is None:
        raise ToileError("mask has no transparency; make it transparent where the picture is to be repainted")
    if hole is not None and alpha is not None and alpha.size != open_image(picture).size:
        raise ToileError(f"mask is {alpha.width}x{alpha.height}; it must have the size of the picture")
    if alpha is None or alpha.getextrema() == (255, 255):
        return job_request(engine, model, wanted, image=picture)
    return job_request(engine, model, wanted, image=picture, mask=_png(ImageOps.invert(alpha)))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
