"""The run as programs hold it."""

from __future__ import annotations

import math
import os
import threading
from concurrent.futures import Future

import msgspec
import numpy as np
import pytest

from andon import datasets
from andon.core.actors import Actor
from andon.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from andon.registry import tag_history, tags_of
from andon.tracking import (
    EnvironmentLock,
    active_run,
    artifacts_of,
    capture_facts,
    create_run,
    events_of,
    get_run,
    inputs_of,
    join_run,
    list_runs,
    metric_series,
    metrics_of,
    params_of,
    seed,
    start_run,
)
from andon.tracking.buffer import BATCH, MAX_IN_FLIGHT, PointBuffer
from andon.tracking.records import Point
from andon.tracking.starting import RUN_VARIABLE, _joined

ANA = Actor("person", "ana")


def begin(store, *args, **options):
    return start_run(store, *args, actor=ANA, capture=False, **options)


def test_what_is_logged_in_the_block_is_there_after_it(store):
    with begin(store, "bikes", params={"depth": 6}, tags={"team": "ops"}) as run:
        assert active_run() is run
        run.log({"mae": 3, "rmse": np.float32(4.5)})
        run.log({"mae": 2.5})
        run.log({"mae": 2.0}, step=10)
        run.log({"mae": 1.5})
        run.log_params({"rate": 0.1})
        run.tag("stage", "dev")
        run.tag("stage", None)
        run.note("first try")
        run.log_artifact(b"hello", "notes/a.txt")
    assert active_run() is None
    record = get_run(store, run.id)
    assert (record.status, record.experiment) == ("finished", "bikes")
    assert metric_series(store, run.id, "mae").steps.tolist() == [0, 1, 10, 11]
    assert metrics_of(store, run.id)["rmse"].value == 4.5
    assert params_of(store, run.id) == {"depth": "6", "rate": "0.1"}
    assert tags_of(store, run.address) == {"team": "ops", "note": "first try"}
    assert [change.value for change in tag_history(store, run.address) if change.key == "stage"] == ["dev", None]
    assert [item.path for item in artifacts_of(store, run.id)] == ["notes/a.txt"]


def test_an_error_comes_out_and_the_run_has_failed_with_it(store):
    run = begin(store)
    with pytest.raises(ZeroDivisionError), run:  # noqa: PT012 - what is logged before the error is the point
        run.log({"a": 1.0})
        1 / 0  # noqa: B018
    assert get_run(store, run.id).status == "failed"
    told = events_of(store, run.id)[-1].body
    assert told["error"] == "ZeroDivisionError"
    assert "1 / 0" in told["traceback"]
    assert metrics_of(store, run.id)["a"].value == 1.0


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "killed"), (SystemExit(0), "finished"), (SystemExit(), "finished"), (SystemExit(3), "failed")],
)
def test_how_a_program_leaves_decides_the_status(store, error, status):
    with pytest.raises(type(error)), begin(store) as run:
        raise error
    assert get_run(store, run.id).status == status


def test_runs_nest(store):
    with begin(store) as outer:
        with begin(store) as inner:
            assert active_run() is inner
        assert active_run() is outer
    assert get_run(store, inner.id).parent == outer.id
    assert get_run(store, outer.id).parent is None


def test_a_thread_sees_the_only_run(store):
    seen = []
    with begin(store) as run:
        thread = threading.Thread(target=lambda: seen.append(active_run()))
        thread.start()
        thread.join()
    assert seen == [run]


def test_an_ended_run_takes_no_more(store):
    run = begin(store)
    run.end()
    run.end("failed")  # a second end is nothing
    assert get_run(store, run.id).status == "finished"
    for call in (lambda: run.log({"a": 1.0}), lambda: run.log_params({"a": 1}), lambda: run.note("x"), lambda: run.log_artifact(b"", "a")):
        with pytest.raises(Conflict):
            call()


@pytest.mark.parametrize(
    ("metrics", "step", "field"),
    [({"a": "x"}, None, "a"), ({"a": None}, None, "a"), ({"": 1.0}, None, "key"), ({"a": 1.0}, 1.5, "step"), ({"a": 1.0}, 2**63, "step")],
)
def test_bad_metrics_are_refused_at_the_call(store, metrics, step, field):
    with begin(store) as run:
        with pytest.raises(InvalidInput) as caught:
            run.log(metrics, step=step)
        assert caught.value.fields["field"] == field
        run.log({"fine": 1.0}, step=np.int64(3))
    assert list(metrics_of(store, run.id)) == ["fine"]


def test_equal_values_at_one_step_are_points_each(store):
    """The clock of this test stands still, as a coarse one does for a moment."""
    with begin(store) as run:
        for _ in range(5):
            run.log({"a": 1.0}, step=0)
    assert metrics_of(store, run.id)["a"].count == 5


def test_nan_is_kept(store):
    with begin(store) as run:
        run.log({"a": math.nan})
    assert math.isnan(metrics_of(store, run.id)["a"].value)


def test_flush_acknowledges(store):
    with begin(store) as run:
        run.log({"a": 1.0})
        run.flush()
        assert metrics_of(store, run.id)["a"].count == 1


def test_data_read_in_the_run_is_its_input_and_its_models_parent(store):
    datasets.register(store, "rides", {"a": [1, 2]}, actor=ANA)
    with begin(store) as run:
        datasets.read(store, "dataset:rides@latest")
        datasets.read(store, "dataset:rides@1")
        run.log_input("dataset:rides@1", context="evaluation")
        with pytest.raises(NotFound):
            run.log_input("dataset:none")
    assert [(item.address, item.context) for item in inputs_of(store, run.id)] == [("dataset:rides@1", "training")]


