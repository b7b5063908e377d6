"""The state machine: what is decided of what was seen, over every path that Hypothesis finds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from andon.core.clocks import HOUR_US, MINUTE_US, SECOND_US
from andon.core.errors import Conflict
from andon.releases.splits import WHOLE, assign, check_split
from andon.rollouts.decide import WARM_US, begin, by_hand, decide, fold
from andon.rollouts.records import (
    Aborted,
    Action,
    Ended,
    Held,
    Judgement,
    Observation,
    Promoted,
    Replica,
    Rollout,
    Started,
    Stepped,
    Waited,
)
from andon.rollouts.sharing import CONTROL, split_of
from andon.rollouts.strategies import AB, BlueGreen, Canary, Shadow, Strategy, ab, blue_green, canary, challenger, shadow

OLD, NEW = "release:bikes@1", "release:bikes@2"
PROVEN = Judgement(unproven=())
WARM = (Replica(id="r1", holds=True), Replica(id="r2", holds=True))


def started(strategy: Strategy, at_us: int = 0) -> Rollout:
    return begin(
        "rollout:1", Started(at_us=at_us, why="a test", service="bikes", candidate=NEW, baseline=OLD, strategy=strategy, policy={})
    )


def seen(**changes: Any) -> Observation:
    return msgspec.structs.replace(Observation(production=OLD, replicas=WARM, units=1_000), **changes)


def after(state: Rollout, action: Action) -> Rollout:
    return fold(state, [action])


def running(strategy: Strategy, step: int = 0) -> Rollout:
    state = started(strategy)
    for _ in range(step + 1):
        share = 0 if isinstance(strategy, Shadow | BlueGreen | AB) else round(strategy.steps[state.step + 1] * 100)
        state = after(state, Stepped(at_us=0, why="", step=state.step + 1, share=share))
    return state


def test_it_gets_no_traffic_before_every_replica_is_warm() -> None:
    state = started(canary())
    assert split_of(state).arms[0].share == WHOLE  # type: ignore[union-attr]
    assert split_of(state).warm == (NEW,)  # type: ignore[union-attr]
    cold = (Replica(id="r1", holds=True), Replica(id="r2", holds=False))
    assert isinstance(decide(state, seen(replicas=cold), 0), Waited)
    assert isinstance(decide(state, seen(replicas=()), 10 * WARM_US), Waited)  # nobody serves: that is not the candidate's fault
    assert isinstance(decide(state, seen(replicas=cold), WARM_US + 1), Aborted)
    warm = decide(state, seen(), 0)
    assert isinstance(warm, Stepped)
    assert warm.share == 500


def test_a_candidate_that_cannot_load_is_aborted_with_the_reason() -> None:
    broken = (Replica(id="r1", holds=True), Replica(id="r2", holds=False, problem="ImportError: no torch"))
    action = decide(started(canary()), seen(replicas=broken), 0)
    assert isinstance(action, Aborted)
    assert "no torch" in action.why


@pytest.mark.parametrize("strategy", [canary(), ab(), shadow(), challenger()], ids=lambda strategy: type(strategy).__name__)
@pytest.mark.parametrize(
    "broken",
    [
        {"replicas": (Replica(id="r1", holds=False, problem="ended"),)},
        {"deaths": 3},
        {"latest": 20, "latest_failed": 11},
    ],
    ids=["unhealthy-everywhere", "dies", "fails-mostly"],
)
def test_what_is_broken_needs_no_statistics(strategy: Strategy, broken: dict[str, Any]) -> None:
    assert isinstance(decide(running(strategy), seen(**broken), 1), Aborted)
    assert isinstance(decide(running(strategy), seen(**broken, incidents=("incident:1",)), 1), Aborted)


def test_one_sick_replica_of_two_stops_the_climb_and_no_more() -> None:
    sick = (Replica(id="r1", holds=True), Replica(id="r2", holds=False, problem="ended"))
    action = decide(running(canary()), seen(replicas=sick, judgement=PROVEN), HOUR_US)
    assert isinstance(action, Waited)
    assert "does not hold" in action.why


def test_a_canary_climbs_by_time_and_units_and_takes_production_only_on_proof() -> None:
    strategy = canary(steps=[5, 25, 100], step="1m", step_units=100)
    state = running(strategy)
    assert isinstance(decide(state, seen(), MINUTE_US - 1), Waited)
    assert isinstance(decide(state, seen(units=99), MINUTE_US), Waited)
    step = decide(state, seen(), MINUTE_US)
    assert isinstance(step, Stepped)
    assert (step.step, step.share) == (1, 2_500)
    state = after(state, step)
    assert isinstance(decide(state, seen(), HOUR_US), Waited)
    assert isinstance(decide(state, seen(judgement=PROVEN), MINUTE_US + 1), Waited)  # the step has not lasted
    action = decide(state, seen(judgement=PROVEN), HOUR_US)
    assert isinstance(action, Promoted)
    assert not action.keep
    assert after(state, action).phase == "promoted"
    assert split_of(after(state, action)) is None


def test_by_hand_means_that_a_person_promotes() -> None:
    state = running(canary(steps=[50, 100], promotion="by-hand"))
    action = decide(state, seen(judgement=PROVEN), HOUR_US)
    assert isinstance(action, Waited)
    assert "a person promotes" in action.why
    assert isinstance(by_hand(state, "promote", HOUR_US, "it is good"), Promoted)


@pytest.mark.parametrize("phase", ["running", "paused", "undecided", "keeping"])
def test_a_guard_aborts_in_every_phase(phase: str) -> None:
    state = running(canary(holdback=5))
    if phase == "paused":
        state = after(state, by_hand(state, "pause", 1, "lunch"))
    elif phase == "undecided":
        state = after(state, Held(at_us=1, why="the deadline"))
    elif phase == "keeping":
        state = after(state, Promoted(at_us=1, why="proven", keep=True))
    hurt = seen(production=state.production, judgement=Judgement(harm=("errors: more",), unproven=()))
    action = decide(state, hurt, 2)
    assert isinstance(action, Aborted)
    assert after(state, action).phase == "aborted"


def test_a_mismatch_holds_and_nothing_is_believed_then() -> None:
    state = running(canary())
    odd = Judgement(harm=("errors: more",), unproven=(), mismatch="sample-ratio: 40 % where 5 % should be")
    action = decide(state, seen(judgement=odd), HOUR_US)
    assert isinstance(action, Held)
    held = after(state, action)
    assert held.phase == "undecided"
    assert split_of(held) == split_of(state)
    assert isinstance(decide(held, seen(judgement=odd), 2 * HOUR_US), Waited)
    assert isinstance(decide(held, seen(judgement=PROVEN), 100 * HOUR_US), Waited)  # only a person promotes now


def test_the_deadline_holds_and_a_person_lets_it_go_on() -> None:
    state = running(canary(steps=[50, 100], deadline="1h"))
    assert isinstance(decide(state, seen(), HOUR_US - 1), Waited)
    held = after(state, decide(state, seen(), HOUR_US))
    assert (held.phase, held.why) == ("undecided", "the deadline has passed without a proof")
    again = after(held, by_hand(held, "resume", 2 * HOUR_US, "wait for the weekend"))
    assert isinstance(decide(again, seen(), 3 * HOUR_US - 1), Waited)
    assert isinstance(decide(again, seen(judgement=PROVEN), 3 * HOUR_US - 1), Promoted)


@pytest.mark.parametrize("stop", [{"incidents": ("incident:a",)}, {"replicas": ()}])
def test_an_open_incident_or_no_replica_stops_the_climb(stop: dict[str, Any]) -> None:
    assert isinstance(decide(running(canary(steps=[50, 100])), seen(judgement=PROVEN, **stop), HOUR_US), Waited)


def test_blue_green_switches_when_warm_keeps_the_old_warm_and_returns() -> None:
    state = started(blue_green(keep="1h"))
    action = decide(state, seen(), 5)
    assert isinstance(action, Promoted)
    kept = after(state, action)
    split = split_of(kept)
    assert split is not None
    assert (kept.phase, kept.production, split.warm, len(split.arms)) == ("keeping", NEW, (OLD,), 1)
    assert isinstance(decide(kept, seen(production=NEW, latest=30, latest_failed=29), 6), Aborted)
    assert isinstance(decide(kept, seen(production=NEW), HOUR_US), Waited)
    assert after(kept, decide(kept, seen(production=NEW), HOUR_US + 5)).phase == "promoted"


def test_a_shadow_never_answers_and_ends_by_itself() -> None:
    state = running(shadow(share=20, for_="1h"))
    split = split_of(state)
    assert split is not None
    assert [arm.release for arm in split.arms] == [OLD]
    assert [(mirror.release, mirror.share) for mirror in split.mirrors] == [(NEW, 2_000)]
    assert isinstance(decide(state, seen(judgement=PROVEN), HOUR_US - 1), Waited)
    assert isinstance(decide(state, seen(judgement=PROVEN), HOUR_US), Ended)
    assert isinstance(decide(running(challenger()), seen(judgement=PROVEN), 10_000 * HOUR_US), Waited)


def test_a_shadow_goes_on_beside_whatever_holds_production() -> None:
    state = running(challenger())
    rebased = after(state, decide(state, seen(production="release:bikes@3"), 1))
    assert (rebased.baseline, rebased.stage, rebased.phase) == ("release:bikes@3", state.stage + 1, "running")
    assert isinstance(decide(state, seen(production=NEW), 1), Ended)
    assert isinstance(decide(running(canary()), seen(production="release:bikes@3"), 1), Ended)


def test_an_ab_test_is_decided_by_a_person_or_by_its_rule() -> None:
    won, lost = Judgement(winner="candidate"), Judgement(winner="control")
    assert isinstance(decide(running(ab()), seen(judgement=won), HOUR_US), Waited)
    ruled = running(ab(rule="winner", metric="revenue"))
    assert isinstance(decide(ruled, seen(), HOUR_US), Waited)
    assert isinstance(decide(ruled, seen(judgement=won), HOUR_US), Promoted)
    assert isinstance(decide(ruled, seen(judgement=lost), HOUR_US), Ended)
    assert isinstance(decide(ruled, seen(), 29 * 24 * HOUR_US), Held)


def test_what_makes_no_sense_is_refused() -> None:
    state = running(canary())
    with pytest.raises(Conflict, match="neither paused nor held"):
        by_hand(state, "resume", 1, "")
    over = after(state, Aborted(at_us=1, why=""))
    for verb in ("promote", "abort", "end", "pause", "resume"):
        with pytest.raises(Conflict, match="aborted already"):
            by_hand(over, verb, 2, "")


def test_the_control_that_stays_never_saw_the_candidate() -> None:
    strategy = canary(steps=[5, 25, 50, 100], holdback=10)
    state, saw = running(strategy), set()
    users = [f"u{i}" for i in range(2_000)]
    for step in range(3):
        split = split_of(running(strategy, step))
        assert split is not None
        now = {user for user in users if assign(split, user).release == NEW}
        assert saw <= now
        saw = now
    kept = split_of(after(state, Promoted(at_us=1, why="", keep=True)))
    assert kept is not None
    control = {user for user in users if assign(kept, user).channel == CONTROL}
    assert 100 < len(control) < 300
    assert not control & saw


class RolloutMachine(RuleBasedStateMachine):
    """Looks, persons and time in any order."""

    @initialize(
        strategy=st.sampled_from(
            [
                canary(step="1s"),
                canary(steps=[50, 100], step="1s", holdback=5, holdback_for="1h"),
                canary(promotion="by-hand", deadline="1h"),
                shadow(for_="1h"),
                challenger(),
                blue_green(keep="1h"),
                ab(),
                ab(rule="winner", metric="m", deadline="1h"),
            ]
        )
    )
    def begin(self, strategy: Strategy) -> None:
        self.now_us = 0
        self.state = started(strategy)
        self.journal: list[Action] = []

    def act(self, action: Action) -> None:
        self.journal.append(action)
        self.state = fold(self.state, [action])

    @rule(
        elapsed=st.sampled_from([0, SECOND_US, MINUTE_US, HOUR_US]),
        holds=st.lists(st.sampled_from(["holds", "cold", "broken"]), max_size=3),
        units=st.sampled_from([0, 50, 1_000]),
        deaths=st.sampled_from([0, 0, 0, 3]),
        failed=st.sampled_from([0, 0, 0, 30]),
        incident=st.booleans(),
        harm=st.sampled_from([(), (), ("errors: more",)]),
        unproven=st.sampled_from([(), ("errors: few",)]),
        mismatch=st.sampled_from(["", "", "", "odd"]),
        winner=st.sampled_from(["", "candidate", "control"]),
    )
    def look(self, elapsed: int, holds: list[str], units: int, deaths: int, failed: int, incident: bool, **judged: Any) -> None:
        self.now_us += elapsed
        observation = Observation(
            production=self.state.production,
            replicas=tuple(Replica(id=str(n), holds=one == "holds", problem="x" if one == "broken" else "") for n, one in enumerate(holds)),
            units=units,
            deaths=deaths,
            latest=30,
            latest_failed=failed,
            incidents=("incident:1",) if incident else (),
            judgement=Judgement(**judged),
        )
        before, action = self.state, decide(self.state, observation, self.now_us)
        assert decide(self.state, observation, self.now_us) == action  # pure
        self.check(before, observation, action)
        self.act(action)

    def check(self, before: Rollout, observation: Observation, action: Action) -> None:
        judged = observation.judgement
        if before.over:
            assert isinstance(action, Waited)
        if isinstance(action, Stepped):
            assert observation.replicas
            assert all(replica.holds for replica in observation.replicas)
            assert not before.paused
            assert not (judged.harm and before.phase == "running")
        if isinstance(action, Promoted):
            assert before.phase in ("warming", "running")
            assert not before.paused
            assert not observation.incidents
            strategy = before.strategy
            assert not isinstance(strategy, Shadow)
            if isinstance(strategy, Canary):
                assert not judged.unproven
                assert not judged.harm
                assert not judged.mismatch
                assert before.step == len(strategy.steps) - 2
            if isinstance(strategy, AB):
                assert judged.winner == "candidate"

    @precondition(lambda self: hasattr(self, "state"))
    @rule(verb=st.sampled_from(["promote", "abort", "end", "pause", "resume"]))
    def person(self, verb: str) -> None:
        try:
            action = by_hand(self.state, verb, self.now_us, "a person")
        except Conflict:
            return
        self.act(action)

    @invariant()
    def whole(self) -> None:
        if not hasattr(self, "state"):
            return
        assert fold(started(self.state.strategy), self.journal) == self.state
        assert len(self.state.cuts) == self.state.stage + 1
        split = split_of(self.state)
        assert (split is None) == self.state.over
        if split is None:
            return
        check_split(split)
        assert split.arms[0].release == self.state.production
        if self.state.phase == "warming":
            assert [arm.share for arm in split.arms] == [WHOLE]
        loaded = {arm.release for arm in split.arms} | {mirror.release for mirror in split.mirrors} | set(split.warm)
        assert NEW in loaded or self.state.phase == "keeping"
        assert self.state.phase != "keeping" or OLD in loaded  # the way back stays warm


TestRollouts = RolloutMachine.TestCase
TestRollouts.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
