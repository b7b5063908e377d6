"""Pipelines: recorded, cached, tried again, resumed."""

from __future__ import annotations

import sys
import types

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import Ridge

from andon import datasets
from andon.core.actors import Actor
from andon.core.digests import digest_bytes
from andon.core.errors import InvalidInput
from andon.pipelines import code_digest, forget, pipeline, step, values
from andon.registry import get, lineage
from andon.tracking import events_of, get_run, inputs_of, list_runs, metrics_of, params_of

ANA = Actor("person", "ana")


class Calls:
    """What was called. (A plain list would count as a constant of the steps' code, which they change.)"""

    def __init__(self):
        self.names = []


CALLS = Calls()


@pytest.fixture(autouse=True)
def _calls():
    CALLS.names.clear()


def called(name):
    CALLS.names.append(name)


@step
def load(n):
    called("load")
    return np.arange(float(n))


@step
def fit(values):
    called("fit")
    return Ridge().fit(values[:, None], 2 * values)


@step
def score(model, values, *, digits=3):
    called("score")
    return {"mean": round(float(model.predict(values[:, None]).mean()), digits), "n": len(values)}


@pipeline(name="weekly", schedule="0 3 * * *")
def weekly(n: int = 4):
    values = load(n)
    return score(fit(values), values)


def run(store, made, *args, **options):
    return made.run(store, *args, actor=ANA, **options)


def statuses(result):
    return [(record.step, record.status) for record in result.steps]


def test_outside_a_pipeline_a_step_is_its_function():
    assert load(3).tolist() == [0, 1, 2]
    assert load.__name__ == "load"
    assert weekly(4)["n"] == 4


def test_a_run_is_tracked_with_its_steps_and_version(store):
    result = run(store, weekly, 4)
    assert statuses(result) == [("load", "ran"), ("fit", "ran"), ("score", "ran")]
    record = get_run(store, result.run)
    assert (record.status, record.experiment) == ("finished", "pipeline/weekly")
    assert params_of(store, record.id) == {"n": "4"}
    assert [event.body["step"] for event in events_of(store, record.id) if event.type == "step"] == ["load", "fit", "score"]
    manifest = get(store, result.pipeline).manifest
    assert manifest["schedule"] == "0 3 * * *"
    assert (result.run, "pipeline:weekly@1") in {(edge.child, edge.parent) for edge in lineage(store, result.run).edges}


def test_the_same_again_comes_from_the_cache_and_other_arguments_do_not(store):
    first = run(store, weekly, 4)
    assert CALLS.names == ["load", "fit", "score"]
    again = run(store, weekly, 4)
    assert CALLS.names == ["load", "fit", "score"]
    assert again.value == first.value
    assert {status for _, status in statuses(again)} == {"cached"}
    assert again.pipeline == first.pipeline
    run(store, weekly, 5)
    assert len(CALLS.names) == 6
    run(store, weekly, 4, cache=False)
    assert len(CALLS.names) == 9
    assert forget(store, "weekly") > 0
    run(store, weekly, 4)
    assert len(CALLS.names) == 12


def test_the_cache_lives_in_the_store_not_in_the_process(disk_store):
    from andon.store import open_store

    run(disk_store, weekly, 4)
    with open_store(disk_store.settings.home) as again:
        assert {status for _, status in statuses(run(again, weekly, 4))} == {"cached"}


def test_damaged_or_freed_values_are_made_again(disk_store):
    run(disk_store, weekly, 4)
    for digest in list(disk_store.blobs.digests()):
        path = disk_store.blobs.local_path(digest)
        path.chmod(0o644)
        path.write_bytes(b"damaged")
    result = run(disk_store, weekly, 4)
    assert statuses(result)[0] == ("load", "ran")
    assert result.value["n"] == 4


def flaky_pipeline(fail):
    @step(retries=2, wait_s=0.5)
    def flaky(x):
        called("flaky")
        if fail:
            fail.pop()
            raise ValueError("no")
        return x + 1

    @pipeline
    def two():
        return flaky(load(2).sum())

    return two


def test_a_failing_step_is_tried_again_with_growing_waits(store):
    waits: list[float] = []
    result = run(store, flaky_pipeline([1, 2]), sleep=waits.append)
    assert result.value == 2.0
    assert waits == [0.5, 1.0]
    assert result.steps[-1].tries == 3


def test_a_step_that_fails_for_good_is_named_and_the_next_run_goes_on_from_there(store):
    fail = [1, 2, 3]
    two = flaky_pipeline(fail)
    with pytest.raises(ValueError, match="no") as caught:
        run(store, two, sleep=lambda _: None)
    assert "in step 'flaky', call 2 of two" in caught.value.__notes__[0]
    assert "flaky" in [frame.name for frame in caught.traceback]
    record = list_runs(store)[0]
    assert record.status == "failed"
    failed = [event.body for event in events_of(store, record.id) if event.type == "step"][-1]
    assert (failed["status"], failed["tries"]) == ("failed", 3)
    assert "ValueError: no" in failed["error"]
    CALLS.names.clear()
    result = run(store, two, sleep=lambda _: None)
    assert CALLS.names == ["flaky"]
    assert result.value == 2.0


def test_a_step_inside_a_step_is_part_of_it(store):
    @step
    def outer(n):
        return load(n).sum()

    @pipeline
    def nested():
        return outer(3)

    result = run(store, nested)
    assert statuses(result) == [("outer", "ran")]


def test_values_without_a_form_pass_but_are_not_cached(store):
    @step
    def make():
        return object()

    @step
    def use(thing):
        return str(type(thing).__name__)

    @pipeline
    def opaque():
        return use(make())

    for _ in range(2):
        result = run(store, opaque)
        assert result.value == "object"
        assert statuses(result) == [("make", "ran"), ("use", "ran")]
        assert "object" in result.steps[0].note
        assert "object" in result.steps[1].note


