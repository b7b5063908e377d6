"""Faults that are really in the bike data, and days that only look like one. Nothing here is known to the code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from andon.core.clocks import DAY_US, HOUR_US, to_us
from andon.core.verdicts import Verdict
from andon.examples import DATA as EXAMPLES
from andon.monitoring import Frame, InputsState, Policy, frame, judge_drift, judge_inputs, judge_training_data, profile, sound

DATA = EXAMPLES / "bike_sharing.parquet"
NAMES = ("hr", "weekday", "workingday", "holiday", "weathersit", "temp", "atemp", "hum", "windspeed")
POLICY = Policy()


@pytest.fixture(scope="module")
def bikes() -> Frame:
    import pyarrow.parquet as pq

    table = pq.read_table(DATA)
    when = np.asarray(table["timestamp"]).astype("datetime64[us]").astype(np.int64)
    return frame(when, {name: np.asarray(table[name], dtype=float) for name in NAMES}, label=np.asarray(table["cnt"], dtype=float))


def judged(rows: Frame, day: str, days: int = 1, since: str | None = None) -> list[Verdict]:
    """The verdicts on ``days`` days from ``day``, after a clean run-up of two weeks, by the 180 days before."""
    first = to_us(day)
    known = sound(rows.between(first - 194 * DAY_US, first - 14 * DAY_US), POLICY)[1]
    state, found = InputsState(), []
    for at in range(first - 14 * DAY_US, first + days * DAY_US, DAY_US):
        verdicts, state = judge_inputs(
            known, state, rows.between(at - 8 * DAY_US, at + DAY_US), (at, at + DAY_US), subject="s", policy=POLICY
        )
        if at >= first:
            found += verdicts
    return found


def failing(verdicts: list[Verdict]) -> set[str]:
    return {one.slice for verdict in verdicts if verdict.status == "fail" for one in verdict.slices if one.status == "fail"}


def test_a_frozen_felt_temperature_is_found(bikes: Frame) -> None:
    assert failing(judged(bikes, "2012-08-17")) == {"atemp"}


def test_a_frozen_value_that_agrees_with_its_partner_is_mentioned(bikes: Frame) -> None:
    """On 2012-12-29 the frozen value happened to be nearly right: worth a look, no page."""
    verdicts = {verdict.check: verdict for verdict in judged(bikes, "2012-12-29")}
    assert verdicts["inputs/frozen"].status == "warn"
    assert "atemp" in verdicts["inputs/frozen"].message


def test_a_truly_flat_day_is_no_fault(bikes: Frame) -> None:
    assert failing(judged(bikes, "2011-09-06", days=2)) == set()


def test_a_saturated_humidity_is_no_fault(bikes: Frame) -> None:
    assert "hum" not in failing(judged(bikes, "2011-12-06", days=2))


def test_training_data_with_a_dead_sensor_is_refused(bikes: Frame) -> None:
    """2011-03-10: a humidity of 0 all day. A learned range would have accepted it."""
    verdict = judge_training_data(bikes.between(to_us("2011-01-16"), to_us("2011-07-04")), subject="dataset:bikes@1", policy=POLICY)
    assert verdict.status == "fail"
    assert verdict.evidence[0].rows[0][:3] == ("2011-03-10", "hum", "frozen")
    kept, _ = sound(bikes.between(to_us("2011-01-16"), to_us("2011-07-04")), POLICY)
    assert judge_training_data(kept, subject="dataset:bikes@1", policy=POLICY).status == "pass"


@pytest.mark.parametrize(("start", "end"), [("2011-03-11", "2011-09-10"), ("2011-08-01", "2012-02-01"), ("2012-01-01", "2012-08-01")])
def test_sound_training_data_passes_also_in_a_new_season(bikes: Frame, start: str, end: str) -> None:
    assert judge_training_data(bikes.between(to_us(start), to_us(end)), subject="dataset:bikes@1", policy=POLICY).status == "pass"


def broken(rows: Frame, name: str, since: str, change: Callable[[np.ndarray], np.ndarray | float]) -> Frame:
    column = rows.inputs[name].copy()
    chosen = rows.event_us >= to_us(since)
    column[chosen] = change(column[chosen])
    return Frame(rows.event_us, {**rows.inputs, name: column}, rows.prediction, rows.label, rows.release)


@pytest.mark.parametrize("day", ["2011-08-08", "2011-11-15", "2012-02-21", "2012-07-10"])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("hr", lambda x: (x + 4) % 24),
        ("weekday", lambda x: (x + 1) % 7),
        ("workingday", lambda x: x * 0),
        ("temp", lambda x: x * 1.8 + 0.32),
        ("temp", lambda x: x * 41),
        ("hum", lambda x: x * 100),
        ("hum", lambda x: x * 0),
        ("windspeed", lambda x: x * np.nan),
        ("atemp", lambda x: x[0] + x * 0),
        ("weathersit", lambda x: x + 7),
    ],
)
def test_broken_inputs_are_named_within_two_days(bikes: Frame, day: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    assert name in failing(judged(broken(bikes, name, day, change), day, days=2))


def test_a_missing_column_and_text_for_a_number_are_named(bikes: Frame) -> None:
    rows = bikes.between(to_us("2011-01-16"), to_us("2011-09-01"))
    without = Frame(rows.event_us, {k: v for k, v in rows.inputs.items() if k != "hum"}, rows.prediction, rows.label, rows.release)
    text = Frame(
        rows.event_us, {**rows.inputs, "temp": rows.inputs["temp"].astype(str).astype(object)}, rows.prediction, rows.label, rows.release
    )
    known = profile(rows)
    window = (to_us("2011-08-08"), to_us("2011-08-09"))
    for spoiled, name in ((without, "hum"), (text, "temp")):
        verdicts, _ = judge_inputs(known, InputsState(), spoiled, window, subject="s", policy=POLICY)
        assert failing(list(verdicts)) == {name}


def test_repeated_and_stale_rows_are_named(bikes: Frame) -> None:
    rows = bikes.between(to_us("2011-01-16"), to_us("2011-09-01"))
    fresh = frame(rows.event_us, rows.inputs, source_us=rows.event_us - HOUR_US)
    known = profile(fresh.between(0, to_us("2011-08-01")))
    window = (to_us("2011-08-08"), to_us("2011-08-09"))
    stale = frame(rows.event_us, rows.inputs, source_us=rows.event_us - 25 * HOUR_US)
    twice = fresh.take(np.repeat(np.arange(len(fresh)), 2))
    assert failing(list(judge_inputs(known, InputsState(), fresh, window, subject="s", policy=POLICY)[0])) == set()
    assert failing(list(judge_inputs(known, InputsState(), stale, window, subject="s", policy=POLICY)[0])) == {"source time"}
    assert failing(list(judge_inputs(known, InputsState(), twice, window, subject="s", policy=POLICY)[0])) == {"rows"}


def test_drift_is_a_digest(bikes: Frame) -> None:
    """Winter against spring and summer: temperature tops the list, and nobody is paged."""
    training = bikes.between(to_us("2011-03-01"), to_us("2011-09-01"))
    window = (to_us("2011-12-01"), to_us("2012-01-01"))
    verdict = judge_drift(profile(training), training, dict.fromkeys(NAMES, 1.0), bikes, window, subject="s", policy=POLICY)
    assert verdict.status == "warn"
    assert {row[0] for row in verdict.evidence[0].rows[:2]} == {"temp", "atemp"}


def test_hours_that_are_missing_are_noticed_by_the_services_own_weeks(bikes: Frame) -> None:
    """2012-10-29, the hurricane: one hour of the day is there."""
    found = [verdict for verdict in judged(bikes, "2012-10-29", days=2) if verdict.check == "inputs/volume"]
    assert [verdict.status for verdict in found] == ["fail", "warn"]
    assert found[0].n == 1


@pytest.mark.parametrize("window_us", [HOUR_US // 4, HOUR_US, DAY_US, 36 * HOUR_US])
def test_volume_is_judged_on_windows_of_any_length_and_its_state_stays_small(bikes: Frame, window_us: int) -> None:
    policy = Policy(window_us=window_us)
    known = profile(bikes.between(to_us("2011-01-16"), to_us("2011-02-01")))
    state, seen = InputsState(), []
    first = to_us("2012-01-02") // window_us * window_us
    nothing = frame([], {})
    for at in range(first, first + 21 * DAY_US, window_us):
        rows = frame(at + np.arange(window_us // HOUR_US * 40 or 10), {})  # ten a quarter
        lost = at >= first + 20 * DAY_US
        verdicts, state = judge_inputs(known, state, nothing if lost else rows, (at, at + window_us), subject="s", policy=policy)
        seen.append((at - first, next(one.status for one in verdicts if one.check == "inputs/volume")))
    assert {status for at, status in seen if at < 7 * DAY_US} == {"undecided"}
    assert {status for at, status in seen if 7 * DAY_US <= at < 20 * DAY_US} == {"pass"}
    assert {status for at, status in seen if at >= 20 * DAY_US} <= {"fail", "warn"}
    assert len(state.counts) <= 28 * 24
