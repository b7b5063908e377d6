"""The controller over written logs: what each kind of candidate comes to, and that nothing is counted or moved twice."""

from __future__ import annotations

import contextlib
import random

import msgspec
import pytest

from andon import registry
from andon.core.clocks import SECOND_US
from andon.core.errors import Conflict, GateRefused
from andon.releases import assign, live_split, service_state
from andon.rollouts import RolloutPolicy, ab, blue_green, canary, challenger, rollout_of, shadow, start
from andon.rollouts.analysis import AnalysisPolicy, ErrorPolicy, MetricPolicy
from andon.rollouts.controller import RENEW_US, RolloutController, memory_of
from tests.conftest import ANA
from tests.unit.rollouts.rig import NEW, OLD, Answer, Rig, failing, slow, well

QUICK = canary(steps=[10, 50, 100], step="5s", step_units=30, deadline="10m")
BLUNT = RolloutPolicy(analysis=AnalysisPolicy(errors=ErrorPolicy(margin=0.05), latency=None))
"""Enough to prove in a few hundred units that errors are not much more."""


def verdicts(rig: Rig) -> dict[str, str]:
    found: dict[str, str] = {}
    for verdict in registry.verdicts_on(rig.store, NEW):
        if verdict.check.startswith("rollout/"):  # the gate's are there too
            found.setdefault(verdict.check, verdict.status)
    return found


def test_a_candidate_that_is_as_good_is_promoted_when_that_is_proven(rig: Rig) -> None:
    rig.start(QUICK)
    assert rig.split is not None
    assert rig.split.warm == (NEW,)
    seconds = rig.go(300)
    assert rig.state.phase == "promoted", rig.state
    assert seconds > 15
    assert rig.production == NEW
    assert rig.split is None
    assert rig.rejected == set()
    assert verdicts(rig) == {"rollout/sample-ratio": "pass", "rollout/errors": "pass", "rollout/latency": "pass"}
    assert registry.aliases_of(rig.store, "service:bikes") == {"production": NEW}
    model = registry.get(rig.store, NEW).manifest["model"]["address"]
    assert str(registry.resolve(rig.store, "model:bikes@champion")) == model
    assert service_state(rig.store, "bikes").rollout is None
    assert [kind for kind in rig.actions() if kind in ("started", "stepped", "promoted")] == ["started", "stepped", "stepped", "promoted"]


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (failing(0.1), "errors"),
        (slow(3.0), "latency"),
        (failing(1.0), "most of the candidate's latest requests failed"),
        (lambda rng: Answer("runner-died", 1.0, None) if rng.random() < 0.2 else well(rng), "process died"),
        (lambda rng: Answer("ok", 5.0, None if rng.random() < 0.2 else 100.0), "errors"),
    ],
    ids=["errors", "slow", "broken", "dies", "says NaN"],
)
def test_a_bad_candidate_is_aborted_and_rejected(rig: Rig, behaviour: object, why: str) -> None:
    rig.behaviour[NEW] = behaviour  # type: ignore[assignment]
    rig.ask(5)
    rig.start(QUICK)
    rig.go(120)
    assert rig.state.phase == "aborted", rig.state
    assert why in rig.state.why
    assert rig.production == OLD
    assert rig.split is None
    assert rig.rejected == {NEW}
    assert registry.aliases_of(rig.store, "service:bikes") == {"production": OLD}


def test_lost_units_hold_it_undecided(rig: Rig) -> None:
    rig.start(QUICK)
    rig.go(120, wrong=0.5, until=lambda state: state.phase == "undecided")
    assert rig.state.phase == "undecided"
    assert "sample-ratio" in rig.state.why
    assert rig.production == OLD
    assert rig.split is not None
    rig.go(10)
    assert rig.state.phase == "undecided"
    assert rig.steer("promote").phase == "promoted"
    assert rig.production == NEW


