"""What the page asks for about words: how a prompt is read, which words it has, and the sentence of a brief."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from toile.errors import ToileError
from toile.model_folder import find_model, load_reader
from toile.text.reader import PromptReader
from toile.web.jobs.engine import Engine
from toile.web.page.answers import model_facts
from toile.web.page.bodies import MOST_CELLS
from toile.web.page.brief import Brief, brief_choices
from toile.web.page.owners import Owner
from toile.web.page.wording import MOST_WORDS, Word, join_words, split_words

EXAMPLES = (
    "navy blue checked shirt for men",
    "red floral dress for women",
    "black leather handbag for women",
    "white sports shoes for men",
    "brown leather belt for men",
    "green printed kurta for women",
    "gold analog watch for women",
    "yellow striped t-shirt for boys",
)
_SMALL = frozenset("a an and as at by for from in of on or the to with".split())


class PromptBody(BaseModel):
    """A prompt and the model that is to read it."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(max_length=10_000)
    model: str | None = None
    seed: str | None = Field(None, max_length=20)


class WordBody(BaseModel):
    """See `Word`."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=10_000)
    weight: float = 1.0
    kind: str = Field("word", pattern="^(word|small|gap|break)$")


class WordsBody(BaseModel):
    """Words with their weights, and the prompt they came from."""

    model_config = ConfigDict(extra="forbid")

    words: Annotated[list[WordBody], Field(max_length=2 * MOST_WORDS)]
    prompt: str = Field("", max_length=10_000)


class BriefBody(BaseModel):
    """See `Brief`."""

    model_config = ConfigDict(extra="forbid")

    article: str = Field("", max_length=60)
    colour: str = Field("", max_length=60)
    pattern: str = Field("", max_length=60)
    people: str = Field("", max_length=60)
    season: str = Field("", max_length=60)
    usage: str = Field("", max_length=60)
    year: str = Field("", max_length=60)


def word_routes(engine: Engine) -> APIRouter:
    """The routes of one engine."""
    routes = APIRouter()

    def reader_of(model: str | None) -> PromptReader | None:
        served = engine.models().get(next(iter(engine.models())) if model is None else model)
        if served is None:
            raise ToileError(f"model is {model!r}; served are: {', '.join(engine.models())}")
        return _reader(served.source)

    @routes.get("/facts")
    def facts(owner: Owner) -> dict[str, Any]:
        limits = engine.config.limits
        return {
            "models": [model_facts(model) for model in engine.models().values()],
            "samplers": [
                {"name": info.name, "label": info.label, "description": info.description}
                for info in engine.samplers().values()
            ],
            "loras": engine.loras(),
            "limits": {"pictures": limits.pictures, "steps": limits.steps, "pixels": limits.pixels},
            "cells": MOST_CELLS,
            "examples": EXAMPLES,
        }

    @routes.get("/choices")
    def choices(owner: Owner, model: str | None = None) -> dict[str, Any]:
        reader = reader_of(model)
        return brief_choices(None if reader is None else reader.tables)

    @routes.post("/briefs")
    def brief(body: BriefBody, owner: Owner) -> dict[str, str]:
        return {"prompt": Brief(**body.model_dump()).sentence()}

    @routes.post("/words")
    def words(body: PromptBody, owner: Owner) -> dict[str, Any]:
        reader = reader_of(body.model)
        small = _SMALL if reader is None else _SMALL.union(reader.tables.silent)
        found = split_words(body.prompt, small)
        told = "" if reader is None else reader.read(body.prompt).told()
        return {"words": [asdict(word) for word in found[: 2 * MOST_WORDS]], "told": told}

    @routes.post("/weights")
    def weights(body: WordsBody, owner: Owner) -> dict[str, str]:
        return {"prompt": join_words([Word(**word.model_dump()) for word in body.words], body.prompt)}

    @routes.get("/status")
    def status(owner: Owner) -> dict[str, Any]:
        now = engine.status()
        return {
            "ready": now.workshop.is_ready,
            "trouble": now.workshop.trouble,
            "queued": now.queued,
            "running": now.running,
        }

    return routes


@lru_cache(maxsize=8)
def _reader(source: str) -> PromptReader | None:
    path = Path(source)
    return load_reader(path if path.is_dir() else find_model(source))
