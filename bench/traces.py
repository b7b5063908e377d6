"""Spans: how fast a server makes them durable, how small they are once sealed, how soon a trace and a question over all are answered.

``python bench/traces.py`` (two minutes). A span is about 2.5 KB: a chat call with its messages, as OpenTelemetry's GenAI conventions write
it; texts are drawn from this repository's own prose. The server answers after the spans are on disk (fdatasync) and the records of their
traces are committed (``synchronous=FULL``).
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from _report import report
from andon.logs.traces import get_trace
from andon.store import Store, open_store
from andon.telemetry.spans import spans_of, tokens_by_model

SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
SPANS_A_TRACE = 5
MODELS = ("gpt-4o-mini", "gpt-4o", "claude-sonnet", "llama-70b")
WORDS = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8").split()
UP = "import sys; from andon.cli.main import main; main(['up', '--no-serve', '--home', sys.argv[1], '--port', '0'])"
dice = random.Random(7)


def text(characters: int) -> str:
    """Prose of this many characters."""
    return " ".join(dice.choices(WORDS, k=characters // 2))[:characters]


def body(spans: int, began_ns: int) -> bytes:
    """A request of spans, five a trace, a millisecond apart."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    _text(resource.resource.attributes, "service.name", "bench")
    scope = resource.scope_spans.add()
    trace = root = b""
    for n in range(spans):
        span = scope.spans.add()
        if n % SPANS_A_TRACE == 0:
            trace, root = dice.randbytes(16), dice.randbytes(8)
            span.span_id = root
        else:
            span.span_id, span.parent_span_id = dice.randbytes(8), root
        span.trace_id, span.name, span.kind = trace, "chat", 3
        span.start_time_unix_nano = began_ns + n * 1_000_000
        span.end_time_unix_nano = span.start_time_unix_nano + dice.randrange(5_000_000_000)
        for key, value in (
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "openai"),
            ("gen_ai.request.model", dice.choice(MODELS)),
            ("gen_ai.response.id", dice.randbytes(12).hex()),
            ("gen_ai.input.messages", json.dumps([{"role": "user", "parts": [{"type": "text", "content": text(1_100)}]}])),
            ("gen_ai.output.messages", json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": text(900)}]}])),
            ("session.id", f"session-{dice.randrange(1_000)}"),
        ):
            _text(span.attributes, key, value)
        for key in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"):
            pair = span.attributes.add()
            pair.key, pair.value.int_value = key, dice.randrange(4_000)
    return request.SerializeToString()


def _text(attributes: Any, key: str, value: str) -> None:
    pair = attributes.add()
    pair.key, pair.value.string_value = key, value


def send(port: int, bodies: list[bytes], connections: int, seconds: float) -> tuple[float, float]:
    """Requests a second over some connections, and the median answer in milliseconds. Each request has ids of its own."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    def run(thread: int) -> None:
        link = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"content-type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}
        for n in range(thread, len(bodies), connections):
            began = time.perf_counter()
            if began > until:
                break
            link.request("POST", "/v1/traces", bodies[n], headers)
            answer = link.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            took.append(time.perf_counter() - began)
        link.close()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(took) / (time.perf_counter() - began), statistics.median(took) * 1000


def served(rows: list[list[Any]], home: Path) -> None:
    """Spans a second at a server."""
    errors = (home / "errors").open("wb")
    server = subprocess.Popen([sys.executable, "-c", UP, str(home)], stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().rsplit(":", 1)[1])
        for spans, connections in ((100, 1), (100, 4), (500, 1), (500, 4)):
            most = 8 if SMOKE else 60_000 // spans
            bodies = [body(spans, time.time_ns() + n) for n in range(most)]
            per_s, median_ms = send(port, bodies, connections, 0.5 if SMOKE else 5.0)
            size = len(bodies[0]) / spans
            rows.append([f"received, {spans} spans a request, {connections} connections", per_s * spans, "spans/s"])
            rows.append([f"… of {size:,.0f} bytes each: median answer", median_ms, "ms"])
    finally:
        server.terminate()
        server.wait()
        errors.close()


def stored(rows: list[list[Any]], home: Path) -> None:
    """Bytes, a trace, and a question over all, in a store of this process."""
    from andon.logs.spans import append_spans
    from andon.logs.traces import note_spans_in
    from andon.wire.otlp.bodies import parse
    from andon.wire.otlp.decoding import decode
    from andon.wire.otlp.gathering import gather

    total, at_once = (2_000, 500) if SMOKE else (200_000, 500)
    begun_ns = time.time_ns() - total * 500_000
    ids: list[str] = []
    with open_store(home) as store:
        for n in range(total // at_once):
            received, _ = decode(parse(body(at_once, begun_ns + n * at_once * 500_000), "application/x-protobuf"), lambda _: 0, 1)
            append_spans(store.tables, [one.row for one in received], arrival_us=time.time_ns() // 1000)
            seeds = gather(received)
            store.ledger.write(lambda connection, seeds=seeds: note_spans_in(connection, seeds))
            ids.append(dice.choice(seeds).id)
            if n % 40 == 39 or n == total // at_once - 1:
                if n < 40:
                    rows.append(["one trace, unsealed (20,000 spans)", _median_ms(lambda: _one(store, ids)), "ms"])
                store.tables.seal()
        store.tables.compact("spans")
        parts = store.tables.parts("spans")  # type: ignore[attr-defined]
        rows.append(
            [f"sealed ({total:,} spans)", sum(part.size_bytes for part in parts) / sum(part.rows for part in parts), "bytes a span"]
        )
        rows.append([f"one trace of {total:,} spans, sealed", _median_ms(lambda: _one(store, ids)), "ms"])
        rows.append([f"tokens by model and hour over {total:,} spans", _median_ms(lambda: tokens_by_model(store)), "ms"])


def _one(store: Store, ids: list[str]) -> None:
    record = get_trace(store, dice.choice(ids))
    assert len(spans_of(store, [record])[record.id]) == SPANS_A_TRACE


def _median_ms(work: Callable[[], Any], n: int = 15) -> float:
    took = []
    for _ in range(n):
        began = time.perf_counter()
        work()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def main() -> None:
    """Run it all and write ``results/traces.json``."""
    folder = Path(tempfile.mkdtemp(prefix="andon-bench-traces-", dir=os.environ.get("ANDON_BENCH_DIR")))
    rows: list[list[Any]] = []
    try:
        for name, part in (("server", served), ("store", stored)):
            (folder / name).mkdir()
            part(rows, folder / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(
        "traces",
        "Traces over OTLP/HTTP",
        ("what", "measured", "unit"),
        rows,
        "one server process, protobuf, uncompressed, closed loop from the same machine; answered after fdatasync of the spans and a"
        " durable commit of their traces' records; times are medians of 15",
    )


if __name__ == "__main__":
    main()