def test_without_data_it_holds_at_the_deadline_and_never_promotes(rig: Rig) -> None:
    rig.start(canary(steps=[50, 100], step="1s", step_units=0, deadline="1m"))
    rig.go(90, a_second=0)
    assert rig.state.phase == "undecided"
    assert rig.state.why == "the deadline has passed without a proof"
    assert rig.production == OLD
    assert memory_of(rig.store, rig.rollout).analysis is None


def test_a_standstill_is_written_down_once(rig: Rig) -> None:
    rig.start(canary(steps=[50, 100], step="1h", deadline="1d"))
    rig.go(20, a_second=0)
    before = len(rig.actions())
    rig.go(20, a_second=0)
    assert len(rig.actions()) == before
    assert rig.whys("waited")[-1] == "step 1 has not lasted long enough"


def test_it_waits_for_a_warm_candidate_and_aborts_one_that_cannot_load(rig: Rig) -> None:
    rig.start(QUICK)
    rig.clock.advance(SECOND_US)
    rig.look()
    assert rig.state.said == "no replica of service:bikes is ready"
    rig.replica("r1")
    rig.replica("r2", holds=(OLD,))
    rig.look()
    assert (rig.state.phase, rig.state.said) == ("warming", "the candidate is being loaded")
    rig.replica("r2", holds=(OLD,), failing={NEW: "ImportError: no torch"})
    rig.look()
    assert rig.state.phase == "aborted"
    assert "no torch" in rig.state.why
    assert rig.rejected == {NEW}
    assert rig.production == OLD


def test_a_replica_that_was_not_seen_lately_is_not_waited_for(rig: Rig) -> None:
    rig.start(QUICK)
    rig.replica("gone", holds=(OLD,))
    rig.clock.advance(31 * SECOND_US)
    rig.replica("r1")
    rig.look()
    assert rig.state.phase == "running"


def test_the_lease_is_renewed_though_nothing_happens(rig: Rig) -> None:
    rig.start(canary(steps=[50, 100], step="1h"))
    live = live_split(rig.store, "bikes")
    assert live is not None
    before = live.renewed
    rig.go(31, a_second=0)
    live = live_split(rig.store, "bikes")
    assert live is not None
    assert live.renewed - before == 31 * SECOND_US // RENEW_US + 1


def test_the_same_unit_counts_once_a_stage(rig: Rig) -> None:
    rig.users = 40
    rig.start(canary(steps=[50, 100], step="1h"), BLUNT)
    rig.ask(200)  # while the candidate warms up everybody sees production, and nobody has been assigned
    rig.go(25, a_second=30)
    memory = memory_of(rig.store, rig.rollout)
    assert memory.analysis is not None
    assert sum(memory.analysis.counts) == 40
    assert min(memory.analysis.counts) > 10
    assert memory.tally(1, 0).requests + memory.tally(1, 1).requests > 500


def test_a_holdback_goes_on_after_promotion_and_the_way_back_is_open(rig: Rig) -> None:
    rig.start(canary(steps=[50, 100], step="2s", step_units=10, holdback=20, holdback_for="10m"), BLUNT)
    rig.go(200, until=lambda state: state.phase == "keeping")
    assert rig.production == NEW
    split = rig.split
    assert split is not None
    assert [(arm.channel, arm.release, arm.share) for arm in split.arms] == [("production", NEW, 8_000), ("control", OLD, 2_000)]
    rig.behaviour[NEW] = failing(0.3)
    rig.go(200)
    assert rig.state.phase == "aborted"
    assert rig.production == OLD
    assert rig.rejected == {NEW}
    assert service_state(rig.store, "bikes").turns[-1].kind == "rolled-back"


def test_a_holdback_ends_well(rig: Rig) -> None:
    rig.start(canary(steps=[50, 100], step="2s", step_units=10, holdback=20, holdback_for="20s"), BLUNT)
    rig.go(300)
    assert (rig.state.phase, rig.production, rig.split) == ("promoted", NEW, None)


