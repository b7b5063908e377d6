"""Deploy, promote, abort, roll back, upgrade and scale under load, with rollouts: how long until it is so, and what clients notice.

    python bench/rollouts_live.py            # some minutes

`andon serve` and `andon up` run in processes of their own; closed-loop clients, each request with a user's key, ask without pause, and
every answer is checked against the release that it names. Each move is a library call in this process. The clock runs from that call, its
commit included, to the arrival, at a client, of the last answer of the release that is left; for upgrades, until the new program answers.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _load import quantile
from _report import report
from andon import releases, rollouts
from andon.api.handover import read_note
from andon.autoscaling import ServingPolicy, register_serving_policy
from andon.core.actors import Actor
from andon.operations import moving, policies
from andon.store import Store, open_store, streams
from tests.unit.serving.line import Line

SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
ROUNDS, SLOW_ROUNDS = (1, 1) if SMOKE else (8, 3)
CONNECTIONS = 4
AROUND_S = 0.2 if SMOKE else 0.4
"""Latencies of so long before a move are compared with those of so long from it on."""
SERVICE = "bench"
ANA = Actor("person", "bench")
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_RELEASE = re.compile(rb"x-andon-release: (\S+)", re.IGNORECASE)


class Crowd:
    """Closed-loop clients of one port. A connection that the server announces to close is opened anew, as any client does."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.bias: dict[bytes, float] = {}
        self.seen: list[tuple[float, float]] = []  # when an answer came, and the seconds it took; perf_counter's clock
        self.last_s: dict[bytes, float] = {}
        self.failed = self.dropped = self.wrong = 0
        self.stopping = False
        rng = random.Random(7)
        self._requests = itertools.cycle([_request(f"user{rng.randrange(10_000)}") for _ in range(4_999)])
        self._tasks: set[asyncio.Task[Any]] = set()

    def open(self) -> None:
        """One more connection, soon."""
        task = asyncio.get_running_loop().create_task(self._open())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
        except OSError:
            self.dropped += 1
            await asyncio.sleep(0.05)
            self.open()

    def request(self) -> bytes | None:
        return None if self.stopping else next(self._requests)

    def answered(self, head: bytes, body: bytes, sent_s: float, received_s: float) -> None:
        found = _RELEASE.search(head)
        release = found[1] if found else b""
        self.last_s[release] = received_s
        if head[9:12] != b"200":
            self.failed += 1
            return
        self.seen.append((received_s, received_s - sent_s))
        expected = b'"outputs":[{"y":%.1f}]' % (3.0 + self.bias.get(release, -1e9))
        self.wrong += expected not in body or b'"release":"%s"' % release not in body

    def slowness_ms(self, since_s: float, until_s: float) -> list[float]:
        return [took_s * 1e3 for at_s, took_s in reversed(self.seen) if since_s < at_s <= until_s]


class _Connection(asyncio.Protocol):
    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._data = b""
        self._sent_s = 0.0
        self._waiting = False
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        request = self._crowd.request()
        if request is None:
            self._transport.close()
            return
        self._waiting, self._sent_s = True, time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        split = self._data.find(b"\r\n\r\n")
        if split < 0:
            return
        head = self._data[:split]
        found = _LENGTH.search(head)
        end = split + 4 + (int(found[1]) if found else 0)
        if len(self._data) < end:
            return
        body, self._data, self._waiting = self._data[split + 4 : end], self._data[end:], False
        self._crowd.answered(head, body, self._sent_s, time.perf_counter())
        if b"connection: close" in head.lower():
            self._transport.close()
            self._crowd.open()
        else:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._waiting:
            self._crowd.dropped += 1
            self._crowd.open()


def _request(user: str) -> bytes:
    body = b'{"rows":[{"x":1,"k":1}]}'
    head = b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nx-andon-key: %s\r\ncontent-length: %d\r\n\r\n"
    return head % (user.encode(), len(body)) + body


class Round(NamedTuple):
    """One move, as it was measured."""

    took_ms: float
    call_ms: float
    before_ms: list[float]
    during_ms: list[float]


