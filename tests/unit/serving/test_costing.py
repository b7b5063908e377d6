"""What a batch costs, and how a release asks to be handled."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from andon.core.errors import LoadFailed
from andon.serving.costing import Cost
from andon.serving.gauging import Gauge, rss_mb
from andon.serving.metrics import Metrics
from andon.serving.options import Options, options_of


@given(st.floats(1e-6, 1.0), st.floats(1e-7, 0.1), st.lists(st.integers(1, 500), min_size=4, max_size=40, unique=True))
def test_a_line_is_learnt(a: float, b: float, sizes: list[int]) -> None:
    cost = Cost()
    for n in sizes:
        cost.learn(n, a + b * n)
    assert cost.predict_s(1000) == pytest.approx(a + b * 1000, rel=0.02)
    assert cost.drain_s(1000, 100) == pytest.approx(10 * cost.a + 1000 * cost.b)


def test_what_is_unknown_and_what_is_known_of_one_size() -> None:
    cost = Cost()
    assert not cost.known
    assert cost.predict_s(1) == float("inf")
    assert cost.drain_s(100, 10) == 0.0  # nobody is refused by a guess
    cost.learn(10, 0.1)
    assert (cost.a, cost.predict_s(100)) == (0.0, pytest.approx(1.0))  # until a larger batch says otherwise
    for _ in range(10):
        cost.learn(100, 0.1)
    assert cost.predict_s(100) == pytest.approx(0.1, rel=0.05)


def test_costs_are_never_negative_and_the_past_is_forgotten() -> None:
    cost = Cost()
    for n, seconds in [(1, 0.5), (100, 0.1)] * 5:
        cost.learn(n, seconds)
    assert cost.b == 0.0
    for _ in range(400):
        cost.learn(1, 0.001)
        cost.learn(100, 0.001)
    assert cost.predict_s(50) == pytest.approx(0.001, rel=0.1)


def test_the_cost_of_a_batch_is_learnt() -> None:
    cost = Cost()
    cost.learn(10, 0.001)
    assert cost.predict_s(100) == pytest.approx(0.01)  # one size seen: as if it were all per row
    cost = Cost()
    for n in (1, 10, 100, 1000) * 30:
        cost.learn(n, 0.0002 + n * 1e-6)
    assert cost.predict_s(500) == pytest.approx(0.0007, rel=1e-6)
    assert cost.predict_s(1) == pytest.approx(0.000201, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"batch": {"max_rows": 0}}, "settings.batch.max_rows"),
        ({"batch": {"max_rows": "8"}}, "settings.batch.max_rows"),
        ({"batch": {"max_row": 8}}, "settings.batch"),
        ({"batch": {"max_wait_ms": -1}}, "settings.batch.max_wait_ms"),
        ({"batch": 8}, "settings.batch"),
        ({"queue": {"max_bytes": 1.5}}, "settings.queue.max_bytes"),
        ({"timeout_s": 0}, "settings.timeout_s"),
        ({"timeout_s": 99999}, "settings.timeout_s"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(LoadFailed) as error:
        options_of(settings)
    assert error.value.fields["field"] == field


def test_settings_of_others_are_left_alone() -> None:
    assert options_of({"label": "y", "runner": {"replicas": 2}}) == Options()
    found = options_of({"batch": {"max_rows": 8, "max_wait_ms": 2}, "queue": {"max_rows": 9}, "timeout_s": 5})
    assert (found.batch.max_rows, found.batch.max_wait_ms, found.queue.max_rows, found.timeout_s) == (8, 2.0, 9, 5.0)


def test_memory_over_its_bound_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rss_mb() > 10
    used = [100.0]
    gauge = Gauge(Metrics("bikes"), 150, measure_mb=lambda: used[0])
    gauge.look()
    assert (gauge.full, gauge.rss_mb) == (False, 100.0)
    used[0] = 200.0
    gauge.look()
    assert not gauge.full  # it looks a few times a second
    gauge._looked_s = 0.0
    gauge.look()
    assert gauge.full
    unbounded = Gauge(Metrics("bikes"), measure_mb=lambda: 1e9)
    unbounded.look()
    assert not unbounded.full
