"""The table from exception to envelope: every error leaves as ``{"error": {"code", "message", "next_step", "fields"}}``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, ValidationException

from andon.core.errors import AndonError, Forbidden, InvalidInput, NotFound, TooLarge, Unavailable

log = logging.getLogger("andon.api")
STATUS_KINDS: dict[int, type[AndonError]] = {400: InvalidInput, 403: Forbidden, 404: NotFound, 413: TooLarge, 503: Unavailable}


class MethodNotAllowed(InvalidInput):
    """This address does not take that method."""

    code = "method-not-allowed"
    status = 405


class WrongMediaType(InvalidInput):
    """The body must be JSON."""

    code = "wrong-media-type"
    status = 415


def as_andon_error(error: Exception, path: str = "") -> AndonError:
    """The error of ours that any exception means. What nobody foresaw becomes "internal", and says nothing of its insides."""
    if isinstance(error, AndonError):
        return error
    if isinstance(error, ValidationException):
        return _invalid(error)
    if isinstance(
        error, RecursionError | UnicodeDecodeError
    ):  # what decoding a body lets out: 100,000 brackets, or bytes that are no UTF-8
        return InvalidInput("the body is not JSON in UTF-8, or is nested too deeply", field="body")
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return NotFound("there is no such page", path=path[:200], next_step="GET /schema lists every endpoint; / is the board")
        if error.status_code == 405:
            return MethodNotAllowed(path=path[:200])
        if error.status_code == 415:
            return WrongMediaType()
        kind = STATUS_KINDS.get(error.status_code, InvalidInput if error.status_code < 500 else AndonError)
        return kind(str(error.detail)[:300], field="body") if kind is InvalidInput else kind(str(error.detail)[:300])
    return AndonError()


def _invalid(error: ValidationException) -> InvalidInput:
    found = error.extra if isinstance(error.extra, list) else []
    first: dict[str, Any] = found[0] if found and isinstance(found[0], dict) else {}
    message = str(first.get("message") or error.detail)
    key = str(first.get("key") or "")
    if message == "'data'":  # how Litestar says that there is no body at all
        message = "this takes a JSON object, and the body is empty"
    field = _quoted(message) if key in ("", "data") and not message.startswith("Expected") else key
    field = "" if field == "data" else field
    source = str(first.get("source") or "").lower().rpartition(".")[2]
    return InvalidInput(message[:300], field=field or "body", where=source or ("query" if "query" in message else "body"))


def _quoted(message: str) -> str:
    """The field that a message names: "Object contains unknown field `x`", "Missing required query parameter 'x'"."""
    parts = message.replace("`", "'").split("'")
    return parts[1] if len(parts) >= 3 else ""


AnyRequest = Request[Any, Any, Any]
ErrorPage = Callable[[AnyRequest, AndonError], Response[Any]]


def renderer(page: ErrorPage | None = None) -> Callable[[AnyRequest, Exception], Response[Any]]:
    """The exception handler of the whole application. ``page`` says it to a browser that asked for a page; all others get the envelope."""

    def render(request: AnyRequest, error: Exception) -> Response[Any]:
        found = as_andon_error(error, request.url.path)
        if found.status >= 500:
            log.error("%s %s: %s", request.method, request.url.path, error, exc_info=None if isinstance(error, AndonError) else error)
        if page is not None and "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/"):
            return page(request, found)
        headers = {"retry-after": "1"} if found.status in (429, 503) else {}
        return Response(found.envelope(), status_code=found.status, media_type=MediaType.JSON, headers=headers)

    return render
