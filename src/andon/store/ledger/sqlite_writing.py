"""What group commit asks of SQLite: the one writing connection, its lock, and a log that does not grow without end."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from andon.core.errors import AndonError, CorruptBytes, Unavailable
from andon.store.ledger.sqlite_driver import BUSY_TIMEOUT_S, TrackedConnection, in_our_words, primary_code, quoted, too_large

CACHE_KIB = 65_536
WAL_KEPT_BYTES = 64 << 20
WAL_LARGE_BYTES = 256 << 20
RESTART_EVERY_S = 10.0
RESTART_WAIT_MS = 500
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.0002, 0.005


class SqliteSide:
    """The writing side of one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        self._raw: TrackedConnection | None = None
        self._identity = (0, 0)
        self._tended_s = 0.0
        self._engine = create_engine("sqlite://", creator=self._open, poolclass=NullPool)

        @event.listens_for(self._engine, "commit")
        @event.listens_for(self._engine, "rollback")
        def _refuse(_: Connection) -> None:
            if self._raw is not None and self._raw.in_transaction:
                raise RuntimeError("a piece of work may not commit or roll back: return, or raise")

    def make(self) -> None:
        """Make the file if there is none, and put it into WAL mode."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            raw = self._open("rwc")
            try:
                raw.ask("pragma auto_vacuum = incremental")  # no effect but on a new file: lets `reclaim` shrink it piece by piece
                mode = raw.ask("pragma journal_mode = wal")
                if mode == "wal":
                    return
                raise Unavailable(f"this file system has no shared memory for SQLite's log (journal mode {mode})", path=self._path)
            except sqlite3.OperationalError as error:
                # Several processes may do this at once, and SQLite does not wait for its lock here.
                if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(LONGEST_PAUSE_S)
            finally:
                raw.close()

    def connect(self) -> Connection:
        connection = self._engine.connect()
        raw = connection.connection.driver_connection
        assert isinstance(raw, TrackedConnection)
        raw.guarded = True
        self._raw, self._identity = raw, self._found()
        return connection

    def begin(self) -> None:
        if self._found() != self._identity:
            raise CorruptBytes(
                "the ledger's file was removed or replaced while it was open", path=self._path, next_step="put it back, or restart andon"
            )
        raw, deadline, pause = self._own(), 0.0, FIRST_PAUSE_S
        while True:
            try:
                raw.ask("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if primary_code(error) != sqlite3.SQLITE_BUSY:
                    raise
                # SQLite's own waiting backs off to 100 ms, and a process that writes all the time frees its lock for less than that.
                now = time.monotonic()
                deadline = deadline or now + BUSY_TIMEOUT_S
                if now > deadline:
                    raise
                time.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE_S)

    def savepoint(self, verb: str) -> None:
        self._own().ask(verb + " piece")

    def commit(self) -> None:
        self._own().ask("COMMIT")

    def rollback(self) -> None:
        raw = self._own()
        if raw.in_transaction:
            raw.ask("ROLLBACK")

    def state(self) -> Literal["open", "failed", "gone"]:
        return "open" if self._own().in_transaction else "gone"  # SQLite undoes a transaction by itself when the disk is full

    def tidy(self) -> None:
        self._own().tidy()

    def tend(self) -> None:
        """Start the log anew when readers that overlap each other have kept SQLite from doing so by itself."""
        now = time.monotonic()
        if now - self._tended_s < RESTART_EVERY_S:
            return
        self._tended_s = now
        try:
            if self._log.stat().st_size < WAL_LARGE_BYTES:
                return
            raw = self._own()
            raw.ask(f"pragma busy_timeout = {RESTART_WAIT_MS}")
            try:
                raw.ask("pragma wal_checkpoint(truncate)")
            finally:
                raw.ask("pragma busy_timeout = 0")
        except (sqlite3.Error, OSError):
            return  # the log is only large; what is wrong with the disk will be said by the next commit

    def driver_error(self, error: BaseException) -> bool:
        return isinstance(error, DBAPIError | sqlite3.Error) or too_large(error)

    def lost(self, error: BaseException) -> bool:  # noqa: ARG002 - there is nothing between us and the file
        return False

    def undone(self, error: BaseException) -> bool:
        # After an I/O error the commit may lie whole in the log, and a crash now would bring it to light.
        return isinstance(error, sqlite3.Error) and primary_code(error) != sqlite3.SQLITE_IOERR

    def translate(self, error: BaseException) -> AndonError:
        return in_our_words(error, self._path)

    def _own(self) -> TrackedConnection:
        assert self._raw is not None
        return self._raw

    def _found(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return (0, 0)
        return (found.st_dev, found.st_ino)

    def _open(self, mode: str = "rw") -> TrackedConnection:
        raw = sqlite3.connect(
            f"file:{quoted(self._path)}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_S,
            cached_statements=512,
            factory=TrackedConnection,
        )
        try:
            raw.ask("pragma synchronous = full")
            raw.ask(f"pragma cache_size = -{CACHE_KIB}")
            raw.ask("pragma temp_store = memory")
            raw.ask(f"pragma journal_size_limit = {WAL_KEPT_BYTES}")
            raw.ask("pragma busy_timeout = 0")
        except BaseException:  # also at an interrupt the connection must not be left open
            raw.close()
            raise
        return raw
