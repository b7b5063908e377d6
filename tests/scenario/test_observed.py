"""What a running service tells of itself: metrics of a group behind one socket, traces by every face, and logs as the policy has them."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from andon.core.clocks import ManualClock
from andon.logs.policies import LoggingPolicy
from andon.logs.traces import get_trace
from andon.models import Column, Signature
from andon.operations.policies import register_policy
from andon.serving.batching import Work
from andon.serving.metrics import Metrics
from andon.serving.recording import Recorder
from andon.store import memory_store, open_store
from andon.telemetry.spans import spans_of
from tests.conftest import ANA
from tests.faults.test_replicas import Group, Load
from tests.scenario.small import WALL_US, Small
from tests.unit.serving.clients import Client, Server, run
from tests.unit.serving.line import Line
from tests.unit.serving.test_metrics import Series, series
from tests.wire.openinference.echo import GrpcServer

ROW = {"x": 1.0, "k": 1}
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


async def scraped(port: int) -> Series:
    """A scrape on a connection of its own: any replica may have it."""
    client = Client(port)
    reply = await client.ask("GET", "/metrics", headers=OPENMETRICS)
    await client.close()
    assert reply.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    return series(reply.body.decode(), openmetrics=True)


def counted(found: Series) -> Series:
    """What may only go up: everything but gauges and what is one process's own."""
    up = ("_total", "_count", "_bucket", "_sum")
    return {key: value for key, value in found.items() if key[0].startswith("andon_") and key[0].endswith(up)}


def answered(found: Series) -> float:
    return sum(value for (name, named), value in found.items() if name == "andon_requests_total" and ("code", "ok") in named)


def replicas(found: Series) -> set[str]:
    return {dict(named)["replica"] for name, named in found if name == "process_cpu_seconds_total"}


async def settled(port: int) -> Series:
    """What is scraped once all replicas have kept their numbers, which they do every second."""
    found, since_s = await scraped(port), time.monotonic()
    while time.monotonic() - since_s < 1.5:
        now = await scraped(port)
        if answered(now) != answered(found):
            since_s = time.monotonic()
        found = now
        await asyncio.sleep(0.1)
    return found


