"""A request to MLflow's scoring protocol, answered by a front.

``predictions`` is a list of values when a release has one output, and of objects when it has several. Errors are
``{"error_code", "message"}``. What this does otherwise than MLflow's own server: types are the signature's and never guessed, so text is no
number and null is no value of a required column; Parquet bodies and ``params`` are refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from andon.core.errors import AndonError, NotFound
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
_encode = msgspec.json.Encoder().encode


class Reply(msgspec.Struct, frozen=True):
    """An answer."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]
    packs: bool = False
    """Whether it may be compressed: predictions. tritonclient's asyncio client asks for that always and unpacks nothing else."""


INVOCATIONS = http_face("POST", "/invocations")
"""What traces say of how a request came in."""


class Asked(msgspec.Struct, frozen=True):
    """A request; ``read`` gives its body."""

    method: str
    path: str
    read: Callable[[], Awaitable[bytes]]
    content_type: bytes = b""
    request_id: str | None = None
    key: str | None = None
    deadline_s: float | None = None
    """On the event loop's clock."""
    caller: Caller | None = None
    client: str | None = None
    traceparent: bytes | None = None


async def answer(front: Front, asked: Asked) -> Reply:
    """The answer. Raises the ``AndonError`` that ``error_body`` renders."""
    allowed = "POST" if asked.path == "/invocations" else "GET"
    if asked.method != allowed and (asked.method, allowed) != ("HEAD", "GET"):
        return Reply(405, _encode({"detail": "Method Not Allowed"}), [_JSON, (b"allow", allowed.encode())])
    if asked.path == "/version":
        return Reply(200, SPOKEN.encode(), [_JSON])
    if asked.path == "/ping":
        return Reply(200 if front.not_ready() is None else 503, b"\n", [_JSON])
    if asked.path == "/invocations":
        return await _invoke(front, asked)
    raise NotFound(f"there is nothing at {asked.path[:100]}")


async def _invoke(front: Front, asked: Asked) -> Reply:
    kind, _, parameters = asked.content_type.decode("latin-1").partition(";")
    reader = {"application/json": from_json, "text/csv": from_csv}.get(kind.strip().lower())
    if reader is None or parameters.strip().lower().replace(" ", "") not in ("", "charset=utf-8", 'charset="utf-8"'):
        said = f"This server takes application/json and text/csv, in UTF-8. Got '{asked.content_type.decode('latin-1')[:200]}'."
        return Reply(415, said.encode(), [_TEXT])
    body = await asked.read()
    request_id = check_request_id(asked.request_id) if asked.request_id is not None else front.new_id()
    try:
        loaded = front.loaded()  # from here to `answer` there is no await: the release cannot be retired in between
        rows = loaded.codec.check_rows(reader(body, loaded.signature))
        choice = front.choose(request_id, asked.key, rows=rows)
    except AndonError as error:
        front.metrics.refused("", error.code)
        raise
    lists = await front.answer(
        choice,
        len(rows),
        rows=rows,
        request_id=request_id,
        deadline_s=asked.deadline_s,
        caller=asked.caller,
        client=asked.client,
        size_bytes=len(body),
        traceparent=asked.traceparent,
        face=INVOCATIONS,
    )
    headers = [_JSON, choice.loaded.header, (b"x-request-id", request_id.encode())]
    return Reply(200, _encode({"predictions": predictions(lists)}), headers, packs=True)


def predictions(lists: dict[str, list[Any]]) -> list[Any]:
    """Output columns as the protocol has them."""
    if len(lists) == 1:
        return next(iter(lists.values()))
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def error_body(error: AndonError) -> bytes:
    """The protocol's error."""
    said = str(error).replace("\n  next: ", "; next: ")
    return _encode({"error_code": ERROR_CODES.get(error.status, "INTERNAL_ERROR"), "message": said})
