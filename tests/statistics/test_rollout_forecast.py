"""The expected time to a verdict, held against simulated rollouts: seeds and bounds are in the tests."""

from __future__ import annotations

import math

import numpy as np
import pytest

from andon.rollouts.analysis import AnalysisPolicy, ErrorPolicy, LatencyPolicy, MetricPolicy, Stage, Traffic, forecast
from andon.rollouts.analysis.differences import WARM, add, log_evidence, paths, unpaired
from andon.rollouts.analysis.odds import HARM, log_mean_exp, log_steps
from andon.rollouts.analysis.records import Difference

STAGES = (Stage(0.05, 2_000), Stage(0.25, 2_000), Stage(0.5))


def shares(n: int) -> np.ndarray:
    return np.repeat([0.05, 0.25, 0.5], [2_000, 2_000, n - 4_000])


def median_first(hits: list[np.ndarray], n: int) -> float:
    return float(np.median([int(np.argmax(hit)) + 1 if hit.any() else n for hit in hits]))


def test_time_to_promotion_is_what_simulations_take() -> None:
    """Seed 61, 200 equal candidates, errors 1 % with a margin of 1 point, and a metric: the medians are within 25 % of the forecast."""
    policy = AnalysisPolicy(
        errors=ErrorPolicy(margin=0.01), latency=None, metrics=(MetricPolicy(name="gain", low=0, high=10, better="higher", margin=0.2),)
    )
    said = forecast(policy, Traffic(units_per_hour=3_600, error_rate=0.01, spreads={"gain": 1.5}), STAGES)
    by_check = {line.what: line for line in said.checks}
    rng, n = np.random.default_rng(61), 40_000
    hits: dict[str, list[np.ndarray]] = {"errors": [], "metric/gain": []}
    for _ in range(200):
        arm = (rng.random(n) < shares(n)).astype(np.float64)
        for check, value, margin in (
            ("errors", (rng.random(n) < 0.01).astype(np.float64), 0.01),
            ("metric/gain", np.clip(rng.normal(0.5, 0.15, n), 0, 1), 0.02),
        ):
            warm = add(Difference(), value[:WARM], arm[:WARM], shares(n)[:WARM], np.arange(WARM), margin=margin)
            excess, weight, variance = paths(warm, *unpaired(warm, value[WARM:], arm[WARM:], shares(n)[WARM:]))
            hit = log_evidence(margin * weight - excess, variance, warm.centre) >= math.log(20)
            hits[check].append(np.concatenate([np.zeros(WARM, dtype=bool), hit]))
    for check, found in hits.items():
        units = by_check[check].units
        assert units is not None
        assert units == pytest.approx(median_first(found, n), rel=0.25)
        assert by_check[check].hours == pytest.approx(units / 3_600)
    assert said.promote.units == max(line.units or 0 for line in said.checks)


@pytest.mark.parametrize("ratio", [2.0, 5.0])
def test_time_to_abort_is_what_simulations_take(ratio: float) -> None:
    """Seed 62, 300 candidates with 2 or 5 times the errors of a control at 2 %: the median is within 30 % of the forecast."""
    policy = AnalysisPolicy(latency=None)
    said = forecast(policy, Traffic(units_per_hour=1_000, error_rate=0.02), STAGES, error_ratios=(ratio,)).abort[0]
    rng, n = np.random.default_rng(62), 15_000
    hits = []
    for _ in range(300):
        arm = (rng.random(n) < shares(n)).astype(np.float64)
        event = rng.random(n) < 0.02 * np.where(arm == 1, ratio, 1.0)
        logs = np.cumsum(log_steps(arm, shares(n), HARM) * event[:, None], axis=0)
        hits.append(log_mean_exp(logs) >= math.log(20))
    assert said.units == pytest.approx(median_first(hits, n), rel=0.3)


def test_what_cannot_be_proven_is_not_promised() -> None:
    """A margin far below the noise at the limits of what is counted, and no traffic at all."""
    policy = AnalysisPolicy(latency=LatencyPolicy(margins=(1e-9, 1e-9)))
    said = forecast(policy, Traffic(units_per_hour=1.0, error_rate=0.5), STAGES)
    assert said.promote.units is None
    assert said.promote.hours is None
    equal = forecast(AnalysisPolicy(latency=None, min_units=1_000), Traffic(units_per_hour=1.0), (Stage(0.05),))
    assert equal.promote.units is not None
    assert equal.promote.units >= 20_000  # 1,000 units of a 5 % share
