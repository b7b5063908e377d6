"""The ledger on SQLite: WAL, ``synchronous=FULL`` (a commit is on the disk before it is acknowledged), one writer at a time by its lock."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool, QueuePool

from andon.core.errors import Busy, CorruptBytes, InvalidSettings, ReadOnly, Unavailable
from andon.core.forks import follow
from andon.store.disk import disk_errors, make_folder
from andon.store.ledger import opening
from andon.store.ledger.sides import abandon, once
from andon.store.ledger.sqlite_driver import TrackedConnection, in_our_words, quoted
from andon.store.ledger.sqlite_writing import SqliteSide
from andon.store.ledger.writer import GroupCommit
from andon.store.ports import LedgerCapabilities

T = TypeVar("T")
READER_CACHE_KIB = 8_192
READER_POOL: dict[str, Any] = {"pool_size": 8, "max_overflow": 56, "pool_timeout": 30.0}
_epochs = itertools.count(1)

VACUUM_PAGES = 2_000
"""8 MB at a time: what others wait for meanwhile."""


class SqliteLedger:
    """A ledger in one SQLite file. Opened read-only when the file or its folder cannot be written to."""

    capabilities = LedgerCapabilities(durable=True, shared=False)

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._watches: weakref.WeakSet[_Watch] = weakref.WeakSet()
        self._make_folder()
        self._read_only = not (os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK)))
        if self._read_only and not path.exists():
            raise ReadOnly("there is no ledger here, and none can be made", next_step="choose another folder with --home", path=path.parent)
        side = SqliteSide(path)
        if not self._read_only:
            self._prepare(side)
        self._reader_engine = self._make_reader_engine()
        self._writer = GroupCommit(side)
        if self._read_only:
            self._check_revision()
        follow(self)

    @property
    def url(self) -> str:
        return f"sqlite:///{self._path}"

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        if self._writer.inside_work():
            raise RuntimeError("a piece of work may not call read(): use the connection it was given")
        try:
            with self._reader_engine.connect() as connection:
                raw = connection.connection.driver_connection
                try:
                    with connection.begin():
                        yield connection
                finally:
                    # A cursor left half-read, perhaps by an exception's frames, would keep this snapshot for the next reader.
                    if isinstance(raw, TrackedConnection):
                        raw.tidy()
        except PoolTimeoutError as error:
            raise Busy("too many threads are reading the ledger at once", path=self._path) from error
        except DBAPIError as error:
            if "readonly" in str(error.orig):
                raise RuntimeError("a reading connection may not write: use ledger.write()") from error
            raise in_our_words(error, self._path) from error

    def write(self, work: Callable[[Connection], T]) -> T:
        self._refuse_if_read_only()
        return self._writer.write(work)

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        self._refuse_if_read_only()
        return self._writer.submit(work)

    def changes(self) -> int:
        watch: _Watch | None = getattr(self._local, "watch", None)
        try:
            if watch is None or watch.pid != os.getpid():
                if watch is not None:
                    abandon(watch)
                watch = self._local.watch = _Watch(self._open_reader())
                self._watches.add(watch)
            return watch.look()
        except sqlite3.Error as error:
            self._local.watch = None
            raise in_our_words(error, self._path) from error

    def reclaim(self) -> int:
        freed = 0
        while pages := self.write(_vacuum_some):
            freed += pages
        page_bytes = int(self.write(lambda c: c.exec_driver_sql("pragma page_size").scalar_one()))
        return freed * page_bytes

    def close(self) -> None:
        self._writer.close()
        self._reader_engine.dispose()
        for watch in list(self._watches):
            watch.close()
        self._local.watch = None

    def before_fork(self) -> bool:
        return False

    def after_fork_in_parent(self) -> None:
        """Nothing was stopped."""

    def after_fork_in_child(self) -> None:
        abandon(self._reader_engine.pool)
        self._reader_engine.dispose(close=False)

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise ReadOnly(next_step="make the folder and the file writable, or choose another folder with --home", path=self._path)

    def _make_folder(self) -> None:
        folder = self._path.parent
        try:
            with disk_errors(folder):
                make_folder(folder)
        except ReadOnly:
            raise ReadOnly(next_step="choose another folder with --home", path=folder) from None
        if not folder.is_dir():
            raise Unavailable("the home folder cannot be made: a file has its name", path=folder, next_step="choose another with --home")

    def _make_reader_engine(self) -> Engine:
        engine = create_engine("sqlite://", creator=self._open_reader, poolclass=QueuePool, **READER_POOL)
        if self._read_only:
            # Whether a read-only file may be taken as immutable is decided at each opening (see _open_reader), so keep none open.
            engine = create_engine("sqlite://", creator=self._open_reader, poolclass=NullPool)

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

        return engine

    def _open_reader(self) -> TrackedConnection:
        mode = "rw"
        if self._read_only:
            # A WAL file needs shared memory beside it even to read, and here none can be made. With no log beside the file nobody has
            # it open, and it can be read as it lies.
            log = self._path.with_name(self._path.name + "-wal")
            mode = "ro" if log.exists() and log.stat().st_size else "ro&immutable=1"
        connection = sqlite3.connect(
            f"file:{quoted(self._path)}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=30.0,
            factory=TrackedConnection,
        )
        connection.ask(f"pragma cache_size = -{READER_CACHE_KIB}")
        connection.ask("pragma temp_store = memory")
        connection.ask("pragma query_only = on")
        return connection

    def _prepare(self, side: SqliteSide) -> None:
        try:
            side.make()
            once(side, lambda connection: opening.prepare(connection, self.url))
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise side.translate(error) from error

    def _check_revision(self) -> None:
        with self.read() as connection:
            found = opening.revision(connection)
        if found is None:
            raise CorruptBytes("this file is no ledger of Andon's", path=self._path)
        if found != opening.HEAD:
            raise InvalidSettings(
                "this ledger was made by another Andon, and cannot be brought up to date while it is read-only",
                field="ledger",
                revision=found,
                next_step="make it writable and open it once",
            )


def _vacuum_some(connection: Connection) -> int:
    """Takes free pages off the file's end; returns how many. A ledger made before files could shrink has no such pages to give."""
    before = int(connection.exec_driver_sql("pragma page_count").scalar_one())
    # Each step frees one page, and has no columns: only a cursor that is read to its end takes them all.
    connection.connection.cursor().execute(f"pragma incremental_vacuum({VACUUM_PAGES})").fetchall()
    return before - int(connection.exec_driver_sql("pragma page_count").scalar_one())


class _Watch:
    """One thread's look at whether anything was committed.

    A connection of its own: the pragma tells what *others* committed, so it must never commit itself, nor go back to a pool. Each starts
    to count anew, so it counts within an epoch of its own: one that was lost never hides a commit. It is closed when its thread ends
    (a ``sqlite3.Connection`` alone would wait for the collector, since it and its cache of statements hold each other).
    """

    def __init__(self, connection: TrackedConnection) -> None:
        self.pid = os.getpid()
        self._connection = connection
        self._epoch = next(_epochs)

    def look(self) -> int:
        return (self._epoch << 40) + int(self._connection.ask("pragma data_version"))

    def close(self) -> None:
        if self.pid == os.getpid():
            self._connection.close()

    def __del__(self) -> None:
        self.close()
