"""Parts: immutable Parquet files, and the ledger rows that say which of them a version of the tables is made of.

A part belongs to version ``v`` when ``added_version <= v`` and it was not removed at or before ``v``. Sealing, compaction and retention
each are one ledger write that adds a version; files that no row names are nobody's, and ``gc`` deletes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from andon.core import faults
from andon.core.digests import digest_file
from andon.core.errors import Conflict, CorruptBytes, Gone, NotFound
from andon.core.ids import Ids
from andon.store.disk import create_locked, disk_errors, fsync_path, make_folder
from andon.store.tables.columns import event_range

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection

    from andon.store.ports import Ledger

T = TypeVar("T")
PART_ROWS = 1_000_000
"""No part has more rows than this."""
ROW_GROUP_ROWS = 122_880  # what DuckDB hands one thread
ROW_GROUP_BYTES = 32 << 20
"""… and at most about this many bytes before packing, so that a few wide rows are found without unpacking all of them."""
ZSTD_LEVEL = 3


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file. ``path`` is relative to the tables' root; event times are inclusive, in microseconds."""

    id: str
    table: str
    path: str
    digest: str
    rows: int
    size_bytes: int
    min_event_us: int
    max_event_us: int


class PartWriter:
    """Writes part files under ``root``. Each is locked from its making until the block ends, so that ``gc`` knows it from an orphan."""

    def __init__(self, root: Path, ids: Ids) -> None:
        self._root = root
        self._ids = ids
        self._fds: list[int] = []
        self._paths: list[Path] = []
        self._keep = False

    def write(self, table: str, rows: pa.Table) -> list[Part]:
        """Write rows (sorted by event time) as one or more parts, on disk when this returns. Raises ``DiskFull`` and its kin."""
        return [self._write(table, rows.slice(start, PART_ROWS)) for start in range(0, rows.num_rows, PART_ROWS)]

    def _write(self, table: str, rows: pa.Table) -> Part:
        import pyarrow.parquet as pq

        identity = self._ids.new()
        folder = self._root / table
        path = folder / f"{identity}.parquet"
        with disk_errors(path):
            make_folder(folder)
            faults.point("part.begin")
            fd, temporary = create_locked(folder, identity)
            self._fds.append(fd)
            self._paths += [temporary, path]
            pq.write_table(
                rows,
                str(temporary),
                compression="zstd",
                compression_level=ZSTD_LEVEL,
                row_group_size=_row_group_rows(rows),
                write_page_checksum=True,
            )
            faults.point("part.written")
            os.fchmod(fd, 0o444)
            os.fsync(fd)
            faults.point("part.fsynced")
            temporary.rename(path)
            faults.point("part.named")
            fsync_path(folder)
            faults.point("part.kept")
            least, greatest = event_range(rows)
            return Part(
                id=identity,
                table=table,
                path=f"{table}/{identity}.parquet",
                digest=digest_file(path),
                rows=rows.num_rows,
                size_bytes=os.fstat(fd).st_size,
                min_event_us=least,
                max_event_us=greatest,
            )

    def commit(self, ledger: Ledger, work: Callable[[Connection], T]) -> T:
        """The ledger write that names the parts. Unless it was refused for sure, the files stay: a lost answer may have been a yes."""
        self._keep = True
        try:
            return ledger.write(work)
        except Conflict:
            self._keep = False
            raise

    def done(self) -> None:
        """Let go of the locks; what was surely not committed is deleted."""
        if not self._keep:
            for path in self._paths:
                with suppress(OSError):
                    path.unlink()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._paths.clear()


