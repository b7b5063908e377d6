"""What becomes known late, or only of some: losses of a shadow's pairs, and failures inside one slice."""

from __future__ import annotations

import msgspec
import pytest

from andon.core.clocks import SECOND_US
from andon.operations.showing.rollouts import rollout_view
from andon.rollouts import RolloutPolicy, canary, challenger, shadow
from andon.rollouts.analysis import AnalysisPolicy, ErrorPolicy, MetricPolicy
from andon.rollouts.controller import memory_of
from tests.unit.rollouts.rig import NEW, OLD, Answer, Rig

MAE = MetricPolicy(name="mae", low=0.0, high=50.0, margin=5.0, better="lower")
LABELLED = RolloutPolicy(analysis=AnalysisPolicy(errors=None, latency=None, scores=None, metrics=(MAE,)), delays={"mae": "5s"})


def say(value: float):  # type: ignore[no-untyped-def]
    return lambda rng: Answer("ok", 5.0, value + float(rng.normal(0.0, 1.0)))


@pytest.mark.parametrize(
    ("strategy", "worse", "status"),
    [(shadow(share=100), 20.0, "fail"), (challenger(share=100), 20.0, "fail"), (shadow(share=100), 0.0, "pass")],
    ids=["a worse shadow", "a worse challenger", "an equal shadow"],
)
def test_a_shadow_is_compared_by_its_labelled_loss(rig: Rig, strategy, worse: float, status: str) -> None:  # type: ignore[no-untyped-def]
    rig.behaviour = {OLD: say(100.0), NEW: say(100.0 + worse)}
    rig.start(strategy, LABELLED)
    asked = 0
    for _ in range(90):
        rig.clock.advance(SECOND_US)
        rig.replica()
        ids = rig.ask(20)
        rig.label(ids, 100.0)  # in time for both: the same requests
        asked += len(ids)
        rig.look()
    verdict = next(one for one in rollout_view(rig.store, rig.rollout).verdicts if one.check == "rollout/metric/mae")
    assert verdict.status == status, verdict.message
    assert verdict.value == pytest.approx(worse, abs=1.5)
    assert 0 < verdict.n <= asked
    analysis = memory_of(rig.store, rig.rollout).analysis
    assert analysis is not None
    assert analysis.counts[0] == analysis.counts[1] == memory_of(rig.store, rig.rollout).pairs.n, "each pair is counted once"
    assert rig.production == OLD
    assert rig.rejected == set()


def test_a_failure_belongs_to_its_slice(rig: Rig) -> None:
    rig.broken = "PT"
    policy = RolloutPolicy(
        analysis=AnalysisPolicy(errors=ErrorPolicy(margin=0.05, guard=True), latency=None, scores=None, slices=("country",))
    )
    rig.start(canary(steps=[50, 100], step="10m", step_units=100_000, deadline="1h"), policy)
    assert rig.split is not None
    assert rig.split.slices == ("country",)
    rig.go(60, a_second=40)
    analysis = memory_of(rig.store, rig.rollout).analysis
    assert analysis is not None
    slices = analysis.arms[0].slices
    assert slices["country = PT"].errors.n > 0, "what failed has no prediction, but it has an exposure"
    assert slices["country = ES"].errors.n == 0
    assert rig.state.phase == "aborted"
    assert "PT" in rig.state.why or "errors" in rig.state.why


def test_the_split_of_an_older_rollout_is_still_read(rig: Rig) -> None:
    rig.start(canary(steps=[50, 100]))
    assert rig.split is not None
    old = msgspec.to_builtins(rig.split)
    del old["slices"]
    assert msgspec.convert(old, type(rig.split)) == rig.split
