"""Who is who on the page: each browser keeps a random cookie, and jobs belong to what it hashes to."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Response

COOKIE = "toile_studio"
_SECONDS_KEPT = 400 * 24 * 3600  # the longest that browsers allow
_FORM = re.compile(r"[A-Za-z0-9_-]{43}")


def owner_of(request: Request) -> str:
    """The owner that a request's cookie stands for; the database never holds what could be sent as a cookie.

    Raises:
        HTTPException: there is no such cookie.
    """
    value = request.cookies.get(COOKIE, "")
    if not _FORM.fullmatch(value):
        raise HTTPException(401, "this page has no session yet; reload it")
    return "page-" + hashlib.sha256(value.encode("ascii")).hexdigest()[:32]


def keep_cookie(request: Request, response: Response) -> None:
    """Gives a cookie to a browser that has none, and lets one that there is live on.

    It is asked for by the page's own script: cookies of `SameSite=Strict` do not come with a visit from elsewhere,
    which would otherwise look like somebody new.
    """
    value = request.cookies.get(COOKIE, "")
    if not _FORM.fullmatch(value):
        value = secrets.token_urlsafe(32)
    response.set_cookie(COOKIE, value, max_age=_SECONDS_KEPT, path="/", httponly=True, samesite="strict")


Owner = Annotated[str, Depends(owner_of)]
