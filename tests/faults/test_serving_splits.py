"""A real replica under a split: a bad candidate is its own trouble, and a killed replica loses a moment of exposures at most."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from andon.releases.splits import assign
from andon.serving.presence import Load
from andon.store import Store
from andon.store.schema import replicas
from tests.unit.serving.clients import Client, Server, run
from tests.unit.serving.line import ECHO, Line
from tests.unit.serving.splitting import a_mirror, a_split, exposures, put_split

CRASHES = ECHO.replace('return {"y"', 'import os\n        os._exit(3)\n        return {"y"')
HANGS = ECHO.replace('return {"y"', 'import time\n        time.sleep(60)\n        return {"y"')
NONSENSE = ECHO.replace('columns["x"] + columns["k"]', 'columns["x"] * float("nan")')
NAMES = [f"r{at:03}" for at in range(120)]


@pytest.fixture
def line(disk_store: Store, tmp_path: Path) -> Line:
    return Line(disk_store, tmp_path / "scratch")


@pytest.fixture
def home(disk_store: Store) -> Path:
    return Path(disk_store.settings.home)


def loads(store: Store) -> list[Load]:
    with store.ledger.read() as connection:
        rows = connection.execute(select(replicas.c.load).where(replicas.c.status == "ready")).scalars().all()
    return [msgspec.json.decode(row, type=Load) for row in rows if row]


async def says(store: Store, release: str) -> Load:
    """Wait until the replica's row says that it holds a release, or why it does not."""
    until = time.monotonic() + 30
    while True:
        for load in loads(store):
            if load.split_revision and (release in load.holds or release in load.failing):
                return load
        assert time.monotonic() < until, loads(store)
        await asyncio.sleep(0.02)


async def ask(port: int, name: str) -> tuple[str, int, str]:
    client = Client(port)
    reply = await client.post("/predict", [{"x": 1.0, "k": 1}], {"x-request-id": name, "x-request-timeout-ms": "1500"})
    await client.close()
    return name, reply.status, reply.headers.get("x-andon-release", "")


@pytest.mark.parametrize("kind", ["junk", "crashes", "hangs", "nonsense"])
def test_a_bad_candidate_is_its_own_trouble(line: Line, home: Path, disk_store: Store, kind: str) -> None:
    good = line.onnx()
    if kind == "junk":
        bad = line.release(line.model({"model.onnx": b"junk"}, "onnx", "model.onnx"))
    else:
        bad = line.python({"crashes": CRASHES, "hangs": HANGS, "nonsense": NONSENSE}[kind], example=())
    line.point(good)
    split = a_split(good, bad, 3_000)

    async def main() -> list[tuple[str, int, str]]:
        with Server(home) as server:
            await server.wait_ready()
            put_split(line, split)
            await says(disk_store, bad)
            found = await asyncio.gather(*(ask(server.port, name) for name in NAMES))
            assert (await ask(server.port, "after"))[1] in (200, 429, 500, 503, 504)
            put_split(line, None)
            until = time.monotonic() + 10
            while not any(load.split_revision == 0 for load in loads(disk_store)):
                assert time.monotonic() < until
                await asyncio.sleep(0.02)
            assert (await ask(server.port, "last"))[1:] == (200, good)  # and with the split it is gone
            assert server.terminate()[0] == 0
        return found

    found = run(main())
    mine = {name for name in NAMES if assign(split, name).release == good}
    assert {reply[1:] for reply in found if reply[0] in mine} == {(200, good)}
    others = Counter(reply[1] for reply in found if reply[0] not in mine)
    # While its process is down, production answers.
    assert set(others) <= {"junk": {200}, "crashes": {200, 429, 500, 503, 504}}.get(kind, {429, 500, 503, 504})
    shown = {row[0]: row for row in exposures(line)}
    assert set(shown) >= set(NAMES)
    assert {shown[name][2:] for name in mine} == {("production", good, "ok")}
    wrong = {shown[name][2:4] for name in NAMES if name not in mine}
    assert wrong == {("candidate", bad)}
    statuses = {shown[name][4] for name in NAMES if name not in mine}
    assert "ok" not in statuses
    if kind == "junk":
        assert statuses == {"unavailable-here"}


