"""The inbox's reading side: what whole frames lie in the segments of this machine, and who may seal which.

Parsing is incremental: a segment only ever grows, so each query parses what was added since the last one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from andon.core import faults
from andon.core.errors import CorruptBytes
from andon.store.disk import disk_errors, fsync_path, lock_file, make_folder, try_lock
from andon.store.tables.columns import united
from andon.store.tables.frames import (
    BATCH,
    HEADER_BYTES,
    ROWS,
    SCHEMA,
    Damage,
    Frame,
    SegmentName,
    decode_batches,
    decode_rows,
    decode_schema,
    header_is_sound,
    scan,
)

if TYPE_CHECKING:
    import pyarrow as pa

QUARANTINE = "quarantine"
"""Where damaged segments go once their whole frames are sealed."""
CACHE_BYTES = 256 << 20
MAX_CLAIMS = 200  # each is an open file


class Content(msgspec.Struct, frozen=True):
    """What a segment holds."""

    rows: dict[str, list[pa.Table]]
    first_sequence: int
    last_sequence: int
    damage: tuple[Damage, ...]


class _View:
    """One segment as far as it has been parsed."""

    def __init__(self, name: SegmentName) -> None:
        self.name = name
        self.salt = name.salt
        self.offset = 0
        self.tables: dict[str, list[pa.Table]] = {}
        self.schemas: dict[int, tuple[str, bytes]] = {}
        self.first_sequence = 0
        self.last_sequence = 0
        self.damage: list[Damage] = []

    def extend(self, fd: int) -> None:
        """Parse what was added."""
        if self.offset == 0:
            head = os.pread(fd, HEADER_BYTES, 0)
            if header_is_sound(head, self.name):
                self.offset = HEADER_BYTES
        size = os.fstat(fd).st_size
        if size <= self.offset:
            return
        data = _read(fd, self.offset, size - self.offset)
        base = self.offset
        found = list(scan(data, base, self.salt))
        view = memoryview(data)
        payloads: dict[tuple[int, int], list[Frame]] = {}
        expected = self.last_sequence + 1
        for item in found:
            if isinstance(item, Damage):
                self.damage.append(item)
            elif item.kind == SCHEMA:
                self.schemas[item.schema] = decode_schema(view[item.start - base : item.end - base])
            elif item.kind in (BATCH, ROWS):
                if self.last_sequence and item.sequence != expected and not self.damage:
                    self.damage.append(Damage(item.offset, item.offset))  # a gap: frames are missing although none looks broken
                expected = item.sequence + 1
                self.first_sequence = self.first_sequence or item.sequence
                self.last_sequence = item.sequence
                payloads.setdefault((item.schema, item.kind), []).append(item)
        if found and isinstance(found[-1], Frame):
            self.offset = found[-1].end + -(found[-1].end - found[-1].start) % 8
        for (schema, kind), frames in payloads.items():
            self._keep(schema, kind, frames, view, base)

    def _keep(self, schema: int, kind: int, frames: list[Frame], view: memoryview, base: int) -> None:
        import pyarrow as pa

        if schema not in self.schemas:  # its description was in a damaged frame and has not been repeated
            self.damage += [Damage(frame.offset, frame.end) for frame in frames]
            return
        table, message = self.schemas[schema]
        try:
            parts = [view[frame.start - base : frame.end - base] for frame in frames]
            rows = decode_batches(message, parts) if kind == BATCH else decode_rows(message, parts, [frame.rows for frame in frames])
        except (pa.ArrowInvalid, pa.ArrowTypeError, msgspec.DecodeError, ValueError, OSError):
            self.damage += [Damage(frame.offset, frame.end) for frame in frames]
            return
        chunks = self.tables.setdefault(table, [])
        chunks.append(rows)
        if len(chunks) > 64:  # many small queries between seals: keep the number of chunks small
            self.tables[table] = [part.combine_chunks() for part in united(chunks)]

    def content(self) -> Content:
        return Content(
            {table: list(chunks) for table, chunks in self.tables.items()}, self.first_sequence, self.last_sequence, tuple(self.damage)
        )


def _read(fd: int, offset: int, size: int) -> bytes:
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def segments(folder: Path) -> list[SegmentName]:
    """Every segment in the inbox, by writer and number."""
    try:
        files = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(name for name in map(SegmentName.parse, files) if name is not None)


def read_segment(path: Path, name: SegmentName) -> Content:
    """Everything whole in one segment. Raises ``FileNotFoundError``, and ``Incompatible`` for a newer format."""
    view = _View(name)
    fd = os.open(path, os.O_RDONLY)
    try:
        view.extend(fd)
    finally:
        os.close(fd)
    return view.content()


class InboxReader:
    """Reads all segments of one inbox, for many threads, remembering what it has parsed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._views: dict[SegmentName, _View] = {}
        self._lock = threading.Lock()

    def read(self, tables: Collection[str] | None = None) -> dict[SegmentName, dict[str, list[pa.Table]]]:
        """The rows of each segment, of ``tables`` or all.

        A segment that vanishes while we read was sealed before: whoever asks the ledger afterwards finds its rows there. Raises
        ``CorruptBytes`` naming file and offset at damage between whole frames; ``seal()`` saves the whole ones.
        """
        with disk_errors(self.folder), self._lock:
            names = segments(self.folder)
            for gone in self._views.keys() - set(names):
                del self._views[gone]
            found = {}
            for name in names:
                view = self._views.get(name) or _View(name)
                with suppress(FileNotFoundError):
                    self._extend(view)
                    self._views[name] = view
                    found[name] = {t: list(c) for t, c in view.tables.items() if tables is None or t in tables}
            self._trim()
            return found

    def _extend(self, view: _View) -> None:
        path = self.folder / view.name.file
        fd = os.open(path, os.O_RDONLY)
        try:
            view.extend(fd)
        finally:
            os.close(fd)
        if view.damage:
            raise damaged(path, view.damage[0])

    def _trim(self) -> None:
        total = sum(view.offset for view in self._views.values())
        for name in list(self._views):
            if total <= CACHE_BYTES:
                break
            total -= self._views.pop(name).offset


