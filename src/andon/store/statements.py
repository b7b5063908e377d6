"""SQL for the hot paths, past SQLAlchemy's own layers: text with ``?`` for bound values, and the driver's plain tuples back.

On SQLite the driver is asked directly, where a statement is a few microseconds and SQLAlchemy's part of it would be most of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection

IN_ONE = 10_000
"""Names in one ``IN (…)``: below every database's limit on bound values."""


def rows_of(connection: Connection, text: str, bound: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """The rows of a query. SQLAlchemy's own rows cost more than reading them does."""
    raw = connection.connection.driver_connection
    if isinstance(raw, sqlite3.Connection):
        try:
            return raw.execute(text, bound).fetchall()
        except sqlite3.Error:
            pass  # asked again below, so that the error is SQLAlchemy's, which every ledger knows how to say
    return list(connection.exec_driver_sql(sql_of(connection, text), tuple(bound)).cursor.fetchall())


def run_sql(connection: Connection, text: str, bound: Sequence[Any]) -> int:
    """Run a statement, once for a tuple and once a row for a list of tuples. Returns how many rows it changed."""
    raw = connection.connection.driver_connection
    if isinstance(raw, sqlite3.Connection):
        return raw.executemany(text, bound).rowcount if isinstance(bound, list) else raw.execute(text, bound).rowcount
    return int(connection.exec_driver_sql(sql_of(connection, text), bound if isinstance(bound, list) else tuple(bound)).rowcount)


def sql_of(connection: Connection, text: str) -> str:
    """Our ``?`` in the driver's own style of bound values."""
    return text if connection.dialect.paramstyle == "qmark" else _percent(text)


def places(n: int) -> str:
    """``?, ?, ?``: the inside of an ``IN (…)``."""
    return ", ".join("?" * n)


@lru_cache(512)
def _percent(text: str) -> str:
    return text.replace("%", "%%").replace("?", "%s")
