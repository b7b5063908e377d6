"""Tables on this machine's disk: inbox segments, Parquet parts, DuckDB over both."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.clocks import HOUR_US, Clock
from andon.core.errors import Conflict, CorruptBytes, Unavailable
from andon.core.ids import Ids
from andon.store.ports import Ledger
from andon.store.tables.columns import Intake, check_table
from andon.store.tables.compact import Freed, Keeper
from andon.store.tables.inbox import InboxReader
from andon.store.tables.parts import Part, PartChecker, check_version, forgotten, newest_version, parts_of
from andon.store.tables.sealing import seal_some
from andon.store.tables.segments import SegmentWriter
from andon.store.tables.snapshot import Snapshot, take
from andon.store.tables.sql import Source, Sql

if TYPE_CHECKING:
    import pyarrow as pa


_ATTEMPTS = 5


class FileTables:
    """The ``Tables`` port over two folders and a ledger. Threads, processes and forks may share the folders."""

    def __init__(self, ledger: Ledger, root: Path, inbox: Path, clock: Clock, ids: Ids) -> None:
        self.root = root
        self.inbox = inbox
        self._ledger = ledger
        self._clock = clock
        self._ids = ids
        self._intake = Intake()
        self._writer = SegmentWriter(inbox, ids)
        self._reader = InboxReader(inbox)
        self._checker = PartChecker(root)
        self._keeper = Keeper(ledger, root, self._checker, clock, ids)
        self._sql = Sql(root)
        self._sealing = threading.Lock()

    def append(self, table: str, batch: pa.RecordBatch, *, durable: bool = True) -> None:
        """See ``Tables.append``. Raises ``InvalidInput`` naming the column, ``DiskFull``, ``ReadOnly`` or ``Unavailable``."""
        admitted = self._intake.admit(table, batch)
        if admitted.num_rows:
            self._writer.append(table, admitted, durable=durable)

    def append_rows(self, table: str, schema: pa.Schema, columns: Sequence[Any], rows: int, *, durable: bool = True) -> None:
        """See ``Tables.append_rows``."""
        self._intake.admit_rows(table, schema, columns)
        if rows:
            self._writer.append_rows(table, schema, columns, rows, durable=durable)

    def query(
        self,
        sql: str,
        params: Sequence[Any] = (),
        *,
        as_of: int | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
    ) -> pa.Table:
        """See ``Tables.query``."""
        tables = self._sql.tables(sql)
        return self._over_snapshot(tables, sql, params, as_of, start_us, end_us)

    def scan(self, table: str, *, start_us: int | None = None, end_us: int | None = None, as_of: int | None = None) -> pa.Table:
        """See ``Tables.scan``."""
        name = check_table(table)
        return self._over_snapshot({name}, f'select * from "{name}" order by event_time, arrival_time', (), as_of, start_us, end_us)

    def names(self) -> list[str]:
        """See ``Tables.names``."""
        return sorted(take(self._ledger, self._reader).tables())

    def changes(self) -> int:
        """See ``Tables.changes``. New rows make a segment longer, whichever process they come from."""
        try:
            with os.scandir(self.inbox) as found:
                return hash(frozenset((entry.name, entry.stat().st_size) for entry in found if entry.is_file()))
        except FileNotFoundError:  # no row yet, or a segment that was sealed between the listing and the look
            return 0

    def version(self) -> int:
        """See ``Tables.version``."""
        with self._ledger.read() as connection:
            return newest_version(connection)

    def parts(self, table: str, *, as_of: int | None = None) -> list[Part]:
        """The Parquet files of a table (paths relative to ``root``), for engines that read them directly."""
        with self._ledger.read() as connection:
            version = newest_version(connection) if as_of is None else check_version(connection, as_of)
            return parts_of(connection, version, [check_table(table)])

    def seal(self) -> int:
        """See ``Tables.seal``.

        Raises ``DiskFull`` and its kin with nothing changed for the group it was at, and ``CorruptBytes``, after all the rest is sealed,
        if a segment was damaged: its whole frames are sealed and its file is in the inbox's ``quarantine``.
        """
        damage: CorruptBytes | None = None
        rows = 0
        with self._sealing:
            self._writer.finish()
            while True:
                try:
                    sealed = seal_some(self._ledger, self.inbox, self.root, self._clock, self._ids)
                except Conflict:  # another sealer committed these segments first: they are sealed, which is what we wanted
                    continue
                if sealed is None:
                    break
                rows += sealed.rows
                damage = damage or sealed.damage
        if damage is not None:
            raise damage
        return rows

    def compact(self, table: str) -> int:
        """See ``Tables.compact``."""
        return self._keeper.compact(check_table(table))

    def drop_before(self, table: str, before_us: int) -> int:
        """See ``Tables.drop_before``."""
        return self._keeper.drop_before(check_table(table), before_us)

    def remove(
        self, table: str, gone: Callable[[pa.Table], pa.ChunkedArray], *, start_us: int | None = None, end_us: int | None = None
    ) -> int:
        """See ``Tables.remove``."""
        return self._keeper.remove(check_table(table), gone, start_us=start_us, end_us=end_us)

    def purge(self, older_than_us: int) -> int:
        """See ``Tables.purge``."""
        return self._keeper.purge(older_than_us).files

    def gc(self, *, older_than_us: int = HOUR_US) -> Freed:
        """Delete what crashes left: part files that no version names, temporary files that no process writes."""
        return self._keeper.gc(self.inbox, older_than_us=older_than_us)

    def close(self) -> None:
        """See ``Tables.close``. The last segment is finished, so any process may seal it."""
        self._writer.close()
        self._sql.close()

    def _over_snapshot(
        self,
        tables: frozenset[str] | set[str],
        sql: str,
        params: Sequence[Any],
        as_of: int | None,
        start_us: int | None,
        end_us: int | None,
    ) -> pa.Table:
        for attempts_left in range(_ATTEMPTS, 0, -1):
            snapshot = take(self._ledger, self._reader, tables, start_us=start_us, end_us=end_us, as_of=as_of)
            try:
                return self._sql.run(sql, params, self._sources(snapshot, tables), start_us=start_us, end_us=end_us)
            except (CorruptBytes, Unavailable):
                if attempts_left == 1 or not self._purged(snapshot):
                    raise
        raise AssertionError  # the last attempt returns or raises

    def _purged(self, snapshot: Snapshot) -> bool:
        """Whether a purge took parts of our snapshot while we were reading them."""
        with self._ledger.read() as connection:
            return bool(forgotten(connection, snapshot.parts))

    def _sources(self, snapshot: Snapshot, tables: frozenset[str] | set[str]) -> dict[str, Source]:
        files: dict[str, list[Path]] = {table: [] for table in tables}
        for part in snapshot.parts:
            files[part.table].append(self._checker.path(part))
        return {table: Source(tuple(files[table]), tuple(snapshot.unsealed.get(table, ()))) for table in sorted(tables)}
