"""Tables: rows that are only ever added (predictions, labels, spans, usage, feature data), durable at once and queried with SQL.

``append`` writes to the inbox (segments of this process), ``seal`` turns segments into Parquet parts, and every query sees both exactly
once. Importing this costs little: Arrow and DuckDB are loaded by the first call that needs them.
"""

from __future__ import annotations

from pathlib import Path

from andon.core.clocks import Clock
from andon.core.errors import InvalidSettings
from andon.core.ids import Ids
from andon.store.ports import Ledger, Tables

__all__ = ["open_tables"]


def open_tables(ledger: Ledger, tables_url: str, inbox_url: str, home: Path, clock: Clock, ids: Ids) -> Tables:
    """Open the tables that ``tables_url`` names: ``file://PATH`` (relative to ``home``) or ``memory:``; the inbox is always a local folder.

    Raises ``InvalidSettings`` for any other scheme. Nothing is made on disk before the first row.
    """
    if tables_url == "memory:":
        from andon.store.tables.memory import MemoryTables

        return MemoryTables(clock)
    from andon.store.tables.files import FileTables

    root, inbox = (_folder(url, home, field) for url, field in ((tables_url, "tables"), (inbox_url, "inbox")))
    return FileTables(ledger, root, inbox, clock, ids)


def _folder(url: str, home: Path, field: str) -> Path:
    if not url.startswith("file://"):
        raise InvalidSettings("this is file://PATH or memory:", field=field, got=url[:80])
    return Path(home, url.removeprefix("file://")).absolute()