def test_blue_green_switches_and_goes_back_at_once(rig: Rig) -> None:
    rig.start(blue_green(keep="1h"))
    rig.go(5)
    assert (rig.state.phase, rig.production) == ("keeping", NEW)
    assert rig.split is not None
    assert rig.split.warm == (OLD,)
    rig.behaviour[NEW] = failing(1.0)
    rig.go(20)
    assert (rig.state.phase, rig.production) == ("aborted", OLD)
    assert rig.rejected == {NEW}


def test_blue_green_ends_by_itself(rig: Rig) -> None:
    rig.start(blue_green(keep="10s"))
    rig.go(30)
    assert (rig.state.phase, rig.production, rig.split) == ("promoted", NEW, None)


def test_a_shadow_is_compared_request_by_request(rig: Rig) -> None:
    rig.behaviour = {OLD: lambda rng: Answer("ok", 5.0, 100.0), NEW: lambda rng: Answer("ok", 8.0, 100.0 if rng.random() < 0.9 else 120.0)}
    rig.start(shadow(share=50, for_="1m"), BLUNT)
    rig.go(45, a_second=40)
    assert rig.state.phase == "running"
    pairs = memory_of(rig.store, rig.rollout).pairs
    assert 500 < pairs.n < 1_000
    assert pairs.compared == pairs.n
    assert 0.85 < pairs.agreed / pairs.compared < 0.95
    rig.go(30, a_second=10)
    assert rig.state.phase == "ended"
    assert rig.production == OLD
    assert rig.rejected == set()
    found = registry.verdicts_on(rig.store, NEW, check="rollout/agreement")
    assert found[0].value == pytest.approx(0.9, abs=0.05)
    assert verdicts(rig)["rollout/errors"] == "pass"
    assert "rollout/sample-ratio" not in verdicts(rig)


def test_a_challenger_stands_until_another_rollout_begins(rig: Rig) -> None:
    first = rig.start(challenger())
    rig.go(5)
    third = rig.release("c")
    later = start(rig.store, third, QUICK, actor=ANA)
    assert rollout_of(rig.store, first.id).phase == "ended"
    assert service_state(rig.store, "bikes").rollout == later.id
    with pytest.raises(Conflict, match="under way"):
        start(rig.store, NEW, QUICK, actor=ANA)


def test_a_refused_release_may_be_a_shadow_and_nothing_else(rig: Rig) -> None:
    refused = rig.release("bad", good=False)
    with pytest.raises(GateRefused, match="gate"):
        start(rig.store, refused, QUICK, actor=ANA)
    assert live_split(rig.store, "bikes") is None
    state = start(rig.store, refused, shadow(), actor=ANA)
    assert state.phase == "warming"
    assert registry.aliases_of(rig.store, "service:bikes")["candidate"] == refused


@pytest.mark.parametrize(("revenue", "phase", "holds"), [(6.0, "promoted", NEW), (1.0, "ended", OLD)], ids=["better", "worse"])
def test_an_ab_test_is_decided_by_its_metric(rig: Rig, revenue: float, phase: str, holds: str) -> None:
    metric = MetricPolicy(name="revenue", low=0, high=10, better="higher", margin=1.0)
    policy = RolloutPolicy(analysis=AnalysisPolicy(errors=None, latency=None, metrics=(metric,)), delays={"revenue": "5s"})
    rig.start(ab(rule="winner", metric="revenue"), policy)
    for _ in range(200):
        split = rig.split
        if split is None:
            break
        ids = rig.ask(20)
        for arm, value in (("production", 3.0), ("candidate", revenue)):
            rig.label([one for one in ids if assign(split, one).channel == arm], value, name="revenue")
        rig.go(1, a_second=0)
    assert rig.state.phase == phase, rig.state
    assert rig.production == holds
    assert f"proven {'better' if revenue > 3 else 'worse'}" in rig.state.why
    assert rig.rejected == set()  # the worse of two good releases is no bad one


