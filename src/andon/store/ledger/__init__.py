"""The ledger: SQL behind one port. SQLite by default, Postgres by URL, SQLite in memory for tests and trials."""

from __future__ import annotations

from andon.core.errors import InvalidSettings
from andon.core.settings import Settings
from andon.store.ports import Ledger

__all__ = ["open_ledger"]


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger the settings name, making or migrating it if needed.

    Raises ``InvalidSettings`` for an unknown scheme or a ledger made by a newer Andon, ``ReadOnly`` or ``Unavailable`` when it cannot be
    opened.
    """
    url = settings.ledger
    if url == "memory:":
        from andon.store.ledger.memory import MemoryLedger

        return MemoryLedger()
    if url.startswith("sqlite:///"):
        from pathlib import Path

        from andon.store.ledger.sqlite import SqliteLedger

        return SqliteLedger(Path(settings.home, url.removeprefix("sqlite:///")))
    if url.startswith(("postgresql://", "postgres://")):
        from andon.store.ledger.postgres import PostgresLedger

        return PostgresLedger(url)
    raise InvalidSettings(
        "the ledger is sqlite:///PATH, postgresql://USER@HOST/DATABASE or memory:", field="ledger", got=url.split("@")[-1][:80]
    )
