"""What every request passes first: whose it is, whether it may come from there, and whether it is of a bearable size.

It is plain ASGI and comes before anything is parsed, so that what is refused costs next to nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toile.errors import ToileError
from toile.web.api.answers import answer_to, refusal
from toile.web.api.config import LOCAL_OWNER, ServerConfig
from toile.web.api.metrics import Metrics
from toile.web.jobs.engine import Engine

OPEN_PATHS = ("/healthz", "/readyz")
_JSON_PREFIXES = ("/v1/", "/sdapi/", "/api/", "/studio/")
_FORM_PATHS = ("/v1/images/edits",)
_SUBMITTING = (
    "/v1/images/generations",
    "/v1/images/edits",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
    "/api/jobs",
)
_CLOSE = {"Connection": "close"}
_ASK = {"WWW-Authenticate": 'Basic realm="toile", charset="UTF-8"'}


class Guards:
    """Refuses or lets through.

    Args:
        app: what is behind it.
        engine: that says whether it has room.
        config: of the server.
        metrics: that count what was answered.
    """

    def __init__(self, app: ASGIApp, engine: Engine, config: ServerConfig, metrics: Metrics) -> None:
        self._app, self._engine, self._config, self._metrics = app, engine, config, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        begun = time.monotonic()

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "no-referrer")
                self._metrics.answered(scope["path"], scope["method"], message["status"], time.monotonic() - begun)
            await send(message)

        answer = self._refused(scope)
        if answer is None and scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
            body = await self._body(scope, receive)
            if isinstance(body, bytes):
                receive = _replayed(body, receive)
            else:
                answer = body
        if answer is None and _asks_for_pictures(scope):
            await self._let_in(scope, receive, told)
        else:
            await (self._app if answer is None else answer)(scope, receive, told)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """However many come at once, each has a place before it costs anything, or knows when to come back."""
        room = self._engine.room
        try:
            place = room.enter(scope["state"]["owner"])
        except ToileError as error:
            await answer_to(error)(scope, receive, send)
            return
        scope["state"]["place"] = place
        try:
            await self._app(scope, receive, send)
        finally:
            room.give_up(place)

    def _refused(self, scope: Scope) -> ASGIApp | None:
        headers, path = Headers(scope=scope), scope["path"]
        if not self._config.allows_host(headers.get("host", "")):
            return refusal(403, "this Host is not served here; name it with --allow-host")
        if not self._is_same_origin(headers):
            return refusal(403, "requests from pages of another origin are not served")
        owner = self._owner(headers)
        if owner is None and path not in OPEN_PATHS:
            return refusal(401, "a token is needed: Authorization: Bearer TOKEN, or as the password", headers=_ASK)
        scope.setdefault("state", {})["owner"] = owner or ""
        if scope["method"] != "POST":
            return None
        if not _is_allowed_kind(path, headers):
            return refusal(415, "Content-Type is not allowed here; send application/json")
        if _asks_for_pictures(scope):
            try:
                self._engine.room.check(owner or "")  # before its body is waited for
            except ToileError as error:
                return answer_to(error)
        return None

    def _is_same_origin(self, headers: Headers) -> bool:
        if headers.get("sec-fetch-site") == "cross-site":
            return False
        origin = headers.get("origin")
        return origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()

    def _owner(self, headers: Headers) -> str | None:
        tokens = self._config.tokens
        if not tokens:
            return LOCAL_OWNER
        shown = _shown_token(headers.get("authorization", "")).encode()
        # All are compared, so that the time it takes does not tell which one was nearly right.
        found = [owner for token, owner in tokens.items() if hmac.compare_digest(token.encode(), shown)]
        return found[0] if found else None

    async def _body(self, scope: Scope, receive: Receive) -> bytes | ASGIApp:
        most = self._config.max_body_bytes
        too_large = refusal(413, f"the request is larger than {most:,} bytes", headers=_CLOSE)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or int(length) > most:
            return too_large
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._config.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return _nobody
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > most:
                        return too_large
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError:
            seconds = self._config.body_seconds
            return refusal(408, f"the request did not arrive within {seconds:g} seconds", headers=_CLOSE)


def _asks_for_pictures(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"] in _SUBMITTING


def _is_allowed_kind(path: str, headers: Headers) -> bool:
    """Forms are what pages elsewhere can post here unasked, so they are taken only where a dialect has them."""
    if not path.startswith(_JSON_PREFIXES):
        return True
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if path in _FORM_PATHS:
        return kind == "multipart/form-data"
    is_empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    return kind == "application/json" or (is_empty and not kind)


def _shown_token(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting: Iterable[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        for message in waiting:
            return message
        return await receive()  # which tells when the client has gone

    return replay


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """The client went away while it was still asking."""