def damaged(path: Path, where: Damage) -> CorruptBytes:
    """The error for a segment with broken bytes between whole frames."""
    return CorruptBytes(
        "a segment is damaged between whole frames",
        path=str(path),
        offset=where.start,
        size_bytes=where.end - where.start,
        next_step="run `andon doctor`: it saves the whole frames and keeps the damaged file",
    )


class Claim(msgspec.Struct, frozen=True):
    """A segment that nobody writes, locked by us."""

    name: SegmentName
    path: Path
    fd: int


def claim(folder: Path, limit_bytes: int) -> list[Claim]:
    """Lock segments that no live process holds, oldest first, up to about ``limit_bytes``. Give them back with ``release``."""
    claims: list[Claim] = []
    total = 0
    for name in segments(folder):
        path = folder / name.file
        fd = lock_file(path)
        if fd is None:
            continue
        claims.append(Claim(name, path, fd))
        total += os.fstat(fd).st_size
        if total >= limit_bytes or len(claims) >= MAX_CLAIMS:
            break
    return claims


def release(claims: list[Claim]) -> None:
    """Let go of the locks."""
    for one in claims:
        os.close(one.fd)


def remove(folder: Path, claims: list[Claim], quarantined: Collection[SegmentName] = ()) -> None:
    """Delete sealed segments, or move the damaged ones aside, durably."""
    for one in claims:
        if one.name in quarantined:
            make_folder(folder / QUARANTINE)
            one.path.rename(folder / QUARANTINE / one.name.file)
        else:
            one.path.unlink(missing_ok=True)
        faults.point("seal.segment_removed")
    if claims:
        fsync_path(folder)


def leftovers(folder: Path, older_than_s: float = 3600.0) -> Iterator[Path]:
    """Temporary files of processes that died while they made a segment. Each is locked while it is yielded."""
    for path in folder.glob(".*.seg.tmp"):
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if time.time() - os.fstat(fd).st_mtime >= older_than_s and try_lock(fd):
                    yield path
            finally:
                os.close(fd)
