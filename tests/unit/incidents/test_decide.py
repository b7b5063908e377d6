from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from andon.core.clocks import DAY_US
from andon.core.verdicts import Verdict
from andon.incidents import (
    Action,
    AskTriage,
    BlockTraining,
    Escalate,
    Finding,
    IncidentPolicy,
    IncidentsState,
    Nothing,
    Observation,
    OpenIncident,
    RecommendRetrain,
    Resolve,
    Rollback,
    UnblockTraining,
    decide,
    fold,
)

POLICY = IncidentPolicy()
ADVICE = {"release": "rollback", "upstream": "fix-upstream", "world": "retrain", "unknown": "wait"}


def verdict(check: str, status: str) -> Verdict:
    return Verdict(subject="service:s", check=check, status=status, message="")  # type: ignore[arg-type]


def finding(cause: str, release: str = "release:s@2") -> Finding:
    return Finding(
        subject="service:s",
        release=release,
        cause=cause,
        advice=ADVICE[cause],
        message=cause,
        onset_us=1,  # type: ignore[arg-type]
        rollback_to="release:s@1" if cause == "release" else "",
        suspects=("temp",) if cause == "upstream" else (),
    )


def seen(day: int, *, quality: str = "pass", inputs: str = "pass", previous: str = "pass", cause: str | None = None) -> Observation:
    return Observation(
        at_us=day * DAY_US,
        release="release:s@2",
        verdicts=(verdict("live-quality", quality), verdict("inputs/frozen", inputs), verdict("previous-release", previous)),
        finding=None if cause is None else finding(cause),
    )


def step(state: IncidentsState, observation: Observation, policy: IncidentPolicy = POLICY) -> tuple[IncidentsState, tuple[Action, ...]]:
    actions = decide(state, observation, policy)
    return fold(state, actions), actions


def kinds(actions: tuple[Action, ...]) -> list[str]:
    return [type(action).__name__ for action in actions if type(action).__name__ != "Watched"]


def test_a_failed_verdict_asks_for_triage_first() -> None:
    state, actions = step(IncidentsState("service:s"), seen(1, quality="fail"))
    assert isinstance(actions[0], AskTriage)
    assert actions[0].checks == ("live-quality",)
    assert state.open == ()


def test_a_bad_release_is_rolled_back_once() -> None:
    state = IncidentsState("service:s")
    state, actions = step(state, seen(1, previous="fail", cause="release"))
    assert kinds(actions) == ["OpenIncident", "Rollback"]
    rollback = next(action for action in actions if isinstance(action, Rollback))
    assert (rollback.release, rollback.to) == ("release:s@2", "release:s@1")
    state, actions = step(state, seen(2, previous="fail", cause="release"))
    assert kinds(actions) == ["Nothing"]
    assert "rolled back already" in actions[0].why
    assert state.rejected == ("release:s@2",)


def test_a_bad_release_does_not_wait_for_a_broken_input() -> None:
    state, actions = step(IncidentsState("service:s"), seen(1, inputs="fail", cause="upstream"))
    assert kinds(actions) == ["OpenIncident", "BlockTraining"]
    state, actions = step(state, seen(2, inputs="fail", previous="fail", cause="release"))
    assert kinds(actions) == ["OpenIncident", "Rollback"]
    assert [incident.cause for incident in state.open] == ["upstream", "release"]


def test_never_back_to_a_rejected_release() -> None:
    state = msgspec.structs.replace(IncidentsState("service:s"), rejected=("release:s@1",))
    _, actions = step(state, seen(1, previous="fail", cause="release"))
    assert kinds(actions) == ["OpenIncident", "Nothing"]
    assert "itself rejected" in actions[1].why


def test_policy_may_leave_the_rollback_to_a_person() -> None:
    _, actions = step(IncidentsState("service:s"), seen(1, previous="fail", cause="release"), IncidentPolicy(auto_rollback=False))
    assert kinds(actions) == ["OpenIncident", "Nothing"]


