"""What group commit asks of a database, and what must never be closed by a forked child."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from andon.core.errors import AndonError

_abandoned: Final[list[Any]] = []
"""A forked child keeps its parent's connections here for ever: to close them, even by garbage collection, is the parent's business."""


def abandon(thing: Any) -> None:
    """In a forked child: never close, never touch, never forget."""
    _abandoned.append(thing)


class Side(Protocol):
    """What group commit asks of a database. Errors may be the driver's or SQLAlchemy's; ``translate`` knows both.

    The SQLAlchemy connection only carries the pieces' statements; transactions are begun and ended on the driver's own connection, which
    costs a fifth. SQLAlchemy sees one transaction that never ends, and a piece that tries to end it is refused.
    """

    def connect(self) -> Connection:
        """The writing connection."""
        ...

    def begin(self) -> None:
        """Start a transaction that holds the database's one writer lock."""
        ...

    def savepoint(self, verb: str) -> None:
        """``SAVEPOINT``, ``RELEASE SAVEPOINT`` or ``ROLLBACK TO SAVEPOINT`` of the piece that runs."""
        ...

    def commit(self) -> None:
        """Make the transaction durable."""
        ...

    def rollback(self) -> None:
        """Undo the transaction; nothing when there is none."""
        ...

    def state(self) -> Literal["open", "failed", "gone"]:
        """Whether the transaction goes on, refuses everything but a rollback, or is there no more."""
        ...

    def tidy(self) -> None:
        """Close cursors that a piece left open."""
        ...

    def tend(self) -> None:
        """Housekeeping between transactions."""
        ...

    def driver_error(self, error: BaseException) -> bool:
        """Whether the database said this."""
        ...

    def lost(self, error: BaseException) -> bool:
        """Whether this error means that the connection is of no more use."""
        ...

    def undone(self, error: BaseException) -> bool:
        """Whether a commit that raised this certainly did nothing."""
        ...

    def translate(self, error: BaseException) -> AndonError:
        """The same in our words."""
        ...


def once(side: Side, work: Callable[[Connection], None]) -> None:
    """Run ``work`` in a transaction of its own, on a connection of its own: for opening a ledger, before there is a writer."""
    with contextlib.closing(side.connect()) as connection:
        side.begin()
        try:
            work(connection)
            side.commit()
        finally:
            side.rollback()
