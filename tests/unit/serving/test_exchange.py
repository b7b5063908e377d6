"""The short way to a prediction says what the long way says, and leaves nothing behind for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
from types import SimpleNamespace
from typing import Any

import pytest

from andon.api.exchange import Exchange
from andon.api.serving_app import ServingApp
from andon.serving.callers import Caller
from andon.serving.front import Front
from tests.unit.serving.clients import Reply
from tests.unit.serving.line import Line
from tests.unit.serving.splitting import Source, until, with_front

INFER = "/v2/models/bikes/infer"
TENSOR = {"inputs": [{"name": "all", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 1.0]}]}
MANY = {"rows": [{"x": 1.0, "k": 1}] * 300}


class Transport:
    def __init__(self) -> None:
        self.said = b""
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        self.said += data

    def close(self) -> None:
        self.closed = True


class Protocol:
    """What an exchange asks of uvicorn's."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.server_state = SimpleNamespace(total_requests=0)
        self.loop = asyncio.get_running_loop()
        self.answers = 0

    def default_head(self) -> bytes:
        return b""

    def answered(self) -> None:
        self.answers += 1


def headers_of(body: bytes, more: dict[str, str]) -> list[tuple[bytes, bytes]]:
    lines = {"host": "localhost", "content-length": str(len(body)), "content-type": "application/json", "x-request-id": "r-1"} | more
    return [(name.encode(), value.encode()) for name, value in lines.items()]


async def short(app: ServingApp, path: str, body: bytes, more: dict[str, str]) -> Reply:
    protocol, caller = Protocol(), Caller()
    exchange = app.exchange(protocol, path.encode(), headers_of(body, more), caller)  # type: ignore[arg-type]
    assert isinstance(exchange, Exchange), "it takes the long way"
    exchange.parts += [body[:7], body[7:]]
    exchange.run()
    await until(lambda: exchange.response_complete)
    head, _, said = protocol.transport.said.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return Reply(int(first.split()[1]), dict(line.split(": ", 1) for line in lines), said)


async def long(app: ServingApp, path: str, body: bytes, more: dict[str, str]) -> Reply:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": path, "headers": headers_of(body, more)}, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], headers, sent[1]["body"])


@pytest.mark.parametrize(
    ("path", "body", "more"),
    [
        ("/predict", {"rows": [{"x": 1.0, "k": 2}]}, {}),
        ("/predict", MANY, {"accept-encoding": "gzip"}),
        ("/predict", {"rows": [{"x": "one", "k": 2}]}, {}),
        ("/predict", {"rows": []}, {}),
        ("/predict", {"rows": [{"x": 1.0, "k": 2}]}, {"x-request-timeout-ms": "soon"}),
        ("/predict", {"rows": [{"x": 1.0, "k": 2}]}, {"x-request-id": "a b"}),
        (INFER, TENSOR, {}),
        (INFER, TENSOR | {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}, {}),
        (INFER, TENSOR | {"outputs": [{"name": "z"}]}, {}),
        (INFER, {"inputs": [{"name": "all", "shape": [300, 2], "datatype": "FP64", "data": [1.0] * 600}]}, {"accept-encoding": "gzip"}),
        (INFER, {"inputs": [{"name": "all", "shape": [300, 2], "datatype": "FP64", "data": [1.0] * 600}]}, {"accept-encoding": "br"}),
        (INFER, {"inputs": []}, {"inference-header-content-length": "x"}),
        ("/invocations", {"inputs": [{"x": 1.0, "k": 1}]}, {}),
        ("/invocations", {"dataframe_records": [{"x": 1.0, "k": 1}] * 300}, {"accept-encoding": "deflate"}),
        ("/invocations", {"dataframe_records": 1}, {}),
        ("/invocations", {"inputs": [{"x": 1.0, "k": 1}]}, {"content-type": "text/html"}),
    ],
)
def test_both_ways_say_the_same_and_count_the_same(line: Line, path: str, body: Any, more: dict[str, str]) -> None:
    line.point(line.onnx())
    data = json.dumps(body).encode()

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        app = ServingApp(front, line.store.settings)
        said = await long(app, path, data, more)
        counted = {key: count for key, count in front.metrics.requests.items() if count}
        again = await short(app, path, data, more)
        assert (again.status, again.body) == (said.status, said.body)
        assert again.headers == said.headers
        assert {key: count / 2 for key, count in front.metrics.requests.items() if count} == counted
        assert sum(counted.values()) == 1

    with_front(line, use)


def test_a_large_answer_is_packed_beside_the_event_loop(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.point(line.onnx())
    n = 20_000
    data = json.dumps(
        {"inputs": [{"name": "all", "shape": [n, 2], "datatype": "FP64", "data": [float(at) for at in range(2 * n)]}]}
    ).encode()

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        app = ServingApp(front, line.store.settings)
        plain = await long(app, INFER, data, {})
        assert len(plain.body) > 128 * 1024
        packed = await short(app, INFER, data, {"accept-encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body
        with monkeypatch.context() as broken:
            broken.setattr("andon.api.compression.deflate", lambda *_: b"" * 10**400)
            unpacked = await short(app, INFER, data, {"accept-encoding": "gzip"})
        assert (unpacked.status, "content-encoding" in unpacked.headers) == (200, False)
        assert unpacked.body == plain.body, "what cannot be packed is answered as it is"

    with_front(line, use)


@pytest.mark.parametrize(
    ("path", "body"), [("/predict", {"rows": [{"x": 1.0, "k": 2}]}), (INFER, TENSOR), ("/predict", {"rows": [{"x": "one", "k": 2}]})]
)
def test_an_answered_request_is_no_garbage(line: Line, path: str, body: Any) -> None:
    """A cycle for each request would cost a pause of some milliseconds every 20,000 objects, which was the p99 of a cheap model."""
    line.point(line.onnx())
    data = json.dumps(body).encode()

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        app = ServingApp(front, line.store.settings)
        await long(app, path, data, {})
        protocol, caller = Protocol(), Caller()
        await short(app, path, data, {})
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                exchange = app.exchange(protocol, path.encode(), headers_of(data, {}), caller)  # type: ignore[arg-type]
                assert exchange is not None
                exchange.parts.append(data)
                exchange.run()
                while not exchange.response_complete:
                    await asyncio.sleep(0)
            del exchange
            assert gc.collect() < 50
        finally:
            gc.enable()

    with_front(line, use)
