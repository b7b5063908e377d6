"""Traces of requests: whose they are, what is kept of them, and that nothing waits for them."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections import Counter
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from andon.core.errors import Busy, ModelFailed
from andon.logs.traces import get_trace
from andon.serving.tracing import MAX_WAITING, PREDICT, Face, Stretch, Tracer, read_traceparent
from andon.store import Store
from andon.telemetry.spans import spans_of

SENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nx",
    ],
)
def test_a_header_that_is_ignored(header: bytes) -> None:
    assert read_traceparent(header) is None


def test_newer_versions_are_read() -> None:
    found = read_traceparent(b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more")
    assert found is not None
    assert not found.sampled


def finish(tracer: Tracer, trace: Any, **more: Any) -> None:
    now_s = time.monotonic()
    whole = Stretch("POST /predict", now_s - 0.5, now_s, {"http.response.status_code": 200, "andon.rows": 1})
    tracer.end(trace, whole, [Stretch("queue", now_s - 0.5, now_s - 0.3), Stretch("model", now_s - 0.3, now_s)], **more)


def test_a_callers_trace_goes_on(store: Store) -> None:
    tracer = Tracer(store, "bikes")
    trace = tracer.begin(SENT, "r-1")
    assert trace is not None
    finish(tracer, trace)
    tracer.close()
    rows = sorted(store.tables.scan("spans").to_pylist(), key=lambda row: row["start_ns"])
    assert {row["trace_id"] for row in rows} == {"0af7651916cd43dd8448eb211c80319c"}
    root = next(row for row in rows if row["kind"] == "server")
    assert root["parent_id"] == "b7ad6b7169203331"
    assert {row["name"] for row in rows if row["parent_id"] == root["span_id"]} == {"queue", "model"}
    assert abs(root["end_ns"] - root["start_ns"] - 5e8) < 1e6
    assert abs(root["end_ns"] / 1e9 - time.time()) < 60
    assert tracer.dropped == 0


def test_a_trace_of_its_own_is_found_by_its_record(store: Store) -> None:
    tracer = Tracer(store, "bikes")
    assert tracer.begin(None, "r-1") is None
    assert tracer.begin(SENT[:-1] + b"0", "r-1") is None
    tracer.share = 1.0
    trace = tracer.begin(None, "r-1")
    assert trace is not None
    finish(tracer, trace, error="model-failed")
    tracer.close()
    record = get_trace(store, "tr-" + trace.trace_id)
    assert (record.name, record.state) == ("POST /predict", "error")
    assert record.execution_us is not None
    assert abs(record.execution_us - 500_000) < 1_000


def test_what_nobody_takes_is_dropped_and_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tracer = Tracer(store, "bikes")
    tracer.share = 1.0
    monkeypatch.setattr(tracer, "_thread", threading.current_thread())  # which never comes round to it
    trace = tracer.begin(None, "r-1")
    for _ in range(MAX_WAITING):
        finish(tracer, trace)
    finish(tracer, trace)
    assert tracer.dropped == 3


def test_spans_are_sent_on(store: Store) -> None:
    got: list[tuple[str, bytes]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        tracer = Tracer(store, "bikes", endpoint=f"http://127.0.0.1:{server.server_port}", replica="r1")
        finish(tracer, tracer.begin(SENT, "r-1"))
        tracer.flush()
        server.shutdown()
        thread.join()
    tracer.close()
    assert [path for path, _ in got] == ["/v1/traces"]
    message = ExportTraceServiceRequest.FromString(got[0][1])
    spans = message.resource_spans[0].scope_spans[0].spans
    assert {span.name for span in spans} == {"POST /predict", "queue", "model"}
    assert {one.key: one.value.string_value for one in message.resource_spans[0].resource.attributes} == {
        "service.name": "bikes",
        "service.instance.id": "r1",
    }
    finish(tracer, tracer.begin(SENT, "r-1"))
    tracer.flush()  # nobody listens any more
    assert tracer.dropped == 3
    assert store.tables.scan("spans").num_rows == 6


def test_spans_say_how_a_request_came_in(store: Store) -> None:
    tracer = Tracer(store, "bikes")
    tracer.share = 1.0
    facts = {"andon.release": "release:bikes@1", "andon.rows": 1}
    faces = {"http": PREDICT, "grpc": Face("a/B", {"rpc.system": "grpc"}), "inside": None}
    for error, face in ((None, "http"), (Busy(), "http"), (ModelFailed(), "grpc"), (None, "inside")):
        trace = tracer.begin(None, "r-1", faces[face])
        assert trace is not None
        tracer.answered(trace, facts, (1.0, 0.0 if isinstance(error, Busy) else 2.0, 3.0), error, at="http://[::1]:4701")
    tracer.close()
    rows = store.tables.scan("spans").to_pylist()
    roots = [(row["name"], row["status"], json.loads(row["attributes"])) for row in rows if row["kind"] == "server"]
    told = [(name, status, {key: value for key, value in said.items() if not key.startswith("andon.")}) for name, status, said in roots]
    http_says = {
        "http.request.method": "POST",
        "http.route": "/predict",
        "url.scheme": "http",
        "server.address": "::1",
        "server.port": 4701,
    }
    assert told == [
        ("POST /predict", "ok", http_says | {"http.response.status_code": 200}),
        ("POST /predict", "error", http_says | {"http.response.status_code": 429, "error.type": "busy"}),
        ("a/B", "error", {"rpc.system": "grpc", "server.address": "::1", "error.type": "model-failed"}),
        ("predict bikes", "ok", {}),
    ]
    parts = Counter((row["name"], row["status"]) for row in rows if row["kind"] == "internal")
    assert parts == {("queue", "ok"): 4, ("model", "ok"): 2, ("model", "error"): 1}  # who was refused never met the model


def test_the_share_of_traces_goes_by_the_request(store: Store) -> None:
    tracer = Tracer(store, "bikes")
    tracer.share = 0.25
    traced = [at for at in range(4_000) if tracer.begin(None, f"r-{at}") is not None]
    assert abs(len(traced) - 1_000) < 4 * (4_000 * 0.25 * 0.75) ** 0.5
    assert traced == [at for at in range(4_000) if tracer.begin(None, f"r-{at}") is not None]


def test_readers_find_every_span_whatever_was_rounded(store: Store) -> None:
    tracer = Tracer(store, "bikes")
    tracer.share = 1.0
    for at in range(40):
        trace = tracer.begin(None, f"r-{at}")
        assert trace is not None
        tracer.answered(trace, {"andon.release": "release:bikes@1"}, (1.0 + at * 1e-7, 2.0 + at * 1e-7, 3.0), None)
        tracer.flush()
        record = get_trace(store, "tr-" + trace.trace_id)
        assert len(spans_of(store, [record])[record.id]) == 3
    tracer.close()
