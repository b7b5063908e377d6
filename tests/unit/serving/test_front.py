"""The front with a source of releases that does what the test says: follows, keeps warm, retires, and never lets go of what works."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from andon.core.errors import InvalidInput, ModelFailed, ReadOnly, Unavailable
from andon.models import Column, Signature
from andon.releases.records import CodePin
from andon.serving import loading
from andon.serving.asking import Query
from andon.serving.environments import current_lock
from andon.serving.front import Choice, Front
from andon.serving.loading import runs_in_front
from andon.serving.source import StoreSource
from tests.unit.serving.line import ECHO, Line, small_lock
from tests.unit.serving.splitting import ROW, Source, until, with_front


def answering(front: Front) -> str:
    try:
        return front.loaded().address
    except Unavailable:
        return ""


def test_it_follows_its_channel_and_goes_back_at_once(line: Line) -> None:
    first, second, third = (line.onnx((1.0, 0.0), bias) for bias in (0.0, 1.0, 2.0))
    line.point(first)

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        answer = await front.predict([ROW, ROW], request_id="r", event_us=[1, 2])
        assert (answer.release, answer.outputs, answer.request_id) == (first, {"y": [1.0, 1.0]}, "r")
        line.point(second)
        await until(lambda: answering(front) == second)
        line.point(first)
        await until(lambda: answering(front) == first)
        assert source.loads == [first, second]  # the way back loaded nothing
        kept = front.loaded().runner
        line.point(third)
        await until(lambda: answering(front) == third)
        assert [loaded.address for loaded in front.held()] == [third, first]  # the newest good one stays warm, older ones are closed
        line.point(first)
        await until(lambda: answering(front) == first)
        assert front.loaded().runner is kept
        assert front.metrics.swaps == 5

    with_front(line, use)


def test_a_release_that_is_left_answers_what_it_took(line: Line) -> None:
    """Requests in flight keep their release alive, also when two more have come and gone meanwhile."""
    slow = ECHO.replace('return {"y"', 'import time\n        time.sleep(0.3 if columns["x"][0] == 5 else 0)\n        return {"y"')
    first = line.python(slow)
    others = [line.onnx(bias=float(bias)) for bias in range(2)]
    line.point(first)

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        stuck = asyncio.ensure_future(front.predict([{"x": 5.0, "k": 0}]))
        await asyncio.sleep(0.05)
        left = front.loaded()
        for other in others:
            line.point(other)
            await until(lambda other=other: answering(front) == other)
        assert left not in front.held()
        assert (await stuck).release == first
        await until(lambda: not left.runner.healthy)  # and then it is closed

    with_front(line, use)


def test_going_back_does_not_wait_for_a_load_that_takes_long(line: Line) -> None:
    first, second, third = line.onnx(), line.onnx(bias=1.0), line.onnx(bias=2.0)
    line.point(first)

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        source.slow_s[third] = 0.5
        line.point(second)
        await until(lambda: answering(front) == second)
        line.point(third)
        await until(lambda: third in source.loads)
        line.point(first)
        started = time.monotonic()
        await until(lambda: answering(front) == first)
        assert time.monotonic() - started < 0.4
        await until(lambda: not front._holder.loads)
        assert answering(front) == first  # what was loaded meanwhile is not wanted any more

    with_front(line, use)


def test_what_cannot_load_is_noted_and_tried_again_when_somebody_moves_the_channel(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = line.onnx(), line.release(line.model({"model.onnx": b"junk"}, "onnx", "model.onnx"))
    line.point(good)

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        line.point(bad)
        await until(lambda: front.metrics.load_failures == 1)
        assert answering(front) == good
        assert front.not_ready() is None
        assert bad in front._state().note
        await asyncio.sleep(0.1)
        assert source.loads.count(bad) == 1  # it is not hammered
        line.point(good)
        await until(lambda: front._state().note == "")
        line.point(bad)
        await until(lambda: front.metrics.load_failures == 2)

    with_front(line, use)


def test_a_first_release_that_cannot_load_is_the_reason_it_is_not_ready(line: Line) -> None:
    line.point(line.release(line.model({"model.onnx": b"junk"}, "onnx", "model.onnx")))

    async def use(front: Front, source: Source) -> None:
        await until(lambda: front.metrics.load_failures == 1)
        assert "could not be loaded" in (front.not_ready() or "")
        with pytest.raises(Unavailable, match="could not be loaded"):
            await front.predict([ROW])

    with_front(line, use)


def test_pinned_bytes_that_are_gone_are_a_load_failure(line: Line) -> None:
    good = line.onnx()
    model = line.model({"model.onnx": b"x"}, "onnx", "model.onnx")
    gone = line.release(model, code=CodePin(tree="b3:" + "0" * 64, transform="a:b"))
    other = line.release(msgspec.structs.replace(model, digest="b3:" + "1" * 64))
    line.point(good)

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        for count, release in enumerate((gone, other), start=1):
            line.point(release)
            await until(lambda count=count: front.metrics.load_failures == count)
        assert answering(front) == good
        assert "not what the release pinned" in front._state().note

    with_front(line, use)


def test_an_outage_of_the_ledger_is_noticed_and_survived(line: Line) -> None:
    first, second = line.onnx(), line.onnx(bias=1.0)
    line.point(first)

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        source.down = True
        await until(lambda: front._ledger_problem is not None)
        assert (await front.predict([ROW])).release == first
        assert 'andon_ledger_reachable{service="bikes"} 0' in front.metrics_text()
        line.point(second)
        await asyncio.sleep(0.05)
        assert answering(front) == first
        source.down = False
        await until(lambda: answering(front) == second)
        assert 'andon_ledger_reachable{service="bikes"} 1' in front.metrics_text()

    with_front(line, use)


def test_a_ledger_that_cannot_be_written_only_makes_the_row_old(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.point(line.onnx())

    def refuse(work: Any) -> Any:
        raise ReadOnly(path="somewhere")

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        assert (await front.predict([ROW])).outputs == {"y": [3.0]}
        assert front._follower.presence.error is not None

    monkeypatch.setattr(line.store.ledger, "submit", refuse)
    with_front(line, use)


def test_a_log_that_refuses_costs_no_answer(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.point(line.onnx())

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        with monkeypatch.context() as broken:
            for way in ("append", "append_rows"):
                broken.setattr(line.store.tables, way, lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            assert (await front.predict([ROW, ROW])).outputs == {"y": [3.0, 3.0]}
            assert front.metrics.log_dropped_rows == 2
            assert "No space left" in front._state().note
        await front.predict([ROW])
        assert front._state().note == ""
        assert 'andon_prediction_log_dropped_rows_total{service="bikes"} 2' in front.metrics_text()

    with_front(line, use)


def test_requests_of_one_batch_get_their_own_answers_and_nan_is_no_answer(line: Line) -> None:
    """0 / 0 in the model is the error of the request that asked for it."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Div", ["x", "x"], ["ratio"]), helper.make_node("Add", ["ratio", "x"], ["y"])],
        "ratio",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None])],
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    signature = Signature((Column("x", "double"),), (Column("y", "double"),))
    line.point(line.release(line.model({"m.onnx": file}, "onnx", "m.onnx", signature), signature=signature, example=({"x": 2.0},)))

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        asked = [front.predict([{"x": float(x)}, {"x": 1.0}], request_id=f"r{x}") for x in (1, 0, 3)]
        one, bad, three = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(bad, ModelFailed)
        assert bad.fields == {"field": "y", "row": 0}
        assert (one.outputs, three.outputs) == ({"y": [2.0, 2.0]}, {"y": [4.0, 2.0]})  # type: ignore[union-attr]
        assert front.metrics.requests["release:bikes@1", "model-failed"] == 1

    with_front(line, use)
    logged = line.store.tables.query('select request_id, "row", "output.y" as y from "predictions/bikes" order by 1, 2').to_pylist()
    assert [tuple(row.values()) for row in logged] == [("r1", 0, 2.0), ("r1", 1, 2.0), ("r3", 0, 4.0), ("r3", 1, 2.0)]


