"""The HTTP face without a socket: the application is called as a server would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from andon.api.serving_app import ServingApp
from andon.serving.front import Front
from tests.unit.serving.clients import Reply
from tests.unit.serving.line import Line

Ask = Callable[..., Awaitable[Reply]]
ROW = {"x": 1.0, "k": 2}


def with_app(line: Line, use: Callable[[Front, Ask], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        front = Front(line.store, line.service, poll_s=0.005)
        app = ServingApp(front, msgspec.structs.replace(line.store.settings, **settings))

        async def ask(method: str, path: str, body: Any = b"", chunks: int = 1, **headers: str) -> Reply:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            size = max(1, len(data) // chunks)
            pieces = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
            sent: list[Any] = []

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)} if pieces else {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            lines = {"host": "localhost:80"} | {name.replace("_", "-"): value for name, value in headers.items()}
            raw = [(name.encode(), value.encode()) for name, value in lines.items()]
            await app({"type": "http", "method": method, "path": path, "headers": raw}, receive, send)
            if not sent:
                return Reply(0, {}, b"")
            names = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
            assert names["content-length"] == str(len(sent[1]["body"]))
            return Reply(sent[0]["status"], names, sent[1]["body"])

        await front.start("http://here")
        try:
            await front.wait_ready(10)
            await use(front, ask)
        finally:
            await front.close()

    asyncio.run(main())


def test_predict(line: Line) -> None:
    release = line.onnx()
    line.point(release)

    async def use(front: Front, ask: Ask) -> None:
        digest = front.loaded().digest
        reply = await ask("POST", "/predict", {"rows": [ROW, ROW], "request_id": "mine", "event_time": "2011-08-01T00:00:00Z"})
        assert reply.status == 200
        assert reply.json == {"request_id": "mine", "release": release, "release_digest": digest, "outputs": [{"y": 4.0}, {"y": 4.0}]}
        assert reply.headers["x-andon-release"] == release
        assert reply.headers["x-request-id"] == "mine"
        assert (await ask("POST", "/predict", ROW)).json["outputs"] == [{"y": 4.0}]
        assert (await ask("POST", "/predict", [ROW], x_request_id="from-header")).json["request_id"] == "from-header"
        made = (await ask("POST", "/predict", [ROW])).json["request_id"]
        assert len(made) > 26
        assert (await ask("POST", "/predict", {"rows": [ROW] * 50}, chunks=7)).json["outputs"] == [{"y": 4.0}] * 50

    with_app(line, use)
    logged = line.store.tables.query('select request_id, epoch_us(event_time) as at from "predictions/bikes"').to_pylist()
    assert {row["at"] for row in logged if row["request_id"] == "mine"} == {1_312_156_800_000_000}
    assert len(logged) == 2 + 1 + 1 + 1 + 50


def test_errors_have_one_envelope(line: Line) -> None:
    line.point(line.onnx())

    async def use(front: Front, ask: Ask) -> None:
        reply = await ask("POST", "/predict", {"rows": [{"x": "warm", "k": 2}]})
        assert reply.status == 400
        error = reply.json["error"]
        assert error["code"] == "invalid-input"
        assert error["fields"] == {"field": "rows[0].x", "row": 0, "takes": "double", "got": "'warm'"}
        refused = await ask("PUT", "/predict")
        assert (refused.status, refused.headers["allow"]) == (405, "POST")
        assert (await ask("GET", "/", host="evil.example")).status == 403
        assert (await ask("GET", "/health", origin="https://localhost:3000")).status == 200
        assert (await ask("GET", "/health", host="[::1]:80")).status == 200
        assert (await ask("POST", "/predict", b"x" * 2000)).status == 413
        assert (await ask("POST", "/predict", b"x" * 2000, chunks=10)).json["error"]["code"] == "too-large"
        assert (await ask("POST", "/predict", b"{}", content_length="99999999")).status == 413
        text = (await ask("GET", "/metrics")).body.decode()
        assert 'andon_requests_total{service="bikes",release="",code="too-large"} 3' in text
        assert 'andon_requests_total{service="bikes",release="release:bikes@1",code="invalid-input"} 1' in text

    with_app(line, use, max_body_bytes=1000)


def test_a_client_that_leaves_before_its_body_is_whole_gets_nothing(line: Line) -> None:
    line.point(line.onnx())

    async def use(front: Front, ask: Ask) -> None:
        app = ServingApp(front, line.store.settings)
        sent: list[Any] = []
        messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, send)
        assert sent == []

    with_app(line, use)


def test_labels_are_kept(line: Line) -> None:
    line.point(line.onnx())

    async def use(front: Front, ask: Ask) -> None:
        labels = [{"request_id": "a", "label": 3.5, "event_time": "1970-01-01T00:00:01Z"}, {"request_id": "b", "label": "yes", "row": 2}]
        assert (await ask("POST", "/labels", {"labels": labels})).json == {"kept": 2}
        assert (await ask("POST", "/labels", {"labels": []})).json == {"kept": 0}
        assert (await ask("POST", "/labels", {"labels": [{"request_id": "", "label": 1}]})).status == 400
        kept = line.store.tables.query('select request_id, "row", label, label_text from "labels/bikes" order by 1').to_pylist()
        assert [tuple(row.values()) for row in kept] == [("a", 0, 3.5, None), ("b", 2, None, "yes")]

    with_app(line, use)


def test_health_metrics_and_draining(line: Line) -> None:
    release = line.onnx()
    line.point(release)

    async def use(front: Front, ask: Ask) -> None:
        assert (await ask("GET", "/health")).json["release"] == release
        assert (await ask("HEAD", "/health")).status == 200
        await ask("POST", "/predict", [ROW])
        text = (await ask("GET", "/metrics")).body.decode()
        assert f'andon_requests_total{{service="bikes",release="{release}",code="ok"}} 1' in text
        assert f'andon_request_duration_seconds_bucket{{service="bikes",release="{release}",le="+Inf"}} 1' in text
        assert 'andon_ready{service="bikes"} 1' in text
        front.draining = True
        assert (await ask("GET", "/health")).status == 503
        reply = await ask("POST", "/predict", [ROW])
        assert (reply.status, reply.headers["connection"]) == (200, "close")

    with_app(line, use)


def test_open_inference_protocol(line: Line) -> None:
    release = line.onnx()
    line.point(release)
    separate = [
        {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]},
        {"name": "k", "shape": [2, 1], "datatype": "INT32", "data": [[1], [2]]},
    ]
    together = [{"name": "input", "shape": [2, 2], "datatype": "FP64", "data": [[1, 1], [2, 2]]}]

    async def use(front: Front, ask: Ask) -> None:
        assert (await ask("GET", "/v2")).json["name"] == "andon"
        assert (await ask("GET", "/v2/health/live")).json == {"live": True}
        assert (await ask("GET", "/v2/health/ready")).json == {"ready": True}
        assert (await ask("GET", "/v2/models/bikes/versions/1/ready")).json == {"name": "bikes", "ready": True}
        described = (await ask("GET", "/v2/models/bikes")).json
        assert described["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1]}, {"name": "k", "datatype": "INT64", "shape": [-1]}]
        for path in ("/v2/models/bikes/infer", "/v2/models/bikes/versions/1/infer"):
            for inputs in (separate, together):
                answer = (await ask("POST", path, {"id": "r", "inputs": inputs})).json
                assert answer["id"] == "r"
                assert answer["model_version"] == "1"
                assert answer["parameters"]["release"] == release
                assert answer["outputs"] == [{"name": "y", "datatype": "FP64", "shape": [2], "data": [3.0, 6.0]}]
        for path, said in (
            ("/v2/models/cars", "serves the model"),
            ("/v2/models/bikes/versions/9", "not loaded here"),
            ("/v2/x", "no such path"),
        ):
            reply = await ask("GET", path)
            assert reply.status == 404
            assert set(reply.json) == {"error"}
            assert said in reply.json["error"]
        assert (await ask("GET", "/v2/models/bikes/infer")).status == 405

    with_app(line, use)
