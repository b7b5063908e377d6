"""A front under a split: who gets which release, what is exposed, and what holds when the one that looks after the split is gone."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from andon.core.errors import Busy, ModelFailed
from andon.models import Column, Signature
from andon.releases.splits import LEASE_S, Arm, Live, Split, assign
from andon.serving.asking import Query
from andon.serving.callers import Caller, ClientGone
from andon.serving.front import Front
from andon.serving.routing import Router, lease_clock
from tests.unit.serving.line import ECHO, Line
from tests.unit.serving.splitting import ROW, Source, a_split, exposures, holding, predictions, put_split, renew, until, with_front

RAISES = ECHO.replace('return {"y"', 'assert self.folder is None, "no"\n        return {"y"')

SLOW = ECHO.replace('return {"y"', 'import time\n        time.sleep(0.2)\n        return {"y"')


class Ticks:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.at_s = 1_000.0

    def __call__(self) -> float:
        return self.at_s


def test_each_unit_gets_its_arm_and_every_request_is_exposed(line: Line) -> None:
    old, new = line.onnx(), line.onnx(bias=100.0)
    line.point(old)
    split = a_split(old, new, 3_000)
    put_split(line, split)
    names = [f"r{at:03}" for at in range(200)]

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, new)
        answers = await asyncio.gather(*(front.predict([ROW, ROW], request_id=name) for name in names))
        for name, answer in zip(names, answers, strict=True):
            mine = assign(split, name)
            assert (answer.release, answer.outputs["y"][0]) == (mine.release, 103.0 if mine.release == new else 3.0)

    with_front(line, use)
    wanted = [(name, name, assign(split, name).channel, assign(split, name).release, "ok") for name in names]
    assert sorted(exposures(line)) == wanted
    assert 30 < sum(row[2] == "candidate" for row in wanted) < 90
    assert exposures(line, "rollout, stage, rows, latency_ms > 0") == [("rollout:1", 0, 2, True)] * 200
    logged = predictions(line)
    assert {(row[0], row[1]) for row in logged} == {(name, assign(split, name).channel) for name in names}
    assert len(logged) == 400


def test_a_unit_is_a_field_of_the_first_row_or_a_header_or_the_request(line: Line) -> None:
    signature = Signature((Column("x", "double"), Column("user", "string", required=False)), (Column("y", "double"),))
    module = ECHO.replace('columns["x"] + columns["k"]', 'columns["x"]')
    old, new = (line.python(module, signature=signature, example=({"x": 1.0, "user": "a"},)) for _ in range(2))
    line.point(old)
    put_split(line, a_split(old, new, key="user"))

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, new)
        of_ana = {(await front.predict([{"x": 1.0, "user": "ana"}, {"x": 2.0, "user": f"u{at}"}])).release for at in range(20)}
        assert len(of_ana) == 1
        assert (await front.predict([{"x": 1.0}], request_id="a", key="ana")).release in of_ana
        await front.predict([{"x": 1.0}], request_id="b")
        rows = [(1.0, "ana")]
        assert front.choose("c", "ben", rows=rows).unit == "ana"
        assert front.choose("c", columns=front.loaded().codec.to_columns(rows)).unit == "ana"

    with_front(line, use)
    assert {(row[0] if row[0] in "ab" else "", row[1]) for row in exposures(line)} == {("", "ana"), ("a", "ana"), ("b", "b")}


@pytest.mark.parametrize(
    ("value", "unit"), [(7, "7"), (7.0, "7"), (7.5, "7.5"), ("7", "7"), (None, "key"), (float("nan"), "key"), (True, "True")]
)
def test_a_number_is_the_same_unit_however_it_is_written(value: Any, unit: str) -> None:
    from andon.serving.routing import unit_of

    signature = Signature((Column("u", "double", required=False),), (Column("y", "double"),))
    assert unit_of(a_split("release:a@1", key="u"), signature, "key", "request", rows=[(value,)]) == unit
    assert len(unit_of(a_split("release:a@1", key="u"), signature, None, "request", rows=[("x" * 10_000,)])) == 32
    tensor = Signature((Column("u", "double", shape=(2,)),), (Column("y", "double"),))
    assert unit_of(a_split("release:a@1", key="u"), tensor, None, "request", rows=[(np.ones(2),)]) == "request"
    assert unit_of(a_split("release:a@1", key="u"), tensor, None, "request", columns={"u": np.ones((1, 2))}) == "request"
    assert unit_of(a_split("release:a@1", key="gone"), signature, None, "request", rows=[(value,)]) == "request"


def test_an_arm_that_cannot_load_is_seen_to_fail_and_production_answers(line: Line) -> None:
    old, bad = line.onnx(), line.release(line.model({"model.onnx": b"junk"}, "onnx", "model.onnx"))
    line.point(old)
    put_split(line, a_split(old, bad, 10_000))

    async def use(front: Front, source: Source) -> None:
        await until(lambda: bad in front._state().load.failing and front.not_ready() is None)
        assert (await front.predict([ROW], request_id="r")).release == old
        state = front._state()
        assert state.load.holds == (old,)
        assert "could not be loaded" in state.load.failing[bad]
        assert bad in state.note
        assert front.not_ready() is None

    with_front(line, use)
    assert exposures(line) == [("r", "r", "candidate", bad, "unavailable-here")]
    assert predictions(line) == [("r", "production", old, 3.0)]


def test_an_arm_that_is_still_loading_or_does_not_exist_says_so(line: Line) -> None:
    old, new = line.onnx(), line.onnx(bias=1.0)
    line.point(old)

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        source.slow_s[new] = 0.5
        put_split(line, a_split(old, new, 10_000))
        await until(lambda: new in source.loads)
        assert "is being loaded" in (front.not_ready() or "")  # a replica that has just started waits for the arms a little
        assert (await front.predict([ROW], request_id="a")).release == old
        await holding(front, new)
        assert front.not_ready() is None
        assert (await front.predict([ROW], request_id="b")).release == new
        put_split(line, a_split(old, "release:bikes@77", 10_000))
        await until(lambda: front._state().load.failing == {"release:bikes@77": "there is no release:bikes@77"})
        assert (await front.predict([ROW], request_id="c")).release == old

    with_front(line, use)
    assert [row[4] for row in exposures(line)] == ["loading-here", "ok", "unavailable-here"]


def test_an_arms_errors_are_its_own(line: Line) -> None:
    old, bad = line.onnx(), line.python(RAISES, example=())
    line.point(old)
    split = a_split(old, bad)
    put_split(line, split)
    names = [f"r{at}" for at in range(20)]

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, bad)
        found = await asyncio.gather(*(front.predict([ROW], request_id=name) for name in names), return_exceptions=True)
        assert [isinstance(one, ModelFailed) for one in found] == [assign(split, name).release == bad for name in names]

    with_front(line, use)
    assert {(row[2], row[4]) for row in exposures(line)} == {("production", "ok"), ("candidate", "model-failed")}
    assert len(exposures(line)) == 20


def test_production_moves_under_a_split_at_once_and_what_is_not_wanted_is_let_go(line: Line) -> None:
    old, new, third = line.onnx(), line.onnx(bias=1.0), line.onnx(bias=2.0)
    line.point(old)
    put_split(line, a_split(old, new, 0, warm=(third,)))

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, new, third)
        line.point(third)  # it is warm: nothing is loaded for it
        await until(lambda: front.loaded().address == third)
        assert (await front.predict([ROW])).release == third
        assert source.loads.count(third) == 1
        runner = front._holder.loaded[new].runner
        put_split(line, None)
        await until(lambda: front._state().load.holds == (old, third))  # what production left stays warm
        assert runner is not None
        line.point(old)
        await until(lambda: front.loaded().address == old)
        assert len(source.loads) == 3

    with_front(line, use)


def test_a_split_that_nobody_looks_after_is_left_and_taken_up_again(line: Line) -> None:
    """The controller is gone: `renewed` does not move, although the ledger can be read."""
    ticks = Ticks()
    old, new = line.onnx(), line.onnx(bias=1.0)
    line.point(old)
    put_split(line, a_split(old, new, 10_000))

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, new)
        ticks.at_s += LEASE_S
        assert (await front.predict([ROW])).release == new
        ticks.at_s += 0.1
        assert (await front.predict([ROW], request_id="left")).release == old
        state = front._state()
        assert state.load.fallback
        assert "renewed" in state.note
        assert 'andon_split_fallback{service="bikes"} 1' in front.metrics_text()
        renew(line)
        await until(lambda: not front._router.fallback)
        assert (await front.predict([ROW])).release == new
        for _ in range(3):  # as long as it moves, it holds
            ticks.at_s += LEASE_S - 1
            renew(line)
            await until(lambda: front._router._moved_s == ticks.at_s)
        assert (await front.predict([ROW])).release == new

    with_front(line, use, router=Router(ticks))
    assert "left" not in {row[0] for row in exposures(line)}  # production's own traffic


def test_a_replica_without_its_ledger_leaves_the_split(line: Line) -> None:
    ticks = Ticks()
    old, new = line.onnx(), line.onnx(bias=1.0)
    line.point(old)
    put_split(line, a_split(old, new, 10_000))

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, new)
        source.down = True
        await until(lambda: front._ledger_problem is not None)
        renew(line)  # which it cannot see
        ticks.at_s += LEASE_S - 1
        assert (await front.predict([ROW])).release == new
        ticks.at_s += 2
        assert (await front.predict([ROW])).release == old
        source.down = False
        await until(lambda: not front._router.fallback)
        assert (await front.predict([ROW])).release == new

    with_front(line, use, router=Router(ticks))


def test_wall_clocks_do_not_matter_to_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    split = a_split("release:a@1", "release:a@2")
    router = Router()
    router.heard(Live(split=split, revision=1, renewed=1))
    for jump_s in (86_400, -86_400):
        monkeypatch.setattr(time, "time", lambda jump_s=jump_s, now=time.time(): now + jump_s)
        monkeypatch.setattr(time, "time_ns", lambda jump_s=jump_s, now=time.time_ns(): now + jump_s * 10**9)
        assert router.split is split
    before_s = lease_clock()()
    assert 0 <= lease_clock()() - before_s < 5


def test_any_move_of_a_split_counts_and_its_end_ends_it() -> None:
    ticks = Ticks()
    router = Router(ticks)
    split = a_split("release:a@1", "release:a@2")
    router.heard(Live(split=split, revision=1, renewed=5))
    ticks.at_s += LEASE_S + 1
    router.heard(Live(split=split, revision=1, renewed=5))
    assert router.split is None
    assert router.fallback
    router.heard(Live(split=split, revision=2, renewed=5))
    assert router.split is split
    router.heard(None)
    assert router.split is None
    assert not router.fallback


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((Column("x", "double"),), None),
        ((Column("k", "double"), Column("x", "double"), Column("more", "string", required=False)), None),
        ((Column("x", "double"), Column("k", "long"), Column("age", "long")), "requires the input 'age'"),
        ((Column("x", "string"), Column("k", "long")), "is string, and double"),
        ((Column("x", "double", shape=(2,)), Column("k", "long")), "is double, and double"),
    ],
)
def test_an_arm_of_another_signature_gets_what_it_takes(line: Line, inputs: tuple[Column, ...], said: str | None) -> None:
    module = 'class Model:\n    def __init__(self, folder): pass\n    def predict(self, columns): return {"y": columns["x"] * 10}\n'
    old = line.onnx()
    new = line.python(module, signature=Signature(inputs, (Column("y", "double"),)), example=())
    line.point(old)
    put_split(line, a_split(old, new, 10_000))

    async def use(front: Front, source: Source) -> None:
        await until(lambda: front._router.live is not None and new in front._holder.loaded)
        answer = await front.predict([ROW, {"x": 2.0, "k": 3}], request_id="rows")
        columns = front.loaded().codec.to_columns([(3.0, 4)])
        choice = front.choose("columns", columns=columns)
        assert choice.reads.address == old
        outputs = await front.answer(Query(choice=choice, n=1, columns=columns, request_id="columns"))
        if said is None:
            assert (answer.release, answer.outputs, outputs) == (new, {"y": [10.0, 20.0]}, {"y": [30.0]})
        else:
            assert (answer.release, answer.outputs) == (old, {"y": [3.0, 7.0]})
            assert said in front._state().load.failing[new]
            assert new not in front._state().load.holds

    with_front(line, use)
    assert {row[4] for row in exposures(line)} == {"ok" if said is None else "unavailable-here"}


def test_the_same_release_in_both_arms_is_logged_by_arm(line: Line) -> None:
    """A/A: one queue and one batch, and each row under its own arm."""
    same = line.onnx()
    line.point(same)
    split = a_split(same, same)
    put_split(line, split)
    names = [f"r{at}" for at in range(30)]

    async def use(front: Front, source: Source) -> None:
        await holding(front, same)
        await asyncio.gather(*(front.predict([ROW, ROW], request_id=name) for name in names))
        assert front.loaded().batcher.statistics.batches < 10

    with_front(line, use)
    assert {(row[0], row[1]) for row in predictions(line)} == {(name, assign(split, name).channel) for name in names}


def test_arms_that_stay_behind_and_more_than_two_of_them() -> None:
    arms = (
        Arm(channel="production", release="release:a@1", share=4_000),
        Arm(channel="candidate", release="release:a@2", share=4_000),
        Arm(channel="holdback", release="release:a@3", share=2_000, upper=True),
    )
    split = Split(rollout="rollout:1", salt="s", arms=arms)
    found = [assign(split, str(at)).channel for at in range(3_000)]
    assert [round(found.count(arm.channel) / 3_000, 1) for arm in arms] == [0.4, 0.4, 0.2]


def test_who_leaves_is_not_run_and_is_exposed(line: Line) -> None:
    old, new = line.onnx(), line.python(SLOW, example=())
    line.point(old)
    put_split(line, a_split(old, new, 10_000))

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, new)

        def ask(name: str, caller: Caller | None = None) -> asyncio.Future[Any]:
            rows = [(1.0, 1)]
            return asyncio.ensure_future(
                front.answer(Query(choice=front.choose(name, rows=rows), n=1, rows=rows, request_id=name, caller=caller))
            )

        first = ask("running")
        await asyncio.sleep(0.05)
        caller = Caller("10.0.0.1")
        gone, cancelled, there = ask("gone", caller), ask("cancelled"), ask("there")
        await asyncio.sleep(0)
        caller.leave()
        cancelled.cancel()
        assert (await first, await there) == ({"y": [2.0]}, {"y": [2.0]})
        with pytest.raises(ClientGone):
            await gone
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert caller.waiting is None
        assert front._holder.loaded[new].batcher.statistics.rows == 2

    with_front(line, use)
    assert {row[0]: row[4] for row in exposures(line)} == {
        "running": "ok",
        "there": "ok",
        "gone": "client-gone",
        "cancelled": "client-gone",
    }
    assert [row[0] for row in predictions(line)] == ["running", "there"]


def test_a_replica_at_its_memory_limit_refuses_what_it_need_not_take(line: Line) -> None:
    line.point(line.python(SLOW, example=()))

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        front._gauge.full = True
        front._gauge.look = lambda: None  # type: ignore[method-assign]
        first = asyncio.ensure_future(front.predict([ROW]))
        await asyncio.sleep(0.02)
        with pytest.raises(Busy, match="memory"):
            await front.predict([ROW])
        assert (await first).outputs == {"y": [2.0]}
        assert (await front.predict([ROW])).outputs == {"y": [2.0]}  # one at a time always goes
        assert "more than it may" in front._state().note

    with_front(line, use)
