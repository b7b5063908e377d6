"""Bad releases under traffic, with a real ``andon serve``: what cannot load never takes the service over, what took it over fails for
itself only, and going back is instant."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from andon.store import Store
from andon.store.schema import replicas
from tests.unit.serving.clients import Client, Dropped, Server, run
from tests.unit.serving.line import ECHO, Line, small_lock

QUICK = {"runner": {"load_timeout_s": 1.0, "batch_timeout_s": 0.5}}


@pytest.fixture
def line(disk_store: Store, tmp_path: Path) -> Line:
    return Line(disk_store, tmp_path / "scratch")


@pytest.fixture
def home(disk_store: Store) -> Path:
    return Path(disk_store.settings.home)


class Load:
    """Two clients that ask one after the other for as long as it runs, and what they got: (release or None, status)."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: list[tuple[str | None, int]] = []
        self._ids = itertools.count()

    async def ask(self, client: Client, x: float) -> tuple[str | None, int]:
        try:
            reply = await client.post("/predict", {"rows": [{"x": x, "k": 1}], "request_id": f"r{next(self._ids)}"})
        except Dropped:
            return None, 0
        if reply.status == 200:
            assert reply.json["outputs"][0]["y"] == pytest.approx(x + 1) or reply.json["outputs"][0]["y"] == x * 2 + 1
        return reply.headers.get("x-andon-release"), reply.status

    async def client(self, number: int) -> None:
        client = Client(self.port)
        while True:
            self.answers.append(await self.ask(client, float(number)))
            await asyncio.sleep(0.002)


@asynccontextmanager
async def load(server: Server) -> AsyncIterator[Load]:
    made = Load(server.port)
    tasks = [asyncio.ensure_future(made.client(number)) for number in (1, 2)]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        wrong = [outcome for outcome in outcomes if isinstance(outcome, AssertionError)]
        assert not wrong, wrong


def note_of(store: Store) -> str:
    with store.ledger.read() as connection:
        return str(connection.execute(select(replicas.c.note).order_by(replicas.c.started_us.desc())).scalar())


async def until(condition: Callable[[], Any], timeout_s: float = 15.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)


def with_server(line: Line, home: Path, good: str, use: Callable[[Server, Load], Awaitable[None]]) -> None:
    line.point(good)

    async def main() -> None:
        with Server(home, environ={"TMPDIR": str(home.parent)}) as server:
            await server.wait_release(good)
            async with load(server) as traffic:
                await use(server, traffic)
            assert server.terminate()[0] == 0

    run(main())


def test_what_cannot_load_never_answers_and_the_previous_release_never_fails(line: Line, home: Path, disk_store: Store) -> None:
    good = line.onnx((1.0, 1.0))
    lost = line.model({"echo_model.py": ECHO}, "python", "echo_model:Model")
    missing = line.release(lost)
    files = disk_store.blobs.tree(str(registry_manifest(disk_store, lost.address)["files"]))
    for digest in files.values():
        disk_store.blobs.local_path(digest).unlink()
    hang = "import time\nclass Model:\n    def predict(self, c):\n        time.sleep(60)\n"
    bad: dict[str, tuple[str, str]] = {
        "cannot be imported": (line.python("import nobody_has_this"), "No module named 'nobody_has_this'"),
        "is not there": (missing, "missing or damaged"),
        "is pinned to what nobody has": (line.python(ECHO + "#1", environment=small_lock(tinydep="9.9")), "tinydep==9.9"),
        "crashes at load": (line.python("import os; os.abort()"), "ended while loading"),
        "hangs at load": (line.python("import time; time.sleep(60)", settings=QUICK), "longer than 1 s"),
        "hangs at its example": (line.python(hang, settings=QUICK), "longer than 0.5 s"),
        "is too large": (
            line.python("held = bytearray(90 << 20)\n" + ECHO, settings={"runner": {"memory_mb": 60}}),
            "over its memory_mb of 60",
        ),
        "answers the wrong length": (line.python("class Model:\n    def predict(self, c): return {'y': c['x'][:1]}"), "one value for each"),
        "answers another type": (
            line.python("class Model:\n    def predict(self, c): return {'y': [{'a': 1}] * len(c['x'])}"),
            "another type",
        ),
        "asks for what there is not": (line.python(ECHO + "#2", settings={"runner": {"gpus": 8}}), "no such setting"),
    }

    async def use(server: Server, traffic: Load) -> None:
        before = len(traffic.answers)
        for name, (release, said) in bad.items():
            line.point(release)
            await until(lambda release=release: release in note_of(disk_store))
            assert said in note_of(disk_store), (name, note_of(disk_store))
        line.point(good)
        await until(lambda: note_of(disk_store) == "")
        assert len(traffic.answers) > before + 50
        assert set(traffic.answers) == {(good, 200)}
        assert server.children() == []  # and nothing of them is left

    with_server(line, home, good, use)


