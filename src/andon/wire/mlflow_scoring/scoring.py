"""A request to MLflow's scoring protocol, answered by a front.

``predictions`` is a list of values when a release has one output, and of objects when it has several. Errors are
``{"error_code", "message"}``. What this does otherwise than MLflow's own server: types are the signature's and never guessed, so text is no
number and null is no value of a required column; Parquet bodies and ``params`` are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from andon.core.errors import AndonError, NotFound
from andon.models.records import Signature
from andon.serving.asking import Query
from andon.serving.callers import Caller
from andon.serving.front import Front
from andon.serving.tracing import http_face
from andon.serving.validation import check_request_id
from andon.wire.mlflow_scoring.bodies import from_csv, from_json

PATHS = ("/invocations", "/ping", "/version")
SPOKEN = "3.17.2"
"""The release of MLflow whose protocol this is."""
ERROR_CODES: dict[int, str] = {
    400: "BAD_REQUEST",
    403: "PERMISSION_DENIED",
    404: "ENDPOINT_NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "RESOURCE_CONFLICT",
    413: "BAD_REQUEST",
    424: "INVALID_STATE",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_READERS: dict[str, Callable[[bytes, Signature], list[Any]]] = {"application/json": from_json, "text/csv": from_csv}
_encode = msgspec.json.Encoder().encode


INVOCATIONS = http_face("POST", "/invocations")
"""What traces say of how a request came in."""


class UnsupportedType(AndonError):
    """A body of another media type than the two that are read here."""

    code = "unsupported-type"
    status = 415
    exit_code = 64


class Asker(msgspec.Struct, frozen=True):
    """Who asks, as the transport knows it."""

    request_id: str | None = None
    key: str | None = None
    deadline_s: float | None = None
    """On the event loop's clock."""
    caller: Caller | None = None
    client: str | None = None
    traceparent: bytes | None = None


class Reply(msgspec.Struct, frozen=True):
    """An answer."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


def describe(front: Front, method: str, path: str) -> Reply:
    """The answer to all but ``POST /invocations``. Raises ``NotFound``."""
    allowed = "POST" if path == "/invocations" else "GET"
    if method != allowed and (method, allowed) != ("HEAD", "GET"):
        return Reply(405, _encode({"detail": "Method Not Allowed"}), [_JSON, (b"allow", allowed.encode())])
    if path == "/version":
        return Reply(200, SPOKEN.encode(), [_JSON])
    if path == "/ping":
        return Reply(200 if front.not_ready() is None else 503, b"\n", [_JSON])
    raise NotFound(f"there is nothing at {path[:100]}")


def check_type(content_type: bytes) -> Callable[[bytes, Signature], list[Any]]:
    """What reads a body of this media type. Raises ``UnsupportedType``."""
    kind, _, parameters = content_type.decode("latin-1").partition(";")
    reader = _READERS.get(kind.strip().lower())
    if reader is None or parameters.strip().lower().replace(" ", "") not in ("", "charset=utf-8", 'charset="utf-8"'):
        got = content_type.decode("latin-1")[:200]
        raise UnsupportedType(f"This server takes application/json and text/csv, in UTF-8. Got '{got}'.")
    return reader


def read(front: Front, body: bytes, content_type: bytes, asker: Asker) -> Query:
    """A request to ``/invocations``, for the front to answer next. Raises ``InvalidInput`` and its kin."""
    reader = check_type(content_type)
    request_id = check_request_id(asker.request_id) if asker.request_id is not None else front.new_id()
    loaded = front.loaded()
    rows = loaded.codec.check_rows(reader(body, loaded.signature))
    return Query(
        choice=front.choose(request_id, asker.key, rows=rows),
        n=len(rows),
        request_id=request_id,
        rows=rows,
        deadline_s=asker.deadline_s,
        caller=asker.caller,
        client=asker.client,
        size_bytes=len(body),
        traceparent=asker.traceparent,
        face=INVOCATIONS,
    )


def answered(query: Query, lists: dict[str, list[Any]]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers and the body."""
    headers = [_JSON, query.choice.loaded.header, (b"x-request-id", query.request_id.encode())]
    return headers, _encode({"predictions": predictions(lists)})


def predictions(lists: dict[str, list[Any]]) -> list[Any]:
    """Output columns as the protocol has them."""
    if len(lists) == 1:
        return next(iter(lists.values()))
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def refused(error: AndonError) -> tuple[tuple[bytes, bytes], bytes]:
    """The media type and the body of an error."""
    if isinstance(error, UnsupportedType):
        return _TEXT, error.message.encode()
    said = str(error).replace("\n  next: ", "; next: ")
    return _JSON, _encode({"error_code": ERROR_CODES.get(error.status, "INTERNAL_ERROR"), "message": said})
