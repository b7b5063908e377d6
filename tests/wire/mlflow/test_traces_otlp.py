"""Spans from any OTLP exporter: visible as traces, once however often sent, safe from kill -9, and bad requests said to be bad."""

from __future__ import annotations

import gzip
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.wire.mlflow.servers import AndonServer
from tests.wire.otlp.spans import request

PROTOBUF = {"content-type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}


def call(url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON answer (bytes if it is none)."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url + path, data, headers or {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            status, said = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, said = error.code, error.read()
        error.close()
    try:
        return status, json.loads(said)
    except ValueError:
        return status, said


def send(server: AndonServer, *spans: dict[str, Any], headers: dict[str, str] | None = None, **more: Any) -> tuple[int, Any]:
    """Post spans in protobuf."""
    return call(server.url, "POST", "/v1/traces", request(*spans, **more).SerializeToString(), PROTOBUF | (headers or {}))


def got(server: AndonServer, trace: int) -> dict[str, Any]:
    """A trace with its spans."""
    status, answer = call(server.url, "GET", f"/api/3.0/mlflow/traces/get?trace_id=tr-{trace:032x}")
    assert status == 200, answer
    return answer["trace"]


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    """A span's attributes by name."""
    return {item["key"]: next(iter(item["value"].values()), None) for item in span["attributes"]}


def test_a_trace_that_only_came_as_spans_is_found(andon_server: AndonServer) -> None:
    chat = {"gen_ai.operation.name": "chat", "gen_ai.response.model": "m", "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3}
    assert send(andon_server, {"trace": 10, "n": 2, "parent": 1, "attributes": chat}, resource={"service.name": "svc"}) == (200, b"")
    half = got(andon_server, 10)
    assert half["trace_info"]["state"] == "IN_PROGRESS"
    root = {"trace": 10, "n": 1, "status": (2, "boom"), "attributes": {"input.value": "hi", "session.id": "S"}}
    assert send(andon_server, root, resource={"service.name": "svc"})[0] == 200
    whole = got(andon_server, 10)
    info = whole["trace_info"]
    assert (info["state"], info["execution_duration"], info["request_preview"]) == ("ERROR", "0.049s", '"hi"')
    assert info["trace_metadata"]["mlflow.trace.session"] == "S"
    assert json.loads(info["trace_metadata"]["mlflow.trace.tokenUsage"]) == {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    assert info["tags"]["service.name"] == "svc"
    first, second = whole["spans"]
    assert (first["name"], first["status"]) == ("span 1", {"code": "STATUS_CODE_ERROR", "message": "boom"})
    assert attributes(first)["mlflow.spanInputs"] == "hi"
    assert (attributes(second)["mlflow.spanType"], attributes(second)["mlflow.llm.model"]) == ("CHAT_MODEL", "m")
    where = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}]
    asked = {"locations": where, "filter": "tags.`service.name` = 'svc' AND metadata.`mlflow.trace.session` = 'S'"}
    _, page = call(andon_server.url, "POST", "/api/3.0/mlflow/traces/search", asked)
    assert [trace["trace_id"] for trace in page["traces"]] == [info["trace_id"]]


def test_spans_sent_again_are_there_once(andon_server: AndonServer) -> None:
    spans = [{"trace": 20, "n": 1}, {"trace": 20, "n": 2, "parent": 1, "attributes": {"gen_ai.usage.input_tokens": 4}}]
    for _ in range(3):
        assert send(andon_server, *spans)[0] == 200
    trace = got(andon_server, 20)
    assert len(trace["spans"]) == 2
    assert json.loads(trace["trace_info"]["trace_metadata"]["mlflow.trace.tokenUsage"]) == {"input_tokens": 4}


def test_json_and_compressed_bodies(andon_server: AndonServer) -> None:
    span = {"traceId": f"{30:032x}", "spanId": f"{1:016x}", "name": "j", "startTimeUnixNano": "1795358276704000000", "kind": 2}
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    headers = {"content-type": "application/json; charset=utf-8", "x-mlflow-experiment-id": "0"}
    assert call(andon_server.url, "POST", "/v1/traces", body, headers) == (200, {})
    packed = gzip.compress(request({"trace": 31}).SerializeToString())
    assert call(andon_server.url, "POST", "/v1/traces", packed, PROTOBUF | {"content-encoding": "gzip"})[0] == 200
    assert got(andon_server, 30)["spans"][0]["name"] == "j"
    assert got(andon_server, 31)["spans"][0]["name"] == "span 1"


def test_without_a_header_the_service_names_the_experiment(andon_server: AndonServer) -> None:
    headers = {"content-type": "application/x-protobuf"}
    for trace, resource, named in (
        (40, {"service.name": "shop"}, "shop"),
        (41, {"service.name": "shop", "openinference.project.name": "project"}, "project"),
        (42, {"service.name": "unknown_service:python"}, "Default"),
        (43, {}, "Default"),
        (44, {"service.name": "\n"}, "Default"),
    ):
        body = request({"trace": trace}, resource=resource).SerializeToString()
        assert call(andon_server.url, "POST", "/v1/traces", body, headers)[0] == 200
        number = got(andon_server, trace)["trace_info"]["trace_location"]["mlflow_experiment"]["experiment_id"]
        _, answer = call(andon_server.url, "GET", f"/api/2.0/mlflow/experiments/get?experiment_id={number}")
        assert answer["experiment"]["name"] == named


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"garbage!", {}, 400, "Invalid OpenTelemetry format"),
        (b"", {}, 400, "no spans found"),
        (b"{bad", {"content-type": "application/json"}, 400, "Invalid OpenTelemetry format"),
        (b"x", {"content-type": "text/plain"}, 400, "Invalid Content-Type: text/plain"),
        (b"x", {"content-encoding": "br"}, 400, "Unsupported Content-Encoding"),
        (b"x", {"content-encoding": "gzip"}, 400, "Failed to decompress gzip"),
        (gzip.compress(bytes(70 << 20)), {"content-encoding": "gzip"}, 413, "fewer spans"),
    ],
)
def test_bad_requests(andon_server: AndonServer, body: bytes, headers: dict[str, str], status: int, said: str) -> None:
    got_status, answer = call(andon_server.url, "POST", "/v1/traces", body, PROTOBUF | headers)
    assert (got_status, said in answer["message"]) == (status, True), answer


