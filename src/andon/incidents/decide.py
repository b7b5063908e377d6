"""What to do about it: pure decisions for one service, one window at a time, and the fold that remembers them.

The hands call :func:`decide` after judging each window, run what it asks for (``AskTriage`` means: run triage and decide again with its
finding), journal every action, and :func:`fold` the journal into the next state. Replaying the journal gives the same state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from andon.core.clocks import to_iso
from andon.core.digests import digest_bytes
from andon.incidents.records import (
    Action,
    AskTriage,
    BlockTraining,
    Cause,
    Escalate,
    Finding,
    Incident,
    IncidentPolicy,
    IncidentsState,
    Nothing,
    Observation,
    OpenIncident,
    RecommendRetrain,
    Resolve,
    Rollback,
    UnblockTraining,
    Watched,
)

_WATCHED: dict[Cause, tuple[str, ...]] = {
    "release": ("live-quality", "previous-release"),
    "world": ("live-quality",),
    "upstream": ("inputs/",),
    "unknown": ("live-quality", "inputs/"),
}
"""Which checks must be quiet before an incident of that cause is over."""


def decide(state: IncidentsState, observation: Observation, policy: IncidentPolicy) -> tuple[Action, ...]:
    """The actions for one judged window, in the order to apply them; never empty: doing nothing is an action with a reason.

    >>> from andon.core.verdicts import Verdict
    >>> fine = Verdict(subject="service:bikes", check="live-quality", status="pass", message="")
    >>> seen = Observation(at_us=1, release="release:bikes@1", verdicts=(fine,))
    >>> [action.why for action in decide(IncidentsState("service:bikes"), seen, IncidentPolicy())]
    ['one window watched', 'no verdict failed']
    """
    at = observation.at_us
    failed = tuple(sorted({verdict.check for verdict in observation.verdicts if verdict.status == "fail"}))
    inputs: dict[str, str | float | None] = {
        "release": observation.release,
        "failed": ", ".join(failed),
        "verdicts": float(len(observation.verdicts)),
    }
    if at <= state.seen_until_us:
        return (Nothing(at_us=at, why="this window has been decided on already", inputs=inputs),)
    if failed and observation.finding is None:
        return (AskTriage(at_us=at, why=f"failed: {', '.join(failed)}", checks=failed, inputs=inputs),)
    actions: list[Action] = []
    finding = observation.finding
    if failed and finding is not None:
        inputs |= _numbers(finding)
        actions += _respond(state, finding, failed, at, inputs, policy)
    actions += _watch(fold(state, actions), observation, at, inputs, policy)
    if not any(not isinstance(action, Watched) for action in actions):
        why = "no verdict failed" if not failed else f"{', '.join(failed)}: known, and what can be done has been done"
        actions.append(Nothing(at_us=at, why=why, inputs=inputs))
    return tuple(actions)


def _numbers(finding: Finding) -> dict[str, str | float | None]:
    return {
        "cause": finding.cause,
        "advice": finding.advice,
        "suspects": ", ".join(finding.suspects),
        "harm_ratio": finding.harm_ratio,
        "replay_ratio": finding.replay_ratio,
        "repair_ratio": finding.repair_ratio,
    }


def _respond(
    state: IncidentsState, finding: Finding, failed: tuple[str, ...], at: int, inputs: dict[str, str | float | None], policy: IncidentPolicy
) -> list[Action]:
    """Open or escalate one incident per cause, then act on it. A bad release waits for nothing else."""
    same = next((incident for incident in state.open if incident.cause == finding.cause), None)
    unsure = next((incident for incident in state.open if incident.cause in ("unknown", "world") and incident.cause != finding.cause), None)
    if same is not None:
        return _act(state, same, finding, at, inputs, policy)
    if finding.cause == "unknown" and state.open:
        known = state.open[0]
        why = f"{', '.join(failed)}: {known.id} is open and may explain it; {finding.message}"
        return [Nothing(at_us=at, why=why, inputs=inputs, incident=known.id)]
    if unsure is not None:
        name = unsure.id
        moved: Action = Escalate(
            at_us=at,
            why=f"was {unsure.cause}; {finding.message}",
            inputs=inputs,
            incident=name,
            cause=finding.cause,
            advice=finding.advice,
            suspects=finding.suspects,
            checks=failed,
        )
    else:
        name = incident_id(state.service, state.opened + 1)
        moved = OpenIncident(
            at_us=at,
            why=finding.message,
            inputs=inputs,
            incident=name,
            cause=finding.cause,
            advice=finding.advice,
            onset_us=finding.onset_us,
            release=finding.release,
            suspects=finding.suspects,
            checks=failed,
        )
    after = fold(state, [moved])
    changed = next(incident for incident in after.open if incident.id == name)
    return [moved, *_act(after, changed, finding, at, inputs, policy)]


def _act(
    state: IncidentsState, incident: Incident, finding: Finding, at: int, inputs: dict[str, str | float | None], policy: IncidentPolicy
) -> list[Action]:
    if finding.advice == "rollback":
        return _roll_back(state, incident, finding, at, inputs, policy)
    if finding.advice == "fix-upstream":
        if policy.block_training and incident.id not in state.training_blocked_by:
            return [BlockTraining(at_us=at, why=finding.message, inputs=inputs, incident=incident.id, suspects=finding.suspects)]
        return []
    if finding.advice == "retrain":
        if incident.acted_us is not None and incident.release == finding.release:
            return []
        if state.training_blocked_by:
            why = f"retraining would help, but {', '.join(state.training_blocked_by)} blocks training: an input is broken"
            return [Nothing(at_us=at, why=why, inputs=inputs, incident=incident.id)]
        return [RecommendRetrain(at_us=at, why=finding.message, inputs=inputs, incident=incident.id)]
    return [Nothing(at_us=at, why=f"waiting: {finding.message}", inputs=inputs, incident=incident.id)]


def _roll_back(
    state: IncidentsState, incident: Incident, finding: Finding, at: int, inputs: dict[str, str | float | None], policy: IncidentPolicy
) -> list[Action]:
    refusal = ""
    if not policy.auto_rollback:
        refusal = f"policy leaves it to a person: roll back to {finding.rollback_to}"
    elif not finding.rollback_to:
        refusal = "there is no release to roll back to"
    elif finding.rollback_to in state.rejected:
        refusal = f"{finding.rollback_to} was itself rejected"
    elif finding.release in state.rejected:
        refusal = f"{finding.release} has been rolled back already"
    elif state.rolled_back_us is not None and at - state.rolled_back_us < policy.rollback_cooldown_us:
        refusal = f"the last rollback was at {to_iso(state.rolled_back_us)}; let it take effect first"
    if refusal:
        return [Nothing(at_us=at, why=refusal, inputs=inputs, incident=incident.id)]
    return [Rollback(at_us=at, why=finding.message, inputs=inputs, incident=incident.id, release=finding.release, to=finding.rollback_to)]


def _watch(
    state: IncidentsState, observation: Observation, at: int, inputs: dict[str, str | float | None], policy: IncidentPolicy
) -> list[Action]:
    """Count quiet windows of every open incident, and resolve those that have been quiet long enough."""
    quiet, loud = [], []
    actions: list[Action] = []
    for incident in state.open:
        if at in (incident.opened_us, incident.acted_us):
            continue  # what was done a moment ago has had no window yet
        watched = [v for v in observation.verdicts if any(v.check.startswith(prefix) for prefix in _WATCHED[incident.cause])]
        if any(verdict.status == "fail" for verdict in watched):
            loud.append(incident.id)
        elif any(verdict.status in ("pass", "warn") for verdict in watched):
            quiet.append(incident.id)
            if incident.quiet_windows + 1 >= policy.resolve_windows:
                why = f"{incident.quiet_windows + 1} windows without a failed verdict of {' or '.join(_WATCHED[incident.cause])}"
                actions.append(Resolve(at_us=at, why=why, inputs=inputs, incident=incident.id))
                if incident.id in state.training_blocked_by:
                    actions.append(UnblockTraining(at_us=at, why="its inputs are sound again", inputs=inputs, incident=incident.id))
    return [Watched(at_us=at, why="one window watched", inputs=inputs, quiet=tuple(quiet), loud=tuple(loud)), *actions]


def incident_id(service: str, n: int) -> str:
    """The id of a service's n-th incident. A name that an id cannot hold as it is gets some of its digest, so that no two share one.

    >>> incident_id("bikes", 2)
    'bikes-2'
    """
    plain = re.sub(r"[^0-9A-Za-z_-]", "-", service)[:80]
    return f"{plain}-{n}" if plain == service else f"{plain}-{digest_bytes(service.encode())[3:9]}-{n}"


def fold(state: IncidentsState, events: Iterable[Action]) -> IncidentsState:
    """The state after some journaled actions."""
    for event in events:
        state = _apply(state, event)
    return state


def _apply(state: IncidentsState, event: Action) -> IncidentsState:
    replace = msgspec.structs.replace
    if isinstance(event, AskTriage):
        return state
    if isinstance(event, OpenIncident):
        opened = Incident(
            id=event.incident,
            service=state.service,
            cause=event.cause,
            advice=event.advice,
            opened_us=event.at_us,
            onset_us=event.onset_us,
            release=event.release,
            suspects=event.suspects,
            checks=event.checks,
        )
        return replace(state, incidents=(*state.incidents, opened), opened=state.opened + 1)
    if isinstance(event, Watched):
        incidents = tuple(
            replace(one, quiet_windows=one.quiet_windows + 1)
            if one.id in event.quiet
            else replace(one, quiet_windows=0)
            if one.id in event.loud
            else one
            for one in state.incidents
        )
        return replace(state, incidents=incidents, seen_until_us=max(state.seen_until_us, event.at_us))
    if isinstance(event, Nothing):
        return replace(state, seen_until_us=max(state.seen_until_us, event.at_us))
    return _apply_to_incident(state, event)


def _apply_to_incident(
    state: IncidentsState, event: Escalate | BlockTraining | UnblockTraining | Rollback | RecommendRetrain | Resolve
) -> IncidentsState:
    replace = msgspec.structs.replace

    def change(incident: Incident) -> Incident:
        if incident.id != event.incident:
            return incident
        if isinstance(event, Escalate):
            return replace(
                incident,
                cause=event.cause,
                advice=event.advice,
                suspects=event.suspects,
                checks=event.checks,
                acted_us=None,
                quiet_windows=0,
            )
        if isinstance(event, Resolve):
            return replace(incident, resolved_us=event.at_us)
        if isinstance(event, UnblockTraining):
            return incident
        return replace(incident, acted_us=event.at_us, quiet_windows=0)

    state = replace(state, incidents=tuple(change(incident) for incident in state.incidents))
    if isinstance(event, BlockTraining):
        return replace(state, training_blocked_by=(*state.training_blocked_by, event.incident))
    if isinstance(event, UnblockTraining):
        return replace(state, training_blocked_by=tuple(one for one in state.training_blocked_by if one != event.incident))
    if isinstance(event, Rollback):
        return replace(state, rejected=(*state.rejected, event.release), rolled_back_us=event.at_us)
    return state
