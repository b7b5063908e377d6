"""SQLite's driver as we want it: no cursor outlives its piece of work, and errors are read by their codes, not their words."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from andon.core.errors import AndonError, Conflict, CorruptBytes, DiskFull, InvalidInput, ReadOnly, Unavailable

BUSY_TIMEOUT_S = 30.0
FULL_BELOW_BYTES = 1 << 20


class TrackedConnection(sqlite3.Connection):
    """A connection that knows its cursors.

    A SELECT that was not read to its end keeps its snapshot until its cursor is closed, also through COMMIT and ROLLBACK. Then the next
    transaction on the connection reads old rows, or is refused for ever with "database is locked".
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors: list[sqlite3.Cursor] = []
        self.guarded = False

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        if self.guarded and not self.in_transaction:
            # SQLite undoes a whole transaction by itself, when the disk is full for one. What a piece of work that overlooks the error
            # does next would be committed at once, statement by statement.
            raise sqlite3.OperationalError("the transaction was undone by an earlier error, and this is part of it")
        cursor = super().cursor(factory)
        self._cursors.append(cursor)
        return cursor

    def tidy(self) -> None:
        """Close every cursor given out."""
        for cursor in self._cursors:
            cursor.close()
        self._cursors.clear()

    def ask(self, sql: str) -> Any:
        """Run a pragma or a transaction's statement; the first value of the first row, or None. Leaves nothing open."""
        rows = sqlite3.Cursor(self).execute(sql).fetchall()  # kept by nobody: a ring would keep the file open until a collection
        return rows[0][0] if rows else None


def primary_code(error: BaseException) -> int:
    """SQLite's primary result code in a driver error, or in SQLAlchemy's wrapping of one; 0 when there is none."""
    return int(getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", 0)) & 0xFF


def in_our_words(error: BaseException, path: Path | None) -> AndonError:
    """What an error of SQLite means."""
    code, text = primary_code(error), str(getattr(error, "orig", None) or error)
    where: dict[str, Any] = {} if path is None else {"path": path}
    if code == sqlite3.SQLITE_CONSTRAINT:
        return Conflict(f"the ledger refused a record: {text}")
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and path is not None and _no_space(path)):
        return DiskFull(**where)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return ReadOnly(next_step="make the folder and the file writable, or choose another folder with --home", **where)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CorruptBytes(
            f"the ledger's file is damaged: {text}", **where, next_step="stop every process that uses it and restore it from a backup"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"the ledger was locked for {BUSY_TIMEOUT_S:.0f} s by another process", **where)
    if too_large(error) or code in (sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG) or ("type" in text and "not supported" in text):
        return InvalidInput(f"the ledger cannot hold this value: {text}")
    return Unavailable(f"the ledger failed: {text}", **where)


def too_large(error: BaseException) -> bool:
    """Whether this is the driver's complaint about a whole number beyond 64 bits: the one it makes with an error of Python's own."""
    return isinstance(error, OverflowError) and "SQLite INTEGER" in str(error)


def _no_space(path: Path) -> bool:
    """Whether the disk is full: SQLite reports a quota, a size limit or a full disk in some places as a plain I/O error."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < FULL_BELOW_BYTES


def quoted(path: Path) -> str:
    """``path`` inside a ``file:`` URI."""
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