def test_rows_are_checked_and_unknown_channels_refused(line: Line) -> None:
    line.point(line.onnx())

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        with pytest.raises(InvalidInput, match=r"rows\[0\]\.k"):
            await front.predict([{"x": 1.0}])
        with pytest.raises(Unavailable, match="does not serve the channel 'shadow'"):
            await front.predict([ROW], channel="shadow")
        assert len({front.new_id() for _ in range(100)}) == 100

    with_front(line, use)


def test_columns_and_rows_share_a_batch(line: Line) -> None:
    line.point(line.onnx())

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        loaded = front.loaded()
        columns = {"x": np.array([2.0]), "k": np.array([2])}
        found = await asyncio.gather(
            front.answer(Query(choice=Choice(loaded, "production"), n=1, rows=[(1.0, 1)], request_id="a")),
            front.answer(Query(choice=Choice(loaded, "production"), n=1, columns=columns, request_id="b", event_us=[7])),
        )
        assert found == [{"y": [3.0]}, {"y": [6.0]}]

    with_front(line, use)


def test_two_channels_may_share_a_release_and_are_logged_apart(line: Line) -> None:
    release = line.onnx()
    line.point(release)
    line.point(release, "shadow")

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        assert front.loaded("shadow") is front.loaded()
        await asyncio.gather(front.predict([ROW], request_id="p"), front.predict([ROW], request_id="s", channel="shadow"))

    with_front(line, use, channels=("production", "shadow"))
    logged = line.store.tables.query('select request_id, channel from "predictions/bikes" order by 1').to_pylist()
    assert [tuple(row.values()) for row in logged] == [("p", "production"), ("s", "shadow")]


def test_what_runs_in_the_front(line: Line) -> None:
    source = StoreSource(line.store)

    def verdict(**more: Any) -> bool:
        manifest = source.release(line.onnx(**more))
        return runs_in_front(manifest, source.model(manifest), current_lock())

    assert verdict()
    assert verdict(environment=small_lock(tinydep="1.0"))  # a library that the model does not run on
    assert not verdict(environment=msgspec.structs.replace(current_lock(), requirements=("numpy==1.0", "onnxruntime==1.0")))
    assert not verdict(code=CodePin(transform="a:b"))
    python = source.release(line.python())
    assert not runs_in_front(python, source.model(python), current_lock())


def test_files_are_laid_out_once(line: Line, tmp_path: Path) -> None:
    loader = loading.Loader(StoreSource(line.store), line.store.blobs, tmp_path / "root", tmp_path / "logs")
    digest = line.tree({"a/b.txt": "c"})
    folder = loader._lay_out(digest)
    assert (folder / "a" / "b.txt").read_text() == "c"
    assert loader._lay_out(digest) == folder
