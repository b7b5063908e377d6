"""The exposure log: who was shown what while a rollout ran, in the table ``exposures/SERVICE``; nothing is written without a split.

Columns: ``event_time``, ``arrival_time`` (timestamp[us, UTC]), ``request_id``, ``unit`` (the user, session or request that was assigned),
``rollout``, ``stage`` (int32, the rollout's step), ``channel`` (the arm, or ``shadow``), ``release``, ``status`` (``ok`` or the code of an
error), ``latency_ms`` (float32, from arrival to answer) and ``rows`` (int32). One row for each request, answered or not.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from andon.store.ports import Tables


def table_name(service: str) -> str:
    """The table that holds a service's exposures."""
    return f"exposures/{service}"


class Exposure(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request that a split decided about. Times are microseconds."""

    event_us: int
    arrival_us: int
    request_id: str
    unit: str
    rollout: str
    stage: int
    channel: str
    release: str
    status: str
    latency_ms: float
    rows: int


def log_exposures(tables: Tables, service: str, exposures: Sequence[Exposure]) -> None:
    """Append exposures: safe from kill -9 on return, fsynced within 50 ms."""
    import pyarrow as pa

    if not exposures:
        return
    time = pa.timestamp("us", tz="UTC")
    batch = pa.RecordBatch.from_pydict(
        {
            "event_time": pa.array([one.event_us for one in exposures], type=time),
            "arrival_time": pa.array([one.arrival_us for one in exposures], type=time),
            "request_id": pa.array([one.request_id for one in exposures], type=pa.string()),
            "unit": pa.array([one.unit for one in exposures], type=pa.string()),
            "rollout": pa.array([one.rollout for one in exposures], type=pa.string()),
            "stage": pa.array([one.stage for one in exposures], type=pa.int32()),
            "channel": pa.array([one.channel for one in exposures], type=pa.string()),
            "release": pa.array([one.release for one in exposures], type=pa.string()),
            "status": pa.array([one.status for one in exposures], type=pa.string()),
            "latency_ms": pa.array([one.latency_ms for one in exposures], type=pa.float32()),
            "rows": pa.array([one.rows for one in exposures], type=pa.int32()),
        }
    )
    tables.append(table_name(service), batch, durable=False)
