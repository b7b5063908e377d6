"""What attacks on rollouts have shown: who may get traffic, clocks that are put back, records that nobody checked, honest forecasts."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from andon import registry, releases
from andon.cli.main import invoke
from andon.core.clocks import HOUR_US, SECOND_US
from andon.core.errors import InvalidInput, Pinned
from andon.core.verdicts import Verdict
from andon.operations import rolling
from andon.releases import live_split
from andon.rollouts import AB, BlueGreen, Canary, Shadow, Strategy, blue_green, canary, shadow
from andon.rollouts.analysis import AnalysisPolicy
from andon.rollouts.analysis.records import ErrorPolicy, MetricPolicy
from andon.rollouts.controller import memory_of
from andon.rollouts.expecting import ASSUMED_ERRORS, Today, expect, today
from andon.rollouts.policies import RolloutPolicy, check_rollout_policy
from andon.rollouts.weighing import weigh
from tests.conftest import ANA
from tests.unit.rollouts.rig import NEW, OLD, Rig, failing

QUICK = canary(steps=(10, 50, 100), step="5s", step_units=10)


def metric(**more: object) -> RolloutPolicy:
    values = {"name": "revenue", "low": 0.0, "high": 100.0, "margin": 5.0, "better": "higher"} | more
    return RolloutPolicy(analysis=AnalysisPolicy(metrics=(MetricPolicy(**values),)))  # type: ignore[arg-type]


# --- who may get traffic


def test_a_candidate_that_is_rejected_under_way_gets_no_more_traffic(rig: Rig) -> None:
    rig.replica()
    rig.start(QUICK)
    rig.go(4)
    assert rig.split is not None
    assert len(rig.split.arms) == 2
    releases.reject(rig.store, NEW, actor=ANA, reason="it leaks")
    rig.go(1)
    assert (rig.state.phase, rig.split, rig.production) == ("ended", None, OLD)
    assert "was rejected" in rig.state.why


def test_a_waiver_counts_also_while_the_rollout_runs(rig: Rig) -> None:
    refused = rig.release("bad", good=False)
    releases.waive(rig.store, refused, for_s=3_600, actor=ANA, reason="try it")
    rig.replica(holds=(OLD, refused))
    from andon.rollouts import start

    rig.rollout = start(rig.store, refused, QUICK, actor=ANA).id
    rig.clock.advance(SECOND_US)
    rig.replica(holds=(OLD, refused))
    rig.look()
    assert rig.state.phase == "running"
    rig.clock.advance(HOUR_US)
    rig.replica(holds=(OLD, refused))
    rig.look()
    assert (rig.state.phase, rig.split) == ("ended", None)


def test_what_is_kept_beside_production_cannot_be_deleted_and_can_come_back(rig: Rig) -> None:
    rig.replica()
    rig.start(blue_green(keep="1h"))
    rig.go(2)
    assert (rig.state.phase, rig.production) == ("keeping", NEW)
    with pytest.raises(Pinned):
        registry.delete(rig.store, OLD, actor=ANA, reason="old")
    rig.steer("abort")
    assert rig.production == OLD
    assert set(registry.aliases_of(rig.store, "service:bikes")) == {"production"}


# --- clocks


def test_a_clock_that_is_put_back_lets_no_lease_run_out(rig: Rig) -> None:
    rig.replica()
    rig.start(canary(steps=(50, 100), step="5s"))
    rig.go(6)
    before = live_split(rig.store, "bikes")
    rig.clock.advance(-HOUR_US)
    rig.go(6)
    after = live_split(rig.store, "bikes")
    assert before is not None
    assert after is not None
    assert after.renewed >= before.renewed + 2


def test_a_clock_that_is_put_back_makes_no_guard_blind(rig: Rig) -> None:
    rig.replica()
    rig.start(canary(steps=(50, 100), step="5s"))
    rig.go(5)
    rig.clock.advance(HOUR_US)
    rig.go(5)
    rig.clock.advance(-HOUR_US)
    rig.behaviour[NEW] = failing(0.3)
    rig.go(60)
    assert rig.state.phase == "aborted"
    assert "failing units are the candidate's" in rig.state.why


def test_a_shadow_is_compared_after_the_clock_was_put_back(rig: Rig) -> None:
    rig.replica()
    rig.start(shadow())
    rig.go(30)
    rig.clock.advance(-HOUR_US)
    rig.go(5)
    assert memory_of(rig.store, rig.rollout).pairs.n == 0
    rig.go(60)
    assert memory_of(rig.store, rig.rollout).pairs.n > 1_000


# --- pairs


def test_callers_who_use_an_id_again_multiply_no_pairs(rig: Rig) -> None:
    rig.replica()
    rig.start(shadow())
    rig.go(2, a_second=0)
    for _ in range(20):
        rig.clock.advance(SECOND_US)
        rig.replica()
        for part in (1, 2, 4):
            rig.asked = 5
            rig.ask(1, over_us=SECOND_US // part)
        rig.look()
    rig.go(20, a_second=0)
    pairs = memory_of(rig.store, rig.rollout).pairs
    assert (pairs.n, pairs.compared) == (1, 1)


def test_of_a_user_only_the_first_request_is_a_pair(rig: Rig) -> None:
    rig.users = 10
    rig.replica()
    rig.start(shadow())
    rig.go(40)
    pairs = memory_of(rig.store, rig.rollout).pairs
    assert (pairs.n, pairs.compared) == (10, 10)


# --- records that nobody checked


@pytest.mark.parametrize(
    ("strategy", "field"),
    [
        (Canary(steps=()), "steps"),
        (Canary(steps=(50.0, 5.0, 100.0)), "steps"),
        (Canary(holdback=99.0), "holdback"),
        (Canary(deadline_us=-1), "deadline_us"),
        (AB(share=150.0), "share"),
        (AB(rule="winner"), "metric"),
        (AB(rule="winner", metric="nope"), "metric"),
        (Shadow(share=-1.0), "share"),
        (Shadow(most_rows_s=float("nan")), "most_rows_s"),
        (BlueGreen(keep_us=-5), "keep_us"),
    ],
)
def test_a_strategy_is_checked_however_it_was_made(rig: Rig, strategy: Strategy, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        rig.start(strategy)
    assert refused.value.fields["field"] == field
    assert rig.split is None


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (metric(name="Revenue"), "analysis.metrics"),
        (metric(name=""), "analysis.metrics"),
        (metric(margin=100.0), "metrics.revenue.margin"),
        (RolloutPolicy(analysis=AnalysisPolicy(errors=ErrorPolicy(margin=1.0))), "errors.margin"),
        (RolloutPolicy(settle="2h"), "settle"),
    ],
)
def test_a_policy_that_would_prove_everything_or_never_anything_is_refused(policy: RolloutPolicy, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_rollout_policy(policy)
    assert refused.value.fields["field"] == field


def test_what_was_not_judged_is_not_proven(rig: Rig) -> None:
    rig.replica()
    state = rig.start(canary())
    rig.go(20)
    analysis = memory_of(rig.store, rig.rollout).analysis
    ratio = Verdict(subject="", check="rollout/sample-ratio", status="pass", message="")
    assert any("not judged" in one for one in weigh(state, [ratio], AnalysisPolicy(), analysis).unproven)


# --- forecasts


def test_the_forecast_says_what_it_assumes_and_takes_longer_for_it(rig: Rig) -> None:
    policy = RolloutPolicy()
    assert today(rig.store, "bikes", policy) == Today()
    plain = expect(canary(), policy, 1_000.0, Today(error_rate=0.0)).promote.units
    honest = expect(canary(), policy, 1_000.0).promote.units
    worse = expect(canary(), policy, 1_000.0, Today(error_rate=0.05)).promote.units
    assert plain is not None
    assert honest is not None
    assert worse is not None
    assert plain <= honest < worse
    at = [rig.clock.now_us() - HOUR_US + i * 10 * SECOND_US for i in range(300)]
    from tests.unit.rollouts.rig import Answer

    rig._log([(f"d{instant}", "production", OLD, instant, Answer()) for instant in at], "production")
    assert f"assumed: {ASSUMED_ERRORS:.1%} of requests fail" in rolling.forecast(rig.store, "bikes", canary()).says


def test_the_forecast_measures_errors_and_metrics_where_it_can(rig: Rig) -> None:
    rig.replica()
    rig.behaviour[OLD] = failing(0.05)
    rig.start(canary(steps=(5, 100)), policy := msgspec.structs.replace(metric(), delays={"revenue": "1s"}))
    ids: list[str] = []
    for _ in range(20):
        rig.clock.advance(SECOND_US)
        rig.replica()
        ids += rig.ask(100)
        rig.look()
    for at, one in enumerate(ids):
        if at % 4 == 0:
            rig.label([one], float(at // 4 % 2) * 20.0, "revenue")
    rig.clock.advance(2 * SECOND_US)
    known = today(rig.store, "bikes", policy)
    assert known.error_rate == pytest.approx(0.05, abs=0.02)
    assert known.spreads["revenue"] == pytest.approx(10.0, rel=0.02)
    assert known.told["revenue"] == pytest.approx(0.25, abs=0.03)
    assert known.assumed == ()
    test = AB(rule="winner", metric="revenue")
    all_told = expect(test, policy, 1_000.0, msgspec.structs.replace(known, told={})).promote.units
    some_told = expect(test, policy, 1_000.0, known).promote.units
    assert all_told is not None
    assert some_told == pytest.approx(all_told / known.told["revenue"])


# --- the command line


def test_policy_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    from andon.operations.policies import KINDS

    assert invoke(["policy", "--help"]) == 0
    told = capsys.readouterr().out
    assert [kind for kind in KINDS if kind not in told] == []


def test_gc_says_what_it_swept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from andon.core.settings import load
    from andon.store import open_store

    home = tmp_path / "home"
    with open_store(load(home)) as store:
        root = store.settings.path(store.settings.environments)
    made = root / "trees" / ("a" * 32)
    made.mkdir(parents=True)
    (made / "model.py").write_text("x = 1")
    os.utime(made, (1, 1))
    assert invoke(["gc", "--home", str(home), "--older-than", "1s", "--dry-run"]) == 0
    assert "would sweep 0 built environments and 1 laid-out folders" in capsys.readouterr().out
    assert made.exists()
    assert invoke(["gc", "--home", str(home), "--older-than", "1s"]) == 0
    assert "swept 0 built environments and 1 laid-out folders" in capsys.readouterr().out
    assert not made.exists()