async def until(true: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    end_s = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < end_s, what
        await asyncio.sleep(0.01)
    return found


def test_whichever_replica_is_scraped_answers_for_all(tmp_path: Path) -> None:
    """Under load, 60 scrapes, a replica killed and replaced in between: every sum only goes up, and in the end it is what clients got."""
    home = tmp_path / "home"
    with open_store(home) as store:
        line = Line(store, tmp_path / "scratch")
        line.point(line.onnx())

    async def story(group: Group) -> None:
        await until(lambda: len(group.replicas()) == 2, "two replicas")
        traffic = Load(group.port, clients=4)
        await traffic.more(100)
        last: Series = {}
        seen: set[str] = set()
        scrapes, end_s, killed = 0, time.monotonic() + 60, False
        while scrapes < 60 or "3" not in seen:
            assert time.monotonic() < end_s
            scrapes += 1
            if scrapes >= 30 and seen == {"1", "2"} and not killed:
                os.kill(group.replicas()[0], signal.SIGKILL)
                killed = True
            found = await scraped(group.port)
            now = counted(found)
            assert {key: (value, now.get(key)) for key, value in last.items() if now.get(key, -1) < value} == {}
            last = now
            seen |= replicas(found)
        await traffic.more(100)
        await traffic.stop()
        assert seen == {"1", "2", "3"}
        found = await settled(group.port)
        assert replicas(found) == {"3", *({"1", "2"} & replicas(found))} < seen  # gauges of the one that was killed have ended
        lost = len(traffic.dropped) + traffic.answered - answered(found)
        # What it counted since it last kept its numbers, a second at most, is lost with it.
        assert 0 <= lost < traffic.answered / 2
        before = answered(found)
        client = Client(group.port)
        for _ in range(50):
            assert (await client.post("/predict", ROW)).status == 200
        assert answered(await settled(group.port)) == before + 50
        assert [answered(await scraped(group.port)) for _ in range(8)] == [before + 50] * 8

    with Group(home, "-n", "2") as group:
        run(story(group))


# --- traces

FUSSY = """
class Model:
    def __init__(self, folder):
        pass
    def predict(self, columns):
        if (columns["x"] < 0).any():
            raise ValueError("below nothing")
        return {"y": columns["x"] + columns["k"]}
"""
TRACES = {name: f"{at:032x}" for at, name in enumerate(("predict", "error", "oip", "mlflow", "grpc", "unsampled"), start=0xA0)}


def parent(name: str, flags: str = "01") -> str:
    return f"00-{TRACES[name]}-b7ad6b7169203331-{flags}"


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP receiver: its URL, and the spans that came."""
    got: list[Any] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            got.extend(span for whole in message.resource_spans for scope in whole.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


async def ask_all(server: GrpcServer) -> None:
    client = Client(server.port)
    await client.post("/predict", [ROW, ROW], {"traceparent": parent("predict"), "x-request-id": "r-1"})
    refused = await client.post("/predict", {"x": -1.0, "k": 1}, {"traceparent": parent("error")})
    assert refused.status == 500
    await client.post("/predict", ROW, {"traceparent": parent("unsampled", "00")})
    await client.post("/predict", ROW)
    tensors = [
        {"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]},
        {"name": "k", "shape": [1], "datatype": "INT64", "data": [1]},
    ]
    reply = await client.post("/v2/models/bikes/infer", {"inputs": tensors}, {"traceparent": parent("oip")})
    assert reply.status == 200, reply.body
    headers = {"traceparent": parent("mlflow"), "content-type": "application/json"}
    reply = await client.post("/invocations", {"dataframe_records": [ROW]}, headers)
    assert reply.status == 200, reply.body


def ask_grpc(port: int) -> None:
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    inputs = [triton.InferInput("x", [1], "FP64"), triton.InferInput("k", [1], "INT64")]
    inputs[0].set_data_from_numpy(np.array([1.0]))
    inputs[1].set_data_from_numpy(np.array([1], dtype=np.int64))
    client.infer("bikes", inputs, headers={"traceparent": parent("grpc")})
    client.close()


def test_requests_are_traced_by_every_face(tmp_path: Path, receiver: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, got = receiver
    home = tmp_path / "home"
    with open_store(home) as store:
        line = Line(store, tmp_path / "scratch")
        line.point(line.python(FUSSY))

    async def main(server: GrpcServer) -> None:
        await server.wait_ready()
        await ask_all(server)
        await asyncio.to_thread(ask_grpc, server.grpc_port)
        await until(lambda: len(got) >= 15, "the spans")
        with open_store(home) as store:
            register_policy("logging/bikes", {"trace": 1.0}, store=store, actor=ANA)
        client = Client(server.port)
        end_s = time.monotonic() + 10
        while len(got) < 18:  # from the policy on every request has a trace of its own
            assert time.monotonic() < end_s
            await client.post("/predict", ROW)
            await asyncio.sleep(0.05)

    monkeypatch.setenv("ANDON_OTLP_ENDPOINT", url)
    with GrpcServer(home, "bikes") as server:
        run(main(server))
        code, errors = server.terminate()
        assert (code, "Traceback" in errors) == (0, False), errors

    with open_store(home) as store:
        rows = store.tables.scan("spans").to_pylist()
        mine = {name: [row for row in rows if row["trace_id"] == trace] for name, trace in TRACES.items()}
        assert {row["trace_id"] + row["span_id"] for row in rows} == {span.trace_id.hex() + span.span_id.hex() for span in got}
        record = get_trace(store, f"tr-{TRACES['predict']}")
        assert {span["name"] for span in spans_of(store, [record])[record.id]} == {"POST /predict", "queue", "model"}
        own = {row["trace_id"] for row in rows} - set(TRACES.values())
        assert own
        assert {get_trace(store, f"tr-{trace}").name for trace in own} == {"POST /predict"}
    assert not mine["unsampled"]
    faces = {}
    for name in ("predict", "error", "oip", "mlflow", "grpc"):
        [root] = [row for row in mine[name] if row["kind"] == "server"]
        assert root["parent_id"] == "b7ad6b7169203331"
        assert {row["name"] for row in mine[name] if row["parent_id"] == root["span_id"]} == {"queue", "model"}
        faces[name] = (root["name"], root["status"], json.loads(root["attributes"]))
    assert {name: (called, status) for name, (called, status, _) in faces.items()} == {
        "predict": ("POST /predict", "ok"),
        "error": ("POST /predict", "error"),
        "oip": ("POST /v2/models/{model}/infer", "ok"),
        "mlflow": ("POST /invocations", "ok"),
        "grpc": ("inference.GRPCInferenceService/ModelInfer", "ok"),
    }
    assert faces["predict"][2] == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "andon.service": "bikes",
        "andon.release": "release:bikes@1",
        "andon.channel": "production",
        "andon.request_id": "r-1",
        "andon.rows": 2,
    }
    assert (faces["error"][2]["error.type"], faces["error"][2]["http.response.status_code"]) == ("model-failed", 500)
    assert {row["name"]: row["status"] for row in mine["error"]} == {"POST /predict": "error", "queue": "ok", "model": "error"}
    assert {key: faces["grpc"][2].get(key) for key in ("rpc.system", "rpc.method", "server.address", "http.route")} == {
        "rpc.system": "grpc",
        "rpc.method": "ModelInfer",
        "server.address": "127.0.0.1",
        "http.route": None,
    }


# --- logs

PEOPLE = Signature((Column("x", "double"), Column("k", "long"), Column("email", "string", required=False)), (Column("y", "double"),))
POLICY = {"sample": 0.5, "redact": {"input.email": "hash", "input.k": "drop"}}


def inbox_bytes(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file() and "blobs" not in path.parts)


def test_a_logging_policy_holds_within_a_second_and_hides_what_it_names(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with open_store(home) as store:
        line = Line(store, tmp_path / "scratch")
        example = ({"x": 1.0, "k": 1, "email": "nobody"},)
        line.point(line.python(signature=PEOPLE, example=example))

    async def main(server: Server) -> None:
        await server.wait_ready()
        client = Client(server.port)
        await client.post("/predict", {"x": 1.0, "k": 77_770_001, "email": "before@example.org"})
        with open_store(home) as store:
            register_policy("logging/bikes", POLICY, store=store, actor=ANA)
        registered_s = time.monotonic()
        while not (await scraped(server.port))["andon_prediction_log_unsampled_rows_total", (("service", "bikes"),)]:
            await client.post("/predict", {"x": 1.0, "k": 1, "email": "nobody"})
        assert time.monotonic() - registered_s < 1.0
        for at in range(60):
            body = {"request_id": f"r-{at}", "rows": [{"x": 1.0, "k": 77_770_002, "email": f"after{at % 2}@example.org"}]}
            assert (await client.post("/predict", body)).json["outputs"] == [{"y": 77_770_003.0}]

    with Server(home) as server:
        run(main(server))
        code, errors = server.terminate()
        assert (code, "Traceback" in errors) == (0, False), errors

    written = inbox_bytes(home)
    assert b"before@example.org" in written  # so this would see what is not hidden
    assert b"after0@example" not in written
    assert b"after1@example" not in written
    assert (home / "secrets" / "logging.key").stat().st_mode & 0o777 == 0o600
    with open_store(home) as store:
        sql = """select "input.email" as email, "input.k" as k, "output.y" as y from "predictions/bikes" where request_id like 'r-%'"""
        rows = store.tables.query(sql).to_pylist()
    assert 15 < len(rows) < 45
    assert {row["k"] for row in rows} == {None}
    assert {row["y"] for row in rows} == {77_770_003.0}
    assert len({row["email"] for row in rows}) == 2  # equal values are equal still
    assert all(len(row["email"]) == 24 for row in rows)


class Sampled(Small):
    """Logs as a replica whose policy samples."""

    share = 0.4

    def answer(self, event_us: Any, **more: Any) -> None:  # type: ignore[override]
        from andon import registry
        from andon.releases import ReleaseManifest
        from tests.scenario.small import inputs

        address = registry.resolve(self.store, "service:small@production")
        version = registry.get(self.store, address)
        recorder = Recorder(self.store.tables, "small", Metrics("small"))
        recorder.policy = LoggingPolicy(sample=self.share)
        columns = inputs(event_us)
        batch = [
            Work(1, None, None, str(int(at)), [int(at)], WALL_US, "production", SimpleNamespace())  # type: ignore[arg-type]
            for at in event_us
        ]
        outputs = {"y": self.replay(registry.manifest_of(version, ReleaseManifest), columns)}
        recorder.record(SimpleNamespace(address=str(address), digest=version.digest), batch, columns, outputs)  # type: ignore[arg-type]
        assert recorder.problem is None


def test_monitors_of_a_sampled_log_see_fewer_rows_and_still_pull_the_cord() -> None:
    with contextlib.ExitStack() as stack:
        small = Sampled(stack.enter_context(memory_store(ManualClock(WALL_US))), per_hour=6)
        first = small.release()
        small.live(5)
        small.release(bias=60.0)  # its gate refused it, and it was waived
        small.live(10)
        quality = small.verdicts("live-quality")
        from andon import registry

        assert str(registry.resolve(small.store, "service:small@production")) == first
    first_n = next(n for _, status, n in quality if status == "pass")
    assert 0.3 * 6 * 24 < first_n < 0.5 * 6 * 24  # of a day
    assert quality[-1][1] == "undecided"  # the first release again: too few labels of its own yet
