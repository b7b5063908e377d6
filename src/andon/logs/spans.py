"""The span log: one row for each span as it was received, in the table ``spans``.

Columns: ``event_time`` (the start), ``arrival_time``, ``key`` (a number made of the two ids), ``trace_id`` and ``span_id`` (hex),
``parent_id``, ``name``, ``kind``, ``status``, ``status_message``, ``start_ns``, ``end_ns`` (int64, since 1970), ``experiment``;
``attributes``, ``events``, ``links``, ``resource``, ``scope`` and ``extra`` as JSON text, word for word; and what is asked often, under
one name whichever convention the sender speaks: ``type``, ``operation``, ``provider``, ``model``, ``input_tokens``, ``output_tokens``,
``total_tokens``, ``cache_read_tokens``, ``cache_write_tokens``, ``cost_usd``, ``session``, ``user_id``, ``service``.

A span may be sent again, by an exporter that saw no answer: a query takes the row that arrived last for each (trace_id, span_id).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from andon.store.ports import Tables

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "spans"
TRACE_PREFIX = "tr-"
"""What a trace's id has before the hex digits of its spans' trace id."""


class SpanRow(NamedTuple):
    """One span, in the order of the table's columns. ``event_us`` is its start; JSON fields are text."""

    event_us: int
    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str | None
    status: str
    status_message: str | None
    start_ns: int
    end_ns: int | None
    experiment: int
    type: str | None
    operation: str | None
    provider: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    cost_usd: float | None
    session: str | None
    user_id: str | None
    service: str | None
    attributes: str
    events: str | None
    links: str | None
    resource: str | None
    scope: str | None
    extra: str | None


_INTEGERS = frozenset(
    {
        "start_ns",
        "end_ns",
        "experiment",
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
    }
)


@cache
def schema() -> pa.Schema:
    """The table's columns. Every batch has all of them, so that rows of any two batches unite."""
    import pyarrow as pa

    time = pa.timestamp("us", tz="UTC")
    fields = [("event_time", time), ("arrival_time", time), ("key", pa.int64())]
    doubles = {"cost_usd"}
    fields += [
        (name, pa.int64() if name in _INTEGERS else pa.float64() if name in doubles else pa.string()) for name in SpanRow._fields[1:]
    ]
    return pa.schema(fields)


def append_spans(tables: Tables, rows: Sequence[SpanRow], *, arrival_us: int) -> int:
    """Keep spans; they are on disk (fsync) when this returns. Returns how many. Raises what ``Tables.append`` raises."""
    import pyarrow as pa

    if not rows:
        return 0
    kept = schema()
    columns = list(zip(*rows, strict=True))
    arrays = [pa.array(columns[0], type=kept.field(0).type), pa.array([arrival_us] * len(rows), type=kept.field(1).type)]
    arrays.append(pa.array(list(map(_key, columns[1], columns[2])), type=pa.int64()))
    arrays += [pa.array(values, type=kept.field(at + 3).type) for at, values in enumerate(columns[1:])]
    tables.append(TABLE, pa.RecordBatch.from_arrays(arrays, schema=kept), durable=True)
    return len(rows)


def _key(trace_id: str, span_id: str) -> int:
    """64 bits of both ids: grouping by one number is twice as fast as by two texts, and two spans of a million share one once in 10^7."""
    trace = int(trace_id, 16)
    mixed = (trace ^ (trace >> 64) * 0x9E3779B97F4A7C15 ^ int(span_id, 16) * 0xC2B2AE3D27D4EB4F) & 0xFFFFFFFFFFFFFFFF
    return mixed - (1 << 63)