def test_joining_logs_there_and_does_not_end_it(store):
    record = create_run(store, actor=ANA)
    with join_run(store, record.id, actor=ANA) as run:
        run.log({"a": 1.0})
    assert get_run(store, record.id).status == "running"
    assert metrics_of(store, record.id)["a"].count == 1


def test_under_a_command_the_first_run_joins_and_the_second_nests(store, monkeypatch):
    outer = create_run(store, actor=ANA)
    monkeypatch.setenv(RUN_VARIABLE, outer.id)
    _joined.discard(outer.id)
    with begin(store, params={"a": 1}) as first:
        assert first.id == outer.id
    with begin(store) as second:
        assert second.id != outer.id
    assert params_of(store, outer.id) == {"a": "1"}
    assert get_run(store, second.id).parent == outer.id
    assert len(list_runs(store)) == 2


def test_the_programs_environment_is_the_runs(store, monkeypatch):
    facts, _ = capture_facts(store)
    other = msgspec.structs.replace(facts, environment=EnvironmentLock(python="3.9.0", platform="x", requirements=("a==1",)))
    outer = create_run(store, actor=ANA, facts=other)
    monkeypatch.setenv(RUN_VARIABLE, outer.id)
    _joined.discard(outer.id)
    with start_run(store, actor=ANA):
        pass
    found = get_run(store, outer.id).facts
    assert found is not None
    assert found.environment == facts.environment


def test_a_command_of_another_store_is_not_joined(store, monkeypatch):
    monkeypatch.setenv(RUN_VARIABLE, "01JNOTHERE")
    with begin(store) as first, begin(store) as second:
        pass
    assert get_run(store, first.id).parent is None
    assert get_run(store, second.id).parent == first.id


def test_threads_log_one_series_without_a_gap(store):
    with begin(store) as run:
        threads = [threading.Thread(target=lambda: [run.log({"a": 1.0}) for _ in range(500)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert metric_series(store, run.id, "a").steps.tolist() == list(range(2_000))


def test_a_forked_child_may_not_use_its_parents_handle(store):
    with begin(store) as run:
        run._pid += 1
        assert active_run() is None
        with pytest.raises(Conflict):
            run.log({"a": 1.0})
        run._pid = os.getpid()


def test_seeds_are_remembered(store, monkeypatch):
    from andon.tracking.capture import seeds

    monkeypatch.setattr(seeds, "_known", {})
    done = seed(7)
    assert done["python"] == done["numpy"] == 7
    with start_run(store, actor=ANA) as run:
        first = np.random.random()
    seed(7)
    assert np.random.random() == first
    facts = get_run(store, run.id).facts
    assert facts is not None
    assert facts.seeds["numpy"] == 7
    assert facts.extra["cpu_s"] >= 0
    with pytest.raises(InvalidInput):
        seed(-1)


class Ledger:
    """Answers when told to."""

    def __init__(self) -> None:
        self.batches: list[list[Point]] = []
        self.futures: list[Future[None]] = []
        self.down = False

    def send(self, points: list[Point]) -> Future[None]:
        if self.down:
            raise Unavailable("down")
        future: Future[None] = Future()
        self.batches.append(points)
        self.futures.append(future)
        return future


def points(n: int) -> list[Point]:
    return [Point("a", float(k), k, k) for k in range(n)]


def test_the_buffer_sends_by_the_thousand_and_waits_when_too_much_is_out():
    ledger = Ledger()
    buffer = PointBuffer(ledger.send)
    buffer.add(points(BATCH - 1))
    assert ledger.batches == []
    buffer.add(points(1))
    assert [len(batch) for batch in ledger.batches] == [BATCH]
    for _ in range(MAX_IN_FLIGHT - 1):
        buffer.add(points(BATCH))
    waiting = threading.Thread(target=lambda: buffer.add(points(BATCH)))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    ledger.futures[0].set_result(None)
    waiting.join(5)
    assert not waiting.is_alive()


def test_what_an_absent_ledger_did_not_take_is_sent_again():
    ledger = Ledger()
    buffer = PointBuffer(ledger.send)
    buffer.add(points(3))
    ledger.down = True
    with pytest.raises(Unavailable):
        buffer.flush()
    buffer.push()  # the run's thread meets the same, quietly
    with pytest.raises(Unavailable):
        buffer.add(points(1))
    ledger.down = False
    done = threading.Thread(target=buffer.flush)
    done.start()
    while not ledger.futures:
        pass
    ledger.futures[0].set_result(None)
    done.join(5)
    assert [len(batch) for batch in ledger.batches] == [4]


def test_a_batch_that_failed_after_it_was_sent_is_sent_again():
    ledger = Ledger()
    buffer = PointBuffer(ledger.send)
    buffer.add(points(2))
    buffer.push()
    ledger.futures[0].set_exception(Unavailable("lost"))
    buffer.push()
    with pytest.raises(Unavailable):
        buffer.add([])
    buffer.push()
    assert ledger.batches == [points(2), points(2)]


def test_what_can_never_be_written_is_raised_once():
    ledger = Ledger()
    buffer = PointBuffer(ledger.send)
    buffer.add(points(2))
    buffer.push()
    ledger.futures[0].set_exception(NotFound("no such run"))
    with pytest.raises(NotFound):
        buffer.flush()
    buffer.flush()
    assert len(ledger.batches) == 1
