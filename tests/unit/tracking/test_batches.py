"""Points, params and tags in batches: idempotent, all or nothing, and the series row always right."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from andon.core.actors import Actor
from andon.core.errors import Conflict, Gone, InvalidInput, NotFound
from andon.registry import tags_of
from andon.store import memory_store
from andon.tracking import Point, create_run, delete_run, log_batch, metric_series, metrics_of, params_of, restore_run, submit_batch

ANA = Actor("person", "ana")


@pytest.fixture
def run(store):
    return create_run(store, actor=ANA).id


def test_a_batch_is_all_there(store, run):
    log_batch(store, run, metrics=[("mae", 3.0, 0, 10), ("mae", 2.0, 1, 20)], params={"depth": 6}, tags={"team": "bikes"}, actor=ANA)
    assert params_of(store, run) == {"depth": "6"}
    assert tags_of(store, f"run:{run}") == {"team": "bikes"}
    metric = metrics_of(store, run)["mae"]
    assert (metric.value, metric.step, metric.at_us, metric.count, metric.min, metric.max) == (2.0, 1, 20, 2, 2.0, 3.0)


def test_sending_a_batch_twice_changes_nothing(store, run):
    batch = [Point("a", float(step), step, step) for step in range(10)] + [Point("b", 1.0, 0, 0)]
    log_batch(store, run, metrics=batch, actor=ANA)
    before = metrics_of(store, run)
    log_batch(store, run, metrics=batch, actor=ANA)
    log_batch(store, run, metrics=[*batch[5:], Point("a", 99.0, 99, 99)], actor=ANA)
    after = metrics_of(store, run)
    assert after["b"] == before["b"]
    assert (after["a"].count, after["a"].value) == (11, 99.0)


def test_the_newest_point_is_by_step_then_time_not_by_arrival(store, run):
    log_batch(store, run, metrics=[("a", 5.0, 5, 50)], actor=ANA)
    log_batch(store, run, metrics=[("a", 3.0, 3, 60)], actor=ANA)
    assert metrics_of(store, run)["a"].value == 5.0
    log_batch(store, run, metrics=[("a", 4.0, 5, 51)], actor=ANA)
    assert metrics_of(store, run)["a"].value == 4.0


def test_nan_and_infinities_come_back(store, run):
    log_batch(store, run, metrics=[("a", math.nan, 0, 0), ("a", math.inf, 1, 0), ("a", -math.inf, 2, 0), ("a", 1.0, 3, 0)], actor=ANA)
    values = metric_series(store, run, "a").values.tolist()
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, 1.0]
    metric = metrics_of(store, run)["a"]
    assert (metric.min, metric.max, metric.count) == (1.0, 1.0, 4)
    log_batch(store, run, metrics=[("only", math.nan, 0, 0)], actor=ANA)
    assert math.isnan(metrics_of(store, run)["only"].value)
    assert metrics_of(store, run)["only"].min is None


def test_a_param_keeps_its_value_and_the_batch_that_changes_it_leaves_nothing(store, run):
    log_batch(store, run, params={"depth": 6, "loss": "mae"}, actor=ANA)
    log_batch(store, run, params={"depth": "6"}, actor=ANA)
    with pytest.raises(Conflict) as caught:
        log_batch(store, run, metrics=[("a", 1.0, 0, 0)], params={"new": 1, "depth": 7}, tags={"t": "v"}, actor=ANA)
    assert caught.value.fields["field"] == "depth"
    assert caught.value.fields["found"] == "6"
    assert params_of(store, run) == {"depth": "6", "loss": "mae"}
    assert metrics_of(store, run) == {}
    assert tags_of(store, f"run:{run}") == {}


@pytest.mark.parametrize(
    ("metrics", "field"),
    [
        ([("", 1.0, 0, 0)], "key"),
        ([("a" * 251, 1.0, 0, 0)], "key"),
        ([("a\nb", 1.0, 0, 0)], "key"),
        ([("a", "x", 0, 0)], "a"),
        ([("a", None, 0, 0)], "a"),
        ([("a", 1.0, 2**63, 0)], "a"),
        ([("a", 1.0, 0, -(2**63) - 1)], "a"),
        ([("a", 1.0, 0.5, 0)], "a"),
    ],
)
def test_bad_points_name_what_is_wrong(store, run, metrics, field):
    with pytest.raises(InvalidInput) as caught:
        log_batch(store, run, metrics=metrics, actor=ANA)
    assert caught.value.fields["field"] == field
    assert metrics_of(store, run) == {}


def test_params_that_are_too_long_are_refused(store, run):
    with pytest.raises(InvalidInput) as caught:
        log_batch(store, run, params={"text": "x" * 8_001}, actor=ANA)
    assert caught.value.fields["field"] == "text"


def test_unknown_and_deleted_runs_take_nothing(store, run):
    with pytest.raises(NotFound):
        log_batch(store, "01J", metrics=[("a", 1.0, 0, 0)], actor=ANA)
    delete_run(store, run, actor=ANA)
    with pytest.raises(Gone):
        submit_batch(store, run, params={"a": 1}, actor=ANA).result()
    restore_run(store, run, actor=ANA)
    log_batch(store, run, params={"a": 1}, actor=ANA)


def test_a_series_is_read_in_pages(store, run):
    log_batch(store, run, metrics=[("a", float(n), n // 2, n) for n in range(10)], actor=ANA)
    whole = metric_series(store, run, "a")
    first = metric_series(store, run, "a", limit=4)
    last = (int(first.steps[-1]), int(first.at_us[-1]), float(first.values[-1]), 0)
    rest = metric_series(store, run, "a", after=last)
    assert first.values.tolist() + rest.values.tolist() == whole.values.tolist() == [float(n) for n in range(10)]
    assert metric_series(store, run, "none").values.tolist() == []


def test_a_batch_of_a_thousand_keys_and_again(store, run):
    batch = [Point(f"k{n}", float(n), 0, 0) for n in range(1_200)]
    log_batch(store, run, metrics=batch, params={f"p{n}": n for n in range(1_200)}, actor=ANA)
    log_batch(store, run, metrics=[point._replace(step=1, value=-1.0) for point in batch], actor=ANA)
    found = metrics_of(store, run)
    assert len(found) == len(params_of(store, run)) == 1_200
    assert {metric.count for metric in found.values()} == {2}
    assert found["k7"].value == found["k7"].min == -1.0


POINTS = st.tuples(
    st.sampled_from("abc"),
    st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf])),
    st.integers(-3, 3),
    st.integers(0, 3),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(POINTS, max_size=12), max_size=5))
def test_property_the_series_row_is_what_the_points_say(batches):
    """Whatever is sent in whatever batches, duplicates too: points are a set, and newest, count and extremes follow from it."""
    with memory_store() as store:
        run = create_run(store, actor=ANA).id
        model: dict[str, set[tuple[int, int, float, int]]] = {}
        for batch in batches:
            log_batch(store, run, metrics=batch, actor=ANA)
            for key, value, step, at_us in batch:
                special = 1 if math.isnan(value) else 2 if value == math.inf else 3 if value == -math.inf else 0
                model.setdefault(key, set()).add((step, at_us, 0.0 if special else value, special))
        found = metrics_of(store, run)
        assert found.keys() == model.keys()
        for key, points in model.items():
            metric, finite = found[key], [point[2] for point in points if not point[3]]
            assert metric.count == len(points) == len(metric_series(store, run, key).values)
            assert (metric.step, metric.at_us) == max(points)[:2]
            assert metric.min == min(finite, default=None)
            assert metric.max == max(finite, default=None)