def test_labels_count_at_the_same_maturity_in_both_arms(rig: Rig) -> None:
    metric = MetricPolicy(name="mae", low=0, high=100, better="lower", margin=5)
    policy = RolloutPolicy(analysis=AnalysisPolicy(errors=None, latency=None, metrics=(metric,)), delays={"mae": "1m"})
    rig.behaviour = {OLD: lambda rng: Answer(value=100.0), NEW: lambda rng: Answer(value=140.0)}
    rig.start(canary(steps=[50, 100], step="1h", deadline="1d"), policy)
    rig.go(3, a_second=0)
    on_time = rig.ask(60)
    late = rig.ask(60)
    rig.label(on_time, 100.0)
    rig.go(59, a_second=0)
    assert memory_of(rig.store, rig.rollout).analysis is None or not memory_of(rig.store, rig.rollout).analysis.arms[0].metrics  # type: ignore[union-attr]
    rig.go(5, a_second=0)
    rig.label(late, 0.0)  # more than a minute after their requests: it would have been the other way round
    rig.go(60, a_second=0)
    memory = memory_of(rig.store, rig.rollout)
    assert memory.analysis is not None
    told = memory.analysis.arms[0].metrics["mae"].difference
    assert told.n == 60
    assert told.total_candidate / told.n_candidate == pytest.approx(0.4)
    assert told.total_control == 0


def test_a_request_that_hangs_is_counted_when_it_is_done(rig: Rig) -> None:
    rig.start(canary(steps=[50, 100], step="1h", deadline="1d"), BLUNT)
    rig.go(1, a_second=0)
    rig.go(40, a_second=20)
    before = memory_of(rig.store, rig.rollout).analysis
    rig.behaviour = {
        NEW: lambda rng: Answer("deadline-exceeded", 30_000.0, None),
        OLD: lambda rng: Answer("deadline-exceeded", 30_000.0, None),
    }
    rig.ask(50)
    rig.behaviour = {}
    rig.go(25, a_second=0)
    between = memory_of(rig.store, rig.rollout).analysis
    assert before is not None
    assert between is not None
    rig.go(40, a_second=0)
    after = memory_of(rig.store, rig.rollout).analysis
    assert after is not None
    assert sum(after.counts) == sum(between.counts) + 50


class _Cut(Exception):
    """The power went."""


def _moves(rig: Rig) -> list[str]:
    return [kind for kind in rig.actions() if kind not in ("waited", "judged")]


@pytest.mark.parametrize("after_commit", [False, True], ids=["before the commit", "after the commit"])
def test_cut_off_at_any_write_nothing_is_counted_or_moved_twice(rig: Rig, monkeypatch: pytest.MonkeyPatch, *, after_commit: bool) -> None:
    """Half of all writes fail, and each time a new controller goes on; what it counted in the end is what the log holds."""
    chance = random.Random(7)
    write = type(rig.store.ledger).write
    cuts = 0

    def flaky(self, work):  # type: ignore[no-untyped-def]
        nonlocal cuts
        struck = chance.random() < 0.5
        if struck and not after_commit:
            cuts += 1
            raise _Cut
        result = write(self, work)
        if struck:
            cuts += 1
            raise _Cut
        return result

    def look() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(type(rig.store.ledger), "write", flaky)
            for _ in range(50):
                with contextlib.suppress(_Cut):
                    RolloutController().step(rig.store, rig.rollout)
                    return

    rig.start(QUICK, BLUNT)
    for _ in range(60):
        rig.clock.advance(SECOND_US)
        rig.replica()
        rig.ask(60)
        look()
        if rig.state.over:
            break
    assert cuts > 20
    assert _moves(rig) == ["started", "stepped", "stepped", "promoted"]
    memory = memory_of(rig.store, rig.rollout)
    assert memory.analysis is not None
    counted = (sum(memory.analysis.counts), sum(tally.requests for tally in memory.tallies.values()))
    assert counted == rig.logged()
    assert sum(tally.units for tally in memory.tallies.values()) == counted[0]
    assert len(service_state(rig.store, "bikes").turns) == 3  # the first deploy, the candidate's channel, the promotion