def test_a_step_may_refuse_the_cache(store):
    @step(cache=False)
    def now():
        called("now")
        return 1

    @pipeline
    def clock():
        return now()

    run(store, clock)
    run(store, clock)
    assert CALLS.names == ["now", "now"]


@step
def read_rides():
    called("read")
    return float(datasets.read(_store[0], "dataset:rides").table()["a"].to_numpy().sum())


_store: list = []


@pipeline
def reading():
    return read_rides()


def test_a_cached_step_that_read_latest_runs_again_when_latest_moved(store):
    _store[:] = [store]
    try:
        datasets.register(store, "rides", {"a": [1.0, 2.0]}, actor=ANA)
        assert run(store, reading).value == 3.0
        cached = run(store, reading)
        assert statuses(cached) == [("read_rides", "cached")]
        assert [item.address for item in inputs_of(store, cached.run.partition(":")[2])] == ["dataset:rides@1"]
        datasets.register(store, "rides", {"a": [5.0]}, actor=ANA)
        assert run(store, reading).value == 5.0
    finally:
        _store.clear()


def test_a_dataset_handle_is_passed_by_address(store):
    @step
    def make():
        datasets.register(store, "made", {"a": [1]}, actor=ANA)
        return datasets.read(store, "dataset:made@1")

    @step
    def count(data):
        return data.rows

    @pipeline
    def handles():
        return count(make())

    assert run(store, handles).value == 1
    again = run(store, handles)
    assert again.value == 1
    assert again.steps[0].outputs["address"] == "dataset:made@1"
    assert statuses(again) == [("make", "cached"), ("count", "cached")]


def test_metrics_logged_in_a_step_belong_to_the_run(store):
    from andon.tracking import active_run

    @step
    def train():
        active_run().log({"loss": 0.5})
        return 1

    @pipeline
    def logging():
        return train()

    assert metrics_of(store, run(store, logging).run.partition(":")[2])["loss"].value == 0.5


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2.5,
        "text",
        [1, [2, None]],
        (1, "a"),
        {"a": (1.5, [2])},
        b"bytes",
        float("inf"),
    ],
)
def test_plain_values_round_trip(store, value):
    found = values.decode(values.encode(value, store.blobs.put), store)
    assert found == value
    assert type(found) is type(value)


def test_large_values_round_trip(store):
    put = store.blobs.put
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    found = values.decode(values.encode({"x": [array]}, put), store)["x"][0]
    assert found.dtype == array.dtype
    assert (found == array).all()
    scalar = values.decode(values.encode(np.float32(1.5), put), store)
    assert type(scalar) is np.float32
    table = pa.table({"a": [1, None]})
    assert values.decode(values.encode(table, put), store).equals(table)
    model = values.decode(values.encode(Ridge().fit([[1.0], [2.0]], [1.0, 2.0]), put), store)
    assert model.predict([[3.0]]).shape == (1,)
    assert len(values.blobs_in(values.encode({"x": [array, (table,)]}, digest_bytes))) == 2


def test_nan_is_a_value_and_equal_values_have_equal_forms():
    form = values.encode(float("nan"), digest_bytes)
    assert form == {"float": "nan"}
    array = np.arange(4)
    assert values.encode(array, digest_bytes) == values.encode(array.copy(), digest_bytes)
    assert values.encode(array, digest_bytes) != values.encode(array.astype(float), digest_bytes)
    for bad in (object(), {1: 2}, np.array([object()]), {1, 2}):
        with pytest.raises(values.OpaqueError):
            values.encode(bad, digest_bytes)


def module_with(source: str, folder) -> types.ModuleType:
    path = folder / "steps_under_test.py"
    path.write_text(source)
    module = types.ModuleType("steps_under_test")
    module.__file__ = str(path)
    sys.modules["steps_under_test"] = module
    import linecache

    linecache.checkcache()
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


BASE = "RATE = 2\ndef helper(x):\n    return x * RATE\ndef target(x):\n    return helper(x) + 1\n"


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (BASE, True),
        (BASE + "\ndef unrelated():\n    pass\n", True),
        (BASE.replace("+ 1", "+ 2"), False),
        (BASE.replace("x * RATE", "x * RATE * 1"), False),
        (BASE.replace("RATE = 2", "RATE = 3"), False),
    ],
)
def test_a_functions_digest_follows_what_it_uses(tmp_path, changed, same):
    try:
        before = code_digest(module_with(BASE, tmp_path).target)
        after = code_digest(module_with(changed, tmp_path).target)
    finally:
        sys.modules.pop("steps_under_test", None)
    assert (before == after) is same


def test_a_version_is_part_of_the_digest():
    assert code_digest(load.function) != code_digest(load.function, version="2")


def test_bad_decorations_and_calls_are_refused(store):
    with pytest.raises(InvalidInput):
        step(retries=-1)(lambda: 1)
    with pytest.raises(InvalidInput):
        pipeline(schedule="daily")(lambda: 1)

    @pipeline
    def wrong():
        return load(1, 2, 3)

    with pytest.raises(InvalidInput) as caught:
        run(store, wrong)
    assert "load" in str(caught.value)


def test_a_new_version_comes_with_new_code_only(store):
    @pipeline(name="p")
    def first():
        return load(1)

    @pipeline(name="p")
    def second():
        return load(2)

    assert first.register(store, actor=ANA).address.version == 1
    assert first.register(store, actor=ANA).address.version == 1
    assert second.register(store, actor=ANA).address.version == 2
