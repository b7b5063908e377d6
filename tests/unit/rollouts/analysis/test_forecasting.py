"""What is asked of a forecast."""

from __future__ import annotations

import msgspec
import pytest

from andon.core.errors import InvalidInput
from andon.rollouts.analysis import AnalysisPolicy, ErrorPolicy, Forecast, MetricPolicy, Stage, Traffic, forecast

POLICY = AnalysisPolicy(latency=None, metrics=(MetricPolicy(name="gain", low=0, high=1, better="higher", margin=0.02),))


def units(policy: AnalysisPolicy = POLICY, *, share: float = 0.5, error_rate: float = 0.01, per_hour: float = 1_000.0) -> Forecast:
    return forecast(policy, Traffic(units_per_hour=per_hour, error_rate=error_rate, spreads={"gain": 0.1}), (Stage(share),))


def test_promotion_waits_for_the_slowest_check_and_hours_follow_traffic() -> None:
    said = units()
    assert [line.what for line in said.checks] == ["errors", "metric/gain"]
    assert said.promote.units == max(line.units or 0 for line in said.checks)
    assert said.promote.hours == pytest.approx((said.promote.units or 0) / 1_000)
    assert units(per_hour=100).promote.hours == pytest.approx(10 * (said.promote.hours or 0))


def test_less_share_more_errors_and_a_tighter_margin_take_longer() -> None:
    usual = units().checks[0].units or 0
    assert (units(share=0.05).checks[0].units or 0) > 3 * usual
    assert (units(error_rate=0.05).checks[0].units or 0) > 3 * usual
    tight = msgspec.structs.replace(POLICY, errors=ErrorPolicy(margin=0.0025))
    assert (units(tight).checks[0].units or 0) > 3 * usual
    twice, five = units().abort
    assert (twice.units or 0) > 3 * (five.units or 0) > 0


def test_what_is_no_guard_or_not_required_is_not_forecast() -> None:
    policy = AnalysisPolicy(errors=ErrorPolicy(guard=False, required=False), latency=None)
    said = units(policy)
    assert said.checks == said.abort == ()
    assert said.promote.units is None


@pytest.mark.parametrize(
    ("traffic", "stages"),
    [
        (Traffic(units_per_hour=0.0), (Stage(0.5),)),
        (Traffic(units_per_hour=float("nan")), (Stage(0.5),)),
        (Traffic(units_per_hour=1.0, error_rate=1.5), (Stage(0.5),)),
        (Traffic(units_per_hour=1.0), ()),
        (Traffic(units_per_hour=1.0), (Stage(1.0),)),
    ],
)
def test_no_traffic_and_no_steps_are_refused(traffic: Traffic, stages: tuple[Stage, ...]) -> None:
    with pytest.raises(InvalidInput):
        forecast(POLICY, traffic, stages)
