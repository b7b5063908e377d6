"""What goes wrong around a replica, and what its clients then see: a clear error for whom it concerns, and nothing for the others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from andon.api.serving_server import listen, serve
from andon.core.errors import PortTaken
from andon.store import Store
from andon.store.schema import replicas
from tests.unit.serving.clients import Client, Dropped, Reply, Server, run
from tests.unit.serving.line import Line, small_lock

# x: 7 answers NaN, 66 ends the process, 5 takes its time, a negative number raises
TEMPERAMENTAL = """
import os, time

class Model:
    def __init__(self, folder):
        pass
    def predict(self, columns):
        x = columns["x"]
        if (x == 66).any():
            os._exit(1)
        if (x == 5).any():
            time.sleep(0.4)
        if (x < 0).any():
            raise ValueError("no roots of negative numbers")
        y = x + columns["k"]
        y[x == 7] = float("nan")
        return {"y": y}
"""


@pytest.fixture
def line(disk_store: Store, tmp_path: Path) -> Line:
    return Line(disk_store, tmp_path / "scratch")


@pytest.fixture
def home(disk_store: Store) -> Path:
    return Path(disk_store.settings.home)


@pytest.fixture
def temperamental(line: Line, home: Path) -> Iterator[Server]:
    """A replica of a model in a child process."""
    line.point(line.python(TEMPERAMENTAL))
    with Server(home) as server:
        run(server.wait_ready())
        yield server


def note_of(store: Store) -> str:
    with store.ledger.read() as connection:
        return str(connection.execute(select(replicas.c.note).order_by(replicas.c.started_us.desc())).scalar())


async def until(condition: Any, timeout_s: float = 10.0) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.02)
    return found


async def ask(port: int, x: float, k: int = 1) -> Reply:
    client = Client(port)
    try:
        return await client.post("/predict", {"rows": [{"x": x, "k": k}]})
    finally:
        await client.close()


# --- the model


def test_a_bad_row_fails_its_own_request_only(temperamental: Server, disk_store: Store) -> None:
    async def main() -> None:
        slow = asyncio.ensure_future(ask(temperamental.port, 5))
        await asyncio.sleep(0.1)  # the others queue behind it and share a batch
        replies = await asyncio.gather(*(ask(temperamental.port, x) for x in (1, -1, 2, 7, 3)))
        assert [reply.status for reply in replies] == [200, 500, 200, 500, 200]
        assert (await slow).json["outputs"] == [{"y": 6.0}]
        assert [replies[at].json["outputs"][0]["y"] for at in (0, 2, 4)] == [2.0, 3.0, 4.0]
        raised, nan = replies[1].json["error"], replies[3].json["error"]
        assert raised["code"] == nan["code"] == "model-failed"
        assert "no roots of negative numbers" in raised["message"]
        assert "traceback" not in raised["fields"]  # that is in the replica's log
        assert "/" not in raised["message"]
        assert nan["fields"]["field"] == "y"

    run(main())
    assert temperamental.terminate()[0] == 0
    logged = disk_store.tables.query('select "input.x" as x from "predictions/bikes"').to_pylist()
    assert sorted(row["x"] for row in logged) == [1, 2, 3, 5]  # exactly what was answered


def test_a_child_killed_in_the_middle_of_a_batch_costs_nobody_an_answer(temperamental: Server) -> None:
    async def main() -> None:
        (child,) = temperamental.children()
        slow = asyncio.ensure_future(ask(temperamental.port, 5))
        await asyncio.sleep(0.15)
        behind = [asyncio.ensure_future(ask(temperamental.port, x)) for x in (1, 2)]
        os.kill(child, signal.SIGKILL)
        assert (await slow).json["outputs"] == [{"y": 6.0}]
        assert [(await reply).status for reply in behind] == [200, 200]
        assert temperamental.children() != [child]

    run(main())


def test_a_request_that_ends_the_process_fails_alone(temperamental: Server) -> None:
    async def main() -> None:
        slow = asyncio.ensure_future(ask(temperamental.port, 5))
        await asyncio.sleep(0.1)
        replies = await asyncio.gather(*(ask(temperamental.port, x) for x in (1, 66, 2)))
        assert [reply.status for reply in replies] == [200, 500, 200]
        assert "twice" in replies[1].json["error"]["message"]
        assert (await slow).status == 200
        assert (await ask(temperamental.port, 3)).status == 200

    run(main())


def test_clients_that_leave_in_the_middle_of_a_batch_disturb_nobody(temperamental: Server) -> None:
    async def main() -> None:
        slow = asyncio.ensure_future(ask(temperamental.port, 5))
        await asyncio.sleep(0.1)
        for x in range(10, 30):
            client = Client(temperamental.port)
            body = json.dumps({"rows": [{"x": x, "k": 0}]}).encode()
            await client.send(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await client.close()
        replies = await asyncio.gather(*(ask(temperamental.port, x) for x in range(100, 120)))
        assert [reply.json["outputs"][0]["y"] for reply in replies] == [x + 1 for x in range(100, 120)]
        assert (await slow).status == 200

    run(main())


# --- releases that cannot be


def test_a_release_that_cannot_load_changes_nothing_but_the_note(line: Line, home: Path, disk_store: Store) -> None:
    good = line.onnx()
    line.point(good)
    bad = {
        "raises at import": (line.python("raise RuntimeError('not today')"), "not today"),
        "ends at import": (line.python("import os; os._exit(3)"), "process ended while loading"),
        "is not ONNX": (line.release(line.model({"model.onnx": b"junk"}, "onnx", "model.onnx")), "could not be loaded"),
        "fails on its example": (line.python(TEMPERAMENTAL, example=({"x": -1.0, "k": 1},)), "own example"),
        "answers NaN to its example": (line.python(TEMPERAMENTAL, example=({"x": 7.0, "k": 1},)), "NaN"),
        "needs what nobody has": (line.python(environment=small_lock(tinydep="9.9")), "tinydep==9.9"),
        "has another output": (
            line.python("class Model:\n  def __init__(s, f): pass\n  def predict(s, c): return {'z': c['x']}"),
            "this output",
        ),
    }

    async def main() -> None:
        with Server(home) as server:
            await server.wait_release(good)
            for name, (release, said) in bad.items():
                line.point(release)
                await until(lambda release=release: release in note_of(disk_store))
                assert said in note_of(disk_store), name
                assert (await ask(server.port, 1)).json["release"] == good
            line.point(good)
            await until(lambda: note_of(disk_store) == "")
            assert (await server.wait_ready()).json["release"] == good
            metrics = (await Client(server.port).get("/metrics")).body.decode()
            assert f'andon_load_failures_total{{service="bikes"}} {len(bad)}' in metrics
            code, errors = server.terminate()
            assert code == 0
            assert "Traceback" not in errors.replace("Traceback (most recent call last)", "", 2) or "could not be loaded" in errors

    run(main())


def test_nothing_to_serve_is_said_and_then_served(line: Line, home: Path) -> None:
    async def main() -> None:
        with Server(home) as server:
            client = Client(server.port)
            reply = await client.get("/health")
            assert reply.status == 503
            assert "retry-after" in reply.headers
            refused = await client.post("/predict", {"rows": [{"x": 1, "k": 1}]})
            assert (refused.status, refused.json["error"]["code"]) == (503, "unavailable")
            await asyncio.sleep(0.1)
            assert "points to no release yet" in (await client.get("/health")).json["error"]["message"]
            release = line.onnx()
            line.point(release)
            await server.wait_release(release)
            assert (await client.post("/predict", {"rows": [{"x": 1, "k": 1}]})).status == 200

    run(main())


# --- the ledger


def test_a_locked_ledger_is_not_noticed_by_requests(line: Line, home: Path) -> None:
    first, second = line.onnx(), line.onnx((1.0, 1.0))
    line.point(first)

    async def main() -> None:
        with Server(home) as server:
            await server.wait_release(first)
            blocker = sqlite3.connect(home / "ledger.db", isolation_level=None)
            blocker.execute("begin exclusive")
            slowest = 0.0
            until_s = time.monotonic() + 2.5  # longer than a heartbeat
            while time.monotonic() < until_s:
                started = time.perf_counter()
                assert (await ask(server.port, 1)).status == 200
                slowest = max(slowest, time.perf_counter() - started)
            assert slowest < 1.0
            blocker.execute("rollback")
            blocker.close()
            line.point(second)
            await server.wait_release(second)
            assert server.terminate()[0] == 0

    run(main())


def test_the_data_plane_goes_on_without_its_ledger(line: Line, home: Path) -> None:
    first, second = line.onnx(), line.onnx((1.0, 1.0))
    line.point(first)

    async def main() -> None:
        with Server(home) as server:
            await server.wait_release(first)
            files = list(home.glob("ledger.db*"))
            away = home / "away"
            away.mkdir()
            for file in files:
                file.rename(away / file.name)
            for _ in range(20):
                assert (await ask(server.port, 1)).json["release"] == first
                await asyncio.sleep(0.02)
            for file in files:
                (away / file.name).rename(file)
            line.point(second)
            await server.wait_release(second)
            os.kill(server.process.pid, signal.SIGKILL)

    run(main())
    rows = line.store.tables.query('select count(*) as n from "predictions/bikes"').to_pylist()
    assert rows == [{"n": 20}]  # what was answered is in the log after kill -9


def test_a_log_that_cannot_be_written_costs_no_answer_and_is_counted(line: Line, home: Path, disk_store: Store) -> None:
    line.point(line.onnx())

    async def main() -> None:
        with Server(home, environ={"ANDON_FAULT": "segment.write:2=ENOSPC"}) as server:
            await server.wait_ready()
            replies = [await ask(server.port, x) for x in range(4)]
            assert [reply.status for reply in replies] == [200] * 4
            metrics = (await Client(server.port).get("/metrics")).body.decode()
            assert 'andon_prediction_log_dropped_rows_total{service="bikes"} 1' in metrics
            assert server.terminate()[0] == 0

    run(main())
    assert len(disk_store.tables.query('select request_id from "predictions/bikes"').to_pylist()) == 3


# --- requests


def test_bad_requests_get_a_clear_answer(line: Line, home: Path) -> None:
    line.point(line.onnx())
    cases: list[tuple[str, str, bytes, dict[str, str], int, str]] = [
        ("POST", "/predict", b"", {}, 400, "not JSON"),
        ("POST", "/predict", b'{"rows": [{"x": NaN, "k": 1}]}', {}, 400, "byte"),
        ("POST", "/predict", b'{"rows": [{"x": 1}]}', {}, 400, "rows[0].k"),
        ("POST", "/predict", b'{"rows": [{"x": 1, "k": 1, "z": 1}]}', {}, 400, "rows[0].z"),
        ("POST", "/predict", b"[" * 200_000, {}, 400, "nested too deeply"),
        ("POST", "/predict", b'{"a":' * 200_000, {}, 400, "nested too deeply"),
        ("POST", "/predict", b"{}", {"content-encoding": "gzip"}, 400, "gzip"),
        ("POST", "/predict", b"{}", {"content-encoding": "br"}, 400, "content-encoding"),
        ("POST", "/predict", b'[{"x": 1, "k": 1}]', {"x-request-id": "a b"}, 400, "request id"),
        ("GET", "/predict", b"", {}, 405, "takes POST"),
        ("GET", "/nothing", b"", {}, 404, "nothing at /nothing"),
        ("GET", "/health", b"", {"origin": "http://evil.example"}, 403, "origin"),
        ("POST", "/labels", b'{"labels": [{"label": 1}]}', {}, 400, "request_id"),
        ("POST", "/labels", b'{"labels": [{"request_id": "a", "label": 1e999}]}', {}, 400, "out of range"),
        ("POST", "/labels", b'{"labels": [{"request_id": "a", "label": 1, "event_time": "noon"}]}', {}, 400, "labels[0].event_time"),
        ("GET", "/v2/models/other", b"", {}, 404, "serves the model"),
        ("POST", "/v2/models/bikes/infer", b"{}", {}, 400, "inputs"),
        ("POST", "/v2/models/bikes/infer", b"[" * 200_000, {}, 400, "body"),
    ]

    async def main() -> None:
        with Server(home) as server:
            await server.wait_ready()
            for method, path, body, headers, status, said in cases:
                reply = await Client(server.port).ask(method, path, body, headers)
                assert reply.status == status, (path, body[:50], reply.body)
                assert said in reply.body.decode(), (path, body[:50], reply.body)
                if not path.startswith("/v2"):
                    assert set(reply.json["error"]) == {"code", "message", "next_step", "fields"}
            raw = Client(server.port)
            await raw.send(b"GET /health HTTP/1.1\r\nhost: evil.example\r\n\r\n")
            assert (await raw.receive()).status == 403
            raw = Client(server.port)
            await raw.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 200_000)
            assert (await raw.receive()).status == 431
            raw = Client(server.port)
            await raw.send(b"\x00\x01\x02\r\n\r\n")
            assert (await raw.receive()).status == 400
            _, errors = server.terminate()
            assert "defect" not in errors

    run(main())


@pytest.mark.parametrize("form", ["declared", "chunked", "lying"])
def test_a_hundred_megabytes_are_refused_without_being_kept(line: Line, home: Path, form: str) -> None:
    line.point(line.onnx())
    size, piece = 100_000_000, b" " * 250_000

    async def main() -> None:
        with Server(home, max_body_bytes=8_000_000, constants={"READ_TIMEOUT_S": 1.0}) as server:
            await server.wait_ready()
            assert (await ask(server.port, 1)).status == 200  # the first answer loads libraries: Arrow takes pandas in, where there is one
            before = peak_kb(server.process.pid)
            client = Client(server.port)
            if form == "lying":  # says more than it sends
                await client.send(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{")
                assert (await client.receive()).status == 408
            else:
                length = b"content-length: %d" % size if form == "declared" else b"transfer-encoding: chunked"
                await client.send(b"POST /predict HTTP/1.1\r\nhost: localhost\r\n" + length + b"\r\n\r\n")
                for _ in range(size // len(piece)):
                    await client.send(piece if form == "declared" else b"%x\r\n%s\r\n" % (len(piece), piece))
                if form == "chunked":
                    await client.send(b"0\r\n\r\n")
                reply = await client.receive()
                assert (reply.status, reply.json["error"]["code"]) == (413, "too-large")
            assert (await ask(server.port, 1)).status == 200
            assert peak_kb(server.process.pid) - before < 40_000

    run(main())


def peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_a_slow_loris_is_shown_out(line: Line, home: Path) -> None:
    line.point(line.onnx())

    async def main() -> None:
        with Server(home, constants={"READ_TIMEOUT_S": 0.5}) as server:
            await server.wait_ready()
            silent, slow, idle = Client(server.port), Client(server.port), Client(server.port)
            await silent.connect()
            await slow.send(b"POST /predict HTTP/1.1\r\n")
            assert (await idle.get("/health")).status == 200  # an idle connection is no loris
            started = time.monotonic()
            for client in (silent, slow):
                assert (await client.receive()).status == 408
            assert time.monotonic() - started < 4
            await asyncio.sleep(1.5)
            assert (await idle.get("/health")).status == 200

    run(main())


# --- the process


def test_a_taken_port_is_said(home: Path, disk_store: Store) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=str(port)):
            serve(disk_store.settings, "bikes", port=port)


@pytest.mark.parametrize("model", ["onnx", "python"])
def test_sigterm_under_load_drops_nothing(line: Line, home: Path, disk_store: Store, model: str) -> None:
    line.point(line.onnx() if model == "onnx" else line.python())

    async def client(port: int, seen: list[int]) -> None:
        connection = Client(port)
        await connection.connect()
        while True:
            reply = await connection.post("/predict", {"rows": [{"x": 1, "k": 1}]})
            seen.append(reply.status)
            if reply.headers.get("connection") == "close":
                return

    async def main() -> list[int]:
        with Server(home) as server:
            await server.wait_ready()
            seen: list[int] = []
            clients = [asyncio.ensure_future(client(server.port, seen)) for _ in range(12)]
            await asyncio.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(*clients), 10)  # nobody was `Dropped`
            _, errors = server.process.communicate(timeout=20)
            assert (server.process.returncode, errors) == (0, "")
            return seen

    seen = run(main())
    assert set(seen) == {200}
    logged = disk_store.tables.query('select count(*) as n from "predictions/bikes"').to_pylist()
    assert logged == [{"n": len(seen)}]
    with disk_store.ledger.read() as connection:
        assert [row.status for row in connection.execute(select(replicas))] == ["gone"]


def test_sigterm_does_not_wait_for_a_build(line: Line, home: Path, tmp_path: Path) -> None:
    """pip is made to hang on an index that accepts connections and says nothing."""
    good = line.onnx()
    line.point(good)

    async def main() -> None:
        with listen("127.0.0.1", 0) as silent:
            index = f"http://127.0.0.1:{silent.getsockname()[1]}/"
            with Server(
                home, environ={"PIP_NO_INDEX": "0", "PIP_INDEX_URL": index, "PIP_CONFIG_FILE": os.devnull, "no_proxy": "*"}
            ) as server:
                await server.wait_release(good)
                line.point(line.python(environment=small_lock(tinydep="9.9")))
                asked, _ = await asyncio.get_running_loop().sock_accept(silent)  # by pip
                with asked:
                    assert (await ask(server.port, 1)).json["release"] == good
                    started = time.monotonic()
                    assert server.terminate()[0] == 0
                    assert time.monotonic() - started < 8

    run(main())


def test_children_end_with_their_front(temperamental: Server) -> None:
    (child,) = temperamental.children()

    async def main() -> None:
        stuck = asyncio.ensure_future(ask(temperamental.port, 5))
        await asyncio.sleep(0.1)
        temperamental.kill()
        with pytest.raises(Dropped):
            await stuck
        await until(lambda: not Path(f"/proc/{child}").exists() or "(zombie)" in Path(f"/proc/{child}/status").read_text())

    run(main())


def test_nagle_is_off(line: Line, home: Path) -> None:
    line.point(line.onnx())
    with Server(home) as server:
        run(server.wait_ready())
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            body = b'[{"x": 1, "k": 1}]'
            request = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            times = []
            for _ in range(30):
                started = time.perf_counter()
                connection.sendall(request)
                connection.recv(4096)
                times.append(time.perf_counter() - started)
    assert sorted(times)[15] < 0.02  # delayed acknowledgements would make it 0.04


def test_the_row_of_a_replica_says_where_and_what(line: Line, home: Path, disk_store: Store) -> None:
    release = line.onnx()
    line.point(release)
    with Server(home) as server:
        run(server.wait_ready())

        async def ready() -> Any:
            return await until(lambda: msgspec.to_builtins([row for row in rows(disk_store) if row["status"] == "ready"]))

        (row,) = run(ready())
        assert (row["service"], row["url"], row["pid"], row["release"], row["note"]) == (
            "bikes",
            server.url,
            server.process.pid,
            release,
            "",
        )


def rows(store: Store) -> list[dict[str, Any]]:
    with store.ledger.read() as connection:
        return [dict(row._mapping) for row in connection.execute(select(replicas))]
