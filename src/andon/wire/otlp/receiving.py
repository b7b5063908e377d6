"""The endpoint: reads the body, keeps its spans, and answers once they are on disk.

Spans go to the inbox and the records of their traces to the ledger at the same time; each is a group commit that concurrent requests share.
Killed in between, nothing was acknowledged, and whoever sends it all again changes nothing that is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from andon.core.addresses import check_experiment
from andon.core.errors import Gone, InvalidInput, TooLarge
from andon.logs.spans import append_spans
from andon.logs.traces import link_in, note_spans_in
from andon.tracking.experiments import DEFAULT_ID, ensure_experiment_in, find_experiment_in
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid, missing
from andon.wire.otlp.bodies import MAX_BODY_BYTES, parse, unpack
from andon.wire.otlp.decoding import Refused, decode
from andon.wire.otlp.gathering import gather

if TYPE_CHECKING:
    from sqlalchemy import Connection

MAX_WAITING_BYTES = 256 << 20
"""Bodies that may be in hand at once; beyond them a sender is asked to try again."""
PROTOBUF, JSON = "application/x-protobuf", "application/json"
_PROJECTS = ("openinference.project.name", "service.name")
_in_hand = 0


async def export(call: Call, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """``POST /v1/traces``. Raises ``WireError``."""
    global _in_hand
    media_type = call.headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if media_type not in (PROTOBUF, JSON):
        raise WireError("BAD_REQUEST", f"Invalid Content-Type: {media_type[:80] or None}. Expected: {PROTOBUF} or {JSON}")
    body = await _read(call, receive)
    if _in_hand + len(body) > MAX_WAITING_BYTES:
        await _answer(send, 503, b"", media_type, retry=True)
        return
    _in_hand += len(body)
    try:
        refused = await asyncio.to_thread(keep, call, body, media_type)
    finally:
        _in_hand -= len(body)
    await _answer(send, 200, _said(refused, media_type), media_type)


async def _read(call: Call, receive: Callable[[], Any]) -> bytes:
    length = call.headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise WireError("BAD_REQUEST", "the request ended early")
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        parts.append(part)
        if not message.get("more_body"):
            return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


def _too_large() -> WireError:
    return WireError("INVALID_PARAMETER_VALUE", f"A request may have {MAX_BODY_BYTES} bytes: send fewer spans at once", 413)


def keep(call: Call, body: bytes, media_type: str) -> Refused:
    """Everything that takes time, on a worker's thread."""
    try:
        message = parse(unpack(body, call.headers.get(b"content-encoding", b"").decode("latin-1")), media_type)
    except TooLarge:
        raise _too_large() from None
    except InvalidInput as error:
        raise WireError("BAD_REQUEST", error.message) from None
    if not message.resource_spans:
        raise WireError("BAD_REQUEST", "Invalid OpenTelemetry format - no spans found")
    store = call.store
    arrival_us = store.clock.now_us()
    received, refused = decode(message, _experiments(call), arrival_us)
    if not received:
        return refused
    seeds = gather(received)
    run = call.headers.get(b"x-mlflow-run-id", b"").decode("latin-1")
    over = [seed.id for seed in seeds if seed.state is not None] if run else []

    def work(connection: Connection) -> None:
        note_spans_in(connection, seeds)
        if over:
            link_in(connection, over, [f"run:{run}"])

    noted = store.ledger.submit(work)
    try:
        append_spans(store.tables, [one.row for one in received], arrival_us=arrival_us)
    finally:
        noted.result()
    return refused


def _experiments(call: Call) -> Callable[[dict[str, Any]], int]:
    """Where the spans of a resource belong: the header says it, or else the resource's name for itself."""
    header = call.headers.get(b"x-mlflow-experiment-id", b"").decode("latin-1").strip()
    if header:
        number = _known(call, header)
        return lambda _: number
    project = call.headers.get(b"x-project-name", b"").decode("latin-1").strip()
    found: dict[str, int] = {}

    def of(resource: dict[str, Any]) -> int:
        name = project or next((said for key in _PROJECTS if isinstance(said := resource.get(key), str) and said), "")
        if not name or name.startswith("unknown_service"):
            return DEFAULT_ID
        if name not in found:
            found[name] = _named(call, name)
        return found[name]

    return of


def _known(call: Call, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise invalid(f"Invalid experiment ID {text[:80]!r}. Experiment ID must be a valid integer.")
    number = int(text)
    with call.store.ledger.read() as connection:
        query = "select 1 from experiments where id = " + str(number)
        if connection.exec_driver_sql(query).first() is None:
            raise missing(f"No Experiment with id={number} exists")
    return number


def _named(call: Call, name: str) -> int:
    """An experiment by name, made at the first span. Spans are never lost for a name that cannot be one: those go to the default."""
    store = call.store
    try:
        with store.ledger.read() as connection:
            found = find_experiment_in(connection, name)
        if found is not None:
            return DEFAULT_ID if found.deleted_us is not None else found.id
        check_experiment(name)
        now_us = store.clock.now_us()
        return store.ledger.write(lambda connection: ensure_experiment_in(connection, name, now_us=now_us))
    except (InvalidInput, Gone):
        return DEFAULT_ID


def _said(refused: Refused, media_type: str) -> bytes:
    if not refused.spans:
        return b"{}" if media_type == JSON else b""
    from google.protobuf.json_format import MessageToJson
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = refused.spans
    answer.partial_success.error_message = refused.why
    said: bytes = MessageToJson(answer, indent=None).encode() if media_type == JSON else answer.SerializeToString()
    return said


async def _answer(send: Callable[[Any], Any], status: int, body: bytes, media_type: str, *, retry: bool = False) -> None:
    headers = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % len(body))]
    if retry:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


ROUTES = [Route("POST", "/v1/traces", export, "stream")]
