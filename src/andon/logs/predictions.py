"""The prediction log: one row for every row answered, in the table ``predictions/SERVICE``.

Columns: ``event_time``, ``arrival_time`` (timestamp[us, UTC]), ``request_id``, ``row`` (position in the request), ``release``,
``release_digest``, ``channel``, ``latency_ms``, and ``input.NAME`` / ``output.NAME`` for each column of the release's signature
(double, int64, bool, timestamp or string). Inputs are as the caller sent them, before the release's transform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from andon.store.ports import Tables

if TYPE_CHECKING:
    import numpy as np


def table_name(service: str) -> str:
    """The table that holds a service's predictions."""
    return f"predictions/{service}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One executed batch: ``n`` rows, maybe of several requests, answered by one release.

    ``inputs`` and ``outputs`` are columns of length n. ``row`` counts within each request. All times are microseconds.
    """

    service: str
    release: str
    release_digest: str
    channel: str
    request_ids: Sequence[str]
    row: Sequence[int]
    event_us: Sequence[int]
    arrival_us: Sequence[int]
    latency_ms: Sequence[float]
    inputs: Mapping[str, np.ndarray[Any, Any]]
    outputs: Mapping[str, np.ndarray[Any, Any]]


def log_predictions(tables: Tables, served: Served) -> None:
    """Append one batch. It is in the segment file (safe from kill -9) on return, and fsynced within 50 ms."""
    import pyarrow as pa

    n = len(served.request_ids)
    time = pa.timestamp("us", tz="UTC")
    columns: dict[str, Any] = {
        "event_time": pa.array(served.event_us, type=time),
        "arrival_time": pa.array(served.arrival_us, type=time),
        "request_id": pa.array(served.request_ids, type=pa.string()),
        "row": pa.array(served.row, type=pa.int32()),
        "release": pa.array([served.release] * n, type=pa.string()),
        "release_digest": pa.array([served.release_digest] * n, type=pa.string()),
        "channel": pa.array([served.channel] * n, type=pa.string()),
        "latency_ms": pa.array(served.latency_ms, type=pa.float32()),
    }
    for prefix, group in (("input", served.inputs), ("output", served.outputs)):
        for name, values in group.items():
            columns[f"{prefix}.{name}"] = _column(values)
    tables.append(table_name(served.service), pa.RecordBatch.from_pydict(columns), durable=False)


def _column(values: np.ndarray[Any, Any]) -> Any:
    import pyarrow as pa

    if values.ndim > 1:  # a vector per row, such as class probabilities
        return pa.array(values.tolist(), type=pa.list_(pa.float64()))
    if values.dtype.kind == "f":
        return pa.array(values, type=pa.float64(), from_pandas=True)  # NaN is how a column says null
    if values.dtype.kind in "iu":
        return pa.array(values, type=pa.int64())
    if values.dtype.kind == "M":
        return pa.array(values.astype("datetime64[us]"), type=pa.timestamp("us", tz="UTC"), from_pandas=True)
    if values.dtype.kind == "b":
        return pa.array(values, type=pa.bool_())
    return pa.array([None if value is None else str(value) for value in values], type=pa.string())