def _row_group_rows(rows: pa.Table) -> int:
    return int(min(ROW_GROUP_ROWS, max(2_048, ROW_GROUP_BYTES * rows.num_rows // max(rows.nbytes, 1))))


@contextmanager
def new_parts(root: Path, ids: Ids) -> Iterator[PartWriter]:
    """A ``PartWriter`` whose files are deleted when the block ends without a commit."""
    writer = PartWriter(root, ids)
    try:
        yield writer
    finally:
        writer.done()


# --- the ledger's side


def newest_version(connection: Connection) -> int:
    """The newest version of the tables; 0 before anything was sealed."""
    from sqlalchemy import func, select

    from andon.store.schema import table_versions

    return int(connection.execute(select(func.max(table_versions.c.version))).scalar() or 0)


def add_version(connection: Connection, now_us: int) -> int:
    """Begin the next version, in a ledger write."""
    from sqlalchemy import insert

    from andon.store.schema import table_versions

    version = newest_version(connection) + 1
    connection.execute(insert(table_versions).values(version=version, at_us=now_us))
    return version


def check_version(connection: Connection, version: int) -> int:
    """Return ``version`` if its parts are all still there. Raises ``NotFound`` for one to come and ``Gone`` for a purged one."""
    from sqlalchemy import func, select

    from andon.store.schema import table_versions

    newest = newest_version(connection)
    if version < 0 or version > newest:
        raise NotFound("there is no such version of the tables", version=version, newest=newest)
    oldest = int(connection.execute(select(func.min(table_versions.c.version))).scalar() or 1)
    if version < oldest and oldest > 1:
        raise Gone("the parts of this version were purged", version=version, oldest=oldest)
    return version


def parts_of(
    connection: Connection, version: int, tables: Collection[str] | None = None, *, start_us: int | None = None, end_us: int | None = None
) -> list[Part]:
    """The parts of a version, of ``tables`` or all, that overlap ``start_us <= event_time < end_us``, by table and event time."""
    from sqlalchemy import or_, select

    from andon.store.schema import parts

    query = select(parts).where(parts.c.added_version <= version, or_(parts.c.removed_version.is_(None), parts.c.removed_version > version))
    if tables is not None:
        query = query.where(parts.c.table_name.in_(list(tables)))
    if start_us is not None:
        query = query.where(parts.c.max_event_us >= start_us)
    if end_us is not None:
        query = query.where(parts.c.min_event_us < end_us)
    rows = connection.execute(query.order_by(parts.c.table_name, parts.c.min_event_us, parts.c.id)).mappings()
    return [part_of(row) for row in rows]


def part_of(row: Any) -> Part:
    """A record from a row of the ledger."""
    values = {field: row[field] for field in Part.__struct_fields__ if field != "table"}
    return Part(table=row["table_name"], **values)


def forgotten(connection: Connection, wanted: Sequence[Part]) -> set[str]:
    """The ids of parts that the ledger has no row of any more: a purge took them."""
    from sqlalchemy import select

    from andon.store.schema import parts

    left = {part.id for part in wanted}
    for start in range(0, len(wanted), 500):
        chunk = [part.id for part in wanted[start : start + 500]]
        left -= set(connection.execute(select(parts.c.id).where(parts.c.id.in_(chunk))).scalars())
    return left


def add_parts(connection: Connection, added: Sequence[Part], version: int) -> None:
    """Make parts belong to ``version`` and what follows."""
    from sqlalchemy import insert

    from andon.store.schema import parts

    if added:
        rows = [{**msgspec.structs.asdict(part), "table_name": part.table, "added_version": version} for part in added]
        for row in rows:
            del row["table"]
        connection.execute(insert(parts), rows)


def remove_parts(connection: Connection, removed: Sequence[Part], version: int) -> None:
    """Make parts belong to versions before ``version`` only. Raises ``Conflict`` if one was removed meanwhile."""
    from sqlalchemy import update

    from andon.store.schema import parts

    for start in range(0, len(removed), 500):
        chunk = [part.id for part in removed[start : start + 500]]
        found = connection.execute(
            update(parts).where(parts.c.id.in_(chunk), parts.c.removed_version.is_(None)).values(removed_version=version)
        ).rowcount
        if found != len(chunk):
            raise Conflict("another process replaced these parts", expected=len(chunk), found=found)


# --- reading files


class PartChecker:
    """Proves a part's bytes against its digest, once per file state (inode, size, time of change)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._proven: dict[str, tuple[int, int, int]] = {}

    def path(self, part: Part) -> Path:
        """Where the part is, proven. Raises ``CorruptBytes`` naming it when it is missing or its bytes changed."""
        path = self._root / part.path
        try:
            found = path.stat()
        except FileNotFoundError:
            raise CorruptBytes("a part is missing", part=part.path, table=part.table, digest=part.digest) from None
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._proven.get(part.id) != state:
            with disk_errors(path):
                digest = digest_file(path) if found.st_size == part.size_bytes else "of another size"
            if digest != part.digest:
                raise CorruptBytes("a part is damaged", part=part.path, table=part.table, digest=part.digest, found=digest)
            self._proven[part.id] = state
        return path


def read_part(path: Path) -> pa.Table:
    """All rows of a part. Raises ``CorruptBytes``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptBytes(f"a part cannot be read: {error}", part=str(path)) from None