def test_experiments_that_are_not_there(andon_server: AndonServer) -> None:
    status, answer = send(andon_server, {"trace": 50}, headers={"x-mlflow-experiment-id": "999"})
    assert (status, answer["error_code"], answer["message"]) == (404, "RESOURCE_DOES_NOT_EXIST", "No Experiment with id=999 exists")
    status, answer = send(andon_server, {"trace": 50}, headers={"x-mlflow-experiment-id": "abc"})
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert call(andon_server.url, "GET", f"/api/3.0/mlflow/traces/tr-{50:032x}")[0] == 404


def test_spans_that_cannot_be_kept_are_said(andon_server: AndonServer) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    status, answer = send(andon_server, {"trace": 60}, {"trace": bytes(16), "n": 2})
    said = ExportTraceServiceResponse.FromString(answer)
    assert (status, said.partial_success.rejected_spans) == (200, 1)
    assert len(got(andon_server, 60)["spans"]) == 1


def test_a_trace_without_spans_and_one_that_is_not_there(andon_server: AndonServer) -> None:
    info = {
        "trace_id": "tr-of-my-own",
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}},
        "request_time": "2026-01-31T12:00:00.001500Z",
        "state": "OK",
    }
    assert call(andon_server.url, "POST", "/api/3.0/mlflow/traces", {"trace": {"trace_info": info}})[0] == 200
    status, answer = call(andon_server.url, "GET", "/api/3.0/mlflow/traces/get?trace_id=tr-of-my-own")
    assert (status, answer["message"]) == (500, "Trace data not stored in tracking store")
    status, answer = call(andon_server.url, "GET", "/api/3.0/mlflow/traces/get?trace_id=tr-none")
    assert (status, answer["message"]) == (404, "Trace with ID tr-none is not found.")
    wrong = info | {"trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "777"}}}
    status, answer = call(andon_server.url, "POST", "/api/3.0/mlflow/traces", {"trace": {"trace_info": wrong}})
    assert (status, answer["message"]) == (404, "No Experiment with id=777 exists")


def test_tags_that_say_where_spans_are_are_the_servers(andon_server: AndonServer) -> None:
    assert send(andon_server, {"trace": 70})[0] == 200
    path = f"/api/3.0/mlflow/traces/tr-{70:032x}/tags"
    for method in ("PATCH", "DELETE"):
        status, answer = call(andon_server.url, method, path, {"key": "mlflow.trace.spansLocation", "value": "x"})
        assert (status, "immutable" in answer["message"]) == (400, True)


def test_kill_dash_nine_loses_nothing_acknowledged(tmp_path: Path) -> None:
    server = AndonServer(tmp_path / ".andon")
    acknowledged: list[int] = []
    enough = threading.Event()

    def run(thread: int) -> None:
        for n in range(10_000):
            trace = 1_000_000 * (thread + 1) + n
            try:
                status, _ = send(server, {"trace": trace, "n": 1}, {"trace": trace, "n": 2, "parent": 1})
            except OSError:
                return
            if status == 200:
                acknowledged.append(trace)
            if len(acknowledged) > 200:
                enough.set()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    server.kill()
    for thread in threads:
        thread.join()
    server.start()
    try:
        ids = [f"tr-{trace:032x}" for trace in acknowledged]
        for start in range(0, len(ids), 100):
            part = ids[start : start + 100]
            query = "&".join(f"trace_ids={one}" for one in part)
            _, answer = call(server.url, "GET", f"/api/3.0/mlflow/traces/batchGet?{query}")
            assert {trace["trace_info"]["trace_id"]: len(trace["spans"]) for trace in answer["traces"]} == dict.fromkeys(part, 2)
    finally:
        server.stop()
