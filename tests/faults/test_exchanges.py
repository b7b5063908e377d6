"""The short way of ``/predict`` on the wire: whatever a client does with its connection, answers are whole, in order and its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from andon.store import Store
from tests.faults.test_serving_faults import TEMPERAMENTAL
from tests.unit.serving.clients import Client, Dropped, Reply, Server, run
from tests.unit.serving.line import Line


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One replica for all these tests: what one leaves behind must not disturb the next."""
    from andon.store import open_store

    home = tmp_path_factory.mktemp("home")
    with open_store(home) as store:
        line = Line(store, home / "scratch")
        line.point(line.onnx())  # y = 2 x + k
    with Server(home) as server:
        run(ready(server))
        yield server
        code, errors = server.terminate()
        assert code == 0
        assert "defect" not in errors
        assert "Traceback" not in errors


async def ready(server: Server) -> None:
    await server.wait_ready()


def request(x: float, *headers: str, path: str = "/predict", version: str = "1.1", body: bytes | None = None) -> bytes:
    body = json.dumps([{"x": x, "k": 1}]).encode() if body is None else body
    more = "".join(f"{header}\r\n" for header in headers)
    return f"POST {path} HTTP/{version}\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


def answer(reply: Reply) -> Any:
    assert reply.status == 200, reply.body
    return reply.json["outputs"][0]["y"]


def test_requests_that_are_sent_before_the_last_is_answered_come_back_in_order(served: Server) -> None:
    async def main() -> None:
        client = Client(served.port)
        await client.send(b"".join(request(float(x)) for x in range(50)))
        assert [answer(await client.receive()) for _ in range(50)] == [2.0 * x + 1 for x in range(50)]
        health = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
        await client.send(request(1.0) + health + request(2.0) + request(0, body=b"{") + request(3.0))
        replies = [await client.receive() for _ in range(5)]
        assert [reply.status for reply in replies] == [200, 200, 200, 400, 200]
        assert (answer(replies[0]), answer(replies[2]), answer(replies[4])) == (3.0, 5.0, 7.0)
        assert replies[1].json["status"] == "ready"

    run(main())


def test_a_request_that_comes_byte_by_byte(served: Server) -> None:
    async def main() -> None:
        client = Client(served.port)
        for byte in request(4.0):
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert answer(await client.receive()) == 9.0
        assert answer(await client.post("/predict", [{"x": 5.0, "k": 1}])) == 11.0

    run(main())


def test_every_form_of_a_request_gets_the_same_answer(served: Server) -> None:
    body = json.dumps([{"x": 1.5, "k": 1}]).encode()
    chunked = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)

    async def main() -> None:
        for data, stays in (
            (request(1.5), True),
            (chunked, True),
            (request(1.5, path="/predict?a=b"), True),
            (request(1.5, "connection: close"), False),
            (request(1.5, version="1.0"), False),
            (request(1.5, "expect: 100-continue"), True),
        ):
            client = Client(served.port)
            await client.send(data)
            reply = await client.receive()
            if reply.status == 100:
                reply = await client.receive()
            assert answer(reply) == 4.0
            assert reply.headers["content-type"] == "application/json"
            assert reply.headers["x-andon-release"] == "release:bikes@1"
            assert reply.headers["x-request-id"] == reply.json["request_id"]
            assert "date" in reply.headers
            if stays:
                assert answer(await client.post("/predict", [{"x": 2.5, "k": 1}])) == 6.0

    run(main())


def test_a_request_id_that_json_escapes(served: Server) -> None:
    async def main() -> None:
        for name in ('a"b', "a\\b", "a\\"):
            reply = await Client(served.port).ask("POST", "/predict", b'[{"x": 1, "k": 1}]', {"x-request-id": name})
            assert (reply.status, reply.json["request_id"], reply.headers["x-request-id"]) == (200, name, name)

    run(main())


def test_refusals_keep_the_connection_and_defects_of_the_body_do_not_cross_it(served: Server) -> None:
    async def main() -> None:
        client = Client(served.port)
        for body, field in ((b'[{"x": 1}]', "rows[0].k"), (b'[{"x": "1", "k": 1}]', "rows[0].x"), (b"[]", "rows")):
            reply = await client.ask("POST", "/predict", body)
            assert (reply.status, reply.json["error"]["fields"]["field"]) == (400, field)
            assert answer(await client.post("/predict", [{"x": 1.0, "k": 1}])) == 3.0
        reply = await client.ask("POST", "/predict", b'[{"x": 1, "k": 1}]', {"host": "evil.example"})
        assert reply.status == 403
        reply = await client.ask("POST", "/predict", b'[{"x": 1, "k": 1}]', {"x-request-timeout-ms": "soon"})
        assert reply.json["error"]["fields"]["field"] == "x-request-timeout-ms"

    run(main())


async def in_flight(server: Server) -> float:
    text = (await Client(server.port).get("/metrics")).body.decode()
    return float(next(line for line in text.splitlines() if line.startswith("andon_in_flight_requests{")).split()[-1])


def test_clients_that_leave_are_forgotten(tmp_path: Path, disk_store: Store) -> None:
    line = Line(disk_store, tmp_path / "scratch")
    line.point(line.python(TEMPERAMENTAL))

    async def main() -> None:
        with Server(Path(disk_store.settings.home)) as server:
            await server.wait_ready()
            busy = Client(server.port)
            await busy.send(request(5.0))  # the model takes 400 ms for it
            await asyncio.sleep(0.05)
            leavers = [Client(server.port) for _ in range(20)]
            for leaver in leavers:
                await leaver.send(request(1.0) + request(2.0))
            for leaver in leavers:
                await leaver.close()
            patient = Client(server.port)
            await patient.send(request(3.0))
            assert answer(await patient.receive()) == 4.0
            assert answer(await busy.receive()) == 6.0
            while await in_flight(server):
                await asyncio.sleep(0.01)
            text = (await patient.get("/metrics")).body.decode()
            gone = [line for line in text.splitlines() if line.startswith("andon_requests_total") and "client-gone" in line]
            assert gone
            assert float(gone[0].split()[-1]) >= 20

    run(main())


def test_the_end_waits_for_who_is_being_answered(tmp_path: Path, disk_store: Store) -> None:
    line = Line(disk_store, tmp_path / "scratch")
    line.point(line.python(TEMPERAMENTAL))

    async def main() -> None:
        with Server(Path(disk_store.settings.home)) as server:
            await server.wait_ready()
            client, idle = Client(server.port), Client(server.port)
            assert answer(await idle.post("/predict", [{"x": 1.0, "k": 1}])) == 2.0
            await client.send(request(5.0))
            await asyncio.sleep(0.05)
            ending = asyncio.get_running_loop().run_in_executor(None, server.terminate)
            reply = await client.receive()
            assert answer(reply) == 6.0
            assert reply.headers["connection"] == "close"
            assert (await ending)[0] == 0
            with pytest.raises((Dropped, ConnectionError)):
                await idle.post("/predict", [{"x": 1.0, "k": 1}])

    run(main())


def test_a_connection_that_asks_for_nothing_more_is_closed(tmp_path: Path, disk_store: Store) -> None:
    line = Line(disk_store, tmp_path / "scratch")
    line.point(line.onnx())

    async def main() -> None:
        with Server(Path(disk_store.settings.home), constants={"KEEP_ALIVE_S": 1}) as server:
            await server.wait_ready()
            client = Client(server.port)
            assert answer(await client.post("/predict", [{"x": 1.0, "k": 1}])) == 3.0
            with pytest.raises(Dropped):
                await asyncio.wait_for(client.receive(), 10)

    run(main())
