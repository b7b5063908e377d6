"""Traces of requests: a span for the request, and below it one for its time in the queue and one for the model.

A caller that sends ``traceparent`` (W3C Trace Context, section 3.2) with the sampled flag gets its request's spans into the same trace;
others get traces of their own for the share that the logging policy says. Spans go to the span log of this machine, their traces' records
to the ledger when it is there, and by OTLP to ``otlp_endpoint`` where that is set. All of it happens on a thread of its own: a trace never
delays an answer, and what that thread cannot keep up with is dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from andon.core.errors import AndonError, ModelFailed
from andon.logs.policies import sampled
from andon.logs.spans import TRACE_PREFIX, SpanRow, append_spans
from andon.logs.traces import ERROR, OK, TraceSeed, note_spans_in
from andon.store import Store

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

log = logging.getLogger("andon.serving")
FLUSH_S = 1.0
MAX_WAITING = 20_000
_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?\Z")
_encode = msgspec.json.Encoder().encode
_KINDS = {"internal": 1, "server": 2}


class Parent(NamedTuple):
    """What a caller said of its own span."""

    trace_id: str
    span_id: str
    sampled: bool


class Stretch(NamedTuple):
    """A part of a request: its name, when it began and ended (``time.monotonic``), and what is known of it."""

    name: str
    began_s: float
    ended_s: float
    attributes: Mapping[str, Any] = {}


class Face(NamedTuple):
    """What a request came in by: the name of its span, and attributes by OpenTelemetry's semantic conventions."""

    name: str
    attributes: Mapping[str, Any]


def http_face(method: str, route: str) -> Face:
    """A route over HTTP."""
    return Face(f"{method} {route}", {"http.request.method": method, "http.route": route, "url.scheme": "http"})


PREDICT = http_face("POST", "/predict")


class Trace(NamedTuple):
    """A request that is being traced."""

    trace_id: str
    span_id: str
    parent_id: str | None
    face: Face | None = None
    """None for one that came from within this process."""


def read_traceparent(value: bytes) -> Parent | None:
    """A ``traceparent`` header; None for one that must be ignored.

    >>> read_traceparent(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").sampled
    True
    """
    found = _PARENT.match(value.strip())
    if found is None:
        return None
    trace_id, span_id, flags = (part.decode() for part in found.groups())
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & 1))


