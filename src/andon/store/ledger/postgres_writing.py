"""What group commit asks of Postgres: the one writing session of this process, and the lock that all such sessions share."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from andon.core.errors import AndonError, Conflict, DiskFull, InvalidInput, ReadOnly, Unavailable

WRITER_LOCK = 0x616E646F6E  # "andon": the key of the advisory lock, one per database
CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_S = 30
_SERVER_SIDE = "-c tcp_keepalives_idle=20 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
_CLIENT_SIDE = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}

# A statement of its own takes the lock, so that those after it (READ COMMITTED) see what the last writer committed. One round trip.
_TAKE_TURN = f"set local synchronous_commit = on; set local lock_timeout = '{LOCK_TIMEOUT_S}s'; select pg_advisory_xact_lock({WRITER_LOCK})"


def connect_arguments(*, read_only: bool = False) -> dict[str, Any]:
    """How every session is opened.

    Both ends ask after the other while it is silent: a machine that dies in a transaction holds the writers' lock for a minute, not for
    the two hours that TCP waits by itself.
    """
    options = _SERVER_SIDE + (" -c default_transaction_read_only=on" if read_only else "")
    return {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "andon", "options": options, **_CLIENT_SIDE}


class PostgresSide:
    """The writing side of one Postgres database."""

    def __init__(self, url: URL, shown: str) -> None:
        import psycopg
        from psycopg.pq import TransactionStatus

        self._shown = shown
        self._driver_error = psycopg.Error
        self._open, self._failed = TransactionStatus.INTRANS, TransactionStatus.INERROR
        self._raw: Any = None
        self._busy = False
        self._engine = create_engine(url, poolclass=NullPool, isolation_level="READ COMMITTED", connect_args=connect_arguments())

        @event.listens_for(self._engine, "commit")
        @event.listens_for(self._engine, "rollback")
        def _refuse(_: Connection) -> None:
            if self._busy:
                raise RuntimeError("a piece of work may not commit or roll back: return, or raise")

    def connect(self) -> Connection:
        connection = self._engine.connect()
        self._raw = connection.connection.driver_connection
        return connection

    def begin(self) -> None:
        self._raw.execute(_TAKE_TURN)  # psycopg begins by itself
        self._busy = True

    def savepoint(self, verb: str) -> None:
        self._raw.execute(verb + " piece")

    def commit(self) -> None:
        self._busy = False
        self._raw.commit()

    def rollback(self) -> None:
        self._busy = False
        self._raw.rollback()

    def state(self) -> Literal["open", "failed", "gone"]:
        # A COMMIT of a failed transaction raises nothing: Postgres answers ROLLBACK and drops all of it.
        status = self._raw.info.transaction_status
        return "open" if status == self._open else "failed" if status == self._failed else "gone"

    def tidy(self) -> None:
        """The driver's cursors have all their rows already."""

    def tend(self) -> None:
        """Autovacuum does."""

    def driver_error(self, error: BaseException) -> bool:
        return isinstance(error, DBAPIError | self._driver_error)

    def lost(self, error: BaseException) -> bool:
        if isinstance(error, DBAPIError):
            return error.connection_invalidated
        return isinstance(error, self._driver_error) and (self._raw is None or self._raw.closed)

    def undone(self, error: BaseException) -> bool:
        return isinstance(error, self._driver_error) and not self.lost(error)

    def translate(self, error: BaseException) -> AndonError:
        return in_our_words(error, self._shown)


def in_our_words(error: BaseException, url: str) -> AndonError:
    """What an error of Postgres means."""
    origin = getattr(error, "orig", None) or error
    state = getattr(origin, "sqlstate", None) or ""
    message = (str(origin).strip() or type(origin).__name__).splitlines()[0]
    if state == "53100":
        return DiskFull(url=url)
    if state in ("25006", "42501"):
        return ReadOnly(f"Postgres refused to write: {message}", url=url, next_step="grant this user the right to write")
    if state.startswith("23"):
        return Conflict(f"the ledger refused a record: {message}")
    if state.startswith("22") or type(origin).__name__ == "DataError":
        return InvalidInput(f"the ledger cannot hold this value: {message}")
    if state == "55P03":
        return Unavailable(f"another process has been writing to the ledger for {LOCK_TIMEOUT_S} s", url=url)
    return Unavailable(f"the ledger failed: {message}", url=url)
