"""The journal of decisions: every action, "do nothing" too, with its inputs. A controller's state is the fold over it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.verdicts import Verdict
from andon.incidents.decide import fold
from andon.incidents.records import Action, AskTriage, Escalate, Finding, IncidentsState, Nothing, OpenIncident, Watched
from andon.store import Store, streams

_decoder = msgspec.json.Decoder(Action)


def journal_stream(service: str) -> str:
    """Where the decisions on a service are kept."""
    return f"controller:incidents/{service}"


def last_in(connection: Connection, service: str) -> int:
    """How many decisions there are on a service."""
    return streams.last(connection, journal_stream(service))


def state_of(store: Store, service: str) -> IncidentsState:
    """The state of a service's incidents, folded from the journal."""
    with store.ledger.read() as connection:
        return state_in(connection, service)


def state_in(connection: Connection, service: str) -> IncidentsState:
    """``state_of`` inside the caller's transaction."""
    actions = [_decoder.decode(msgspec.json.encode(event.body)) for event in streams.read(connection, journal_stream(service))]
    return fold(IncidentsState(service), actions)


def write_in(
    connection: Connection,
    service: str,
    actions: Sequence[Action],
    *,
    now_us: int,
    actor: Actor,
    finding: Finding | None = None,
    verdicts: Sequence[Verdict] = (),
    reason: str = "",
) -> None:
    """Journal decisions inside the caller's transaction; those about an incident also go to its own timeline, with the finding."""
    for action in actions:
        body = msgspec.to_builtins(action)
        kind = str(body["action"])
        why = reason or action.why
        streams.append(connection, journal_stream(service), kind, body, at_us=now_us, event_us=action.at_us, actor=actor, reason=why)
        incident = getattr(action, "incident", "")
        if not incident or isinstance(action, Watched | AskTriage):
            continue
        told = {**body, "service": service}
        if isinstance(action, OpenIncident | Escalate) and finding is not None:
            told["finding"] = msgspec.to_builtins(finding)
            told["verdicts"] = [f"verdict:{verdict.id}" for verdict in verdicts if verdict.status == "fail"]
        if isinstance(action, Nothing):
            kind = "waited"
        streams.append(
            connection, str(Address("incident", incident)), kind, told, at_us=now_us, event_us=action.at_us, actor=actor, reason=why
        )
