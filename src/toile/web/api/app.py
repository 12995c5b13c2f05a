"""The application: an engine behind guards, in three dialects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from toile import __version__
from toile.errors import ToileError
from toile.web.api.a1111 import a1111_routes
from toile.web.api.answers import (
    JobFailedError,
    PlainJSON,
    on_failed_job,
    on_http_error,
    on_invalid_body,
    on_toile_error,
)
from toile.web.api.config import ServerConfig
from toile.web.api.guards import Guards
from toile.web.api.metrics import CONTENT_TYPE, Metrics
from toile.web.api.native import native_routes
from toile.web.api.openai import openai_routes
from toile.web.jobs.engine import Engine


def build_app(
    engine: Engine, config: ServerConfig, mount: Callable[[FastAPI], ASGIApp | None] | None = None
) -> ASGIApp:
    """The application of a server. It starts the engine when it is started, and drains it when it is stopped.

    Args:
        engine: not started yet.
        config: of the server.
        mount: may add pages to the application, behind the same guards.
    """

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(engine.start)
        yield
        await run_in_threadpool(engine.close, config.drain_seconds)

    # No pages that explain the API: they would fetch scripts from elsewhere.
    app = FastAPI(
        title="toile",
        version=__version__,
        lifespan=running,
        docs_url=None,
        redoc_url=None,
        default_response_class=PlainJSON,
    )
    metrics = Metrics(engine)
    app.include_router(openai_routes(engine))
    app.include_router(a1111_routes(engine))
    app.include_router(native_routes(engine))
    _add_status(app, engine, metrics)
    app.add_exception_handler(ToileError, on_toile_error)
    app.add_exception_handler(JobFailedError, on_failed_job)
    app.add_exception_handler(RequestValidationError, on_invalid_body)
    app.add_exception_handler(HTTPException, on_http_error)
    mounted = None if mount is None else mount(app)
    return Guards(app if mounted is None else mounted, engine, config, metrics)


def _add_status(app: FastAPI, engine: Engine, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["status"])
    async def healthz() -> dict[str, Any]:
        """Whether the server is alive."""
        return {"status": "ok", "version": __version__}

    @app.get("/readyz", tags=["status"], responses={503: {"description": "Not yet, or not any more."}})
    async def readyz() -> JSONResponse:
        """Whether pictures can be made now: the model is loaded, and jobs are taken."""
        status = engine.status()
        ready = status.is_accepting and status.workshop.is_ready
        facts = {"ready": ready, "queued": status.queued, "running": status.running}
        return JSONResponse({**facts, "trouble": status.workshop.trouble}, 200 if ready else 503)

    @app.get("/metrics", tags=["status"], response_class=Response)
    async def numbers() -> Response:
        """Numbers for Prometheus."""
        return Response(await run_in_threadpool(metrics.text), media_type=CONTENT_TYPE)