@pytest.mark.parametrize("kind", ["crashes", "hangs"])
def test_a_bad_shadow_is_nobodys_trouble(line: Line, home: Path, disk_store: Store, kind: str) -> None:
    good, bad = line.onnx(), line.python({"crashes": CRASHES, "hangs": HANGS}[kind], example=())
    line.point(good)
    put_split(line, a_mirror(good, bad))

    async def main() -> None:
        with Server(home) as server:
            await server.wait_ready()
            await says(disk_store, bad)
            slowest = 0.0
            for name in NAMES:
                started = time.monotonic()
                assert (await ask(server.port, name))[1:] == (200, good)
                slowest = max(slowest, time.monotonic() - started)
            assert slowest < 0.5
            await asyncio.sleep(0.2)
            assert server.terminate()[0] == 0

    run(main())
    assert {row[2:] for row in exposures(line) if row[2] == "production"} == {("production", good, "ok")}
    assert not [row for row in exposures(line) if row[2] == "shadow" and row[4] == "ok"]


def test_a_killed_replica_loses_a_moment_of_exposures_at_most(line: Line, home: Path, disk_store: Store) -> None:
    old, new = line.onnx(), line.onnx(bias=1.0)
    line.point(old)
    put_split(line, a_split(old, new))

    async def main() -> dict[str, float]:
        answered: dict[str, float] = {}

        async def keep_asking(port: int, who: int) -> None:
            client = Client(port)
            for at in range(100_000):
                name = f"r{who}-{at}"
                try:
                    reply = await client.post("/predict", [{"x": 1.0, "k": 1}], {"x-request-id": name})
                except Exception:  # it has been killed
                    return
                assert reply.status == 200
                answered[name] = time.monotonic()

        with Server(home) as server:
            await server.wait_ready()
            await says(disk_store, new)
            asking = [asyncio.ensure_future(keep_asking(server.port, who)) for who in range(4)]
            await asyncio.sleep(0.8)
            killed_s = time.monotonic()
            server.process.kill()
            await asyncio.gather(*asking)
        return {name: killed_s - at_s for name, at_s in answered.items()}

    ages_s = run(main())
    shown = {row[0] for row in exposures(line)}
    assert len(ages_s) > 50
    lost = [age_s for name, age_s in ages_s.items() if name not in shown]
    assert all(age_s < 0.3 for age_s in lost), lost  # 50 ms, and what a busy machine adds


def test_headers_say_who_asks_and_how_long_they_wait(line: Line, home: Path, disk_store: Store) -> None:
    old, new = line.onnx(), line.onnx(bias=1.0)
    line.point(old)
    split = a_split(old, new)
    put_split(line, split)

    async def main() -> None:
        with Server(home) as server:
            await server.wait_ready()
            await says(disk_store, new)
            client = Client(server.port)

            async def post(headers: dict[str, str]) -> Any:
                return await client.post("/predict", [{"x": 1.0, "k": 1}], headers)

            for key in ("ana", "ben", "cem", "dora"):
                seen = {(await post({"x-andon-key": key})).headers["x-andon-release"] for _ in range(5)}
                assert seen == {assign(split, key).release}
            assert (await post({"x-request-timeout-ms": "60000", "x-andon-client": "shop"})).status == 200
            for wrong in ("0", "-5", "soon", "1.5", "3600001", "9" * 30):
                reply = await post({"x-request-timeout-ms": wrong})
                assert (reply.status, reply.json["error"]["fields"]["field"]) == (400, "x-request-timeout-ms")
            assert server.terminate()[0] == 0

    run(main())
    assert {row[1] for row in exposures(line)} > {"ana", "ben", "cem", "dora"}


def test_no_request_fails_while_a_split_comes_grows_and_ends(line: Line, home: Path, disk_store: Store) -> None:
    old, new = line.onnx(), line.python(ECHO)
    line.point(old)
    statuses: Counter[int] = Counter()
    seen: Counter[str] = Counter()

    async def keep_asking(port: int, stop: asyncio.Event) -> None:
        client = Client(port)
        while not stop.is_set():
            reply = await client.post("/predict", [{"x": 1.0, "k": 1}])
            statuses[reply.status] += 1
            seen[reply.headers["x-andon-release"]] += 1

    async def main() -> None:
        with Server(home) as server:
            await server.wait_ready()
            stop = asyncio.Event()
            asking = [asyncio.ensure_future(keep_asking(server.port, stop)) for _ in range(8)]
            put_split(line, a_split(old, new, 0))  # first it is loaded, then it is asked
            await says(disk_store, new)
            for revision, share in enumerate((500, 5_000, 10_000), start=2):
                put_split(line, a_split(old, new, share))
                while not any(load.split_revision == revision for load in loads(disk_store)):
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.15)
            line.point(new)
            put_split(line, None)
            await server.wait_release(new)
            line.point(old)
            await server.wait_release(old)
            stop.set()
            await asyncio.gather(*asking)
            assert server.terminate()[0] == 0

    run(main())
    assert statuses.keys() == {200}
    assert min(seen[old], seen[new]) > 50
    assert {row[4] for row in exposures(line)} == {"ok"}
