"""What clients are told when something is refused, in one shape for all dialects."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from toile.errors import ToileError, WorkFailedError
from toile.web.jobs.errors import ClosingError, NoSuchJobError, TooManyJobsError
from toile.web.jobs.job import Job, Reason, State

_STATUS_OF: Mapping[Reason, int] = {"refused": 400, "failed": 422, "lost": 500, "deadline": 504, "stopped": 503}
_SECONDS_TO_RESTART = 10
# How messages begin: "steps is 0; ...", "prompt 1: ...", "width x height is ...".
_FIELD = re.compile(r"(\w+)(?: \d+| x \w+)?(?: is | has |: )")
_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class PlainJSON(JSONResponse):
    """JSON in ASCII, in which everything that people type has a place: half surrogates too."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def refusal(status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None) -> PlainJSON:
    """A refusal: `error` as OpenAI's clients read it, `detail` as others do."""
    facts = error_facts(status, message, param)
    return PlainJSON({"error": facts, "detail": facts["message"]}, status, dict(headers or {}))


def error_facts(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """What went wrong, as OpenAI's clients read it."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    line = " ".join(message.encode("utf-8", errors="replace").decode("utf-8").split())
    return {"message": line, "type": kind, "param": param, "code": None}


def answer_to(error: ToileError) -> JSONResponse:
    """The refusal that says what an error says."""
    if isinstance(error, NoSuchJobError):
        return refusal(404, str(error))
    if isinstance(error, TooManyJobsError):
        return refusal(429, str(error), headers={"Retry-After": str(error.retry_after)})
    if isinstance(error, ClosingError):
        return refusal(503, str(error), headers={"Retry-After": str(_SECONDS_TO_RESTART)})
    if isinstance(error, WorkFailedError):
        return refusal(507, str(error))
    match = _FIELD.match(str(error))
    return refusal(400, str(error), match.group(1) if match else None)


class JobFailedError(Exception):
    """A job that a client waited for came to nothing.

    Attributes:
        job: as it ended.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job.error)
        self.job = job


async def on_toile_error(_: Request, error: Exception) -> JSONResponse:
    """For FastAPI's table of handlers."""
    assert isinstance(error, ToileError)
    return answer_to(error)


async def on_failed_job(_: Request, error: Exception) -> JSONResponse:
    """For FastAPI's table of handlers."""
    assert isinstance(error, JobFailedError)
    job = error.job
    return refusal(*failure_of(job.state, job.error, job.reason), headers={"X-Toile-Job": job.id})


def failure_of(state: State, error: str | None, reason: Reason | None) -> tuple[int, str]:
    """Status and message for a job that ended so, and is not done."""
    if state == "cancelled":
        return 409, "the job was cancelled"
    return _STATUS_OF[reason or "failed"], error or "the job failed"


async def on_invalid_body(_: Request, error: Exception) -> JSONResponse:
    """For FastAPI's table of handlers: the first fault, with the name of its field."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = ".".join(place) or None
    return refusal(422, f"{param or 'body'}: {first['msg']}", param)


async def on_http_error(_: Request, error: Exception) -> JSONResponse:
    """For FastAPI's table of handlers: no such page, and the like."""
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, str(error.detail), headers=error.headers)
