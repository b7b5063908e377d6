"""Mirrors: they see copies, never answer, cost what they may, and whatever they do is nobody else's trouble."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from andon.core.errors import ModelFailed
from andon.releases.splits import place
from andon.serving import shadowing
from andon.serving.asking import Query
from andon.serving.front import Front
from andon.serving.options import Options, QueueOptions
from andon.serving.runners import RunnerDied
from tests.unit.serving.line import ECHO, Line
from tests.unit.serving.splitting import ROW, Source, a_mirror, a_split, exposures, holding, predictions, put_split, until, with_front


class Misbehaving:
    """A runner that does what the test says instead of running."""

    slots = 1
    healthy = True

    def __init__(self, kind: str, runner: Any) -> None:
        self.kind = kind
        self.runner = runner
        self.calls = 0

    def cheap(self, n: int) -> bool:
        return True

    def run_now(self, columns: Any, n: int) -> Any:
        raise AssertionError("a mirror ran on the event loop")

    async def run(self, columns: dict[str, Any], n: int) -> dict[str, Any]:
        self.calls += 1
        if self.kind == "hangs":
            await asyncio.Event().wait()
        if self.kind == "raises":
            raise ModelFailed("no")
        if self.kind == "dies":
            raise RunnerDied
        if self.kind == "nonsense":
            return {"y": np.full(n, np.nan)}
        if self.kind == "writes":
            for values in columns.values():
                values[:] = 7
        return {"y": columns["x"] * 0.0 + n}

    async def close(self) -> None:
        await self.runner.close()


def test_a_mirror_sees_every_request_and_answers_none(line: Line) -> None:
    old, shadow = line.onnx(), line.onnx(bias=100.0)
    line.point(old)
    put_split(line, a_mirror(old, shadow))
    names = [f"r{at:02}" for at in range(40)]

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, shadow)
        answers = await asyncio.gather(*(front.predict([ROW, {"x": float(at), "k": 0}], request_id=name) for at, name in enumerate(names)))
        assert [answer.outputs["y"] for answer in answers] == [[3.0, 2.0 * at] for at in range(40)]
        await until(lambda: front._holder.loaded[shadow].in_flight == 0 and not any(g.waiting for g in front._shadows._glasses.values()))

    with_front(line, use)
    logged = predictions(line)
    assert [row[3] for row in logged if row[1] == "shadow" and row[3] != 103.0] == [100.0 + 2 * at for at in range(40)]
    assert len([row for row in logged if row[1] == "production"]) == 80
    assert {row[0] for row in exposures(line) if row[2] == "shadow" and row[3:] == (shadow, "ok")} == set(names)
    assert {row[0] for row in exposures(line) if row[2] == "production"} == set(names)


@pytest.mark.parametrize(
    ("kind", "status"), [("hangs", None), ("raises", "model-failed"), ("dies", "model-failed"), ("nonsense", "model-failed")]
)
def test_what_a_mirror_does_is_nobody_elses_trouble(line: Line, kind: str, status: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadowing, "OPTIONS", Options(queue=QueueOptions(max_rows=50), timeout_s=30.0))
    old, shadow = line.onnx(), line.onnx(bias=100.0)
    line.point(old)
    put_split(line, a_mirror(old, shadow))

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, shadow)
        runner = front._holder.loaded[shadow].runner = Misbehaving(kind, front._holder.loaded[shadow].runner)  # type: ignore[assignment]
        slowest = 0.0
        for at in range(300):
            started = time.perf_counter()
            answer = await front.predict([ROW], request_id=f"r{at}")
            slowest = max(slowest, time.perf_counter() - started)
            assert (answer.release, answer.outputs) == (old, {"y": [3.0]})
            if at % 50 == 0:
                await asyncio.sleep(shadowing.PACE_S * 2)
        assert slowest < 0.2, "the mirror was waited for"
        await until(lambda: runner.calls)
        if kind == "hangs":
            await until(lambda: front.metrics.shadow_dropped_rows[shadow] > 100)  # what is full is dropped, and counted
            assert "andon_shadow_dropped_rows_total" in front.metrics_text()
        else:
            await until(lambda: front._holder.loaded[shadow].in_flight == 0)
        assert front.not_ready() is None

    with_front(line, use)
    assert {row[4] for row in exposures(line) if row[2] == "production"} == {"ok"}
    assert {row[4] for row in exposures(line) if row[2] == "shadow"} == ({status} if status else set())
    assert {row[1] for row in predictions(line)} == {"production"}


def test_a_mirror_may_write_into_what_it_gets(line: Line) -> None:
    old, shadow = line.onnx(), line.onnx(bias=100.0)
    line.point(old)
    put_split(line, a_mirror(old, shadow))

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, shadow)
        front._holder.loaded[shadow].runner = Misbehaving("writes", front._holder.loaded[shadow].runner)  # type: ignore[assignment]
        columns = {"x": np.array([1.0, 2.0]), "k": np.array([1, 1])}
        choice = front.choose("r")
        outputs = await front.answer(Query(choice=choice, n=2, columns=columns, request_id="r", raw=True))
        await until(lambda: front._shadows._glasses[shadow].batcher and front._holder.loaded[shadow].in_flight == 0)
        assert outputs["y"].tolist() == [3.0, 5.0]
        assert columns["x"].tolist() == [1.0, 2.0]

    with_front(line, use)
    shown = line.store.tables.query('select channel, "input.x" as x from "predictions/bikes" order by 1, 2').to_pylist()
    assert [tuple(row.values()) for row in shown if row["channel"] == "production"] == [("production", 1.0), ("production", 2.0)]


def test_what_a_mirror_may_cost_is_bounded(line: Line) -> None:
    old, shadow = line.onnx(), line.onnx(bias=1.0)
    line.point(old)
    split = a_mirror(old, shadow, most_rows_s=10.0, share=5_000)
    put_split(line, split)
    names = [f"r{at}" for at in range(100)]

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, shadow)
        for name in names:
            await front.predict([ROW], request_id=name)
        await until(lambda: front._shadows._timer is None and front._holder.loaded[shadow].in_flight == 0)
        sent = front._holder.loaded[shadow].batcher.statistics.rows
        assert sent == 0  # its own queue, not the release's

    with_front(line, use)
    mirrored = [row[0] for row in exposures(line) if row[2] == "shadow"]
    assert 10 <= len(mirrored) <= 20
    assert set(mirrored) <= {name for name in names if place(split.salt + "/mirror", name) < 5_000}


def test_a_mirror_that_is_not_here_is_seen_to_be_missing(line: Line) -> None:
    old, shadow = line.onnx(), line.release(line.model({"model.onnx": b"junk"}, "onnx", "model.onnx"))
    line.point(old)
    put_split(line, a_mirror(old, shadow))

    async def use(front: Front, source: Source) -> None:
        await until(lambda: shadow in front._state().load.failing and front.not_ready() is None)
        await front.predict([ROW], request_id="r")
        await until(lambda: front._shadows._timer is None)

    with_front(line, use)
    assert ("r", "r", "shadow", shadow, "unavailable-here") in exposures(line)


def test_candidates_answers_are_not_mirrored_and_a_mirrors_release_can_become_an_arm(line: Line) -> None:
    old, other = line.onnx(), line.python(ECHO)
    line.point(old)
    put_split(line, a_mirror(old, other))

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, other)
        await front.predict([ROW], request_id="first")
        await until(lambda: front._shadows._timer is None and front._holder.loaded[other].in_flight == 0)
        runner = front._holder.loaded[other].runner
        mirrors = a_mirror(old, other).mirrors
        put_split(line, a_split(old, other, 10_000, mirrors=mirrors))
        await until(lambda: front._state().load.split_revision == 2)
        assert (await front.predict([ROW], request_id="second")).release == other
        assert front._holder.loaded[other].runner is runner  # nothing was loaded again
        assert front._shadows._timer is None

    with_front(line, use)
    assert {row[:1] + row[2:] for row in exposures(line)} == {
        ("first", "production", old, "ok"),
        ("first", "shadow", other, "ok"),
        ("second", "candidate", other, "ok"),
    }
