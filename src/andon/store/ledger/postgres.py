"""The ledger on Postgres: the same meaning as on SQLite. One advisory lock makes writers take turns, so read-decide-write is safe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from andon.core.errors import Busy, InvalidSettings
from andon.core.forks import follow
from andon.store.ledger.opening import prepare
from andon.store.ledger.postgres_writing import PostgresSide, connect_arguments, in_our_words
from andon.store.ledger.sides import abandon, once
from andon.store.ledger.writer import GroupCommit
from andon.store.ports import LedgerCapabilities

T = TypeVar("T")
READER_POOL: dict[str, Any] = {"pool_size": 8, "max_overflow": 16, "pool_timeout": 30.0, "pool_pre_ping": True}


class PostgresLedger:
    """A ledger in one Postgres database, shared by any number of machines."""

    capabilities = LedgerCapabilities(durable=True, shared=True)

    def __init__(self, url: str) -> None:
        self._url = _parse(url)
        try:
            side = PostgresSide(self._url, self.url)
            # One snapshot for all statements of a read, as on SQLite.
            self._reader_engine = create_engine(
                self._url,
                isolation_level="REPEATABLE READ",
                connect_args=connect_arguments(read_only=True),
                **READER_POOL,
            )
        except ModuleNotFoundError:
            raise InvalidSettings(
                "Postgres needs psycopg", field="ledger", next_step='install it with: pip install "andon[postgres]"'
            ) from None
        try:
            once(side, lambda connection: prepare(connection, self.url))
        except Exception as error:  # what is no database error is raised again as it is
            if side.driver_error(error) or isinstance(error, SQLAlchemyError):
                raise side.translate(error) from error
            raise
        self._writer = GroupCommit(side)
        follow(self)

    @property
    def url(self) -> str:
        return self._url.set(drivername="postgresql").render_as_string(hide_password=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        if self._writer.inside_work():
            raise RuntimeError("a piece of work may not call read(): use the connection it was given")
        try:
            with self._reader_engine.connect() as connection, connection.begin():
                yield connection
        except PoolTimeoutError as error:
            raise Busy("too many threads are reading the ledger at once", url=self.url) from error
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == "25006":
                raise RuntimeError("a reading connection may not write: use ledger.write()") from error
            raise in_our_words(error, self.url) from error

    def write(self, work: Callable[[Connection], T]) -> T:
        return self._writer.write(work)

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        return self._writer.submit(work)

    def changes(self) -> int:
        # What a snapshot sees is named by its transaction ids; the same name means that nothing has become visible in between. (The end
        # of the write-ahead log will not do: it moves a moment before a commit can be seen, and whoever looks in that moment misses it.)
        with self.read() as connection:
            return int(connection.execute(text("select hashtextextended(pg_current_snapshot()::text, 0)")).scalar_one())

    def reclaim(self) -> int:
        return 0  # autovacuum does

    def close(self) -> None:
        self._writer.close()
        self._reader_engine.dispose()

    def before_fork(self) -> bool:
        return False

    def after_fork_in_parent(self) -> None:
        """Nothing was stopped."""

    def after_fork_in_child(self) -> None:
        abandon(self._reader_engine.pool)
        self._reader_engine.dispose(close=False)


def _parse(url: str) -> URL:
    try:
        return make_url(url).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        raise InvalidSettings("this is not a Postgres URL", field="ledger") from None
