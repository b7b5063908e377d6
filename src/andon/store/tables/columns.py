"""What rows may look like: the two time columns, the types that mean the same in Arrow, Parquet and SQL, and how schemas unite.

A table has no declared schema. Its columns are the union of what was appended: a missing column is null, int64 beside float64 is float64,
and types that share no number line (text beside integers) meet as text when they are queried.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from andon.core.addresses import check_name
from andon.core.errors import InvalidAddress, InvalidInput

if TYPE_CHECKING:
    import pyarrow as pa

EVENT_TIME = "event_time"
ARRIVAL_TIME = "arrival_time"
MAX_COLUMNS = 10_000


def check_table(name: str) -> str:
    """Return ``name`` if it can name a table (the rules of entry names), else raise ``InvalidInput``."""
    try:
        return check_name(name)
    except InvalidAddress as error:
        raise InvalidInput(f"not a table's name: {error.message}", field="table", got=str(name)[:80]) from None


def empty_table() -> pa.Table:
    """No rows, and the two columns that every table has."""
    import pyarrow as pa

    instant = pa.timestamp("us", "UTC")
    return pa.schema([(EVENT_TIME, instant), (ARRIVAL_TIME, instant)]).empty_table()


class Intake:
    """Brings batches to the types that are stored. What a schema becomes is worked out once and remembered."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[pa.Schema, pa.Schema]] = {}  # table -> last schema seen, what it is stored as

    def admit(self, table: str, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch as it is stored. Raises ``InvalidInput`` naming the column that cannot be."""
        import pyarrow as pa

        known = self._known.get(table)
        if known is None or not batch.schema.equals(known[0], check_metadata=True):
            if not isinstance(batch, pa.RecordBatch):
                raise InvalidInput("rows come as a pyarrow.RecordBatch", field="batch", got=type(batch).__name__)
            known = (batch.schema, stored_schema(batch.schema))
            check_table(table)
            self._known[table] = known
        wanted = known[1]
        if known[0] is not wanted:
            batch = _as_stored(batch, wanted)
        for name in (EVENT_TIME, ARRIVAL_TIME):
            if batch.column(name).null_count:
                raise InvalidInput("every row has a time", field=name, table=table, nulls=batch.column(name).null_count)
        return batch

    def admit_rows(self, table: str, schema: pa.Schema, columns: Sequence[Any]) -> None:
        """Check rows in plain values. Raises ``InvalidInput`` naming the column that cannot be stored as ``schema`` says."""
        known = self._known.get(table)
        if known is None or known[0] is not schema:
            if stored_schema(schema) is not schema:
                raise InvalidInput("rows in plain values have a schema that is stored as it is", field="schema", table=table)
            check_table(table)
            self._known[table] = known = (schema, schema)
        if len(columns) != len(schema):
            raise InvalidInput("there is one item for each column", field="columns", got=len(columns), wanted=len(schema))
        for name in (EVENT_TIME, ARRIVAL_TIME):
            given = columns[schema.get_field_index(name)]
            if given is None or (type(given) is list and None in given):
                raise InvalidInput("every row has a time", field=name, table=table)


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """The schema that rows of ``schema`` are stored with; the very same object when nothing changes.

    Columns of only nulls are left out (a missing column is null), dictionaries and views are written out, lists have no fixed size,
    time zones become UTC. Raises ``InvalidInput`` naming the column that has no stored form.
    """
    import pyarrow as pa

    if len(schema.names) > MAX_COLUMNS:
        raise InvalidInput(f"a table has at most {MAX_COLUMNS} columns", got=len(schema.names))
    seen: set[str] = set()
    fields = []
    for field in schema:
        if not field.name or "\0" in field.name or field.name.lower() in seen:
            raise InvalidInput("columns have names that differ by more than case", field=field.name)
        seen.add(field.name.lower())
        if pa.types.is_null(field.type):
            continue
        fields.append(pa.field(field.name, _stored_type(field.type, field.name)))
    instant = pa.timestamp("us", "UTC")
    for name in (EVENT_TIME, ARRIVAL_TIME):
        if name not in schema.names or schema.field(name).type != instant:
            got = str(schema.field(name).type) if name in schema.names else "no such column"
            raise InvalidInput("every row has this column, of type timestamp[us, tz=UTC]", field=name, got=got)
    wanted = pa.schema(fields)
    return schema if wanted.equals(schema, check_metadata=True) else wanted


def _stored_type(kind: pa.DataType, column: str) -> pa.DataType:
    import pyarrow as pa

    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _stored_type(kind.storage_type, column)
    if types.is_dictionary(kind):
        return _stored_type(kind.value_type, column)
    if types.is_map(kind):
        return pa.map_(_stored_type(kind.key_type, column), _stored_type(kind.item_type, column))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_list_view(kind):
        return pa.list_(_stored_type(kind.value_type, column))
    if types.is_struct(kind) and kind.num_fields:
        return pa.struct([pa.field(field.name, _stored_type(field.type, column)) for field in kind])
    plain = _stored_scalar(kind)
    if plain is None:
        raise InvalidInput("this type of column is not stored; cast it first", field=column, got=str(kind))
    return plain


def _stored_scalar(kind: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa

    types = pa.types
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind):
        return pa.binary()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_date64(kind):
        return pa.date32()
    if types.is_time(kind):
        return pa.time64("us")
    if types.is_timestamp(kind):
        return pa.timestamp("ns" if kind.unit == "ns" else "us", None if kind.tz is None else "UTC")
    same = (types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_binary, types.is_date32, types.is_null)
    if any(test(kind) for test in same) or (types.is_decimal(kind) and kind.bit_width <= 128):
        return kind
    return None


def _as_stored(batch: pa.RecordBatch, wanted: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    columns = []
    for field in wanted:
        column = batch.column(field.name)
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidInput(f"this column's values have no stored form: {error}", field=field.name, got=str(column.type)) from None
    return pa.RecordBatch.from_arrays(columns, schema=wanted)


def united(tables: Iterable[pa.Table]) -> list[pa.Table]:
    """The same rows in as few tables as their types allow: one, unless a column is text here and a number there."""
    import pyarrow as pa

    groups: list[tuple[pa.Schema, list[pa.Table]]] = []
    for table in tables:
        for position, (schema, members) in enumerate(groups):
            if schema.equals(table.schema):
                members.append(table)
                break
            both = _united_schema(schema, table.schema)
            if both is not None:
                members.append(table)
                groups[position] = (both, members)
                break
        else:
            groups.append((table.schema, [table]))
    return [
        members[0] if len(members) == 1 else pa.concat_tables(members, promote_options="permissive").select(schema.names)
        for schema, members in groups
    ]


def _united_schema(left: pa.Schema, right: pa.Schema) -> pa.Schema | None:
    import pyarrow as pa

    if {name.lower() for name in left.names} & {name.lower() for name in set(right.names) - set(left.names)}:
        return None  # "Load" beside "load" are one column in SQL, so they may not sit in one file
    try:
        return pa.unify_schemas([left, right], promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def by_event_time(table: pa.Table) -> pa.Table:
    """The rows in order of event time; rows of one instant keep the order they came in."""
    import pyarrow.compute as pc

    if table.num_rows < 2:
        return table
    order: Any = pc.sort_indices(table, sort_keys=[(EVENT_TIME, "ascending")])  # stable, as Arrow documents
    return table.take(order)


def event_range(table: pa.Table) -> tuple[int, int]:
    """Least and greatest event time of a table that has rows, in microseconds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ends = pc.min_max(table.column(EVENT_TIME).cast(pa.int64()))
    return ends["min"].as_py(), ends["max"].as_py()


def plain_result(table: pa.Table) -> pa.Table:
    """A query's result in plain types: zone names that DuckDB may give (``Etc/UTC``, the machine's own) become ``UTC``, and 128-bit sums of
    integers become int64 where every value fits."""
    import pyarrow as pa

    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_timestamp(field.type) and field.type.tz not in (None, "UTC"):
            column = column.cast(pa.timestamp(field.type.unit, "UTC"))
        elif field.type == pa.decimal128(38, 0):
            with suppress(pa.ArrowInvalid):
                column = column.cast(pa.int64())
        columns.append(column)
    return pa.Table.from_arrays(columns, names=table.column_names)
