"""Deploying and going back: by example, and as a state machine against a model of the rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from andon import registry
from andon.core.actors import Actor
from andon.core.clocks import DAY_US, ManualClock
from andon.core.errors import AliasMoved, AndonError, Conflict, Forbidden, GateRefused, GateUndecided, InvalidInput, NotFound
from andon.releases import CodePin, Made, assemble, block_training, deploy, make, rollback, rollback_target, service_state, waive
from andon.store import Store, memory_store
from tests.conftest import ANA, START_US
from tests.unit.releases.conftest import LOCK, examples, register_model, scorer

Line = Callable[..., Made]


def production(store: Store) -> str:
    return str(registry.resolve(store, "service:bikes@production"))


def test_deploy_moves_the_channel_and_the_champion_together(store: Store, line: Line) -> None:
    line()
    moved = deploy(store, "release:bikes@1", actor=ANA, reason="first", event_us=START_US)
    assert (moved.release, moved.previous) == ("release:bikes@1", None)
    assert production(store) == "release:bikes@1"
    assert str(registry.resolve(store, "model:bikes@champion")) == "model:bikes@1"
    turn = service_state(store, "bikes").turns[0]
    assert (turn.kind, turn.event_us, turn.reason) == ("deployed", START_US, "first")


def test_a_refused_release_cannot_be_deployed_but_by_a_persons_waiver(store: Store, line: Line) -> None:
    line()
    deploy(store, "release:bikes@1", actor=ANA)
    line(bias=30.0, tag="b")
    with pytest.raises(GateRefused):
        deploy(store, "release:bikes@2", actor=ANA)
    with pytest.raises(Forbidden, match="person"):
        waive(store, "release:bikes@2", for_s=60, actor=Actor("controller", "x"), reason="I like it")
    waive(store, "release:bikes@2", for_s=60, actor=ANA, reason="an experiment")
    deploy(store, "release:bikes@2", actor=ANA)
    assert production(store) == "release:bikes@2"


def test_a_waiver_expires(store: Store, line: Line, clock: ManualClock) -> None:
    line()
    deploy(store, "release:bikes@1", actor=ANA)
    line(bias=30.0, tag="b")
    waive(store, "release:bikes@2", for_s=60, actor=ANA, reason="an experiment")
    clock.advance(61_000_000)
    with pytest.raises(GateRefused):
        deploy(store, "release:bikes@2", actor=ANA)


def test_an_unjudged_release_may_be_a_candidate_only(store: Store, line: Line) -> None:
    line(examples=None)
    with pytest.raises(GateUndecided):
        deploy(store, "release:bikes@1", actor=ANA)
    deploy(store, "release:bikes@1", channel="candidate", actor=ANA)
    assert service_state(store, "bikes").current("candidate") == "release:bikes@1"


def test_two_rollbacks_never_bounce_back(store: Store, line: Line) -> None:
    for tag in "abc":
        deploy(store, line(tag=tag).address, actor=ANA)
    assert rollback_target(store, "bikes") == "release:bikes@2"
    assert rollback(store, "bikes", actor=ANA, reason="slow").release == "release:bikes@2"
    assert rollback(store, "bikes", actor=ANA, reason="still slow").release == "release:bikes@1"
    assert rollback_target(store, "bikes") is None
    with pytest.raises(NotFound, match="no earlier release"):
        rollback(store, "bikes", actor=ANA, reason="worse")
    with pytest.raises(Forbidden, match="rejected"):
        deploy(store, "release:bikes@3", actor=ANA)
    waive(store, "release:bikes@3", for_s=3600, actor=ANA, reason="it was the network")
    assert deploy(store, "release:bikes@3", actor=ANA).release == "release:bikes@3"


def test_a_rollback_skips_releases_that_only_a_waiver_let_in(store: Store, line: Line) -> None:
    deploy(store, line().address, actor=ANA)
    deploy(store, line(bias=30.0, tag="b", waive="try it").address, actor=ANA)
    deploy(store, line(tag="c").address, actor=ANA)
    assert rollback(store, "bikes", actor=ANA, reason="bad").release == "release:bikes@1"


def test_a_rollback_needs_a_reason_and_something_to_go_back_to(store: Store, line: Line) -> None:
    with pytest.raises(NotFound, match="nothing holds"):
        rollback(store, "bikes", actor=ANA, reason="x")
    deploy(store, line().address, actor=ANA)
    with pytest.raises(InvalidInput, match="reason"):
        rollback(store, "bikes", actor=ANA, reason=" ")


def test_a_rollback_decided_on_an_old_view_is_refused(store: Store, line: Line) -> None:
    for tag in "abc":
        deploy(store, line(tag=tag).address, actor=ANA)
    rollback(store, "bikes", actor=ANA, reason="first", expected="release:bikes@3")
    with pytest.raises(AliasMoved):
        rollback(store, "bikes", actor=ANA, reason="second", expected="release:bikes@3")
    assert production(store) == "release:bikes@2"
    assert list(service_state(store, "bikes").rejections) == ["release:bikes@3"]


def test_a_partial_rollback_makes_a_release_that_differs_in_one_component(store: Store, line: Line) -> None:
    deploy(store, line(code=CodePin(commit="one")).address, actor=ANA)
    deploy(store, line(tag="b", code=CodePin(commit="two")).address, actor=ANA)
    moved = rollback(store, "bikes", only=["code"], actor=ANA, reason="tone complaints")
    assert (moved.release, moved.made) == ("release:bikes@3", True)
    changed = {change.path for change in registry.diff(store, "release:bikes@2", "release:bikes@3")}
    assert "code.commit" in changed
    assert not any(path.startswith(("model", "data", "environment")) for path in changed)
    assert service_state(store, "bikes").waivers["release:bikes@3"].reason.startswith("partial rollback")


def test_a_partial_rollback_that_changes_nothing_is_refused(store: Store, line: Line) -> None:
    deploy(store, line().address, actor=ANA)
    deploy(store, line(tag="b").address, actor=ANA)
    with pytest.raises(Conflict, match="changes nothing"):
        rollback(store, "bikes", only=["prompts"], actor=ANA, reason="x")
    with pytest.raises(InvalidInput, match="no component"):
        rollback(store, "bikes", only=["tone"], actor=ANA, reason="x")  # type: ignore[list-item]
    assert production(store) == "release:bikes@2"


def test_bad_data_takes_the_release_trained_on_it_along(store: Store, line: Line) -> None:
    for rows in (1, 2):
        registry.register(store, "dataset", "rides", {"rows": rows}, actor=ANA)
    registry.move_alias(store, "dataset:rides@training", "dataset:rides@2", actor=ANA)
    deploy(store, line(data=("dataset:rides@1",)).address, actor=ANA)
    deploy(store, line(tag="b", data=("dataset:rides@2",)).address, actor=ANA)
    deploy(store, line(tag="c", data=("dataset:rides@2",)).address, actor=ANA)
    moved = rollback(store, "bikes", only=["data"], actor=ANA, reason="a week of rides is missing")
    assert (moved.release, moved.made) == ("release:bikes@1", False)  # the second was trained on the same bad data
    assert str(registry.resolve(store, "dataset:rides@training")) == "dataset:rides@1"
    state = service_state(store, "bikes")
    assert state.training_block is not None
    assert state.training_block.why == "a week of rides is missing"
    assert list(state.rejections) == ["release:bikes@3"]
    with pytest.raises(InvalidInput, match="data goes back alone"):
        rollback(store, "bikes", only=["data", "code"], actor=ANA, reason="x")


def test_training_can_be_blocked(store: Store) -> None:
    block_training(store, "bikes", actor=ANA, reason="hum is frozen", since_us=5)
    block = service_state(store, "bikes").training_block
    assert block is not None
    assert (block.why, block.since_us) == ("hum is frozen", 5)


class ReleaseMachine(RuleBasedStateMachine):
    """Any order of releasing, deploying, waiving and rolling back keeps the promises."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(START_US)
        self.store = memory_store(self.clock)
        self.good: dict[str, bool] = {}
        self.rejected: set[str] = set()
        self.held: list[str] = []

    def teardown(self) -> None:
        self.store.close()

    @rule(good=st.booleans())
    def release(self, good: bool) -> None:
        self.clock.advance(DAY_US)
        model = register_model(self.store, tag=str(len(self.good)))
        manifest = assemble(self.store, "bikes", model=model, environment=LOCK)
        bias = 0.0 if good else 60.0
        made = make(
            self.store, manifest, examples=examples(9), score=scorer(lambda m: bias if m.model.address == model else 0.0), actor=ANA
        )
        self.good[str(made.address)] = made.answer == 0

    @precondition(lambda self: self.good)
    @rule(data=st.data())
    def deploy(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.good)))
        allowed = self.good[name] and name not in self.rejected
        try:
            deploy(self.store, name, actor=ANA)
        except (GateRefused, GateUndecided, Forbidden):
            assert not allowed
        else:
            assert allowed
            if self.held[-1:] != [name]:
                self.held.append(name)

    @precondition(lambda self: self.held)
    @rule()
    def rollback(self) -> None:
        before = self.held[-1]
        candidates = [name for name in self.held if name != before and name not in self.rejected and self.good[name]]
        try:
            moved = rollback(self.store, "bikes", actor=ANA, reason="model")
        except NotFound:
            assert not candidates
        else:
            assert moved.release == candidates[-1]
            self.rejected.add(before)
            self.held.append(moved.release)

    @invariant()
    def production_is_what_the_history_says(self) -> None:
        if self.held:
            assert production(self.store) == self.held[-1]
            assert self.held[-1] not in self.rejected
            manifest = registry.get(self.store, self.held[-1]).manifest
            assert str(registry.resolve(self.store, "model:bikes@champion")) == manifest["model"]["address"]
        else:
            with pytest.raises(AndonError):
                production(self.store)


ReleaseMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
TestReleaseMachine = ReleaseMachine.TestCase
