"""The journal of a rollout: its event stream, what is read of it and what is added to it."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, select

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.errors import Conflict, NotFound
from andon.releases import service_state_in
from andon.rollouts.decide import begin, fold
from andon.rollouts.records import Action, Rollout, Started
from andon.store import Store, streams
from andon.store.schema import events, splits

_decoder = msgspec.json.Decoder(Action)


def read_action(event: streams.Event) -> Action:
    """The action that an event of a rollout's stream holds."""
    return _decoder.decode(msgspec.json.encode({**event.body, "action": event.type}))  # type: ignore[no-any-return]


def rollout_in(connection: Connection, id_: str) -> Rollout:
    """The state of ``rollout:ID``. Raises ``NotFound``."""
    actions = [read_action(event) for event in streams.read(connection, id_)]
    if not actions or not isinstance(actions[0], Started):
        raise NotFound(address=id_, next_step="run `andon rollout ls` to see what there is")
    return fold(begin(id_, actions[0]), actions[1:])


def rollout_of(store: Store, address: str | Address) -> Rollout:
    """The state of ``rollout:ID``, or of the rollout under way (else the last one) of ``service:NAME``. Raises ``NotFound``."""
    with store.ledger.read() as connection:
        return rollout_in(connection, find_in(connection, address))


def find_in(connection: Connection, address: str | Address) -> str:
    """``rollout:ID`` of a rollout's or a service's address. Raises ``NotFound``, ``InvalidAddress``."""
    at = Address.parse(address if isinstance(address, Address) or ":" in address else f"service:{address}")
    if at.kind != "service":
        return str(Address.parse(at, kind="rollout"))
    under_way = service_state_in(connection, at.name).rollout
    found = under_way or next((id_ for id_ in reversed(ids_in(connection)) if service_of_in(connection, id_) == at.name), None)
    if found is None:
        raise NotFound(
            "no rollout of this service", address=str(at.entry), next_step=f"andon deploy release:{at.name}@latest --strategy canary"
        )
    return found


def ids_in(connection: Connection) -> list[str]:
    """Every rollout there is, the oldest first."""
    query = select(events.c.stream).where(events.c.stream.startswith("rollout:"), events.c.n == 1)
    return list(connection.execute(query.order_by(events.c.at_us, events.c.stream)).scalars())


def service_of_in(connection: Connection, id_: str) -> str:
    """The service that a rollout is of."""
    body = connection.execute(select(events.c.body).where(events.c.stream == id_, events.c.n == 1)).scalar()
    found: dict[str, Any] = {} if body is None else msgspec.json.decode(body)
    return str(found.get("service", ""))


def under_way_in(connection: Connection) -> list[tuple[str, str]]:
    """(service, rollout) of each rollout that is under way: those that hold a split."""
    return [(row.service, row.rollout) for row in connection.execute(select(splits.c.service, splits.c.rollout))]


def write_in(connection: Connection, state: Rollout, action: Action, *, now_us: int, actor: Actor, reason: str = "") -> Rollout:
    """Journal one action on ``state``; returns the state after it. Raises ``Conflict`` when the rollout has moved on since it was read."""
    body = msgspec.to_builtins(action)
    kind = str(body["action"])
    try:
        streams.append(connection, state.id, kind, body, at_us=now_us, actor=actor, reason=reason or action.why, expected=state.last_event)
    except Conflict:
        raise Conflict("the rollout has moved on since you looked", rollout=state.id, next_step=f"andon rollout show {state.id}") from None
    return fold(state, [action])
