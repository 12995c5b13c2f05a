"""What the page asks for about trainings: pictures to learn from, a plan, and how it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from toile.errors import ToileError
from toile.web.jobs.engine import Engine
from toile.web.page.owners import Owner
from toile.web.training.desk import Desk
from toile.web.training.picture_sets import PictureSet
from toile.web.training.trainer import BusyError, Training
from toile.web.training.wish import Wish


class TrainingBody(BaseModel):
    """A training: a name, a model by its name, pictures by their id, and what of `Wish` is not its default."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)
    base: str | None = Field(None, max_length=300)
    pictures: str = Field(max_length=64)
    what: str = Field(Wish.what, max_length=20)
    caption: str | None = Wish.caption
    trigger: str = Wish.trigger
    width: int | None = Wish.width
    height: int | None = Wish.height
    steps: int = Wish.steps
    minutes: float | None = Wish.minutes
    batch: int = Wish.batch
    rate: float = Wish.rate
    rank: int = Wish.rank
    layers: str = Field(Wish.layers, max_length=20)
    prompts: list[str] = Field(default_factory=list, max_length=100)
    seed: int = Field(Wish.seed, ge=0, lt=2**63)

    def wish(self) -> Wish:
        """How to train.

        Raises:
            ToileError: a value that is not allowed.
        """
        given = self.model_dump(exclude={"name", "base", "pictures", "prompts"})
        return Wish(**given, prompts=tuple(" ".join(line.split()) for line in self.prompts if line.strip()))


def training_routes(engine: Engine, desk: Desk) -> APIRouter:
    """The routes of one studio."""
    routes = APIRouter()

    def facts(training: Training) -> dict[str, Any]:
        names = [model.name for model in engine.models().values() if model.source == training.base]
        return {**training_facts(training), "base": names[0] if names else None}

    def told(act: Callable[[], Training]) -> dict[str, Any]:
        try:
            return facts(act())
        except BusyError as error:
            raise HTTPException(409, str(error)) from error

    @routes.get("/picture-sets")
    def sets(owner: Owner) -> dict[str, Any]:
        return {"sets": [set_facts(each) for each in desk.pictures.all().values()]}

    @routes.put("/picture-sets/{name}/pictures")
    async def add_picture(
        name: str, request: Request, owner: Owner, caption: Annotated[str, Query()] = ""
    ) -> dict[str, Any]:
        content = await request.body()
        return set_facts(await run_in_threadpool(desk.pictures.add_picture, name, content, caption))

    @routes.put("/picture-sets/{name}/zip")
    async def add_zip(name: str, request: Request, owner: Owner) -> dict[str, Any]:
        content = await request.body()
        return set_facts(await run_in_threadpool(desk.pictures.add_zip, name, content))

    @routes.delete("/picture-sets/{set_id}")
    def remove(set_id: str, owner: Owner) -> dict[str, Any]:
        desk.pictures.remove(set_id)
        return {}

    @routes.get("/training")
    def now(owner: Owner) -> dict[str, Any]:
        training = desk.trainer.now()
        return {"training": None if training is None else facts(training)}

    @routes.post("/training")
    def plan(body: TrainingBody, owner: Owner) -> dict[str, Any]:
        models = engine.models()
        base = models.get(next(iter(models)) if body.base is None else body.base)
        if base is None:
            raise ToileError(f"base is {body.base!r}; served are: {', '.join(models)}")
        return told(lambda: desk.plan(body.name, body.wish(), base, body.pictures))

    @routes.post("/training/{run}/start")
    def start(run: str, owner: Owner) -> dict[str, Any]:
        return told(lambda: desk.trainer.start(run))

    @routes.post("/training/{run}/stop")
    def stop(run: str, owner: Owner) -> dict[str, Any]:
        return told(lambda: desk.trainer.stop(run))

    @routes.post("/training/{run}/resume")
    def resume(run: str, owner: Owner) -> dict[str, Any]:
        return told(lambda: desk.resume(run))

    @routes.get("/training/{run}/pictures.png")
    def pictures(run: str, owner: Owner) -> Response:
        training = desk.trainer.now()
        if training is None or training.run != run or training.plan is None:
            raise HTTPException(404, "there is no such plan")
        return Response(training.plan.sheet, media_type="image/png", headers={"Cache-Control": "no-store"})

    return routes


def set_facts(pictures: PictureSet) -> dict[str, Any]:
    """A set of pictures for the page."""
    facts = asdict(pictures)
    del facts["path"]
    return facts


def training_facts(training: Training) -> dict[str, Any]:
    """A training for the page; the sheet of its plan is asked for apart."""
    facts = {**vars(training), "is_active": training.is_active}
    facts["plan"] = None
    if training.plan is not None:
        facts["plan"] = {name: value for name, value in vars(training.plan).items() if name != "sheet"}
    return facts