class Bench:
    """A home with a service under load, and what was measured of each kind of move."""

    def __init__(self, store: Store, home: Path, process: subprocess.Popen[str], crowd: Crowd) -> None:
        self.store, self.home, self.process, self.crowd = store, home, process, crowd
        self.line = Line(store, home / "scratch", SERVICE)
        self._numbers = itertools.count(1)
        self.found: dict[str, list[Round]] = {}

    def release(self) -> str:
        """A new release, let through by its gate."""
        bias = float(next(self._numbers))
        made = self.line.onnx(bias=bias)
        body = {"release": made, "answer": 0, "verdicts": [], "policy": "policy:gate/bench@1"}
        at_us = self.store.clock.now_us()
        self.store.ledger.write(lambda c: streams.append(c, releases.stream_of(SERVICE), "judged", body, at_us=at_us, actor=ANA))
        self.crowd.bias[made.encode()] = bias
        return made

    async def answers(self, release: str) -> None:
        """Until a release is heard of from now on."""
        since_s, until_s = time.perf_counter(), time.monotonic() + 30
        while self.crowd.last_s.get(release.encode(), 0.0) <= since_s:
            if time.monotonic() > until_s:
                raise TimeoutError(f"{release} does not answer")
            await asyncio.sleep(0.01)

    async def shown(self, release: str, strategy: rollouts.Strategy) -> str:
        """A rollout whose candidate answers somebody by now."""
        state = await asyncio.to_thread(rollouts.start, self.store, release, strategy, actor=ANA)
        await self.answers(release)
        await asyncio.sleep(AROUND_S)
        return state.id

    async def move(self, what: str, left: str, call: Callable[[], Any]) -> None:
        """Measure one move that leaves ``left``."""
        began_s = time.perf_counter()
        await asyncio.to_thread(call)
        called_s = time.perf_counter()
        while time.perf_counter() - self.crowd.last_s[left.encode()] < AROUND_S:
            if time.perf_counter() - called_s > 30:
                raise TimeoutError(f"{what}: {left} still answers")
            await asyncio.sleep(0.01)
        self.keep(what, began_s, max(0.0, self.crowd.last_s[left.encode()] - began_s), called_s - began_s)

    def keep(self, what: str, began_s: float, took_s: float, call_s: float = 0.0) -> None:
        before = self.crowd.slowness_ms(began_s - AROUND_S, began_s)
        during = self.crowd.slowness_ms(began_s, began_s + max(took_s, AROUND_S))
        self.found.setdefault(what, []).append(Round(took_s * 1e3, call_s * 1e3, before, during))


async def rollouts_moves(bench: Bench) -> None:
    """One of each move that a rollout offers, or that comes into it; afterwards another release holds production than before."""
    store, canary = bench.store, rollouts.canary(steps=[30, 100], step="1h")
    old, why = bench.release(), "bench"
    await bench.move(
        "deploy",
        str(releases.service_state(store, SERVICE).current()),
        lambda: moving.deploy(old, why=why, store=store, actor=ANA),
    )
    one = bench.release()
    id_ = await bench.shown(one, canary)
    await bench.move("abort a canary", one, lambda: rollouts.steer(store, id_, "abort", actor=ANA, reason=why))
    two = bench.release()
    await bench.shown(two, canary)
    await bench.move("roll back in a canary", two, lambda: moving.rollback(SERVICE, why=why, store=store, actor=ANA))
    three, four = bench.release(), bench.release()
    await bench.shown(three, canary)
    await bench.move("deploy past a canary (--force)", old, lambda: moving.deploy(four, why=why, force=True, store=store, actor=ANA))
    five = bench.release()
    id_ = await bench.shown(five, canary)
    await bench.move("promote a canary", four, lambda: rollouts.steer(store, id_, "promote", actor=ANA, reason=why))
    await asyncio.sleep(AROUND_S)
    await bench.move("roll back after a promotion", five, lambda: moving.rollback(SERVICE, why=why, store=store, actor=ANA))
    six = bench.release()
    await bench.shown(six, rollouts.blue_green())
    await bench.move("roll back a blue-green switch", six, lambda: moving.rollback(SERVICE, why=why, store=store, actor=ANA))


async def upgrade(bench: Bench, what: str) -> None:
    """SIGHUP to what serves, in a canary, until the new program has taken over."""
    release = bench.release()
    id_ = await bench.shown(release, rollouts.canary(steps=[30, 100], step="1h"))
    generation, began_s = _generation(bench), time.perf_counter()
    bench.process.send_signal(signal.SIGHUP)
    while _generation(bench) == generation:
        if time.perf_counter() - began_s > 60:
            raise TimeoutError("the program was not replaced")
        await asyncio.sleep(0.01)
    await bench.answers(release)
    await asyncio.sleep(AROUND_S)
    bench.keep(what, began_s, time.perf_counter() - began_s - AROUND_S)
    await asyncio.to_thread(rollouts.steer, bench.store, id_, "end", actor=ANA, reason="bench")


