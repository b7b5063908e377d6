"""Files as Arrow tables, and what is in a table. Timestamps without a zone are read as UTC."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.clocks import to_iso
from andon.core.errors import InvalidInput
from andon.datasets.records import DataColumn, FileFormat

if TYPE_CHECKING:
    import pyarrow as pa

_FORMATS: Mapping[str, FileFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".jsonl": "json",
    ".ndjson": "json",
}


def format_of(path: str | Path) -> FileFormat:
    """A file's format by its suffix; ``opaque`` for what is not a table.

    >>> format_of("rides/2011.parquet"), format_of("photo.jpg")
    ('parquet', 'opaque')
    """
    return _FORMATS.get(Path(path).suffix.lower(), "opaque")


def as_table(source: Any) -> pa.Table | None:
    """An Arrow table from a table, a record batch, a frame, a mapping of columns or a list of rows; None for anything else."""
    import pyarrow as pa

    if isinstance(source, pa.Table):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    try:
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(source, pandas.DataFrame):
            return pa.Table.from_pandas(source, preserve_index=False)
        if isinstance(source, Mapping):
            return pa.table({str(name): values for name, values in source.items()})
        if isinstance(source, Sequence) and not isinstance(source, str | bytes) and source and isinstance(source[0], Mapping):
            return pa.Table.from_pylist(list(source))
        if hasattr(source, "__arrow_c_stream__"):
            return pa.table(source)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        raise InvalidInput(f"this is not a table: {error}", field="source") from None
    return None


def write_parquet(table: pa.Table, path: Path) -> None:
    """One Parquet file, zstd; equal tables give equal bytes under one version of pyarrow (frames' own metadata is left out)."""
    import pyarrow.parquet as pq

    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd", compression_level=3)


def read_file(path: Path, kind: FileFormat, columns: Sequence[str] | None = None) -> pa.Table:
    """A file as a table. Raises ``InvalidInput`` when it is not one."""
    import pyarrow as pa

    wanted = list(columns) if columns is not None else None
    try:
        if kind == "parquet":
            import pyarrow.parquet as pq

            return pq.ParquetFile(path).read(columns=wanted)
        if kind == "csv":
            from pyarrow import csv

            table = csv.read_csv(path)
        elif kind == "arrow":
            from pyarrow import feather

            return feather.read_table(path, columns=wanted, memory_map=False)
        elif kind == "json":
            from pyarrow import json

            table = json.read_json(path)
        else:
            raise InvalidInput("this dataset is not a table; read its files with path()", field="format", got=kind)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"this file is not {kind}: {str(error)[:200]}", field="source", got=path.name) from None
    return table if wanted is None else table.select(wanted)


def read_files(paths: Sequence[Path], kind: FileFormat, columns: Sequence[str] | None = None) -> pa.Table:
    """Files, in order, as one table; a column that a file lacks is null there."""
    import pyarrow as pa

    tables = [read_file(path, kind, columns if len(paths) == 1 else None) for path in paths]
    if len(tables) == 1:
        return tables[0]
    try:
        whole = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidInput(f"these files do not make one table: {str(error)[:200]}", field="source") from None
    return whole if columns is None else whole.select(list(columns))


def describe(table: pa.Table) -> tuple[DataColumn, ...]:
    """Type, nulls, extremes and mean of each column. NaN counts as null."""
    return tuple(_describe(name, table.column(name)) for name in table.column_names)


def event_time_of(table: pa.Table, named: str | None) -> tuple[str | None, tuple[int, int] | None]:
    """The event-time column and its range. ``named``, or the only timestamp column, or none.

    Raises ``InvalidInput`` when ``named`` is no column of instants (timestamps, dates, or int64 microseconds since 1970).
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if named is None:
        instants = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
        if len(instants) != 1:
            return None, None
        named = instants[0]
    if named not in table.column_names:
        raise InvalidInput("there is no such column", field="event_time", got=named)
    column = table.column(named)
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type) or pa.types.is_int64(column.type)):
        raise InvalidInput("event time is a timestamp, a date or microseconds as int64", field="event_time", got=str(column.type))
    if not pa.types.is_int64(column.type):
        column = column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
    if len(column) == column.null_count:
        return named, None
    ends = pc.min_max(column).as_py()
    return named, (ends["min"], ends["max"])


def _describe(name: str, column: pa.ChunkedArray) -> DataColumn:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    nulls = column.null_count
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    if pa.types.is_floating(column.type):
        nans = pc.sum(pc.is_nan(column)).as_py() or 0
        nulls += nans
        column = column.filter(pc.fill_null(pc.is_finite(column), fill_value=False)).cast(pa.float64())
        if not len(column):
            return DataColumn(name=name, type=str(kind), nulls=nulls)
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if (
        not numeric
        and not pa.types.is_boolean(column.type)
        and not pa.types.is_timestamp(column.type)
        and not pa.types.is_date(column.type)
    ):
        return DataColumn(name=name, type=str(kind), nulls=nulls)
    ends = pc.min_max(column).as_py()
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        whole = column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
        ends = {side: None if value is None else to_iso(value) for side, value in pc.min_max(whole).as_py().items()}
    mean = pc.mean(column).as_py() if numeric else None
    return DataColumn(
        name=name,
        type=str(kind),
        nulls=nulls,
        min=ends["min"],
        max=ends["max"],
        mean=mean if mean is not None and math.isfinite(mean) else None,
    )
