"""Leases and cursors: how any number of servers may run a controller and exactly one acts, and goes on where the last one stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, insert, select, update

from andon.core.digests import canonical_json
from andon.core.errors import Conflict, LeaseHeld
from andon.store.schema import cursors, leases

T = TypeVar("T")


def take_lease(
    connection: Connection, name: str, holder: str, *, now_us: int, for_us: int, alive: Callable[[str], bool] | None = None
) -> int:
    """Take or renew a lease; returns its fence, which grows with each new holder. Raises ``LeaseHeld`` while another's is unexpired.

    A holder that is not ``alive`` holds nothing: where the caller can see that a process was killed, nobody waits for its lease to expire.
    """
    row = connection.execute(select(leases).where(leases.c.name == name)).first()
    if row is None:
        connection.execute(insert(leases).values(name=name, holder=holder, fence=1, expires_us=now_us + for_us))
        return 1
    if row.holder != holder and row.expires_us > now_us and (alive is None or alive(row.holder)):
        raise LeaseHeld(name=name, holder=row.holder, expires_us=row.expires_us)
    fence = row.fence if row.holder == holder else row.fence + 1
    connection.execute(update(leases).where(leases.c.name == name).values(holder=holder, fence=fence, expires_us=now_us + for_us))
    return int(fence)


def release_lease(connection: Connection, name: str, holder: str) -> None:
    """Let go of a lease; nothing happens if it is another's by now."""
    # The row stays, so that the fence goes on growing: a late act of this holder must never look newer than its successor's.
    connection.execute(update(leases).where(leases.c.name == name, leases.c.holder == holder).values(holder="", expires_us=0))


class Cursor(msgspec.Struct, frozen=True):
    """A controller's small state, with the revision to hand back to ``move_cursor``."""

    revision: int
    state: Any


def read_cursor(connection: Connection, name: str) -> Cursor:
    """The state saved under ``name``; revision 0 and None when there is none."""
    row = connection.execute(select(cursors).where(cursors.c.name == name)).first()
    return Cursor(0, None) if row is None else Cursor(row.revision, msgspec.json.decode(row.state))


def move_cursor(connection: Connection, name: str, state: Any, *, expected: int, now_us: int) -> None:
    """Save ``state`` if the revision is still ``expected``; raises ``Conflict`` otherwise, so that work is never done twice."""
    row = connection.execute(select(cursors.c.revision).where(cursors.c.name == name)).scalar()
    if (row or 0) != expected:
        raise Conflict("another process has moved this cursor", name=name, expected=expected, found=row or 0)
    values = {"revision": expected + 1, "state": canonical_json(state), "moved_us": now_us}
    if row is None:
        connection.execute(insert(cursors).values(name=name, **values))
    else:
        connection.execute(update(cursors).where(cursors.c.name == name).values(**values))
