"""What works on whole columns says what a plain loop over the rows says, to the last bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.core.clocks import DAY_US, HOUR_US
from andon.monitoring.laws import CalendarLaw, ClockLaw, absent, broken, clock, encode
from andon.monitoring.profiles import Relation, day_maximum, day_statistics, duplicates, level_jumps, longest_runs, partner_moves, run_start
from andon.monitoring.records import Frame, frame
from andon.monitoring.tails import binomial_tail, fit_tail

pytestmark = pytest.mark.filterwarnings("error")

calm = settings(max_examples=60, deadline=None)
few = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.5, -3.0]))
texts = st.one_of(st.none(), st.sampled_from(["", "a", "b", "é"]))


@st.composite
def rows(draw: st.DrawFn, most: int = 60) -> Frame:
    n = draw(st.integers(0, most))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    ids = draw(st.sampled_from(["none", "some", "all"]))
    named = {"none": st.none(), "some": st.one_of(st.none(), st.sampled_from("pqr")), "all": st.sampled_from("pqrstuvw")}[ids]
    return frame(
        column(st.integers(0, 12).map(lambda step: step * 7 * HOUR_US)),
        {"x": column(few), "y": column(few), "c": column(texts), "d": column(texts)},
        request_id=None if ids == "none" else column(named),
    )


def same(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(a == b or (a != a and b != b) for a, b in zip(one, other, strict=True))


def plain_encode(column: np.ndarray) -> tuple[list[int], list[Any]]:
    null = [value is None or value != value for value in column.tolist()]
    values = sorted({value for value, gone in zip(column.tolist(), null, strict=True) if not gone})
    return [-1 if gone else values.index(value) for value, gone in zip(column.tolist(), null, strict=True)], values


@calm
@given(rows())
def test_encode(found: Frame) -> None:
    for column in found.inputs.values():
        codes, values = encode(column)
        assert (codes.tolist(), values) == plain_encode(column)
        assert absent(column).tolist() == [code < 0 for code in codes.tolist()]


@calm
@given(rows())
def test_duplicates(found: Frame) -> None:
    ids = found.request_id.tolist() if found.request_id is not None else [None] * len(found)
    keys = list(zip(found.event_us.tolist(), *(plain_encode(column)[0] for column in found.inputs.values()), strict=True))
    wanted = [(ids[i] in ids[:i]) if ids[i] is not None else keys[i] in keys[:i] for i in range(len(found))]
    assert duplicates(found).tolist() == wanted


@calm
@given(rows())
def test_runs_and_what_the_partner_did_meanwhile(found: Frame) -> None:
    law = Relation("x", "y", np.array([-3.0, 0.0, 1.0]), np.array([1.0, 5.0, 4.0]), fit_tail(np.zeros(0)), 2.0, 1.0)
    for name in ("x", "c"):
        codes = plain_encode(found.inputs[name])[0]
        start, hours = [], []
        for i, code in enumerate(codes):
            start.append(start[-1] if i and code >= 0 and codes[i - 1] == code else i)
            elapsed = int(found.event_us[i] - found.event_us[start[i]]) + HOUR_US
            hours.append(min(elapsed, (i - start[i] + 1) * HOUR_US) / HOUR_US)
        assert longest_runs(found.event_us, found.inputs[name], HOUR_US).tolist() == hours
        assert [run_start(found.inputs[name], i) for i in range(len(codes))] == start
        if name == "x":
            implied = law.expect(found.inputs["y"]).tolist()
            spans = [[one for one in implied[start[i] : i + 1] if math.isfinite(one)] for i in range(len(codes))]
            assert partner_moves(found, law).tolist() == [(max(span) - min(span)) / 2.0 if span else 0.0 for span in spans]


def test_a_run_is_found_however_long() -> None:
    column = np.r_[np.arange(5.0), np.full(5000, 7.0)]
    assert [run_start(column, row) for row in (0, 4, 5, 70, 5004)] == [0, 4, 5, 5, 5]


@calm
@given(rows(), st.sampled_from(["time of day", "day of week", "month"]))
def test_laws(found: Frame, name: str) -> None:
    for feature, value, other in (("x", 1.0, 2.5), ("c", "a", "")):
        column = found.inputs[feature].tolist()
        by_clock = ClockLaw(feature, name, {0: value, 7: other, 14: value}, 30, 0, HOUR_US)
        demands = [by_clock.table.get(reading) for reading in clock(name, found.event_us).tolist()]
        by_day = CalendarLaw(feature, ("y", "d", "gone"), {(3, 1.0, "a", 0.0): value}, 30, 0)
        with_text = CalendarLaw(feature, ("d",), {(3, "a"): value, (4, None): other}, 30, 0)
        days = clock("day of week", found.event_us).tolist()
        asked = [with_text.table.get(key) for key in zip(days, found.inputs["d"].tolist(), strict=True)]
        for expected, wanted in (
            (by_clock.expected(found.event_us), demands),
            (with_text.expected(found), asked),
            (by_day.expected(found), [None] * len(found)),
        ):
            assert [None if one is None or one != one else one for one in expected.tolist()] == wanted
            assert broken(expected, found.inputs[feature]).tolist() == [
                want is not None and have is not None and have == have and have != want for want, have in zip(wanted, column, strict=True)
            ]


@calm
@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.just(math.nan), st.floats(-1e6, 1e6))), max_size=80))
def test_day_statistics(found: list[tuple[int, float]]) -> None:
    found.sort(key=lambda pair: pair[0])
    when, values = np.array([day * DAY_US for day, _ in found], dtype=np.int64), np.array([value for _, value in found], dtype=np.float64)
    centre, spread = day_statistics(when, values)
    days = sorted({day for day, _ in found})
    known = [np.array([value for at, value in found if at == day and math.isfinite(value)]) for day in days]
    assert same(centre, [float(np.median(one)) if len(one) else math.nan for one in known])
    assert same(spread, [float(np.std(one)) if len(one) > 3 else math.nan for one in known])
    place = np.searchsorted(days, [day for day, _ in found]) if found else np.zeros(0, dtype=np.int64)
    filled = np.nan_to_num(values)
    assert day_maximum(place, filled).tolist() == [max(0.0, float(filled[place == i].max())) for i in range(len(days))]
    weeks = [[one for one in centre[max(0, i - 7) : i].tolist() if math.isfinite(one)] for i in range(len(days))]
    assert same(level_jumps(centre), [abs(centre[i] - float(np.median(week))) if week else math.nan for i, week in enumerate(weeks)])


@calm
@given(st.integers(0, 3000), st.floats(0, 1.05), st.floats(1e-9, 1 - 1e-9))
def test_a_binomial_tail_is_the_whole_sum(n: int, part: float, p: float) -> None:
    k = int(part * n)
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k, n + 1)
    ]
    top = max(logs, default=0.0)
    whole = 1.0 if k <= 0 else 0.0 if k > n else min(1.0, math.exp(top) * math.fsum(math.exp(value - top) for value in logs))
    assert math.isclose(binomial_tail(k, n, p), whole, rel_tol=1e-9, abs_tol=1e-300)
