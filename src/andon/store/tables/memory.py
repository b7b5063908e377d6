"""Tables in memory: a fake with the meaning of the real ones, for tests and trials. Nothing outlives the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.clocks import Clock
from andon.core.errors import Gone, NotFound, Unavailable
from andon.store.tables.columns import EVENT_TIME, Intake, by_event_time, check_table, event_range, united
from andon.store.tables.frames import decode_rows, encode_rows
from andon.store.tables.sql import Source, Sql

if TYPE_CHECKING:
    import pyarrow as pa

_UNSEALED = 1 << 62


class _Chunk(msgspec.Struct):
    table: str
    rows: Any  # pyarrow.Table
    added: int = _UNSEALED
    removed: int = _UNSEALED


class MemoryTables:
    """The ``Tables`` port over Arrow tables in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._intake = Intake()
        self._sql = Sql()
        self._chunks: list[_Chunk] = []
        self._version_times: list[int] = []
        self._oldest = 0
        self._appended = 0
        self._closed = False
        self._lock = threading.RLock()

    def append(self, table: str, batch: pa.RecordBatch, *, durable: bool = True) -> None:  # noqa: ARG002 - memory has no disk to wait for
        """See ``Tables.append``."""
        import pyarrow as pa

        with self._lock:
            if self._closed:
                raise Unavailable("these tables are closed")
            admitted = self._intake.admit(table, batch)
            if admitted.num_rows:
                self._chunks.append(_Chunk(table, pa.Table.from_batches([admitted])))
                self._appended += 1

    def append_rows(self, table: str, schema: pa.Schema, columns: Sequence[Any], rows: int, *, durable: bool = True) -> None:
        """See ``Tables.append_rows``."""
        import pyarrow as pa

        self._intake.admit_rows(table, schema, columns)
        decoded = decode_rows(bytes(schema.serialize()), [memoryview(encode_rows(columns))], [rows])
        self.append(
            table, pa.RecordBatch.from_arrays([column.combine_chunks() for column in decoded.columns], schema=schema), durable=durable
        )

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
        with self._lock:
            sources = {table: Source(rows=tuple(united(self._rows(table, as_of)))) for table in sorted(tables)}
        return self._sql.run(sql, params, sources, start_us=start_us, end_us=end_us)

    def scan(self, table: str, *, start_us: int | None = None, end_us: int | None = None, as_of: int | None = None) -> pa.Table:
        """See ``Tables.scan``."""
        return self.query(
            f'select * from "{check_table(table)}" order by event_time, arrival_time', as_of=as_of, start_us=start_us, end_us=end_us
        )

    def names(self) -> list[str]:
        """See ``Tables.names``."""
        with self._lock:
            return sorted({chunk.table for chunk in self._chunks if chunk.removed == _UNSEALED})

    def changes(self) -> int:
        """See ``Tables.changes``."""
        with self._lock:
            return self._appended

    def version(self) -> int:
        """See ``Tables.version``."""
        return len(self._version_times)

    def seal(self) -> int:
        """See ``Tables.seal``."""
        with self._lock:
            fresh = [chunk for chunk in self._chunks if chunk.added == _UNSEALED]
            if not fresh:
                return 0
            version = self._next_version()
            for chunk in fresh:
                chunk.added = version
            return sum(chunk.rows.num_rows for chunk in fresh)

    def compact(self, table: str) -> int:
        """See ``Tables.compact``."""
        with self._lock:
            small = [chunk for chunk in self._chunks if chunk.table == check_table(table) and chunk.added != _UNSEALED == chunk.removed]
            merged = united(chunk.rows for chunk in small)
            if len(merged) >= len(small):
                return 0
            self._replace(table, small, [by_event_time(rows) for rows in merged])
            return len(small)

    def drop_before(self, table: str, before_us: int) -> int:
        """See ``Tables.drop_before``."""
        import pyarrow as pa
        import pyarrow.compute as pc

        with self._lock:
            live = [chunk for chunk in self._chunks if chunk.table == check_table(table) and chunk.added != _UNSEALED == chunk.removed]
            removed = [chunk for chunk in live if event_range(chunk.rows)[0] < before_us]
            if not removed:
                return 0
            limit = pa.scalar(before_us, pa.timestamp("us", "UTC"))
            kept = [chunk.rows.filter(pc.greater_equal(chunk.rows.column(EVENT_TIME), limit)) for chunk in removed]
            self._replace(table, removed, [rows for rows in kept if rows.num_rows])
            return sum(int(chunk.rows.num_rows) for chunk in removed) - sum(int(rows.num_rows) for rows in kept)

    def remove(
        self, table: str, gone: Callable[[pa.Table], pa.ChunkedArray], *, start_us: int | None = None, end_us: int | None = None
    ) -> int:
        """See ``Tables.remove``."""
        import pyarrow.compute as pc

        with self._lock:
            live = [chunk for chunk in self._chunks if chunk.table == check_table(table) and chunk.added != _UNSEALED == chunk.removed]
            removed = 0
            for chunk in live:
                least, greatest = event_range(chunk.rows)
                if (start_us is not None and greatest < start_us) or (end_us is not None and least >= end_us):
                    continue
                kept = chunk.rows.filter(pc.invert(gone(chunk.rows)))
                if kept.num_rows < chunk.rows.num_rows:
                    removed += chunk.rows.num_rows - kept.num_rows
                    self._replace(table, [chunk], [kept] if kept.num_rows else [])
            return removed

    def purge(self, older_than_us: int) -> int:
        """See ``Tables.purge``."""
        with self._lock:
            before_us = self._clock.now_us() - older_than_us
            cutoff = max((version for version, at_us in enumerate(self._version_times, 1) if at_us <= before_us), default=0)
            purged = [chunk for chunk in self._chunks if chunk.removed <= cutoff]
            if purged:
                self._oldest = max(chunk.removed for chunk in purged)
            self._chunks = [chunk for chunk in self._chunks if chunk.removed > cutoff]
            return len(purged)

    def close(self) -> None:
        """See ``Tables.close``."""
        self._closed = True
        self._sql.close()

    def _rows(self, table: str, as_of: int | None) -> list[pa.Table]:
        if as_of is not None and not 0 <= as_of <= self.version():
            raise NotFound("there is no such version of the tables", version=as_of, newest=self.version())
        if as_of is not None and as_of < self._oldest:
            raise Gone("the parts of this version were purged", version=as_of, oldest=self._oldest)
        wanted = self.version() if as_of is None else as_of
        return [
            chunk.rows
            for chunk in self._chunks
            if chunk.table == table and chunk.removed > wanted and (chunk.added <= wanted or (as_of is None and chunk.added == _UNSEALED))
        ]

    def _replace(self, table: str, removed: list[_Chunk], rows: list[pa.Table]) -> None:
        version = self._next_version()
        for chunk in removed:
            chunk.removed = version
        self._chunks += [_Chunk(table, some, version) for some in rows]

    def _next_version(self) -> int:
        self._version_times.append(self._clock.now_us())
        return len(self._version_times)
