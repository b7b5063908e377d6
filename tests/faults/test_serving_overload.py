"""Three times more requests than a replica can answer: what it answers is in time, the rest hears so at once, and nothing is crossed.

Most of it runs in virtual time (`tests/unit/serving/virtual.py`), so that the numbers are the same on every machine; the last test asks a
real server.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from andon.core.errors import AndonError, Busy, DeadlineExceeded, ModelFailed
from andon.serving.asking import Query
from andon.serving.batching import Batcher, Work
from andon.serving.callers import Caller, ClientGone
from andon.serving.front import Front
from andon.serving.options import BatchOptions, Options, QueueOptions
from andon.store import Store
from tests.unit.serving.clients import Client, Dropped, Server, run
from tests.unit.serving.line import Line
from tests.unit.serving.splitting import Source, until, with_front
from tests.unit.serving.virtual import run_virtually

FIXED_S, ROW_S, BATCH_ROWS = 0.005, 0.000_02, 16
DEADLINE_S = 0.1
SECONDS = 4.0

SLEEPS = """
import time
class Model:
    def __init__(self, folder): pass
    def predict(self, columns):
        time.sleep(0.005)
        return {"y": columns["x"] + columns["k"]}
"""


class Model:
    """About 5 ms a batch, give or take a fifth."""

    healthy = True
    slots = 1

    def __init__(self, seed: int = 1) -> None:
        self._chance = random.Random(seed)

    def cheap(self, n: int) -> bool:
        return False

    def run_now(self, columns: dict[str, Any], n: int) -> dict[str, Any]:
        raise NotImplementedError

    async def run(self, columns: dict[str, Any], n: int) -> dict[str, Any]:
        await asyncio.sleep((FIXED_S + ROW_S * n) * self._chance.uniform(0.8, 1.2))
        return {"y": columns["x"] * 2}

    async def close(self) -> None:
        pass


def merge(batch: Sequence[Work]) -> dict[str, Any]:
    return {"x": np.array([row[0] for work in batch for row in work.rows or ()])}


def finish(batch: Sequence[Work], inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    at = 0
    for work in batch:
        if not work.future.done():
            work.future.set_result(outputs["y"][at : at + work.n].tolist())
        at += work.n


class Offered:
    """An open loop: requests come when they come, whatever has become of the ones before."""

    def __init__(self, batcher: Batcher, deadline_s: float) -> None:
        self._batcher = batcher
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._asked: list[asyncio.Task[None]] = []
        self.latencies_s: dict[str, list[float]] = {}
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.refused_after_s = 0.0

    async def _ask(self, client: str, value: float) -> None:
        started_s = self._loop.time()
        work = Work(1, [(value,)], None, "r", [], 0, "production", self._loop.create_future(), started_s=started_s)
        work.client, work.deadline_s = client, started_s + self._deadline_s
        try:
            self._batcher.submit(work)
            assert await work.future == [value * 2]
        except AndonError as error:
            self.outcomes[client, error.code] += 1
            if isinstance(error, Busy):
                self.refused_after_s = max(self.refused_after_s, self._loop.time() - started_s)
        else:
            self.outcomes[client, "ok"] += 1
            self.latencies_s.setdefault(client, []).append(self._loop.time() - started_s)

    async def offer(self, rates: dict[str, float], seconds: float, seed: int = 2) -> None:
        """Poisson arrivals of each client at its rate a second."""
        chance = random.Random(seed)
        total = sum(rates.values())
        end_s, at = self._loop.time() + seconds, 0
        while self._loop.time() < end_s:
            await asyncio.sleep(chance.expovariate(total))
            client = chance.choices(list(rates), list(rates.values()))[0]
            self._asked.append(asyncio.create_task(self._ask(client, float(at))))
            at += 1
        await asyncio.gather(*self._asked)

    def codes(self, client: str = "") -> Counter[str]:
        found: Counter[str] = Counter()
        for (name, code), count in self.outcomes.items():
            if client in ("", name):
                found[code] += count
        return found


def load(rates: dict[str, float], *, deadline_s: float = DEADLINE_S, seconds: float = SECONDS) -> Offered:
    async def main() -> Offered:
        options = Options(batch=BatchOptions(max_rows=BATCH_ROWS), queue=QueueOptions(max_rows=4096))
        batcher = Batcher(Model(), merge, finish, options=options, now=asyncio.get_running_loop().time)
        offered = Offered(batcher, deadline_s)
        await offered.offer(rates, seconds)
        return offered

    return run_virtually(main())


def peak_rows_s() -> float:
    """What the model alone does in full batches, one after the other, of the same durations."""

    async def main() -> float:
        model, loop = Model(), asyncio.get_running_loop()
        batches = 1000
        for _ in range(batches):
            await model.run({"x": np.zeros(BATCH_ROWS)}, BATCH_ROWS)
        return batches * BATCH_ROWS / loop.time()

    return run_virtually(main())


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


@pytest.mark.parametrize("times", [1.5, 3.0, 10.0])
def test_goodput_stays_at_its_peak_and_answers_are_in_time(times: float) -> None:
    peak = peak_rows_s()
    seconds = SECONDS if times < 10 else SECONDS / 4
    offered = load({"a": peak * times}, seconds=seconds)
    codes = offered.codes()
    in_time = sum(latency_s <= DEADLINE_S for latency_s in offered.latencies_s["a"])
    assert in_time / seconds >= 0.95 * peak
    assert p99(offered.latencies_s["a"]) <= DEADLINE_S
    assert max(offered.latencies_s["a"]) <= DEADLINE_S + FIXED_S  # a timer may come a little late
    assert offered.refused_after_s == 0.0  # on arrival
    assert codes["deadline-exceeded"] <= 0.02 * sum(codes.values())
    assert codes.keys() <= {"ok", "busy", "deadline-exceeded"}


def test_below_its_peak_nobody_is_refused() -> None:
    offered = load({"a": 0.8 * peak_rows_s()})
    assert offered.codes().keys() == {"ok"}


def test_one_client_that_floods_does_not_starve_the_others() -> None:
    peak = peak_rows_s()
    offered = load({"flood": 2.8 * peak, "polite": 0.1 * peak, "other": 0.1 * peak})
    for name in ("polite", "other"):
        codes = offered.codes(name)
        assert codes["ok"] >= 0.99 * sum(codes.values())
        assert p99(offered.latencies_s[name]) <= 0.03  # its turn, not the flood's queue
    assert offered.codes()["ok"] / SECONDS >= 0.9 * peak  # turns make the flood late, which costs a little
    assert offered.codes("flood")["busy"] > 0.5 * sum(offered.codes("flood").values())


def test_a_deadline_that_no_batch_can_keep_is_not_worked_for() -> None:
    """Requests that have less time than a batch takes: those that are alone are tried, the others are refused; nothing hangs."""
    offered = load({"a": 1000.0}, deadline_s=0.003, seconds=1.0)
    codes = offered.codes()
    assert codes["busy"] + codes["deadline-exceeded"] >= 0.9 * sum(codes.values())
    assert max(offered.latencies_s.get("a", [0.0])) <= 0.003 + FIXED_S * 2


def test_thousands_of_answers_reach_who_asked(line: Line) -> None:
    """Through a front: callers leave in mid-batch, some rows are NaN's fault, and every answer names who asked."""
    from onnx import TensorProto, helper

    from andon.models import Column, Signature

    graph = helper.make_graph(
        [helper.make_node("Div", ["x", "x"], ["ratio"]), helper.make_node("Mul", ["ratio", "who"], ["y"])],
        "who",
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None]) for name in ("x", "who")],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None])],
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    signature = Signature((Column("x", "double"), Column("who", "double")), (Column("y", "double"),))
    model = line.model({"m.onnx": file}, "onnx", "m.onnx", signature)
    line.point(line.release(model, signature=signature, example=({"x": 2.0, "who": 1.0},)))
    chance = random.Random(7)
    answered: dict[str, list[float]] = {}

    async def ask(front: Front, at: int) -> str:
        await asyncio.sleep(chance.random() * 0.5)
        n = chance.choice([1, 1, 1, 2, 5])
        bad = chance.random() < 0.02
        rows = [(0.0 if bad and row == 0 else 1.0, at * 10.0 + row) for row in range(n)]
        caller = Caller(f"10.0.0.{at % 3}")
        if chance.random() < 0.05:
            asyncio.get_running_loop().call_later(chance.random() * 0.002, caller.leave)
        try:
            found = await front.answer(Query(choice=front.choose(f"r{at}"), n=n, rows=rows, request_id=f"r{at}", caller=caller))
        except ClientGone:
            return "gone"
        except ModelFailed:
            assert bad
            return "failed"
        assert found["y"] == [at * 10.0 + row for row in range(n)]
        answered[f"r{at}"] = found["y"]
        return "ok"

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        seen = Counter(await asyncio.gather(*(ask(front, at) for at in range(3000))))
        assert seen["ok"] > 2600
        assert seen["failed"] > 20

    with_front(line, use)
    logged: dict[str, list[float]] = {}
    for row in line.store.tables.query('select request_id, "output.y" as y from "predictions/bikes" order by "row"').to_pylist():
        logged.setdefault(row["request_id"], []).append(row["y"])
    assert logged == answered  # who got nothing is not in the log, and who got something is


