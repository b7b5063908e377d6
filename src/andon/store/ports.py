"""The ports of floor 1. Callers hold these Protocols; which engine is behind them is a URL in the settings.

Each engine declares its capabilities, and callers decide on those, never on an engine's name. The same contract tests
(``tests/contract``) run over every engine of a port.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from concurrent.futures import Future

    import pyarrow as pa
    from sqlalchemy import Connection

T = TypeVar("T")


class LedgerCapabilities(msgspec.Struct, frozen=True):
    """What a ledger engine can do."""

    durable: bool
    """An acknowledged write survives power loss."""
    shared: bool
    """Several machines may use it at once."""


class Ledger(Protocol):
    """Records, in SQL. One write transaction at a time over all processes; readers never wait for it."""

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        ...

    @property
    def capabilities(self) -> LedgerCapabilities:
        """What this engine can do."""
        ...

    def read(self) -> AbstractContextManager[Connection]:
        """A connection that sees one snapshot. Use it at once and do not write with it."""
        ...

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in the next group commit and return its value once the commit is durable.

        ``work`` sees every earlier write and is alone, so it may read, decide and write (that is how compare-and-swap works). It
        runs on the writer's thread under a savepoint: when it raises, only its own changes are undone and the exception comes back
        here. It may run again from the start when the database asked for a retry, so it must have no effect but on its connection.
        """
        ...

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        """``write`` without waiting: the future is done when the commit is durable."""
        ...

    def changes(self) -> int:
        """A number that differs from the last one seen on this thread if anything may have been committed since; cheap enough to poll."""
        ...

    def reclaim(self) -> int:
        """Give the space of deleted records back, between other writers' turns; returns bytes (0 where the database does it itself)."""
        ...

    def close(self) -> None:
        """Finish what was submitted and let go."""
        ...


