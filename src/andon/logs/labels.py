"""The label log: what turned out to be true, in the table ``labels/SERVICE``, often long after the prediction.

Columns: ``event_time`` (when the label became known, in event time), ``arrival_time``, ``request_id``, ``row``, ``label`` (double) or
``label_text`` (string), ``actor``. A later label for the same (request_id, row) replaces the earlier one in every query; both are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from andon.core.actors import Actor
from andon.core.errors import InvalidInput
from andon.store import Store


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """The truth about one predicted row. ``event_us`` is when it became known; None means now."""

    request_id: str
    label: float | int | bool | str
    row: int = 0
    event_us: int | None = None


def table_name(service: str) -> str:
    """The table that holds a service's labels."""
    return f"labels/{service}"


def record_labels(store: Store, service: str, labels: Sequence[Label], *, actor: Actor) -> int:
    """Keep labels; they are on disk (fsync) when this returns. Returns how many. Raises ``InvalidInput`` naming the first bad one."""
    import pyarrow as pa

    now_us = store.clock.now_us()
    numbers: list[float | None] = []
    texts: list[str | None] = []
    for position, item in enumerate(labels):
        if not item.request_id or len(item.request_id) > 200:
            raise InvalidInput("a request id has 1 to 200 characters", field=f"labels[{position}].request_id")
        if not 0 <= item.row < 2**31:
            raise InvalidInput("a row is a whole number from 0", field=f"labels[{position}].row", got=item.row)
        if isinstance(item.label, str):
            numbers.append(None)
            texts.append(item.label)
        elif math.isfinite(item.label):
            numbers.append(float(item.label))
            texts.append(None)
        else:
            raise InvalidInput("a label is finite; leave out what is not known", field=f"labels[{position}].label", got=str(item.label))
    if not labels:
        return 0
    time = pa.timestamp("us", tz="UTC")
    event_us = [now_us if item.event_us is None else item.event_us for item in labels]
    batch = pa.RecordBatch.from_pydict(
        {
            "event_time": pa.array(event_us, type=time),
            "arrival_time": pa.array([now_us] * len(labels), type=time),
            "request_id": pa.array([item.request_id for item in labels], type=pa.string()),
            "row": pa.array([item.row for item in labels], type=pa.int32()),
            "label": pa.array(numbers, type=pa.float64()),
            "label_text": pa.array(texts, type=pa.string()),
            "actor": pa.array([str(actor)] * len(labels), type=pa.string()),
        }
    )
    store.tables.append(table_name(service), batch, durable=store.settings.label_fsync)
    return len(labels)
