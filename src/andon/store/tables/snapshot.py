"""A snapshot: the parts of one version, and the rows of the segments that this version does not hold yet.

The order is what makes it exact. Segments are read FIRST, then one ledger snapshot is taken, then the segments that it calls sealed are
dropped: a row sealed meanwhile is in the parts and dropped here; a segment deleted meanwhile was sealed before, so its rows are in the
parts; a row sealed later is still in the segment we hold and in no part of this version.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from andon.core.clocks import HOUR_US
from andon.core.errors import Unavailable
from andon.store.ports import Ledger
from andon.store.tables.columns import event_range, united
from andon.store.tables.frames import SegmentName
from andon.store.tables.inbox import InboxReader
from andon.store.tables.parts import Part, check_version, newest_version, parts_of
from andon.store.tables.sealing import sealed_among

if TYPE_CHECKING:
    import pyarrow as pa

FORGET_SEALED_US = 24 * HOUR_US
"""``sealed`` rows outlive their segments by this long."""
_MAX_AGE_S = FORGET_SEALED_US / 1e6 / 2


class Snapshot(msgspec.Struct, frozen=True):
    """What a query sees: a version's parts, and unsealed rows by table."""

    version: int
    parts: tuple[Part, ...]
    unsealed: dict[str, list[pa.Table]]

    def tables(self) -> set[str]:
        """Tables that have rows here."""
        return {part.table for part in self.parts} | {table for table, rows in self.unsealed.items() if rows}


def take(
    ledger: Ledger,
    inbox: InboxReader,
    tables: Collection[str] | None = None,
    *,
    start_us: int | None = None,
    end_us: int | None = None,
    as_of: int | None = None,
) -> Snapshot:
    """A snapshot of ``tables`` or all, without parts outside the window of event time. With ``as_of``, a sealed version, parts only.

    Raises ``CorruptBytes`` for a damaged segment, ``NotFound`` or ``Gone`` for a version that is not there.
    """
    began_s = time.monotonic()
    held = inbox.read(tables) if as_of is None else {}
    with ledger.read() as connection:
        version = newest_version(connection) if as_of is None else check_version(connection, as_of)
        parts = parts_of(connection, version, tables, start_us=start_us, end_us=end_us)
        sealed = sealed_among(connection, list(held)) if held else set()
    if time.monotonic() - began_s > _MAX_AGE_S:  # stopped for hours between the two reads: what was sealed may be forgotten
        raise Unavailable("this process stood still while it took a snapshot; try again")
    return Snapshot(version, tuple(parts), _unsealed(held, sealed, start_us, end_us))


def _unsealed(
    held: dict[SegmentName, dict[str, list[pa.Table]]], sealed: set[SegmentName], start_us: int | None, end_us: int | None
) -> dict[str, list[pa.Table]]:
    gathered: dict[str, list[pa.Table]] = {}
    for name, tables in held.items():
        if name not in sealed:
            for table, chunks in tables.items():
                gathered.setdefault(table, []).extend(chunk for chunk in chunks if _overlaps(chunk, start_us, end_us))
    return {table: united(chunks) for table, chunks in gathered.items()}


def _overlaps(rows: pa.Table, start_us: int | None, end_us: int | None) -> bool:
    if start_us is None and end_us is None:
        return True
    least, greatest = event_range(rows)
    return (start_us is None or greatest >= start_us) and (end_us is None or least < end_us)