class Blobs(Protocol):
    """Bytes by digest (``b3:…``). Nothing is ever changed; equal bytes are kept once; every read is verified."""

    def put(self, data: bytes | IO[bytes]) -> str:
        """Keep bytes or a stream; returns the digest once they are durable."""
        ...

    def begin(self) -> Incoming:
        """A blob whose bytes arrive in pieces. Nobody sees it before its ``keep``."""
        ...

    def uploads_folder(self) -> Path:
        """Where uploads in parts wait (``blobs.uploads``), on the same disk; it may not exist yet."""
        ...

    def put_file(self, path: str | os.PathLike[str]) -> str:
        """Keep a file's bytes."""
        ...

    def put_tree(self, path: str | os.PathLike[str]) -> str:
        """Keep a directory as a tree of digests (names, modes, no links out of it); returns the tree's digest."""
        ...

    def put_tree_of(self, files: Mapping[str, str]) -> str:
        """Keep a tree of bytes that are here already, as path -> digest; no byte is read. Raises ``NotFound`` for one that is not here."""
        ...

    def get(self, digest: str) -> bytes:
        """All bytes. Raises ``NotFound`` or ``CorruptBytes`` naming the digest."""
        ...

    def open(self, digest: str) -> IO[bytes]:
        """A readable stream, verified before the first byte is handed out."""
        ...

    def pieces(self, digest: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start`` to ``stop`` in pieces of at most a megabyte; raises ``NotFound`` at once.

        A blob that nobody has read yet is verified on the way, and its last piece comes only when it is sound: else ``CorruptBytes`` comes
        in its place, so whoever passes pieces on must not call them the whole before the end. A part is verified before its first byte.
        """
        ...

    def get_tree(self, digest: str, into: str | os.PathLike[str]) -> None:
        """Lay a tree out in a new directory, all of it or nothing."""
        ...

    def tree(self, digest: str) -> Mapping[str, str]:
        """Relative path -> blob digest of a tree's files, in order of path."""
        ...

    def local_path(self, digest: str) -> Path:
        """A path on this machine with these bytes, verified, read-only by convention."""
        ...

    def has(self, digest: str) -> bool:
        """Whether the bytes are here (their content is not read)."""
        ...

    def size_bytes(self, digest: str) -> int:
        """How many bytes."""
        ...

    def digests(self) -> Iterator[str]:
        """Every digest kept."""
        ...

    def gc(self, keep: Callable[[], set[str]], *, older_than_us: int, dry_run: bool = False) -> Collected:
        """Delete what ``keep()`` does not name (trees keep what they hold) and nobody has put or re-put for ``older_than_us``.

        ``keep`` is called twice: whoever records a digest must have put its bytes (again) within ``older_than_us``, or recorded it before
        the second call. Raises ``LeaseHeld`` while another gc runs.
        """
        ...


class Incoming(Protocol):
    """Bytes on their way into the store. One thread at a time; end it with ``drop``, kept or not."""

    @property
    def size_bytes(self) -> int:
        """How many bytes have come."""
        ...

    def write(self, pieces: Sequence[bytes]) -> None:
        """Add pieces. Raises ``DiskFull``, ``ReadOnly`` or ``Unavailable``."""
        ...

    def keep(self) -> str:
        """The digest, once the bytes are durable."""
        ...

    def drop(self) -> None:
        """Let go; what was not kept is gone."""
        ...


class Collected(msgspec.Struct, frozen=True):
    """What a gc freed, or would free."""

    digests: tuple[str, ...]
    size_bytes: int


class Tables(Protocol):
    """Rows that are only ever added: an inbox of durable segments in front, immutable Parquet parts behind, one snapshot over both.

    Every row has ``event_time`` and ``arrival_time`` (timestamp[us, UTC]). A table's columns are the union of its parts' columns.
    """

    def append(self, table: str, batch: pa.RecordBatch, *, durable: bool = True) -> None:
        """Add rows. Returns when they are on disk (``durable``), or in the segment file (safe from kill -9) and fsynced within 50 ms.

        A batch is seen whole or not at all. Columns of only nulls are left out; dictionaries are written out. Raises ``InvalidInput``
        naming the column that cannot be stored, ``DiskFull``, ``ReadOnly`` or ``Unavailable``; the batch is then not acknowledged.
        """
        ...

    def append_rows(self, table: str, schema: pa.Schema, columns: Sequence[Any], rows: int, *, durable: bool = True) -> None:
        """Add a few rows in plain values, at a sixth of the cost of ``append``: the same promises, for schemas that are stored as they are.

        ``columns`` has, for each column of ``schema`` in its order, a list of ``rows`` values or one value for all of them: numbers,
        booleans and text of the column's own type, lists of them, instants as microseconds, None for null. Keep one ``schema`` object
        for many calls.
        """
        ...

    def query(
        self,
        sql: str,
        params: Sequence[Any] = (),
        *,
        as_of: int | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
    ) -> pa.Table:
        """Run one DuckDB SELECT over a snapshot. A table's name is quoted: ``select count(*) from "predictions/bikes"``.

        An unknown table has no rows and only the two time columns. ``as_of`` is a version of the tables (``version()``): sealed rows only,
        as they were then. ``start_us`` and ``end_us`` limit every table to ``start_us <= event_time < end_us``, so that parts outside are
        not read. Times are in UTC; sums of integers are int64 where they fit. Raises ``InvalidInput`` with DuckDB's message, or when the
        statement does anything but read tables; ``NotFound`` or ``Gone`` for a version that is not there; ``CorruptBytes`` naming what is
        damaged.
        """
        ...

    def scan(self, table: str, *, start_us: int | None = None, end_us: int | None = None, as_of: int | None = None) -> pa.Table:
        """Rows of one table with ``start_us <= event_time < end_us``, ordered by event time; only parts that overlap are read."""
        ...

    def names(self) -> list[str]:
        """Tables that have rows."""
        ...

    def changes(self) -> int:
        """A number that differs from the last one if rows may have been added since; cheap enough to poll, reads no rows."""
        ...

    def version(self) -> int:
        """The newest sealed version; grows with every seal, compaction and removal."""
        ...

    def seal(self) -> int:
        """Turn all finished segments (and this process's own current one) into parts; returns rows sealed. Safe from any process."""
        ...

    def compact(self, table: str) -> int:
        """Merge small parts; returns parts replaced. Readers of older snapshots go on."""
        ...

    def drop_before(self, table: str, before_us: int) -> int:
        """Retention: remove sealed rows with ``event_time < before_us``; returns how many. Older versions still show them until a purge."""
        ...

    def remove(
        self, table: str, gone: Callable[[pa.Table], pa.ChunkedArray], *, start_us: int | None = None, end_us: int | None = None
    ) -> int:
        """Remove sealed rows of which ``gone`` (a boolean for each row of a table) is true, in parts that overlap ``start_us <= event_time
        < end_us``; returns how many. Older versions still show them until a purge. Raises ``Conflict`` when parts were replaced meanwhile:
        try again."""
        ...

    def purge(self, older_than_us: int) -> int:
        """Delete the parts that left the tables ``older_than_us`` ago; returns how many. Versions that had them are ``Gone``."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...
