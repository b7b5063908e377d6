"""Keeping tables small: merging small parts, retention by event time, and deleting what no version needs any more."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core import faults
from andon.core.clocks import Clock
from andon.core.errors import Conflict
from andon.core.ids import Ids
from andon.store.disk import disk_errors, lock_file
from andon.store.ports import Ledger
from andon.store.tables.columns import EVENT_TIME, by_event_time, united
from andon.store.tables.inbox import leftovers
from andon.store.tables.parts import (
    PART_ROWS,
    Part,
    PartChecker,
    add_parts,
    add_version,
    new_parts,
    newest_version,
    part_of,
    parts_of,
    read_part,
    remove_parts,
)
from andon.store.tables.sealing import forget_sealed
from andon.store.tables.snapshot import FORGET_SEALED_US

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection

FAN_IN = 4
"""Parts are merged when this many of about one size lie together, so a row is rewritten a few times at most, however it trickled in."""


PART_BYTES = 128 << 20
"""Nor are parts merged beyond this size (packed): a merge, and whatever rewrites a part, holds its rows in memory."""


class Freed(msgspec.Struct, frozen=True):
    """What a purge or a gc deleted."""

    files: int
    size_bytes: int


def plan(parts: Sequence[Part], *, part_rows: int = PART_ROWS, part_bytes: int = PART_BYTES, fan_in: int = FAN_IN) -> list[list[Part]]:
    """Which parts to merge into one: neighbours in event time, of one size class (powers of ``fan_in``), together at most ``part_rows`` and
    ``part_bytes``."""
    classes: dict[int, list[Part]] = {}
    for part in sorted(parts, key=lambda part: (part.min_event_us, part.id)):
        if 0 < part.rows <= part_rows // 2 and part.size_bytes <= part_bytes // 2:
            classes.setdefault(int(math.log(part.rows, fan_in)), []).append(part)
    groups: list[list[Part]] = []
    for size_class in sorted(classes):
        group: list[Part] = []
        rows = size = 0
        for part in classes[size_class]:
            if rows + part.rows > part_rows or size + part.size_bytes > part_bytes:
                groups.append(group)
                group, rows, size = [], 0, 0
            group.append(part)
            rows += part.rows
            size += part.size_bytes
        groups.append(group)
    return [group for group in groups if len(group) >= fan_in]


class Keeper:
    """The verbs that replace parts, over one ledger and one folder."""

    def __init__(self, ledger: Ledger, root: Path, checker: PartChecker, clock: Clock, ids: Ids) -> None:
        self._ledger = ledger
        self._root = root
        self._checker = checker
        self._clock = clock
        self._ids = ids

    def compact(self, table: str) -> int:
        """Merge small parts of ``table``; returns parts replaced. What another process replaces meanwhile is left to it."""
        replaced = 0
        for group in plan(self._parts(table)):
            sources = united(read_part(self._checker.path(part)) for part in group)
            if len(sources) >= len(group):
                continue  # every part has columns that fit no other's
            with suppress(Conflict):
                self._replace(table, group, [by_event_time(rows) for rows in sources], "compact")
                replaced += len(group)
        return replaced

    def drop_before(self, table: str, before_us: int) -> int:
        """Remove sealed rows with ``event_time < before_us``; returns how many. Raises ``Conflict`` when parts were replaced meanwhile."""
        import pyarrow as pa
        import pyarrow.compute as pc

        removed = [part for part in self._parts(table) if part.min_event_us < before_us]
        if not removed:
            return 0
        kept = []
        for part in removed:
            if part.max_event_us >= before_us:
                rows = read_part(self._checker.path(part))
                limit = pa.scalar(before_us, pa.timestamp("us", "UTC"))
                kept.append(rows.filter(pc.greater_equal(rows.column(EVENT_TIME), limit)))
        self._replace(table, removed, kept, "retain")
        return sum(part.rows for part in removed) - sum(int(rows.num_rows) for rows in kept)

    def remove(self, table: str, gone: Callable[[pa.Table], pa.ChunkedArray], *, start_us: int | None, end_us: int | None) -> int:
        """Remove sealed rows of which ``gone`` is true, part by part; returns how many. Raises ``Conflict`` if parts were replaced."""
        import pyarrow.compute as pc

        removed = 0
        with self._ledger.read() as connection:
            parts = parts_of(connection, newest_version(connection), [table], start_us=start_us, end_us=end_us)
        for part in parts:
            rows = read_part(self._checker.path(part))
            kept = rows.filter(pc.invert(gone(rows)))
            if kept.num_rows == rows.num_rows:
                continue
            self._replace(table, [part], [kept] if kept.num_rows else [], "remove")
            removed += part.rows - kept.num_rows
        return removed

    def purge(self, older_than_us: int) -> Freed:
        """Delete parts that have belonged to no version for ``older_than_us``. Older versions are then ``Gone``."""
        now_us = self._clock.now_us()
        purged: list[Part] = self._ledger.write(lambda connection: _forget_removed(connection, now_us - older_than_us))
        faults.point("purge.committed")
        self._ledger.write(lambda connection: forget_sealed(connection, now_us - FORGET_SEALED_US))
        size_bytes = 0
        for part in purged:
            with disk_errors(self._root), suppress(FileNotFoundError):
                (self._root / part.path).unlink()
                size_bytes += part.size_bytes
        return Freed(len(purged), size_bytes)

    def gc(self, inbox: Path, *, older_than_us: int) -> Freed:
        """Delete files that no version names and no process is writing, ``older_than_us`` after their last change."""
        before_s = time.time() - older_than_us / 1e6
        deleted = size_bytes = 0
        with disk_errors(self._root):
            files = _files(self._root, before_s)
            known = self._known(path for path, _ in files)
            for path, size in files:
                if path not in known and self._delete_orphan(path):
                    deleted, size_bytes = deleted + 1, size_bytes + size
            for path in leftovers(inbox, older_than_us / 1e6):
                path.unlink(missing_ok=True)
                deleted += 1
        return Freed(deleted, size_bytes)

    def _delete_orphan(self, path: Path) -> bool:
        fd = lock_file(path)
        if fd is None:
            return False
        try:
            if self._known([path]):  # asked again under the lock: whoever wrote it may have committed meanwhile
                return False
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(fd)

    def _known(self, paths: Iterable[Path]) -> set[Path]:
        """Which of these files some version names, purged ones not counted."""
        from sqlalchemy import select

        from andon.store.schema import parts

        relative = [path.relative_to(self._root).as_posix() for path in paths]
        found: set[Path] = set()
        with self._ledger.read() as connection:
            for start in range(0, len(relative), 500):
                rows = connection.execute(select(parts.c.path).where(parts.c.path.in_(relative[start : start + 500])))
                found |= {self._root / path for path in rows.scalars()}
        return found

    def _parts(self, table: str) -> list[Part]:
        with self._ledger.read() as connection:
            return parts_of(connection, newest_version(connection), [table])

    def _replace(self, table: str, removed: Sequence[Part], rows: Sequence[pa.Table], why: str) -> None:
        with new_parts(self._root, self._ids) as writer:
            added = [part for some in rows for part in writer.write(table, some)]
            now_us = self._clock.now_us()

            def work(connection: Connection) -> None:
                version = add_version(connection, now_us)
                remove_parts(connection, removed, version)
                add_parts(connection, added, version)
                faults.point(f"{why}.in_commit")

            faults.point(f"{why}.parts_written")
            writer.commit(self._ledger, work)
            faults.point(f"{why}.committed")


def _forget_removed(connection: Connection, before_us: int) -> list[Part]:
    from sqlalchemy import delete, func, select

    from andon.store.schema import parts, table_versions

    cutoff = connection.execute(select(func.max(table_versions.c.version)).where(table_versions.c.at_us <= before_us)).scalar()
    if cutoff is None:
        return []
    rows: list[Any] = list(connection.execute(select(parts).where(parts.c.removed_version <= cutoff)).mappings())
    if rows:
        connection.execute(delete(parts).where(parts.c.removed_version <= cutoff))
        connection.execute(delete(table_versions).where(table_versions.c.version < max(row["removed_version"] for row in rows)))
    return [part_of(row) for row in rows]


def _files(root: Path, before_s: float) -> list[tuple[Path, int]]:
    """Parts and temporary files last changed at or before ``before_s``, with their sizes."""
    old = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            path = Path(folder, file)
            with suppress(FileNotFoundError):
                if file.endswith((".parquet", ".tmp")) and (found := path.stat()).st_mtime <= before_s:
                    old.append((path, found.st_size))
    return old