def test_a_controller_that_was_away_catches_up_bit_by_bit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("andon.rollouts.gathering.MOST_ROWS", 500)
    rig.start(canary(steps=[50, 100], step="1h", deadline="1d"), BLUNT)
    rig.go(1, a_second=0)
    for _ in range(100):
        rig.clock.advance(SECOND_US)
        rig.ask(20)
    rig.replica()
    seen = []
    for _ in range(8):
        rig.look()
        seen.append(sum(tally.requests for tally in memory_of(rig.store, rig.rollout).tallies.values()))
        rig.clock.advance(1)
    assert seen[0] == 500
    assert seen == sorted(seen)
    assert seen[-1] == rig.logged()[1] > 1_900


def test_a_clock_that_goes_back_counts_nothing_again(rig: Rig) -> None:
    rig.start(canary(steps=[50, 100], step="1h", deadline="1d"), BLUNT)
    rig.go(40, a_second=20)
    before = memory_of(rig.store, rig.rollout)
    rig.clock.advance(-20 * SECOND_US)
    rig.go(20, a_second=0)
    rig.go(20, a_second=0)
    after = memory_of(rig.store, rig.rollout)
    assert before.analysis is not None
    assert after.analysis is not None
    assert sum(after.analysis.counts) == 780  # 39 seconds: the first look only begins the step
    assert sum(tally.requests for tally in after.tallies.values()) == 780


def test_two_controllers_at_once_act_once(rig: Rig) -> None:
    rig.start(QUICK, BLUNT)
    other = RolloutController()
    for _ in range(60):
        rig.clock.advance(SECOND_US)
        rig.replica()
        rig.ask(60)
        rig.look()
        other.step(rig.store, rig.rollout)
        if rig.state.over:
            break
    steps = [kind for kind in rig.actions() if kind in ("stepped", "promoted")]
    assert steps == ["stepped", "stepped", "promoted"]
    memory = memory_of(rig.store, rig.rollout)
    assert memory.analysis is not None
    assert sum(tally.units for tally in memory.tallies.values()) >= sum(memory.analysis.counts)


def test_a_look_that_was_overtaken_writes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.start(QUICK, BLUNT)
    rig.go(3)
    import andon.rollouts.controller as module

    decide = module.decide

    def slowly(*given: object) -> object:
        rig.steer("pause", "a person was quicker")
        monkeypatch.setattr(module, "decide", decide)
        return decide(*given)  # type: ignore[arg-type]

    rig.clock.advance(10 * SECOND_US)
    rig.replica()
    rig.ask(60)
    before = memory_of(rig.store, rig.rollout)
    monkeypatch.setattr(module, "decide", slowly)
    with pytest.raises(Conflict, match="moved on"):
        rig.look()
    assert rig.actions()[-1] == "paused"
    assert memory_of(rig.store, rig.rollout) == before


def test_a_tick_without_a_rollout_is_a_glance(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rig.controller.tick(rig.store) is False

    def never(*_: object) -> None:
        raise AssertionError("nothing was to be read")

    monkeypatch.setattr(type(rig.store.ledger), "read", never)
    assert rig.controller.tick(rig.store) is False


def test_a_tick_looks_after_what_is_under_way(rig: Rig) -> None:
    rig.start(QUICK)
    rig.clock.advance(SECOND_US)
    rig.replica()
    rig.controller.tick(rig.store)
    assert rig.state.phase == "running"


def test_memory_is_json(rig: Rig) -> None:
    rig.start(QUICK)
    rig.go(20)
    memory = memory_of(rig.store, rig.rollout)
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(memory)), type(memory)) == memory
    assert len(msgspec.json.encode(memory)) < 200_000
