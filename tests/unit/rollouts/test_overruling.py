"""Deploying, rolling back and pulling the cord while a rollout is under way."""

from __future__ import annotations

import msgspec
import pytest

from andon import registry, releases
from andon.core.clocks import SECOND_US
from andon.core.errors import Conflict, InvalidInput
from andon.incidents.controller import act_in
from andon.incidents.journal import write_in
from andon.incidents.records import OpenIncident, Rollback
from andon.operations import moving, rolling
from andon.operations.controllers import controllers
from andon.operations.policies import register_policy
from andon.releases import live_split, service_state
from andon.rollouts import Rollout, blue_green, canary, challenger, rollout_of
from andon.rollouts.controller import RolloutController
from tests.conftest import ANA
from tests.unit.rollouts.rig import NEW, OLD, Rig, failing
from tests.unit.rollouts.test_controller import BLUNT, QUICK


def running(rig: Rig, strategy=QUICK) -> Rollout:  # type: ignore[no-untyped-def]
    rig.start(strategy, BLUNT)
    rig.go(3, a_second=5)
    return rig.state


def test_a_rollback_in_a_canary_takes_the_candidate_back_at_once(rig: Rig) -> None:
    assert running(rig).phase == "running"
    moved = moving.rollback("service:bikes", why="users complain", store=rig.store, actor=ANA)
    assert (moved.release, moved.previous, moved.rollout) == (OLD, NEW, rig.rollout)
    assert rig.split is None
    assert rig.production == OLD
    assert rig.rejected == {NEW}
    assert (rig.state.phase, rig.state.why) == ("aborted", "users complain")
    assert rig.look() is False  # the controller finds it over
    with pytest.raises(Exception, match="no earlier release"):
        moving.rollback("service:bikes", why="again", store=rig.store, actor=ANA)


def test_a_rollback_that_names_a_release_means_production_and_ends_the_rollout(rig: Rig) -> None:
    third = rig.release("c")
    releases.deploy(rig.store, third, actor=ANA)
    rig.clock.advance(SECOND_US)
    rig.start(canary(steps=[50, 100]))
    assert rig.state.baseline == third
    moved = moving.rollback("service:bikes", why="it was bad all along", to=OLD, store=rig.store, actor=ANA)
    assert (moved.release, moved.rollout) == (OLD, rig.rollout)
    assert (rig.production, rig.split, rig.state.phase) == (OLD, None, "ended")
    assert rig.rejected == {third}  # nobody has said anything against the candidate
    assert registry.aliases_of(rig.store, "service:bikes") == {"production": OLD}


def test_the_incident_controllers_rollback_ends_it_in_its_own_transaction(rig: Rig) -> None:
    third = rig.release("c")
    releases.deploy(rig.store, third, actor=ANA)
    running(rig)
    rollback = Rollback(at_us=1, why="twice the loss", incident="bikes-1", release=third, to=OLD)
    rig.store.ledger.write(lambda c: act_in(c, "bikes", rollback, None, rig.clock.now_us()))
    assert (rig.production, rig.split, rig.state.phase) == (OLD, None, "ended")
    assert rig.whys("overruled")
    assert service_state(rig.store, "bikes").rollout is None
    later = rig.start(QUICK)
    assert later.baseline == OLD


def test_a_rollback_after_the_switch_goes_back_to_what_is_warm(rig: Rig) -> None:
    assert running(rig, blue_green(keep="1h")).phase == "keeping"
    moved = moving.rollback("service:bikes", why="it looks wrong", store=rig.store, actor=ANA)
    assert (moved.release, rig.production, rig.state.phase) == (OLD, OLD, "aborted")
    assert rig.rejected == {NEW}
    assert rig.split is None


def test_a_rollback_after_the_switch_goes_back_to_what_was_waived_too(rig: Rig) -> None:
    waived = rig.release("c", good=False)
    releases.waive(rig.store, waived, for_s=3_600, actor=ANA, reason="known to be noisy")
    releases.deploy(rig.store, waived, actor=ANA)
    rig.clock.advance(SECOND_US)
    assert running(rig, blue_green(keep="10m")).phase == "keeping"
    assert rig.production == NEW
    assert releases.rollback_target(rig.store, "bikes") == waived
    moved = moving.rollback("service:bikes", why="it answers nonsense", store=rig.store, actor=ANA)
    assert (moved.release, rig.production, rig.rejected) == (waived, waived, {NEW})


def test_a_deploy_past_a_canary_is_refused_unless_forced(rig: Rig) -> None:
    running(rig)
    third = rig.release("c")
    with pytest.raises(Conflict, match="under way") as refused:
        moving.deploy(third, store=rig.store, actor=ANA)
    assert "--force" in (refused.value.next_step or "")
    assert (rig.production, rig.state.phase) == (OLD, "running")
    assert moving.deploy(OLD, store=rig.store, actor=ANA).release == OLD  # type: ignore[union-attr]  # it holds it: nothing moves
    moved = moving.deploy(third, force=True, store=rig.store, actor=ANA)
    assert moved.rollout == rig.rollout  # type: ignore[union-attr]
    assert (rig.production, rig.split, rig.state.phase) == (third, None, "ended")


