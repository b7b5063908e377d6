"""What a batch job writes: a folder of parts. A part is written aside, made durable and renamed, so it is there whole or not at all.

::

    OUTPUT/_andon.json              what this folder is bound to; locked while a job writes here
    OUTPUT/part-00000-000000.parquet
    OUTPUT/_errors/part-00000-000000.parquet    file, row, reason, text: only for parts that have failed rows

Readers of folders (DuckDB's ``*.parquet``, Arrow, Spark) leave out what begins with an underscore or a dot.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core import faults
from andon.core.errors import Conflict, InvalidInput, LeaseHeld
from andon.logs.arrays import booleans, instants, lists, numbers, texts
from andon.serving.offline.records import Bound, OutputFormat, PartDone, PartKey
from andon.store.disk import disk_errors, fsync_path, lock_file, make_folder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

BOUND = "_andon.json"
ERRORS = "_errors"
MAX_TEXT = 10_000


class Failed(msgspec.Struct, frozen=True):
    """A row without an answer: its position in its file, why, and the row itself as JSON (or as the line that it was)."""

    row: int
    reason: str
    text: str


def read_bound(folder: Path) -> Bound | None:
    """What a folder is bound to; None when it is no output of a job."""
    path = folder / BOUND
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Bound)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{BOUND} in this folder cannot be read: {error}", field="output", got=folder) from None


def check_free(folder: Path) -> None:
    """Raises ``Conflict`` for a folder, or a file, with something in it that no job put there."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise Conflict("the output exists and was not written by `andon predict`", output=folder, next_step="choose another output")


def bind(folder: Path, bound: Bound) -> None:
    """Make the folder, bound to a job; durable on return."""
    with disk_errors(folder):
        make_folder(folder)
        aside = folder / f".{BOUND}.tmp"
        with aside.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(bound), indent=1))
            file.flush()
            os.fsync(file.fileno())
        aside.rename(folder / BOUND)
        fsync_path(folder)


def lock(folder: Path) -> int:
    """Take the folder for this process, until the descriptor is closed. Raises ``LeaseHeld``."""
    fd = lock_file(folder / BOUND)
    if fd is None:
        raise LeaseHeld("another process is writing this output", output=folder, next_step="wait until it has ended")
    return fd


def clear(folder: Path) -> None:
    """Remove what a job wrote, and only that. Its binding goes first, so that a half-cleared folder is never taken for a finished one."""
    with disk_errors(folder):
        (folder / BOUND).unlink(missing_ok=True)
        fsync_path(folder)
        shutil.rmtree(folder / ERRORS, ignore_errors=True)
        for path in [*folder.glob("part-*"), *folder.glob(".*.tmp")]:
            path.unlink()


def tidy(folder: Path) -> None:
    """Remove what a killed attempt left half-written."""
    for path in [*folder.glob(".part-*.tmp"), *(folder / ERRORS).glob(".part-*.tmp")]:
        path.unlink(missing_ok=True)


def is_there(folder: Path, part: PartDone, kind: OutputFormat) -> bool:
    """Whether a recorded part's file is as it was written."""
    path = folder / f"{part.key.name}.{kind}"
    try:
        return not part.size_bytes or path.stat().st_size == part.size_bytes
    except FileNotFoundError:
        return False


