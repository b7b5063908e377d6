"""The ledger as an in-memory fake: the same SQL on SQLite in memory, at once and in the caller's thread. Nothing outlives the process."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import CursorResult
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from andon.core.errors import Unavailable
from andon.store.ledger.opening import prepare
from andon.store.ledger.sqlite_driver import TrackedConnection, in_our_words, too_large
from andon.store.ports import LedgerCapabilities

T = TypeVar("T")


class MemoryLedger:
    """A ledger that forgets."""

    capabilities = LedgerCapabilities(durable=False, shared=False)
    url = "memory:"

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._writing = False
        self._reading: Connection | None = None
        self._closed = False
        self._commits = 0
        self._raw = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=TrackedConnection)
        self._engine = create_engine("sqlite://", creator=lambda: self._raw, poolclass=StaticPool)

        @event.listens_for(self._engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

        @event.listens_for(self._engine, "commit")
        @event.listens_for(self._engine, "rollback")
        def _refuse(_: Connection) -> None:
            if self._writing:
                raise RuntimeError("a piece of work may not commit or roll back: return, or raise")

        with self._engine.begin() as connection:
            prepare(connection, self.url)

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        with self._lock:  # one connection serves all: a reader excludes writers here, which no caller can tell from a snapshot
            if self._writing:
                raise RuntimeError("a piece of work may not call read(): use the connection it was given")
            if self._reading is not None:  # a read inside a read, by the same thread
                yield self._reading
                return
            try:
                with self._engine.connect() as connection, connection.begin():
                    self._raw.ask("pragma query_only = on")
                    self._reading = connection
                    try:
                        yield connection
                    finally:
                        self._reading = None
                        self._raw.ask("pragma query_only = off")
                        self._raw.tidy()
            except DBAPIError as error:
                if "readonly" in str(error.orig):
                    raise RuntimeError("a reading connection may not write: use ledger.write()") from error
                raise in_our_words(error, None) from error

    def write(self, work: Callable[[Connection], T]) -> T:
        with self._lock:
            if self._writing:
                raise RuntimeError("a piece of work may not call write(): use the connection it was given")
            if self._reading is not None:
                raise RuntimeError("the ledger in memory cannot write() inside a read(): its one connection is in use")
            if self._closed:
                raise Unavailable("this ledger is closed", next_step="open the store again")
            try:
                with self._engine.begin() as connection:
                    value = self._run(work, connection)
                self._commits += 1
            except (DBAPIError, OverflowError) as error:
                if isinstance(error, OverflowError) and not too_large(error):
                    raise
                raise in_our_words(error, None) from error
            finally:
                if self._raw.in_transaction:  # a piece tried to end it, and SQLAlchemy lost count
                    self._raw.ask("ROLLBACK")
            return value

    def _run(self, work: Callable[[Connection], T], connection: Connection) -> T:
        self._writing = True
        try:
            value = work(connection)
            if isinstance(value, CursorResult):
                value.close()
            return value
        finally:
            self._writing = False
            self._raw.tidy()

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        if self._writing and self._lock.acquire(blocking=False):  # the lock is ours only in the thread that runs the piece
            self._lock.release()
            raise RuntimeError("a piece of work may not submit(): use the connection it was given")
        future: Future[T] = Future()
        try:
            future.set_result(self.write(work))
        except BaseException as error:  # noqa: BLE001 - it is the caller's, and is raised from the future
            future.set_exception(error)
        return future

    def changes(self) -> int:
        return self._commits

    def reclaim(self) -> int:
        return 0

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._engine.dispose()
