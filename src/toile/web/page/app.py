"""The page's part of a server: the page itself at `/`, and what its scripts ask for below `/studio`."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from toile.web.api.answers import refusal
from toile.web.jobs.engine import Engine
from toile.web.page.job_routes import job_routes
from toile.web.page.owners import keep_cookie
from toile.web.page.picture_routes import picture_routes
from toile.web.page.run_routes import run_routes
from toile.web.page.training_routes import training_routes
from toile.web.page.word_routes import word_routes
from toile.web.training.desk import Desk
from toile.web.training.places import NoSuchPlaceError

STATIC = Path(__file__).parent / "static"
# Nothing but our own files runs or is shown, whatever a prompt, a file name or a picture holds.
_POLICY = "; ".join((
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data: blob:",
    "connect-src 'self'",
    "frame-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
))  # fmt: skip
_PAGE_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI, engine: Engine, desk: Desk) -> None:
    """Puts the page into a server.

    Args:
        app: the server's.
        engine: makes pictures.
        desk: of the engineers' tabs.
    """
    routes = APIRouter(prefix="/studio", include_in_schema=False)
    routes.include_router(job_routes(engine))
    routes.include_router(picture_routes(engine))
    routes.include_router(word_routes(engine))
    routes.include_router(training_routes(engine, desk))
    routes.include_router(run_routes(desk))
    app.add_exception_handler(NoSuchPlaceError, _on_no_such_place)

    @routes.post("/session")
    def session(request: Request) -> JSONResponse:
        response = JSONResponse({})
        keep_cookie(request, response)
        return response

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml", headers=_PAGE_HEADERS)

    app.include_router(routes)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")


async def _on_no_such_place(_: Request, error: Exception) -> JSONResponse:
    return refusal(404, str(error))
