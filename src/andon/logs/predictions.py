"""The prediction log: one row for every row answered, in the table ``predictions/SERVICE``.

Columns: ``event_time``, ``arrival_time`` (timestamp[us, UTC]), ``request_id``, ``row`` (position in the request), ``release``,
``release_digest``, ``channel``, ``latency_ms``, and ``input.NAME`` / ``output.NAME`` for each column of the release's signature
(double, int64, bool, timestamp, string, or for a vector a list). Inputs are as the caller sent them, before the release's transform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.logs.few import FEW_ROWS, log_few
from andon.store.ports import Tables

if TYPE_CHECKING:
    import numpy as np


def table_name(service: str) -> str:
    """The table that holds a service's predictions."""
    return f"predictions/{service}"


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One executed batch: ``n`` rows, maybe of several requests, answered by one release.

    ``inputs`` and ``outputs`` are columns of length n. ``row`` counts within each request. ``channel`` is one for all rows, or one for
    each. All times are microseconds.
    """

    service: str
    release: str
    release_digest: str
    channel: str | Sequence[str]
    request_ids: Sequence[str]
    row: Sequence[int]
    event_us: Sequence[int]
    arrival_us: Sequence[int]
    latency_ms: Sequence[float]
    inputs: Mapping[str, np.ndarray[Any, Any]]
    outputs: Mapping[str, np.ndarray[Any, Any]]


def log_predictions(tables: Tables, served: Served) -> None:
    """Append one batch. It is in the segment file (safe from kill -9) on return, and fsynced within 50 ms."""
    n, s = len(served.request_ids), served
    fixed = (s.event_us, s.arrival_us, s.request_ids, s.row, s.release, s.release_digest, s.channel, s.latency_ms)
    if n <= FEW_ROWS and log_few(tables, table_name(s.service), fixed, s.inputs, s.outputs, n):
        return
    import pyarrow as pa

    from andon.logs.arrays import instants, numbers, same, texts

    columns: dict[str, Any] = {
        "event_time": instants(served.event_us),
        "arrival_time": instants(served.arrival_us),
        "request_id": texts(served.request_ids),
        "row": numbers(served.row, pa.int32(), "i4"),
        "release": same(served.release, n),
        "release_digest": same(served.release_digest, n),
        "channel": same(served.channel, n) if isinstance(served.channel, str) else texts(served.channel),
        "latency_ms": numbers(served.latency_ms, pa.float32(), "f4"),
    }
    for prefix, group in (("input", served.inputs), ("output", served.outputs)):
        for name, values in group.items():
            columns[f"{prefix}.{name}"] = _column(values)
    tables.append(table_name(served.service), pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)), durable=False)


def _column(values: np.ndarray[Any, Any]) -> Any:
    import numpy as np
    import pyarrow as pa

    from andon.logs.arrays import booleans, doubles, instants, lists, numbers, texts

    kind = values.dtype.kind
    if values.ndim > 1:  # a vector per row, such as class probabilities
        return lists(values)
    if kind == "f":
        return doubles(values)
    if kind == "u" and values.dtype.itemsize == 8 and bool((values > 2**63 - 1).any()):
        return doubles(values)  # beside int64 a table unites the two as float64
    if kind in "iu":
        return numbers(values, pa.int64(), "i8")
    if kind == "M":
        nulls = np.isnat(values)
        return instants(values.astype("M8[us]").astype("i8"), nulls if bool(nulls.any()) else None)
    if kind == "b":
        return booleans(values)
    return texts([None if value is None else str(value) for value in values])