class PartWriter:
    """Writes one part. Use it from one thread at a time; end it with ``finish`` or ``drop``. Raises ``DiskFull`` and its kin."""

    def __init__(self, folder: Path, key: PartKey, kind: OutputFormat, source: str, facts: dict[str, str]) -> None:
        self.key = key
        self.taken = self.rows = self.errors = 0
        self._folder = folder
        self._kind = kind
        self._source = source
        self._facts = facts
        self._rows: _File | None = None
        self._errors: _File | None = None

    def add(self, rows: int, kept: pa.RecordBatch, outputs: dict[str, np.ndarray[Any, Any]], failed: Sequence[Failed]) -> None:
        """Add the ``rows`` answered rows of a batch (their kept columns and outputs) and the others."""
        import pyarrow as pa

        if rows:
            arrays = [*kept.columns, *(to_arrow(values) for values in outputs.values())]
            batch = pa.RecordBatch.from_arrays(arrays, [*kept.schema.names, *outputs])
            if self._rows is None:
                self._rows = _File(self._folder / f"{self.key.name}.{self._kind}", self._kind, batch.schema, self._facts)
            self._rows.write(batch)
            self.rows += batch.num_rows
        if failed:
            columns = {
                "file": pa.array([self._source] * len(failed)),
                "row": pa.array([one.row for one in failed], type=pa.int64()),
                "reason": pa.array([one.reason for one in failed]),
                "text": pa.array([one.text[:MAX_TEXT] for one in failed]),
            }
            batch = pa.RecordBatch.from_pydict(columns)
            if self._errors is None:
                with disk_errors(self._folder):
                    make_folder(self._folder / ERRORS)
                self._errors = _File(self._folder / ERRORS / f"{self.key.name}.parquet", "parquet", batch.schema, self._facts)
            self._errors.write(batch)
            self.errors += len(failed)
        self.taken = self.rows + self.errors

    def finish(self) -> PartDone:
        """Make it durable and give it its name. A file that a killed attempt left under that name is replaced."""
        size_bytes = 0
        for file, folder, name in (
            (self._errors, self._folder / ERRORS, f"{self.key.name}.parquet"),
            (self._rows, self._folder, f"{self.key.name}.{self._kind}"),
        ):
            if file is None:
                with disk_errors(folder):
                    (folder / name).unlink(missing_ok=True)
            else:
                size_bytes = file.finish()
        return PartDone(
            file=self.key.file,
            number=self.key.number,
            taken=self.taken,
            rows=self.rows,
            errors=self.errors,
            size_bytes=size_bytes if self._rows is not None else 0,
        )

    def drop(self) -> None:
        """Leave nothing of it."""
        for file in (self._rows, self._errors):
            if file is not None:
                file.drop()


class _File:
    """A Parquet or CSV file that is written aside."""

    def __init__(self, path: Path, kind: OutputFormat, schema: pa.Schema, facts: dict[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from pyarrow import csv

        self._path = path
        self._aside = path.with_name(f".{path.name}.tmp")
        self._csv = kind == "csv"
        self._schema = schema
        with disk_errors(path):
            self._sink = pa.OSFile(str(self._aside), "wb")
            if self._csv:
                self._schema = pa.schema([(field.name, pa.string() if _nested(field.type) else field.type) for field in schema])
                self._writer: Any = csv.CSVWriter(self._sink, self._schema)
            else:
                named = schema.with_metadata({f"andon.{key}": value for key, value in facts.items()})
                self._writer = pq.ParquetWriter(self._sink, named, compression="zstd", compression_level=1)

    def write(self, batch: pa.RecordBatch) -> None:
        import pyarrow as pa

        with disk_errors(self._path):
            faults.point("batch.write")
            if self._csv:
                arrays = [_as_text(array) if _nested(array.type) else array for array in batch.columns]
                batch = pa.RecordBatch.from_arrays(arrays, batch.schema.names)
            if batch.schema.types != self._schema.types:
                batch = batch.cast(self._schema)
            self._writer.write_batch(batch)

    def finish(self) -> int:
        with disk_errors(self._path):
            self._writer.close()
            self._sink.close()
            faults.point("batch.written")
            fsync_path(self._aside)
            size_bytes = self._aside.stat().st_size
            faults.point("batch.synced")
            self._aside.rename(self._path)
            faults.point("batch.renamed")
            fsync_path(self._path.parent)
        return size_bytes

    def drop(self) -> None:
        try:
            self._writer.close()
            self._sink.close()
        except OSError:  # the disk is full still; the file goes all the same
            pass
        finally:
            self._aside.unlink(missing_ok=True)


def to_arrow(values: np.ndarray[Any, Any]) -> pa.Array:
    """An output column as Arrow: double, int64, bool, timestamp, text, or lists of doubles for a vector or a tensor a row."""
    import numpy as np
    import pyarrow as pa

    kind = values.dtype.kind
    if values.ndim > 1 and kind in "fiub":
        flat = numbers(values.reshape(-1), pa.float64(), "f8")
        for size in reversed(values.shape[1:]):
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        return flat
    if values.ndim > 1:
        return lists(values)
    if kind == "M":
        nulls = np.isnat(values)
        return instants(values.astype("M8[us]").astype("i8"), nulls if bool(nulls.any()) else None)
    if kind == "f":
        return numbers(values, pa.float64(), "f8")
    if kind == "u" and values.dtype.itemsize == 8:
        return numbers(values, pa.uint64(), "u8")
    if kind in "iu":
        return numbers(values, pa.int64(), "i8")
    return booleans(values) if kind == "b" else texts([None if value is None else str(value) for value in values])


def _nested(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_nested(kind))


def _as_text(array: pa.Array) -> pa.Array:
    import pyarrow as pa

    return pa.array(
        [None if value is None else msgspec.json.encode(value, enc_hook=str).decode() for value in array.to_pylist()], pa.string()
    )
