"""Is the ledger's file whole? Only SQLite's can be asked; Postgres keeps its own house (``pg_amcheck``)."""

from __future__ import annotations

from sqlalchemy import Connection

MOST = 10


def damage(connection: Connection) -> list[str]:
    """What SQLite finds wrong with its pages, at most some lines; nothing on other engines. Reads the whole file."""
    if connection.dialect.name != "sqlite":
        return []
    found = connection.exec_driver_sql(f"pragma quick_check({MOST})").scalars().all()
    return [str(line) for line in found if line != "ok"]
