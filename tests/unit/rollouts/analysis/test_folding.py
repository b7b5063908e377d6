"""The fold: deterministic wherever blocks are cut, small, JSON, and clear about columns that do not fit."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from andon.core.errors import InvalidInput
from andon.rollouts.analysis import (
    AnalysisPolicy,
    AnalysisState,
    Block,
    ErrorPolicy,
    LatencyPolicy,
    MetricPolicy,
    PairedBlock,
    ScorePolicy,
    check_policy,
    judge,
    start,
    update,
    update_pairs,
)
from andon.rollouts.analysis.differences import history

POLICY = AnalysisPolicy(
    scores=ScorePolicy(),
    metrics=(
        MetricPolicy(name="gain", low=0, high=1, better="higher", margin=0.05),
        MetricPolicy(name="cost", low=0, high=2, better="lower", margin=0.1, tolerance=0.05),
    ),
    slices=("country", "device"),
    most_slices=4,
)


def block(n: int, *, arms: int = 2, seed: int = 1) -> Block:
    rng = np.random.default_rng(seed)
    chance = np.tile({2: [0.75, 0.25], 3: [0.5, 0.3, 0.2]}[arms], (n, 1))
    gain = rng.random(n)
    gain[rng.random(n) < 0.1] = np.nan
    arm = rng.choice(arms, n, p=chance[0])
    return Block(
        arm=arm,
        chance=chance,
        at_us=np.arange(n) * 1_000 + 7,
        fresh=rng.random(n) < 0.9,
        error=(rng.random(n) < 0.1).astype(np.float64),
        latency_ms=np.where(rng.random(n) < 0.05, np.inf, rng.lognormal(3, 0.5, n) * (1 + 0.5 * (arm > 0))),
        score=np.where(rng.random(n) < 0.05, np.nan, rng.normal(size=n)),
        metrics={"gain": gain, "cost": rng.gamma(2, 0.3, n)},
        slices={"country": rng.choice(["FR", "PT", "", "SE"], n).tolist(), "device": rng.choice(["tv", "phone"], n).tolist()},
    )


def cut(whole: Block, first: int, last: int) -> Block:
    rows = slice(first, last)
    return Block(
        arm=whole.arm[rows],
        chance=whole.chance[rows],
        at_us=whole.at_us[rows],
        fresh=None if whole.fresh is None else whole.fresh[rows],
        error=None if whole.error is None else whole.error[rows],
        latency_ms=None if whole.latency_ms is None else whole.latency_ms[rows],
        score=None if whole.score is None else whole.score[rows],
        metrics={name: column[rows] for name, column in whole.metrics.items()},
        slices={name: column[rows] for name, column in whole.slices.items()},
    )


def folded(whole: Block, cuts: list[int], arms: int = 2) -> AnalysisState:
    state = start(POLICY, arms=arms)
    for first, last in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        state = update(state, cut(whole, first, last), POLICY)
    return state


@pytest.mark.parametrize("arms", [2, 3])
def test_one_block_or_a_thousand_give_the_same_state_to_the_last_bit(arms: int) -> None:
    whole = block(1_000, arms=arms)
    once = folded(whole, [], arms)
    assert folded(whole, list(range(1, 1_000)), arms) == once
    assert folded(whole, [0, 3, 3, 255, 256, 700], arms) == once
    assert [one.errors.n > 10 and one.latency.peak_n > 0 for one in once.arms] == [True] * (arms - 1)


def test_the_state_is_json_and_stays_small() -> None:
    state = folded(block(20_000), [])
    said = msgspec.json.encode(state)
    assert msgspec.json.decode(said, type=AnalysisState) == state
    assert len(said) < 40_000
    assert len(said) < 1.5 * len(msgspec.json.encode(folded(block(2_000), [])))


def test_a_late_block_counts_no_unit_again_and_keeps_the_stage() -> None:
    state = update(start(POLICY), block(500), POLICY, stage=2)
    late = Block(arm=np.array([0, 1]), chance=np.full((2, 2), 0.5), at_us=np.array([1, 2]), metrics={"gain": np.array([0.1, np.nan])})
    after = update(state, late, POLICY, stage=1)
    assert (after.counts, after.stage, after.ratio) == (state.counts, 2, state.ratio)
    assert after.arms[0].metrics["gain"].difference.n == state.arms[0].metrics["gain"].difference.n + 1
    assert after.arms[0].latency == state.arms[0].latency


def test_a_new_stage_starts_the_quantiles_anew_and_nothing_else() -> None:
    state = update(start(POLICY), block(600), POLICY, stage=0)
    after = update(state, block(300, seed=2), POLICY, stage=1)
    assert sum(map(sum, state.arms[0].latency.histogram)) == 600
    assert sum(map(sum, after.arms[0].latency.histogram)) == 300
    assert after.arms[0].latency.n == 900
    label = Block(arm=np.array([0, 1]), chance=np.full((2, 2), 0.5), at_us=np.array([1, 2]), metrics={"gain": np.array([0.1, 0.2])})
    early = update(update(state, label, POLICY, stage=1), block(300, seed=2), POLICY, stage=1)
    assert early.arms[0].latency == after.arms[0].latency


def test_units_of_known_arm_are_counted_and_say_nothing() -> None:
    n = 300
    sure = Block(
        arm=np.ones(n, dtype=np.int64),
        chance=np.tile([0.0, 1.0], (n, 1)),
        at_us=np.arange(n),
        fresh=np.zeros(n, dtype=bool),
        error=np.ones(n),
        latency_ms=np.full(n, np.inf),
        metrics={"cost": np.full(n, 2.0)},
    )
    one = update(start(POLICY), sure, POLICY).arms[0]
    assert one.errors.n == n
    assert one.errors.peak == 0.0
    assert (one.error_rate.excess, one.error_rate.weight) == (0.0, 0.0)
    assert one.metrics["cost"].difference.peak == 0.0
    assert one.latency.peak == 0.0


def test_thresholds_come_from_before_and_are_renewed() -> None:
    before = np.linspace(1, 100, 100)
    state = start(POLICY, latency_before_ms=before)
    assert state.arms[0].latency.thresholds == (50.0, 95.0)
    after = update(state, block(256), POLICY)
    assert after.arms[0].latency.rates[0].n == 256
    assert after.arms[0].latency.thresholds != (50.0, 95.0)
    assert start(POLICY, latency_before_ms=before[:3]).arms[0].latency.thresholds == ()


def test_slices_take_the_places_in_order_and_the_rest_has_none() -> None:
    assert set(folded(block(400), []).arms[0].slices) <= {"country = FR", "country = PT", "country = SE", "device = tv", "device = phone"}
    assert len(folded(block(400), []).arms[0].slices) == 4


def test_history_is_the_confidence_sequence_over_time() -> None:
    rate = folded(block(5_000), []).arms[0].error_rate
    points = history(rate, 0.025, 0.05)
    assert 32 <= len(points) <= 64
    assert [n for n, *_ in points] == sorted(n for n, *_ in points)
    assert all(low <= middle <= high for _, _, low, middle, high in points)
    assert points[-1][4] - points[-1][2] < (points[0][4] - points[0][2]) / 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"chance": np.full((3, 3), 1 / 3)}, "chance"),
        ({"chance": np.full((3, 2), 0.4)}, "chance"),
        ({"chance": np.tile([0.0, 1.0], (3, 1))}, "chance"),
        ({"arm": np.array([0, 1, 2])}, "arm"),
        ({"error": np.array([0.0, 0.5, 1.0])}, "error"),
        ({"error": np.array([0.0, 1.0])}, "error"),
        ({"metrics": {"gain": np.zeros(2)}}, "metrics.gain"),
        ({"metrics": {"other": np.zeros(3)}}, "metrics"),
        ({"slices": {"country": ["FR"]}}, "slices.country"),
    ],
)
def test_columns_that_do_not_fit_are_named(change: dict[str, Any], field: str) -> None:
    columns: dict[str, Any] = {"arm": np.array([0, 1, 0]), "chance": np.full((3, 2), 0.5), "at_us": np.arange(3)} | change
    with pytest.raises(InvalidInput) as raised:
        update(start(POLICY), Block(**columns), POLICY)
    assert raised.value.fields["field"] == field


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (AnalysisPolicy(alpha_abort=0.0), "alpha_abort"),
        (AnalysisPolicy(min_units=0), "min_units"),
        (AnalysisPolicy(errors=ErrorPolicy(margin=0.0)), "errors.margin"),
        (AnalysisPolicy(errors=ErrorPolicy(tolerated_ratio=0.5)), "errors.tolerated_ratio"),
        (AnalysisPolicy(errors=ErrorPolicy(weight=0.0)), "errors.weight"),
        (AnalysisPolicy(errors=ErrorPolicy(margin=float("nan"))), "errors.margin"),
        (AnalysisPolicy(latency=LatencyPolicy(margins=(0.1,))), "latency.margins"),
        (AnalysisPolicy(latency=LatencyPolicy(levels=(0.5, 1.5))), "latency.levels"),
        (AnalysisPolicy(latency=LatencyPolicy(thresholds_ms=(-1.0, 5.0))), "latency.thresholds_ms"),
        (AnalysisPolicy(scores=ScorePolicy(levels=())), "scores.levels"),
        (AnalysisPolicy(scores=ScorePolicy(tolerance=-1.0)), "scores.tolerance"),
        (AnalysisPolicy(metrics=(MetricPolicy(name="a", low=1, high=1, better="lower", margin=1),)), "metrics.a.low"),
        (AnalysisPolicy(metrics=(MetricPolicy(name="a", low=0, high=1, better="lower", margin=1),) * 2), "metrics"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(policy: AnalysisPolicy, field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_policy(policy)
    assert raised.value.fields["field"] == field
    with pytest.raises(InvalidInput):
        start(policy)


def pairs(n: int, slower: float = 1.0) -> PairedBlock:
    rng = np.random.default_rng(3)
    latency = rng.lognormal(3, 0.5, (n, 1)) * np.array([1.0, slower]) * rng.lognormal(0, 0.1, (n, 2))
    return PairedBlock(
        at_us=np.arange(n) + 1,
        error=(rng.random((n, 2)) < [0.02, 0.02]).astype(np.float64),
        latency_ms=latency,
        score=rng.normal(size=(n, 1)) + rng.normal(0, 0.05, (n, 2)),
        metrics={"cost": np.clip(rng.normal(1, 0.1, (n, 2)), 0, 2)},
    )


def test_pairs_fold_alike_and_tell_a_slower_shadow() -> None:
    whole = pairs(1_000)
    state, parts = update_pairs(start(POLICY), whole, POLICY), start(POLICY)
    for k in range(0, 1_000, 77):
        rows = slice(k, k + 77)
        part = PairedBlock(
            at_us=whole.at_us[rows],
            error=None if whole.error is None else whole.error[rows],
            latency_ms=None if whole.latency_ms is None else whole.latency_ms[rows],
            score=None if whole.score is None else whole.score[rows],
            metrics={name: column[rows] for name, column in whole.metrics.items()},
        )
        parts = update_pairs(parts, part, POLICY)
    assert parts == state
    same = {one.check: one.status for one in judge(state, POLICY, subject="s")}
    assert same["sample-ratio"] == "pass"
    assert "fail" not in same.values()
    slow = {one.check: one.status for one in judge(update_pairs(start(POLICY), pairs(1_000, 1.2), POLICY), POLICY, subject="s")}
    assert slow["latency"] == "fail"


def test_pairs_and_units_do_not_mix() -> None:
    with pytest.raises(InvalidInput):
        update_pairs(update(start(POLICY), block(300), POLICY), pairs(10), POLICY)
    with pytest.raises(InvalidInput) as raised:
        update_pairs(start(POLICY), PairedBlock(at_us=np.arange(3), error=np.zeros(3)), POLICY)
    assert raised.value.fields["field"] == "error"