async def scale(bench: Bench, what: str, n: int) -> None:
    began_s = time.perf_counter()
    policy = ServingPolicy(min_replicas=n, max_replicas=n)
    await asyncio.to_thread(register_serving_policy, bench.store, SERVICE, policy, actor=ANA)
    while len(replicas_of(bench.process.pid)) != n:
        if time.perf_counter() - began_s > 60:
            raise TimeoutError(f"there are not {n} replicas")
        await asyncio.sleep(0.01)
    bench.keep(what, began_s, time.perf_counter() - began_s)
    await asyncio.sleep(AROUND_S)


def _generation(bench: Bench) -> int:
    note = read_note(bench.store.settings, SERVICE)
    return -1 if note is None else note.generation


def replicas_of(pid: int) -> list[int]:
    """The processes that answer: children of a zygote."""

    def children(of: int) -> list[int]:
        try:
            return [int(child) for path in Path(f"/proc/{of}/task").glob("*/children") for child in path.read_text().split()]
        except OSError:
            return []

    return [replica for zygote in children(pid) for replica in children(zygote)]


async def one_process(bench: Bench) -> None:
    for _ in range(ROUNDS):
        await rollouts_moves(bench)
    for _ in range(SLOW_ROUNDS):
        await upgrade(bench, "upgrade in a canary, one process (SIGHUP)")


async def two_processes(bench: Bench) -> None:
    for _ in range(SLOW_ROUNDS):
        await scale(bench, "scale 2 to 3", 3)
        await scale(bench, "scale 3 to 2", 2)
        if not SMOKE:
            await upgrade(bench, "upgrade in a canary, two replicas (SIGHUP)")


def run(replicas: int, story: Callable[[Bench], Awaitable[None]]) -> list[list[object]]:
    """Rows of the table, of one service under load."""
    import uvloop

    with tempfile.TemporaryDirectory(prefix="andon-bench-") as scratch, open_store(Path(scratch)) as store:
        home = Path(scratch)
        if replicas > 1:
            register_serving_policy(store, SERVICE, ServingPolicy(min_replicas=replicas, max_replicas=replicas), actor=ANA)
        crowd = Crowd(0)
        process, plane = subprocess.Popen(["true"]), subprocess.Popen(["true"])
        bench = Bench(store, home, process, crowd)
        moving.deploy(bench.release(), why="bench", store=store, actor=ANA)
        policies.register_policy(f"rollout/{SERVICE}", {"analysis": {"latency": None}}, store=store, actor=ANA)
        try:
            bench.process = process = _start(home, "serve", SERVICE)
            crowd.port = int((process.stdout.readline() if process.stdout else "").rpartition(":")[2])
            plane = _start(home, "up", "--no-serve", "--port", "0")
            _ = plane.stdout.readline() if plane.stdout else ""
            uvloop.run(_under_load(bench, story))
        finally:
            for one in (plane, process):
                one.terminate()
                one.wait()
    told = crowd.failed, crowd.dropped, crowd.wrong
    return [_row(what, rounds, told) for what, rounds in bench.found.items()]


async def _under_load(bench: Bench, story: Callable[[Bench], Awaitable[None]]) -> None:
    for _ in range(CONNECTIONS):
        bench.crowd.open()
    await bench.answers(str(releases.service_state(bench.store, SERVICE).current()))
    await asyncio.sleep(1.0)
    await story(bench)
    bench.crowd.stopping = True
    await asyncio.sleep(0.5)


def _start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "andon", *arguments, "--home", str(home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _row(what: str, rounds: list[Round], told: tuple[int, int, int]) -> list[object]:
    took = [one.took_ms for one in rounds]
    before = [ms for one in rounds for ms in one.before_ms]
    during = [ms for one in rounds for ms in one.during_ms]
    call = quantile([one.call_ms for one in rounds], 0.5) if any(one.call_ms for one in rounds) else "-"
    return [what, len(took), quantile(took, 0.5), max(took), call, quantile(before, 0.99), quantile(during, 0.99), max(during), *told]


def main() -> None:
    rows = [*run(1, one_process), *run(2, two_processes)]
    report(
        "rollouts_live",
        f"Moves under load ({CONNECTIONS} closed-loop connections) with rollouts: from the call to the last answer of the release left",
        ["move", "times", "p50 ms", "max ms", "call ms", "p99 before ms", "p99 during ms", "longest ms", "failed", "dropped", "wrong"],
        rows,
        f"SQLite ledger, synchronous=FULL; ONNX in the front; the control plane on the same cores; `call`: the part that the library call "
        f"took, its commit included; p99 of requests {AROUND_S:g} s before a move and from it on; failed, dropped and wrong count every "
        "request of the whole run, with one process or with several; the guard on latency is off, so that no rollout ends by itself",
    )
    if any(row[-3:] != [0, 0, 0] for row in rows):
        sys.exit("some request failed")


if __name__ == "__main__":
    main()
