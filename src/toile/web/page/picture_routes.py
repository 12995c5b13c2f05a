"""What the page asks for about finished pictures: files, maps of words, recipes, ratings, sheets and zip files."""

from __future__ import annotations

import io
import zipfile
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from toile.data.images import contact_sheet, open_image
from toile.errors import ToileError
from toile.web.jobs.engine import Engine
from toile.web.page.bodies import file_of
from toile.web.page.dropped import dropped_facts
from toile.web.page.heat import heat_png
from toile.web.page.owners import Owner

MOST_EXPORTED = 200
_SHEET_CELL = 192
_MOST_SHEET_PIXELS = 64_000_000
_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}


class PlaceBody(BaseModel):
    """A picture: its job and its number there."""

    model_config = ConfigDict(extra="forbid")

    job: str = Field(max_length=64)
    number: int = Field(ge=0)


class ThumbBody(BaseModel):
    """1 up, -1 down, 0 takes it back."""

    model_config = ConfigDict(extra="forbid")

    thumb: int


class PairBody(BaseModel):
    """Which of two pictures is better: "a", "b" or "tie"."""

    model_config = ConfigDict(extra="forbid")

    a: PlaceBody
    b: PlaceBody
    choice: str = Field(max_length=10)


class ExportBody(BaseModel):
    """Pictures to be taken along; `captions` and `columns` are for sheets."""

    model_config = ConfigDict(extra="forbid")

    pictures: Annotated[list[PlaceBody], Field(min_length=1, max_length=MOST_EXPORTED)]
    captions: list[Annotated[str, Field(max_length=10_000)]] | None = None
    columns: int | None = Field(None, ge=1, le=MOST_EXPORTED)


class FileBody(BaseModel):
    """A file in base64. Its name is not asked for."""

    model_config = ConfigDict(extra="forbid")

    file: str


def picture_routes(engine: Engine) -> APIRouter:
    """The routes of one engine."""
    routes = APIRouter()

    def read(place: PlaceBody, owner: str) -> bytes:
        return engine.picture_file(place.job, owner, place.number).read_bytes()

    @routes.get("/pictures/{job_id}/{number}.png")
    def picture(job_id: str, number: int, owner: Owner) -> FileResponse:
        return FileResponse(engine.picture_file(job_id, owner, number), media_type="image/png", headers=_FOREVER)

    @routes.get("/pictures/{job_id}/{number}/words")
    def words(job_id: str, number: int, owner: Owner) -> dict[str, Any]:
        return {"words": engine.word_maps(job_id, owner, number).words}

    @routes.get("/pictures/{job_id}/{number}/words/{word}.png")
    def heat(job_id: str, number: int, word: int, owner: Owner) -> Response:
        maps = engine.word_maps(job_id, owner, number)
        if not 0 <= word < len(maps.words):
            raise ToileError(f"word is {word}; allowed: 0 to {len(maps.words) - 1}")
        return Response(heat_png(maps.heat[word]), media_type="image/png", headers=_FOREVER)

    @routes.get("/pictures/{job_id}/{number}/recipe")
    def recipe(job_id: str, number: int, owner: Owner) -> dict[str, Any]:
        return _facts(engine, engine.picture_file(job_id, owner, number).read_bytes())

    @routes.post("/recipes")
    def dropped(body: FileBody, owner: Owner) -> dict[str, Any]:
        content = file_of("file", body.file)
        assert content is not None
        return _facts(engine, content)

    @routes.put("/pictures/{job_id}/{number}/thumb")
    def rate(job_id: str, number: int, body: ThumbBody, owner: Owner) -> dict[str, Any]:
        engine.rate(job_id, owner, number, body.thumb)
        return {"thumb": body.thumb}

    @routes.post("/pairs")
    def rate_pair(body: PairBody, owner: Owner) -> dict[str, Any]:
        engine.rate_pair(owner, (body.a.job, body.a.number), (body.b.job, body.b.number), body.choice)
        return {"choice": body.choice}

    @routes.post("/sheets")
    def sheet(body: ExportBody, owner: Owner) -> Response:
        pictures = [open_image(read(place, owner)) for place in body.pictures]
        return Response(_sheet_png(pictures, body.captions, body.columns), media_type="image/png")

    @routes.post("/zips")
    def packed(body: ExportBody, owner: Owner) -> Response:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG files do not get smaller
            for place in dict.fromkeys((place.job, place.number) for place in body.pictures):
                content = read(PlaceBody(job=place[0], number=place[1]), owner)
                archive.writestr(zipfile.ZipInfo(f"toile-{place[0][:8]}-{place[1]}.png"), content)
        return Response(file.getvalue(), media_type="application/zip")

    return routes


def _facts(engine: Engine, content: bytes) -> dict[str, Any]:
    return dropped_facts(content, engine.models().values(), engine.loras(), engine.config.limits)


def _sheet_png(pictures: list[Image.Image], captions: list[str] | None, columns: int | None) -> bytes:
    scale = max(1, round(_SHEET_CELL / max(picture.width for picture in pictures)))
    if sum(picture.width * picture.height for picture in pictures) * scale**2 > _MOST_SHEET_PIXELS:
        raise ToileError("the sheet would be too large; choose fewer pictures, or take them along as a zip file")
    file = io.BytesIO()
    contact_sheet(pictures, columns, captions, scale).save(file, "PNG")
    return file.getvalue()
