"""Verdicts and conclusions: what fails, what passes, and what is never promoted."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from andon.core.errors import InvalidInput
from andon.core.verdicts import Verdict
from andon.rollouts.analysis import (
    AnalysisPolicy,
    AnalysisState,
    Block,
    ErrorPolicy,
    LatencyPolicy,
    MetricPolicy,
    compare,
    conclude,
    e_bh,
    guard_alphas,
    holm,
    judge,
    required_checks,
    series,
    start,
    update,
)

GAIN = MetricPolicy(name="gain", low=0, high=1, better="higher", margin=0.05)
POLICY = AnalysisPolicy(errors=ErrorPolicy(margin=0.02), latency=LatencyPolicy(margins=(0.1, 0.05)), metrics=(GAIN,))


def state_of(policy: AnalysisPolicy = POLICY, n: int = 8_000, *, share: float = 0.5, arms: int = 2, **change: Any) -> AnalysisState:
    """Equal arms, but for what ``change`` says of the candidate: ``error`` rate, ``slower``, ``gain``, ``lost`` (missing gains)."""
    rng = np.random.default_rng(5)
    parts = np.array([1 - share, share]) if arms == 2 else np.full(arms, 1 / arms)
    arm = rng.choice(arms, n, p=parts)
    is_last = arm == arms - 1
    gain = np.clip(rng.normal(0.5, 0.1, n) + change.get("gain", 0.0) * is_last, 0, 1)
    gain[is_last & (rng.random(n) < change.get("lost", 0.0))] = np.nan
    block = Block(
        arm=arm,
        chance=np.tile(change.get("chance", parts), (n, 1)),
        at_us=np.arange(n) + 1,
        fresh=np.ones(n, dtype=bool),
        error=(rng.random(n) < np.where(is_last, change.get("error", 0.01), 0.01)).astype(np.float64),
        latency_ms=rng.lognormal(3, 0.5, n) * np.where(is_last, change.get("slower", 1.0), 1.0),
        metrics={"gain": gain},
        slices={"country": np.where(rng.random(n) < 0.3, "PT", "FR").tolist()},
    )
    return update(start(policy, arms=arms), block, policy)


def statuses(state: AnalysisState, policy: AnalysisPolicy = POLICY) -> dict[str, str]:
    return {one.check: one.status for one in judge(state, policy, subject="release:a@2")}


def test_an_equal_candidate_is_promoted_once_all_is_proven() -> None:
    state = state_of()
    assert set(statuses(state).values()) == {"pass"}
    assert conclude(judge(state, POLICY, subject="s"), POLICY) == "promote"
    verdict = {one.check: one for one in judge(state, POLICY, subject="release:a@2")}["metric/gain"]
    assert verdict.subject == "release:a@2"
    assert verdict.interval is not None
    assert verdict.interval.high is not None
    assert verdict.threshold == 0.05 > verdict.interval.high
    assert verdict.window_us == (1, 8_001)
    assert verdict.n == 8_000
    assert [row[0] for row in verdict.evidence[0].rows] == ["control", "candidate"]
    assert verdict.evidence[0].rows[0][2] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("change", "check"), [({"error": 0.05}, "errors"), ({"slower": 1.4}, "latency"), ({"gain": -0.1}, "metric/gain")])
def test_harm_fails_its_own_check_and_aborts(change: dict[str, float], check: str) -> None:
    state = state_of(**change)
    found = statuses(state)
    assert [name for name, status in found.items() if status == "fail"] == [check]
    assert conclude(judge(state, POLICY, subject="s"), POLICY) == "abort"
    verdict = next(one for one in judge(state, POLICY, subject="s") if one.check == check)
    assert verdict.interval is not None
    assert verdict.interval.low is not None
    assert verdict.interval.low > 0


def test_a_better_candidate_passes() -> None:
    assert statuses(state_of(gain=0.2))["metric/gain"] == "pass"


def test_harm_stays_even_if_later_data_look_well() -> None:
    state = state_of(gain=-0.1, n=2_000)
    rng = np.random.default_rng(9)
    arm = rng.choice(2, 30_000)
    well = Block(arm=arm, chance=np.full((30_000, 2), 0.5), at_us=np.arange(30_000) + 9_000, metrics={"gain": np.where(arm == 1, 0.9, 0.1)})
    after = update(state, well, POLICY)
    verdict = next(one for one in judge(after, POLICY, subject="s") if one.check == "metric/gain")
    assert verdict.status == "fail"
    assert verdict.value is not None
    assert verdict.value < 0


def test_nothing_nan_and_few_are_never_promoted() -> None:
    empty = judge(start(POLICY), POLICY, subject="s")
    assert {one.status for one in empty} == {"undecided"}
    assert conclude(empty, POLICY) == "hold"
    n = 5_000
    nan = np.full(n, np.nan)
    rng = np.random.default_rng(1)
    arm = rng.choice(2, n)
    silent = Block(
        arm=arm,
        chance=np.full((n, 2), 0.5),
        at_us=np.arange(n),
        fresh=np.ones(n, dtype=bool),
        error=nan,
        latency_ms=nan,
        score=nan,
        metrics={"gain": nan},
    )
    state = update(start(POLICY), silent, POLICY)
    found = judge(state, POLICY, subject="s")
    assert [one.status for one in found] == ["pass", "undecided", "undecided", "undecided"]
    assert conclude(found, POLICY) == "hold"
    few = msgspec.structs.replace(POLICY, min_units=100_000)
    assert conclude(judge(state_of(), few, subject="s"), few) == "hold"
    assert conclude([], POLICY) == "hold"


def test_a_missing_metric_or_verdict_holds() -> None:
    state = state_of()
    verdicts = judge(state, POLICY, subject="s")
    for left_out in range(len(verdicts)):
        assert conclude(verdicts[:left_out] + verdicts[left_out + 1 :], POLICY) == "hold"
    nothing = AnalysisPolicy(errors=ErrorPolicy(required=False), latency=None)
    assert required_checks(nothing) == ()
    assert conclude(judge(state_of(nothing_required()), nothing_required(), subject="s"), nothing_required()) == "hold"


def nothing_required() -> AnalysisPolicy:
    return AnalysisPolicy(
        errors=ErrorPolicy(required=False), latency=LatencyPolicy(required=False), metrics=(msgspec.structs.replace(GAIN, required=False),)
    )


def test_a_sample_ratio_mismatch_leaves_nothing_to_believe() -> None:
    state = state_of(chance=[0.6, 0.4], error=0.2, gain=-0.2)
    found = judge(state, POLICY, subject="s")
    assert [one.status for one in found] == ["fail", "undecided", "undecided", "undecided"]
    assert all("not judged" in one.message for one in found[1:])
    assert conclude(found, POLICY) == "hold"


def test_arms_that_report_unequally_cannot_be_compared() -> None:
    found = judge(state_of(lost=0.1), POLICY, subject="s")
    verdict = next(one for one in found if one.check == "metric/gain")
    assert verdict.status == "undecided"
    assert "100% of the missing values are the candidate's" in verdict.message
    assert conclude(found, POLICY) == "hold"


def test_guards_share_alpha_and_what_is_no_guard_has_none() -> None:
    policy = msgspec.structs.replace(POLICY, slices=("country",))
    assert guard_alphas(policy) == {"errors": 0.02, "latency": 0.01, "metric/gain": 0.01, "slices": 0.01}
    assert sum(guard_alphas(policy, candidates=2).values()) == pytest.approx(0.025)
    quiet = msgspec.structs.replace(POLICY, metrics=(msgspec.structs.replace(GAIN, guard=False),))
    assert "fail" not in statuses(state_of(quiet, gain=-0.2), quiet).values()
    assert conclude(judge(state_of(quiet, gain=-0.2), quiet, subject="s"), quiet) == "hold"


def test_a_harmed_slice_aborts_and_is_named() -> None:
    policy = AnalysisPolicy(latency=None, slices=("country",), metrics=(GAIN,))
    n = 6_000
    rng = np.random.default_rng(2)
    arm, abroad = rng.choice(2, n), rng.random(n) < 0.1
    block = Block(
        arm=arm,
        chance=np.full((n, 2), 0.5),
        at_us=np.arange(n),
        fresh=np.ones(n, dtype=bool),
        error=(rng.random(n) < 0.02).astype(np.float64),
        metrics={"gain": np.clip(rng.normal(0.5, 0.1, n) - 0.4 * (abroad & (arm == 1)) + 0.05 * (~abroad & (arm == 1)), 0, 1)},
        slices={"country": np.where(abroad, "PT", "FR").tolist()},
    )
    verdicts = {one.check: one for one in judge(update(start(policy), block, policy), policy, subject="s")}
    assert verdicts["metric/gain"].status == "fail"
    assert "country = PT" in verdicts["metric/gain"].message
    assert {one.slice: one.status for one in verdicts["metric/gain"].slices} == {"country = PT": "fail", "country = FR": "undecided"}
    assert verdicts["errors"].status != "fail"


def test_no_such_candidate() -> None:
    with pytest.raises(InvalidInput):
        judge(start(POLICY), POLICY, subject="s", arm=2)


def test_holm_and_e_bh() -> None:
    p = {"a": 0.001, "b": 0.02, "c": 0.03, "d": 0.9}
    assert holm(p, 0.05) == {"a"}
    assert holm(p, 0.05, most=60) == set()
    with pytest.raises(InvalidInput):
        holm(p, 0.05, most=3)
    logs = {"a": math.log(1_000), "b": math.log(41), "c": math.log(10)}
    assert e_bh(logs, 0.05) == {"a", "b"}
    assert e_bh(logs, 0.05, most=100) == set()
    assert e_bh({}, 0.05) == set()


@pytest.mark.parametrize("method", ["exact", "asymptotic"])
def test_an_a_b_test_of_three_arms(method: Any) -> None:
    state = state_of(arms=3, gain=0.05, n=9_000)
    same, better = compare(state, POLICY, "gain", method=method)
    assert (same.finding, better.finding) == ("undecided", "better")
    assert better.interval is not None
    assert better.interval.low is not None
    assert better.interval.high is not None
    assert 0 < better.interval.low <= 0.05 <= better.interval.high
    assert better.interval.level == pytest.approx(0.975)
    assert same.p > 0.05 > better.p
    worse = compare(state_of(arms=2, error=0.05), POLICY, "errors", method=method)
    assert worse[0].finding == "worse"
    assert worse[0].effect == pytest.approx(0.04, abs=0.01)
    with pytest.raises(InvalidInput):
        compare(state, POLICY, "other")


def test_a_b_says_nothing_of_few_units_or_of_a_broken_split() -> None:
    assert compare(start(POLICY), POLICY, "gain")[0].finding == "undecided"
    assert compare(start(POLICY), POLICY, "gain")[0].interval is None
    assert compare(state_of(gain=0.3, chance=[0.6, 0.4]), POLICY, "gain")[0].finding == "undecided"


def test_the_verdicts_are_json() -> None:
    said = msgspec.json.encode(judge(state_of(), POLICY, subject="s"))
    assert msgspec.json.decode(said, type=tuple[Verdict, ...])[0].check == "sample-ratio"


def test_series_are_in_the_metrics_unit_and_end_near_the_verdict() -> None:
    state = state_of(n=8_192)
    drawn = {(one.check, one.what): one for one in series(state, POLICY)}
    assert [check for check, _ in drawn] == ["errors", "latency", "latency", "metric/gain"]
    verdict = next(one for one in judge(state, POLICY, subject="s") if one.check == "metric/gain")
    gain = drawn["metric/gain", "gain"]
    assert verdict.interval is not None
    assert (gain.margin, gain.points[-1].n) == (0.05, 8_192)
    assert (gain.points[-1].low, gain.points[-1].high) == pytest.approx((verdict.interval.low, verdict.interval.high))
    assert series(start(POLICY), POLICY)[0].points == ()
    with pytest.raises(InvalidInput):
        series(state, POLICY, arm=0)
