"""A service: the fold over what happened to it. Which release holds which channel is an alias; why, and what may come back, is here."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.store import Store, streams

PRODUCTION = "production"


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate said of a release."""

    answer: int
    """0 go, 1 no, 2 undecided."""
    verdicts: tuple[str, ...]
    policy: str


class Waiver(msgspec.Struct, frozen=True, kw_only=True):
    """A person's word that a release may run although a gate or a rejection says no; it changes what happens, never the verdict."""

    id: str
    release: str
    person: str
    reason: str
    granted_us: int
    expires_us: int


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was rolled back from. It comes back only by a waiver."""

    release: str
    why: str
    at_us: int
    actor: str


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One time that a release came to hold a channel."""

    channel: str
    release: str
    previous: str | None
    at_us: int
    event_us: int | None
    actor: str
    reason: str
    kind: str
    """``deployed`` or ``rolled-back``."""


class TrainingBlock(msgspec.Struct, frozen=True, kw_only=True):
    """Training for this service is stopped, since its data cannot be trusted."""

    why: str
    since_us: int | None
    """Event time from which the data is bad, if known."""
    at_us: int
    actor: str
    incident: str | None = None


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what may be deployed."""

    name: str
    judgements: dict[str, Judgement] = {}
    waivers: dict[str, Waiver] = {}
    rejections: dict[str, Rejection] = {}
    turns: tuple[Turn, ...] = ()
    training_block: TrainingBlock | None = None
    rollout: str | None = None
    """The rollout that is under way, as ``rollout:ID``."""
    last_event: int = 0

    def held(self, channel: str = PRODUCTION) -> list[str]:
        """Releases that held a channel, the latest turn last; one that came back stands where it came back."""
        return [turn.release for turn in self.turns if turn.channel == channel]

    def current(self, channel: str = PRODUCTION) -> str | None:
        """The release that holds a channel now."""
        held = self.held(channel)
        return held[-1] if held else None

    def waived(self, release: str, now_us: int) -> Waiver | None:
        """The live waiver of a release, if any."""
        waiver = self.waivers.get(release)
        return waiver if waiver is not None and waiver.expires_us > now_us else None


def stream_of(service: str) -> str:
    """The event stream of a service."""
    return str(Address("service", service))


def service_state(store: Store, service: str) -> ServiceState:
    """The state of a service now; empty when nothing has happened to it."""
    with store.ledger.read() as connection:
        return service_state_in(connection, service)


def service_state_in(connection: Connection, service: str) -> ServiceState:
    """``service_state`` inside the caller's transaction."""
    state = ServiceState(name=service)
    for event in streams.read(connection, stream_of(service)):
        state = apply(state, event)
    return state


def apply(state: ServiceState, event: streams.Event) -> ServiceState:
    """One step of the fold. Events of types it does not know only move ``last_event``."""
    body: dict[str, Any] = event.body
    release = str(body.get("release", ""))
    changed: dict[str, Any] = {}
    if event.type == "judged":
        judgement = Judgement(answer=body["answer"], verdicts=tuple(body["verdicts"]), policy=body["policy"])
        changed["judgements"] = state.judgements | {release: judgement}
    elif event.type == "waived":
        waiver = Waiver(
            id=body["id"],
            release=release,
            person=event.actor,
            reason=event.reason,
            granted_us=event.at_us,
            expires_us=body["expires_us"],
        )
        changed["waivers"] = state.waivers | {release: waiver}
    elif event.type == "rejected":
        rejection = Rejection(release=release, why=event.reason, at_us=event.at_us, actor=event.actor)
        changed["rejections"] = state.rejections | {release: rejection}
        changed["waivers"] = {key: value for key, value in state.waivers.items() if key != release}
    elif event.type in ("deployed", "rolled-back"):
        turn = Turn(
            channel=body["channel"],
            release=release,
            previous=body["previous"],
            at_us=event.at_us,
            event_us=event.event_us,
            actor=event.actor,
            reason=event.reason,
            kind=event.type,
        )
        changed["turns"] = (*state.turns, turn)
    elif event.type == "training-blocked":
        changed["training_block"] = TrainingBlock(
            why=event.reason, since_us=body.get("since_us"), at_us=event.at_us, actor=event.actor, incident=body.get("incident")
        )
    elif event.type == "training-allowed":
        changed["training_block"] = None
    elif event.type in ("rollout-started", "rollout-ended"):
        changed["rollout"] = body["rollout"] if event.type == "rollout-started" else None
    return msgspec.structs.replace(state, last_event=event.n, **changed)


def block_training(
    store: Store,
    service: str,
    *,
    actor: Actor,
    reason: str,
    since_us: int | None = None,
    incident: str | None = None,
    event_us: int | None = None,
) -> None:
    """Stop training for a service until ``allow_training``; ``since_us`` is the event time from which the data is bad."""
    now_us = store.clock.now_us()
    store.ledger.write(
        lambda c: block_training_in(
            c, service, now_us=now_us, actor=actor, reason=reason, since_us=since_us, incident=incident, event_us=event_us
        )
    )


def block_training_in(
    connection: Connection,
    service: str,
    *,
    now_us: int,
    actor: Actor,
    reason: str,
    since_us: int | None = None,
    incident: str | None = None,
    event_us: int | None = None,
) -> None:
    """``block_training`` inside the caller's transaction."""
    body = {"since_us": since_us, "incident": incident}
    streams.append(connection, stream_of(service), "training-blocked", body, at_us=now_us, actor=actor, reason=reason, event_us=event_us)


def allow_training(store: Store, service: str, *, actor: Actor, reason: str, event_us: int | None = None) -> None:
    """Let training go on."""
    now_us = store.clock.now_us()
    store.ledger.write(lambda c: allow_training_in(c, service, now_us=now_us, actor=actor, reason=reason, event_us=event_us))


def allow_training_in(connection: Connection, service: str, *, now_us: int, actor: Actor, reason: str, event_us: int | None = None) -> None:
    """``allow_training`` inside the caller's transaction."""
    streams.append(connection, stream_of(service), "training-allowed", {}, at_us=now_us, actor=actor, reason=reason, event_us=event_us)


def blocked_spans(store: Store, service: str) -> list[tuple[int, int | None]]:
    """Stretches of event time (wall time where that is not known) in which training was blocked; the last may be open.

    What was served then must stay out of training data.
    """
    spans: list[tuple[int, int | None]] = []
    with store.ledger.read() as connection:
        for event in streams.read(connection, stream_of(service)):
            at_us = event.event_us or event.at_us
            if event.type == "training-blocked":
                spans.append((event.body.get("since_us") or at_us, None))
            elif event.type == "training-allowed" and spans and spans[-1][1] is None:
                spans[-1] = (spans[-1][0], at_us)
    return spans