def test_a_deploy_while_the_old_release_is_kept_ends_the_keeping(rig: Rig) -> None:
    running(rig, blue_green(keep="1h"))
    third = rig.release("c")
    moving.deploy(third, store=rig.store, actor=ANA)
    assert (rig.production, rig.split, rig.state.phase) == (third, None, "promoted")


def test_a_challenger_stands_beside_whatever_is_deployed(rig: Rig) -> None:
    running(rig, challenger(share=20))
    third = rig.release("c")
    moving.deploy(third, store=rig.store, actor=ANA)
    assert rig.split is not None
    assert [arm.release for arm in rig.split.arms] == [third]
    rig.replica()
    rig.look()
    assert (rig.state.phase, rig.state.baseline) == ("running", third)
    assert rig.split.stage == rig.state.stage
    moving.rollback("service:bikes", why="worse", store=rig.store, actor=ANA)
    assert (rig.production, rig.state.phase) == (OLD, "running")


def test_a_pulled_cord_stops_the_climb_but_not_the_guards(rig: Rig) -> None:
    rig.controller = RolloutController(rolling.open_incidents)
    running(rig)
    opened = OpenIncident(
        at_us=1, why="smoke", incident="bikes-1", cause="unknown", advice="wait", onset_us=1, release=OLD, checks=("cord",)
    )
    rig.store.ledger.write(lambda c: write_in(c, "bikes", [opened], now_us=rig.clock.now_us(), actor=ANA))
    rig.go(60)
    assert (rig.state.phase, rig.state.step) == ("running", 0)
    assert rig.state.said == "incident:bikes-1 is open: no step while the line is stopped"
    rig.behaviour[NEW] = failing(0.7)
    rig.go(60)
    assert rig.state.phase == "aborted"


def test_an_incident_from_before_does_not_stop_the_fix(rig: Rig) -> None:
    opened = OpenIncident(
        at_us=1, why="smoke", incident="bikes-1", cause="unknown", advice="wait", onset_us=1, release=OLD, checks=("cord",)
    )
    rig.store.ledger.write(lambda c: write_in(c, "bikes", [opened], now_us=rig.clock.now_us(), actor=ANA))
    rig.clock.advance(SECOND_US)
    rig.controller = RolloutController(rolling.open_incidents)
    rig.start(QUICK, BLUNT)
    rig.go(120)
    assert rig.state.phase == "promoted"


def test_a_waiver_that_ran_out_ends_the_rollout_and_says_so(rig: Rig) -> None:
    register_policy("rollout/bikes", msgspec.to_builtins(BLUNT), store=rig.store, actor=ANA)
    refused = rig.release("bad", good=False)
    releases.waive(rig.store, refused, for_s=5, actor=ANA, reason="try it")
    rig.rollout = moving.deploy(refused, strategy=QUICK, store=rig.store, actor=ANA).id  # type: ignore[union-attr]
    for _ in range(90):
        rig.clock.advance(SECOND_US)
        rig.replica(holds=(OLD, refused))
        rig.ask(60)
        rig.look()
    assert rig.state.phase == "ended"
    assert rig.state.why == "the candidate may not be deployed any more: the gate refused this release"
    assert rig.split is None
    assert rig.actions().count("promoted") == 0
    assert rig.production == OLD


def test_what_persons_may_do(rig: Rig) -> None:
    running(rig)
    assert rolling.pause(rig.rollout, why="lunch", store=rig.store, actor=ANA).paused
    rig.go(60)
    assert (rig.state.step, rig.state.said) == (0, "paused by a person")
    assert not rolling.resume("service:bikes", store=rig.store, actor=ANA).paused
    with pytest.raises(InvalidInput, match="reason"):
        rolling.abort("bikes", why=" ", store=rig.store, actor=ANA)
    assert rolling.promote("bikes", why="I know it", store=rig.store, actor=ANA).phase == "promoted"
    assert (rig.production, rig.split) == (NEW, None)
    assert rolling.all_rollouts(rig.store)[0].id == rig.rollout
    assert rolling.all_rollouts(rig.store, under_way=True) == []


def test_ending_rejects_nobody(rig: Rig) -> None:
    running(rig)
    assert rolling.end("bikes", why="next week", store=rig.store, actor=ANA).phase == "ended"
    assert (rig.production, rig.split, rig.rejected) == (OLD, None, set())


def test_the_control_plane_runs_it() -> None:
    assert "rollouts" in [controller.name for controller in controllers()]


def test_nothing_is_half_started(rig: Rig) -> None:
    with pytest.raises(Conflict, match="holds production already"):
        moving.deploy(OLD, strategy=QUICK, store=rig.store, actor=ANA)
    with pytest.raises(InvalidInput, match="a rollout goes to production"):
        moving.deploy(NEW, strategy=QUICK, channel="candidate", store=rig.store, actor=ANA)
    assert live_split(rig.store, "bikes") is None
    assert service_state(rig.store, "bikes").rollout is None
    with pytest.raises(Exception, match="no rollout"):
        rollout_of(rig.store, "service:bikes")