class Tracer:
    """Keeps the spans of one service's requests. ``endpoint`` is the base URL of an OTLP/HTTP receiver."""

    def __init__(self, store: Store, service: str, *, endpoint: str = "", replica: str = "") -> None:
        self.share = 0.0
        self.dropped = 0
        """Spans that were not kept: the thread could not keep up, or nobody took them."""
        self._store = store
        self._service = service
        self._endpoint = endpoint
        self._resource = {"service.name": service, "service.instance.id": replica} if replica else {"service.name": service}
        self._zero_ns = time.time_ns() - time.monotonic_ns()
        self._waiting: list[tuple[Trace, str, Sequence[Stretch]]] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, header: bytes | None, request_id: str, face: Face | None = None) -> Trace | None:
        """The trace of a request, or None when it gets none."""
        if header is not None and (parent := read_traceparent(header)) is not None:
            return Trace(parent.trace_id, os.urandom(8).hex(), parent.span_id, face) if parent.sampled else None
        if self.share <= 0.0 or not sampled(request_id, self.share):
            return None
        return Trace(os.urandom(16).hex(), os.urandom(8).hex(), None, face)

    def answered(
        self, trace: Trace, facts: Mapping[str, Any], times_s: tuple[float, float, float], error: AndonError | None, *, at: str = ""
    ) -> None:
        """Hand over a request with its outcome. ``times_s`` are when it came, was taken from the queue (0: never) and was answered;
        ``at`` is the server's URL."""
        began_s, taken_s, ended_s = times_s
        parts = [Stretch("queue", began_s, taken_s or ended_s)]
        if taken_s:
            parts.append(Stretch("model", taken_s, ended_s, {"andon.release": facts["andon.release"]}))
        name = f"predict {self._service}"
        if trace.face is not None:
            name, about = trace.face
            facts = {**about, **_server(at, port="http.route" in about), **facts}
            if "http.route" in about:
                facts["http.response.status_code"] = 200 if error is None else error.status
        self.end(trace, Stretch(name, began_s, ended_s, facts), parts, error=None if error is None else error.code)

    def end(self, trace: Trace, whole: Stretch, parts: Sequence[Stretch], *, error: str | None = None) -> None:
        """Hand a finished request over; ``error`` is an error's code. Costs a microsecond."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1 + len(parts)
            return
        self._waiting.append((trace, error or "", (whole, *parts)))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="andon-traces", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Keep what waits, and stop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_S):
            self.flush()
        self.flush()

    def flush(self) -> None:
        """Keep what waits now. Never raises: what cannot be kept is counted."""
        taken, self._waiting = self._waiting, []
        rows = [row for trace, error, parts in taken for row in self._rows(trace, error, parts)]
        if not rows:
            return
        now_us = self._store.clock.now_us()
        try:
            append_spans(self._store.tables, rows, arrival_us=now_us)
            seeds = [self._seed(trace, error, parts) for trace, error, parts in taken]
            self._store.ledger.submit(lambda connection: note_spans_in(connection, seeds))
        except Exception as problem:  # noqa: BLE001  # an observer that fails must not take the service down
            self.dropped += len(rows)
            log.warning("%d spans of %s were not kept: %s", len(rows), self._service, problem)
        if self._endpoint:
            self._export(rows)

    def _rows(self, trace: Trace, error: str, parts: Sequence[Stretch]) -> list[SpanRow]:
        resource = _encode(self._resource).decode()
        rows = []
        for at, part in enumerate(parts):
            root = at == 0
            start_ns, end_ns = self._at_ns(part.began_s), self._at_ns(part.ended_s)
            failed = bool(error) and (root or (part.name == "model" and error == ModelFailed.code))
            attributes = {**part.attributes, **({"error.type": error} if failed else {})}
            values: dict[str, Any] = dict.fromkeys(SpanRow._fields)
            values |= {
                "event_us": start_ns // 1000,
                "trace_id": trace.trace_id,
                "span_id": trace.span_id if root else os.urandom(8).hex(),
                "parent_id": trace.parent_id if root else trace.span_id,
                "name": part.name,
                "kind": "server" if root else "internal",
                "status": "error" if failed else "ok",
                "start_ns": start_ns,
                "end_ns": end_ns,
                "experiment": 0,
                "service": self._service,
                "attributes": _encode(attributes).decode(),
                "resource": resource,
            }
            rows.append(SpanRow(**values))
        return rows

    def _at_ns(self, monotonic_s: float) -> int:
        """Wall time of an instant on the monotonic clock."""
        return self._zero_ns + int(monotonic_s * 1e9)

    def _seed(self, trace: Trace, error: str, parts: Sequence[Stretch]) -> TraceSeed:
        whole = parts[0]
        seed = TraceSeed(
            id=TRACE_PREFIX + trace.trace_id,
            experiment=0,
            first_us=self._at_ns(whole.began_s) // 1000,  # rounded as the spans are: readers look between these
            last_us=self._at_ns(max(part.began_s for part in parts)) // 1000,
            end_us=self._at_ns(whole.ended_s) // 1000,
        )
        if trace.parent_id is None:  # otherwise the root is the caller's, and so is what the trace is called
            seed.state = ERROR if error else OK
            seed.name = whole.name
        return seed

    def _export(self, rows: Sequence[SpanRow]) -> None:
        """Send spans on. A receiver that is away loses them: they are in the span log."""
        import http.client
        from urllib.parse import urlsplit

        at = urlsplit(str(self._endpoint))
        kind = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
        connection = kind(at.hostname or "127.0.0.1", at.port, timeout=5.0)
        try:
            body = message_of(rows, self._resource).SerializeToString()
            connection.request("POST", at.path.rstrip("/") + "/v1/traces", body, {"content-type": "application/x-protobuf"})
            answer = connection.getresponse()
            answer.read()
            if answer.status >= 300:
                self.dropped += len(rows)
                log.warning("%s refused %d spans with %d", self._endpoint, len(rows), answer.status)
        except (OSError, http.client.HTTPException) as problem:
            self.dropped += len(rows)
            log.warning("%d spans did not reach %s: %s", len(rows), self._endpoint, problem)
        finally:
            with contextlib.suppress(OSError):
                connection.close()


@cache
def _server(url: str, *, port: bool) -> dict[str, Any]:
    from urllib.parse import urlsplit

    at = urlsplit(url)
    found: dict[str, Any] = {} if at.hostname is None else {"server.address": at.hostname}
    return found | {"server.port": at.port} if port and at.port is not None else found


def message_of(rows: Sequence[SpanRow], resource: Mapping[str, Any]) -> ExportTraceServiceRequest:
    """Spans as an OTLP message."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    message = ExportTraceServiceRequest()
    whole = message.resource_spans.add()
    _fill(whole.resource.attributes, resource)
    scope = whole.scope_spans.add()
    scope.scope.name = "andon.serving"
    for row in rows:
        span = scope.spans.add()
        span.trace_id, span.span_id = bytes.fromhex(row.trace_id), bytes.fromhex(row.span_id)
        if row.parent_id is not None:
            span.parent_span_id = bytes.fromhex(row.parent_id)
        span.name = row.name
        span.kind = _KINDS[str(row.kind)]
        span.start_time_unix_nano, span.end_time_unix_nano = row.start_ns, row.end_ns or row.start_ns
        span.status.code = 2 if row.status == "error" else 1
        _fill(span.attributes, msgspec.json.decode(row.attributes))
    return message


def _fill(attributes: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        held = attributes.add()
        held.key = key
        if isinstance(value, bool):
            held.value.bool_value = value
        elif isinstance(value, int):
            held.value.int_value = value
        elif isinstance(value, float):
            held.value.double_value = value
        else:
            held.value.string_value = str(value)
