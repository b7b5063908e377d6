"""Which message a consumer was at when it fell.

A message may end the process that works on it, and no engine can tell it from those that were delivered beside it: all of them come again,
as often. So where messages have come often, they are worked on one at a time, and each is written down before and struck out after. What is
still written down at the next start is what its consumer fell at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from andon.core.errors import AndonError, Unavailable
from andon.store import Store
from andon.store.leases import move_cursor, read_cursor

if TYPE_CHECKING:
    from sqlalchemy import Connection

MOST = 100
"""Written down at most: one for each consumer that works on one message at a time, and those that fell."""


class Suspects:
    """The messages that one group's consumers are at, by their ids. Blocks; every call is a transaction of the ledger."""

    def __init__(self, store: Store, source: str, group: str) -> None:
        self._store = store
        self._name = f"suspects/{group}@{source}"

    def begin(self, id_: str) -> bool:
        """Write a message down; whether it was written down already, so that a consumer fell at it. Raises ``Unavailable``."""

        def work(connection: Connection) -> bool:
            cursor = read_cursor(connection, self._name)
            ids = list(cursor.state["ids"]) if cursor.state else []
            if id_ in ids:
                return True
            move_cursor(
                connection,
                self._name,
                {"ids": [*ids, id_][-MOST:]},
                expected=cursor.revision,
                now_us=self._store.clock.now_us(),
            )
            return False

        return self._write(work)

    def done(self, id_: str) -> None:
        """Strike it out. Raises ``Unavailable``."""

        def work(connection: Connection) -> bool:
            cursor = read_cursor(connection, self._name)
            ids = [one for one in cursor.state["ids"] if one != id_] if cursor.state else []
            move_cursor(connection, self._name, {"ids": ids}, expected=cursor.revision, now_us=self._store.clock.now_us())
            return True

        self._write(work)

    def _write(self, work: Callable[[Connection], bool]) -> bool:
        try:
            return self._store.ledger.write(work)
        except Unavailable:
            raise
        except AndonError as error:
            raise Unavailable(f"the ledger cannot be written: {error.message}", **error.fields) from error
