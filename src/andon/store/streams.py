"""Event streams: what happened to a run, a service, a rollout or an incident, in order. Their state is a fold over their events."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, select

from andon.core.actors import Actor
from andon.core.digests import canonical_json
from andon.core.errors import Conflict
from andon.store.schema import events
from andon.store.statements import rows_of, run_sql


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. ``n`` counts 1, 2, 3, … within its stream; ``at_us`` is wall time, ``event_us`` the time it is about."""

    stream: str
    n: int
    type: str
    body: dict[str, Any]
    at_us: int
    actor: str
    reason: str
    event_us: int | None = None


def append(
    connection: Connection,
    stream: str,
    kind: str,
    body: Any,
    *,
    at_us: int,
    actor: Actor,
    reason: str = "",
    event_us: int | None = None,
    expected: int | None = None,
) -> int:
    """Add an event of type ``kind``; returns its ``n``. With ``expected``, raises ``Conflict`` unless that is the last ``n`` so far."""
    n = last(connection, stream)
    if expected is not None and expected != n:
        raise Conflict("the stream has moved on since you looked", stream=stream, expected=expected, found=n)
    run_sql(connection, _ADD, (stream, n + 1, kind, canonical_json(body), at_us, event_us, str(actor), reason))
    return n + 1


def last(connection: Connection, stream: str) -> int:
    """The number of a stream's newest event; 0 when there is none."""
    return int(rows_of(connection, "select max(n) from events where stream = ?", (stream,))[0][0] or 0)


_ADD = "insert into events (stream, n, type, body, at_us, event_us, actor, reason) values (?, ?, ?, ?, ?, ?, ?, ?)"


def read(connection: Connection, stream: str, *, after: int = 0) -> list[Event]:
    """The events of a stream after number ``after``, in order."""
    rows = connection.execute(select(events).where(events.c.stream == stream, events.c.n > after).order_by(events.c.n))
    return [_event(row) for row in rows]


def between(connection: Connection, start_us: int, end_us: int, *, prefix: str = "") -> list[Event]:
    """Events of all streams whose name starts with ``prefix`` and whose wall time is in ``[start_us, end_us)``, oldest first."""
    query = select(events).where(events.c.at_us >= start_us, events.c.at_us < end_us)
    if prefix:
        query = query.where(events.c.stream.startswith(prefix, autoescape=True))
    return [_event(row) for row in connection.execute(query.order_by(events.c.at_us, events.c.stream, events.c.n))]


def _event(row: Any) -> Event:
    return Event(
        stream=row.stream,
        n=row.n,
        type=row.type,
        body=msgspec.json.decode(row.body),
        at_us=row.at_us,
        actor=row.actor,
        reason=row.reason,
        event_us=row.event_us,
    )