def test_one_incident_per_cause_while_it_is_open() -> None:
    state = IncidentsState("service:s")
    for day in range(1, 6):
        state, _ = step(state, seen(day, inputs="fail", cause="upstream"))
    assert len(state.incidents) == 1


def test_a_cause_that_becomes_clearer_escalates() -> None:
    state, _ = step(IncidentsState("service:s"), seen(1, quality="fail", cause="unknown"))
    state, actions = step(state, seen(2, quality="fail", previous="fail", cause="release"))
    assert kinds(actions) == ["Escalate", "Rollback"]
    assert isinstance(actions[0], Escalate)
    assert [incident.cause for incident in state.incidents] == ["release"]


def test_retraining_waits_until_the_inputs_are_sound() -> None:
    state, _ = step(IncidentsState("service:s"), seen(1, inputs="fail", cause="upstream"))
    state, actions = step(state, seen(2, quality="fail", inputs="fail", cause="world"))
    assert "blocks training" in next(action for action in actions if isinstance(action, Nothing)).why
    state, actions = step(state, seen(3, quality="fail", cause="world"))
    state, actions = step(state, seen(4, quality="fail", cause="world"))
    state, actions = step(state, seen(5, quality="fail", cause="world"))
    assert {"Resolve", "UnblockTraining"} <= set(kinds(actions))
    state, actions = step(state, seen(6, quality="fail", cause="world"))
    assert any(isinstance(action, RecommendRetrain) for action in actions)
    state, actions = step(state, seen(7, quality="fail", cause="world"))
    assert not any(isinstance(action, RecommendRetrain) for action in actions)


def test_resolved_after_three_quiet_windows_and_training_goes_on() -> None:
    state, _ = step(IncidentsState("service:s"), seen(1, inputs="fail", cause="upstream"))
    assert state.training_blocked_by
    for day in (2, 3):
        state, actions = step(state, seen(day))
        assert "Resolve" not in kinds(actions)
    state, _ = step(state, seen(4, inputs="undecided"))  # silence is not health: only the verdicts that say something count
    state, actions = step(state, seen(5))
    assert any(isinstance(action, Resolve) for action in actions)
    assert any(isinstance(action, UnblockTraining) for action in actions)
    assert state.open == ()
    assert state.training_blocked_by == ()


def test_doing_nothing_is_said() -> None:
    state, actions = step(IncidentsState("service:s"), seen(1))
    assert kinds(actions) == ["Nothing"]
    assert actions[-1].inputs["release"] == "release:s@2"
    _, actions = step(state, seen(1))
    assert actions[0].why == "this window has been decided on already"


statuses = st.sampled_from(["pass", "warn", "fail", "undecided"])


@given(st.lists(st.tuples(statuses, statuses, statuses, st.sampled_from(["release", "upstream", "world", "unknown"])), max_size=25))
def test_invariants(days: list[tuple[str, str, str, str]]) -> None:
    """Whatever comes: the journal replays to the same state, no release is left twice, and at most one incident per cause is open."""
    state, journal = IncidentsState("service:s"), []
    for day, (quality, inputs, previous, cause) in enumerate(days, start=1):
        actions = decide(state, seen(day, quality=quality, inputs=inputs, previous=previous, cause=cause), POLICY)
        assert actions
        journal += [msgspec.json.decode(msgspec.json.encode(action), type=Action) for action in actions]
        state = fold(state, actions)
        open_causes = [incident.cause for incident in state.open]
        assert len(open_causes) == len(set(open_causes))
        assert len(state.rejected) == len(set(state.rejected))
        assert set(state.training_blocked_by) <= {incident.id for incident in state.open}
    assert fold(IncidentsState("service:s"), journal) == state
    assert msgspec.json.decode(msgspec.json.encode(state), type=IncidentsState) == state
    opened = [action.incident for action in journal if isinstance(action, OpenIncident)]
    assert len(opened) == len(set(opened))
    blocks = sum(isinstance(action, BlockTraining) for action in journal)
    assert blocks >= sum(isinstance(action, UnblockTraining) for action in journal)