def test_the_time_of_a_request_that_hangs_is_up_when_it_said(line: Line) -> None:
    line.point(line.python(SLEEPS.replace("0.005", "1.0"), example=()))

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        asked = [
            front.answer(
                Query(choice=front.choose(f"r{at}"), n=1, rows=[(1.0, 1)], request_id=f"r{at}", deadline_s=started_s + 0.1 * (at + 1))
            )
            for at in range(3)
        ]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in found] == [DeadlineExceeded] * 3
        assert loop.time() - started_s < 0.8
        await until(lambda: front.loaded().batcher._active == 0)
        assert front.metrics.requests[front.loaded().address, "deadline-exceeded"] == 3

    with_front(line, use)


@pytest.fixture
def line(disk_store: Store, tmp_path: Path) -> Line:
    return Line(disk_store, tmp_path / "scratch")


@pytest.fixture
def home(line: Line) -> Path:
    return Path(line.store.settings.home)


def test_a_server_that_is_asked_too_much(line: Line, home: Path) -> None:
    """A real one, over HTTP: 64 connections keep asking a model that answers 4 rows in 5 ms, with 60 ms of time each."""
    line.point(line.python(SLEEPS, settings={"batch": {"max_rows": 4}}))
    ok: list[float] = []
    refused: list[float] = []
    hints: set[str] = set()
    others: Counter[int] = Counter()
    gone = [0]

    async def keep_asking(port: int, at: int, end_s: float) -> None:
        client = Client(port)
        x = 0
        while time.monotonic() < end_s:
            x += 1
            started_s = time.monotonic()
            if at % 16 == 15:  # this one leaves before its answer
                await client.send(b'POST /predict HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-length: 17\r\n\r\n[{"x":1.0,"k":1}]' % port)
                await asyncio.sleep(0.01)
                await client.close()
                gone[0] += 1
                continue
            try:
                reply = await client.post("/predict", [{"x": x, "k": at}], {"x-request-timeout-ms": "60"})
            except Dropped:
                others[0] += 1
                continue
            took_s = time.monotonic() - started_s
            if reply.status == 200:
                assert reply.json["outputs"] == [{"y": float(x + at)}]
                ok.append(took_s)
            elif reply.status == 429:
                refused.append(took_s)
                hints.add(reply.headers["retry-after"])
                assert reply.json["error"]["fields"]["retry_after_s"] >= 1
                await asyncio.sleep(0.01)
            else:
                others[reply.status] += 1

    async def main() -> None:
        with Server(home) as server:
            await server.wait_ready()
            end_s = time.monotonic() + 2.0
            await asyncio.gather(*(keep_asking(server.port, at, end_s) for at in range(64)))
            reply = await Client(server.port).post("/predict", [{"x": 1, "k": 1}])
            assert reply.json["outputs"] == [{"y": 2.0}]  # and it is well
            said = (await Client(server.port).get("/metrics")).body.decode()
            assert 'code="client-gone"' in said
            assert server.terminate()[0] == 0

    run(main())
    assert others.keys() <= {504}
    assert others[504] <= 0.1 * len(ok)
    assert len(ok) > 2.0 * 4 / 0.005 * 0.3  # a shared machine; the bound of the batcher itself is above
    assert len(refused) > 0
    assert gone[0] > 10
    assert p99(ok) < 0.06 + 0.1
    assert hints == {"1"}