def registry_manifest(store: Store, address: str) -> dict[str, Any]:
    from andon import registry

    return dict(registry.get(store, address).manifest)


# What it does from its first request on; its example (k = 2 and 0) it still answers.
SPOILED = """
import os, subprocess, sys, time
held = []
class Model:
    def predict(self, columns):
        y = columns["x"] * 2 + 1
        if (columns["k"] == 1).any():
            %s
        return {"y": y}
"""


CASES: dict[str, tuple[str, set[int]]] = {
    "crashes": ("os._exit(3)", {500, 503}),
    "hangs": ("time.sleep(60)", {500, 503}),
    "leaks": ("held.append(bytearray(10 << 20)); time.sleep(0.002)", {200}),
    "devours": ("held.append(bytearray(4000 << 20))", {500}),
    "answers NaN": ("y = y * float('nan')", {500}),
    "answers too few": ("y = y[:0]", {500}),
    "answers another type": ("y = [{'a': 1}] * len(y)", {500}),
    "answers what is no value": ("y = [object()] * len(y)", {500}),
    "forks": ("os.fork()", {200}),
    "spawns": ("subprocess.Popen(['sleep', '60'])", {200, 500}),
    "shouts": ("print('x' * 3_000_000)", {200}),
    "eats files": ("held.extend(open('/dev/null') for _ in range(100))", {200, 500}),
    "leaves": ("raise SystemExit(0)", {500}),
}


def test_what_goes_wrong_under_traffic_fails_for_itself_and_going_back_is_instant(line: Line, home: Path) -> None:
    good = line.onnx((1.0, 1.0))
    settings = {"runner": {"batch_timeout_s": 0.3, "memory_mb": 150, "open_files": 256}}
    releases = {name: line.python(SPOILED % what, settings=settings) for name, (what, _) in CASES.items()}

    async def use(server: Server, traffic: Load) -> None:
        slowest = 0.0
        for name, bad in releases.items():
            start = len(traffic.answers)
            line.point(bad)
            await until(lambda bad=bad, start=start: any(release == bad for release, _ in traffic.answers[start:]))
            await asyncio.sleep(0.6)  # its share of the traffic
            at, asked = len(traffic.answers), time.monotonic()
            line.point(good)
            fresh = Client(server.port)
            while (await traffic.ask(fresh, 3.0)) != (good, 200):
                assert time.monotonic() - asked < 5, name
            await fresh.close()
            went_back_s = time.monotonic() - asked
            slowest = max(slowest, went_back_s)
            await until(lambda at=at: (good, 200) in traffic.answers[at:])
            later = [release for release, _ in traffic.answers[at:]]
            assert later[later.index(good) :].count(bad) <= 2, name  # each client may have had one question on its way
            assert went_back_s < 1.5, name  # until the move is seen, and a batch that hangs has run into its limit
        assert {release for release, _ in traffic.answers} == {good, *releases.values()}  # and not one connection was dropped
        assert {status for release, status in traffic.answers if release == good} == {200}
        for name, bad in releases.items():
            seen = {status for release, status in traffic.answers if release == bad}
            assert seen <= CASES[name][1], (name, seen)
        assert memory_mb(server.process.pid) < 400
        assert sum(file.stat().st_size for file in (home / "logs").glob("*")) < 60_000_000
        await until(lambda: len(server.children()) <= 1)  # of the release that was left last: it stays warm
        print(f"slowest return {slowest:.3f} s, {len(traffic.answers)} answers")

    with_server(line, home, good, use)
    assert not list(home.parent.glob("andon-run-*"))  # nothing is left on the disk either


def memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
