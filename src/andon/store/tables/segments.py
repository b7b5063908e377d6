"""The inbox's writing side: one process appends frames to a segment of its own, and many threads share each fsync.

A segment is this process's as long as it holds the file's lock. It becomes anyone's to seal when it is finished (by size, by age, by
``finish()``) or when the process dies: the kernel lets go of the lock either way.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core import faults
from andon.core.errors import AndonError, TooLarge, Unavailable
from andon.core.ids import Ids
from andon.store.disk import create_locked, disk_error, disk_errors, fsync_path, make_folder, write_all
from andon.store.tables.frames import (
    BATCH,
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    ROWS,
    SCHEMA,
    SCHEMA_EVERY_BYTES,
    SegmentName,
    encode_frame,
    encode_header,
    encode_rows,
    encode_schema,
)

if TYPE_CHECKING:
    import pyarrow as pa

ROLL_BYTES = 64 << 20
ROLL_S = 30.0
FLUSH_S = 0.02
"""A flush of rows that nobody waits for starts this long after the first of them, to be on disk within 50 ms."""
MAX_SCHEMAS = 65_000

_writers: weakref.WeakSet[SegmentWriter] = weakref.WeakSet()  # so that a forked child lets go of its parent's segments


class _Segment:
    """The file being written."""

    def __init__(self, name: SegmentName, path: Path, fd: int) -> None:
        self.name = name
        self.path = path
        self.fd = fd
        self.size = HEADER_BYTES
        self.salt = name.salt
        self.started_s = time.monotonic()
        self.schemas: dict[str, list[tuple[pa.Schema, int, bytes]]] = {}
        self.described_at: list[int] = []  # schema number -> where its frame was last written

    def schema(self, table: str, schema: pa.Schema) -> tuple[int, bytes | None]:
        """The schema's number, and its frame's payload if that must be written (again) before the next batch."""
        known = self.schemas.get(table)
        if known is not None:
            for same, number, payload in known:
                if same is schema or same.equals(schema):
                    return number, payload if self.size - self.described_at[number] > SCHEMA_EVERY_BYTES else None
        number = len(self.described_at)
        payload = encode_schema(table, schema)
        self.schemas.setdefault(table, []).append((schema, number, payload))
        self.described_at.append(-SCHEMA_EVERY_BYTES)
        return number, payload


class SegmentWriter:
    """Appends batches to this process's current segment in ``folder``. Any number of threads may call it.

    Raises ``DiskFull``, ``ReadOnly`` or ``Unavailable`` when the disk refuses; the batch is then not acknowledged and never half there.
    """

    def __init__(self, folder: Path, ids: Ids, *, roll_bytes: int = ROLL_BYTES, roll_s: float = ROLL_S) -> None:
        self.folder = folder
        self._ids = ids
        self._roll_bytes = roll_bytes
        self._roll_s = roll_s
        self._segment: _Segment | None = None
        self._closed = False
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        self.writer = self._ids.new()
        self._next_segment = 1
        self._changed = threading.Condition(threading.Lock())
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._syncing = False
        self._written = 0  # sequence number of the last frame in a file
        self._synced = 0  # … and of the last one on disk
        self._lost: list[tuple[int, int]] = []  # (after, up to): what an fsync failed for

    def append(self, table: str, batch: pa.RecordBatch, *, durable: bool = True) -> int:
        """Write one batch; with ``durable``, return once it is on disk. Returns its sequence number, 1, 2, 3, … of this writer."""
        payload = batch.serialize()
        return self._append(table, batch.schema, BATCH, batch.num_rows, payload, payload.size, durable)

    def append_rows(self, table: str, schema: pa.Schema, columns: Sequence[Any], rows: int, *, durable: bool = True) -> int:
        """As ``append``, of a few rows in plain values; see ``Tables.append_rows``."""
        payload = encode_rows(columns)
        return self._append(table, schema, ROWS, rows, payload, len(payload), durable)

    def _append(self, table: str, schema: pa.Schema, kind: int, rows: int, payload: bytes | pa.Buffer, size: int, durable: bool) -> int:
        if size > MAX_PAYLOAD_BYTES:
            raise TooLarge("append this batch in slices", table=table, size_bytes=size, limit_bytes=MAX_PAYLOAD_BYTES)
        crc = zlib.crc32(payload)
        with self._changed:
            sequence = self._write(table, schema, kind, rows, payload, crc)
            if durable:
                self._await(sequence)
        if not durable and not self._wake.is_set():
            self._wake.set()
        return sequence

    def finish(self) -> SegmentName | None:
        """End the current segment, durably, so that it can be sealed. ``None`` if nothing was written since the last one."""
        with self._changed:
            return self._roll()

    def close(self) -> None:
        """Finish the segment and stop. Appending afterwards raises ``Unavailable``."""
        with self._changed:
            self._closed = True
            try:
                self._roll()
            finally:
                thread, self._thread = self._thread, None
                self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _write(self, table: str, schema: pa.Schema, kind: int, rows: int, payload: bytes | pa.Buffer, crc: int) -> int:
        if self._closed:
            raise Unavailable("these tables are closed")
        segment = self._segment or self._start()
        number, description = segment.schema(table, schema)
        sequence = self._written + 1
        pieces: list[bytes] = []
        if description is not None:
            pieces += encode_frame(SCHEMA, number, 0, sequence, description, zlib.crc32(description), segment.salt)
        pieces += encode_frame(kind, number, rows, sequence, payload, crc, segment.salt)
        size = sum(map(len, pieces))
        try:
            faults.point("segment.write")
            written = os.pwritev(segment.fd, pieces, segment.size)
            if written < size:
                os.lseek(segment.fd, segment.size + written, os.SEEK_SET)
                write_all(segment.fd, b"".join(pieces)[written:])
            faults.point("segment.written")
        except OSError as error:
            self._abandon(segment)
            raise disk_error(error, segment.path) from error
        if description is not None:
            segment.described_at[number] = segment.size
        segment.size += size
        self._written = sequence
        if segment.size >= self._roll_bytes or len(segment.described_at) > MAX_SCHEMAS:
            self._roll()
        return sequence

    def _start(self) -> _Segment:
        name = SegmentName(self.writer, self._next_segment)
        path = self.folder / name.file
        with disk_errors(path):
            make_folder(self.folder)
            fd, temporary = create_locked(self.folder, name.file)  # locked before it has its name: no sealer takes it for a dead process's
            try:
                write_all(fd, encode_header(name))
                os.fsync(fd)
                faults.point("segment.made")
                temporary.rename(path)
                faults.point("segment.named")
                fsync_path(self.folder)
            except OSError:
                os.close(fd)
                for leftover in (temporary, path):
                    with suppress(OSError):
                        leftover.unlink()
                raise
        self._next_segment += 1
        self._segment = _Segment(name, path, fd)
        if self._thread is None:
            self._thread = threading.Thread(target=self._flush_and_age, name="andon-inbox", daemon=True)
            self._thread.start()
        return self._segment

    def _abandon(self, segment: _Segment) -> None:
        """After a failed write: cut the torn frame off and go on in a new segment, so that no byte a reader saw is written twice."""
        with suppress(OSError):
            os.ftruncate(segment.fd, segment.size)
        with suppress(AndonError):  # the caller hears of the write's own error; who waits for an fsync hears of that one
            self._roll(segment)

    def _roll(self, only: _Segment | None = None) -> SegmentName | None:
        while self._syncing:
            self._changed.wait()
        segment = self._segment
        if segment is None or (only is not None and segment is not only):
            return None
        self._segment = None  # from here on rows go to another, so that one fsync is enough for this
        try:
            if self._synced < self._written:
                self._sync(segment)
        finally:
            os.close(segment.fd)
        return segment.name

    def _await(self, sequence: int) -> None:
        while True:
            if self._lost and any(after < sequence <= upto for after, upto in self._lost):
                raise Unavailable("the disk failed to keep these rows", path=str(self.folder))
            if self._synced >= sequence:
                return
            if self._syncing:
                self._changed.wait()
            else:
                assert self._segment is not None  # a segment is given up only when its rows are on disk or lost
                self._sync(self._segment)

    def _sync(self, segment: _Segment) -> None:
        """Put everything written so far on disk, with the lock let go meanwhile so that others may write what the next fsync takes."""
        upto = self._written
        failure: OSError | None = None
        done = False
        self._syncing = True
        self._changed.release()
        try:
            faults.point("segment.fsync")
            os.fdatasync(segment.fd)
            faults.point("segment.fsynced")
            done = True
        except OSError as error:
            failure = error
        finally:
            self._changed.acquire()
            self._syncing = False
            if done:
                self._synced = upto
            else:  # the kernel may have dropped the pages, so asking again would lie: give the segment up
                current = self._segment is segment
                if current:
                    self._segment = None
                    os.close(segment.fd)
                    upto = self._written
                self._lost = [*self._lost[-100:], (self._synced, upto)]
                self._synced = upto
            self._changed.notify_all()
        if failure is not None:
            raise disk_error(failure, segment.path) from failure

    def _flush_and_age(self) -> None:
        while True:
            woken = self._wake.wait(timeout=self._roll_s / 2)
            if self._closed:
                return
            if woken:
                self._wake.clear()
                time.sleep(FLUSH_S)
            with self._changed:
                segment = self._segment
                if segment is None or self._syncing:
                    continue
                with suppress(AndonError):  # nobody waits for these rows; who does, hears of it from its own fsync
                    if time.monotonic() - segment.started_s >= self._roll_s:
                        self._roll()
                    elif self._synced < self._written:
                        self._sync(segment)

    def _leave_to_parent(self) -> None:
        """In a forked child: the segment, its lock and its numbers are the parent's; start as a writer of our own."""
        if self._segment is not None:
            os.close(self._segment.fd)
            self._segment = None
        self._begin()


def _after_fork() -> None:
    for writer in list(_writers):
        writer._leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
