"""The label log: what turned out to be true, in the table ``labels/SERVICE``, often long after the prediction.

Columns: ``event_time`` (when the label became known, in event time), ``arrival_time``, ``request_id``, ``row``, ``label`` (double) or
``label_text`` (string), ``actor``. A later label for the same (request_id, row) replaces the earlier one in every query; both are kept.

Named labels are other outcomes of a request: what a rollout compares beside the truth, such as ``revenue``, ``clicked`` or ``cost``. They
are in a table of their own, ``outcomes/SERVICE``, with the column ``name`` more, so that no reader of the truth can take them for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from andon.core.actors import Actor
from andon.core.errors import InvalidInput
from andon.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """The truth about one predicted row, or with a ``name`` another outcome of it. ``event_us`` is when it became known; None means now."""

    request_id: str
    label: float | int | bool | str
    row: int = 0
    event_us: int | None = None
    name: str | None = None


def is_outcome_name(name: str) -> bool:
    """Whether an outcome can be called so: it starts with a-z or 0-9 and goes on with these, '.', '_' or '-', 100 characters in all."""
    return _NAME.fullmatch(name) is not None


def outcomes_table(service: str) -> str:
    """The table that holds the named outcomes of a service's answers."""
    return f"outcomes/{service}"


def table_name(service: str) -> str:
    """The table that holds a service's labels."""
    return f"labels/{service}"


def record_labels(store: Store, service: str, labels: Sequence[Label], *, actor: Actor) -> int:
    """Keep labels; they are on disk (fsync) when this returns. Returns how many. Raises ``InvalidInput`` naming the first bad one."""
    for position, item in enumerate(labels):
        if not item.request_id or len(item.request_id) > 200:
            raise InvalidInput("a request id has 1 to 200 characters", field=f"labels[{position}].request_id")
        if not 0 <= item.row < 2**31:
            raise InvalidInput("a row is a whole number from 0", field=f"labels[{position}].row", got=item.row)
        if not isinstance(item.label, str) and not _is_finite(item.label):
            raise InvalidInput("a label is finite; leave out what is not known", field=f"labels[{position}].label", got=_shown(item.label))
        if item.name is not None and not is_outcome_name(item.name):
            told = "an outcome's name starts with a-z or 0-9 and goes on with a-z, 0-9, '.', '_' or '-'; without a name it is the truth"
            raise InvalidInput(told, field=f"labels[{position}].name", got=item.name[:80])
    now_us = store.clock.now_us()
    truths = [item for item in labels if item.name is None]
    named = [item for item in labels if item.name is not None]
    for table, items in ((table_name(service), truths), (outcomes_table(service), named)):
        if items:
            store.tables.append(table, _batch(items, now_us, actor), durable=store.settings.label_fsync)
    return len(labels)


def _is_finite(label: float) -> bool:
    """Whether a number is one that a double holds: JSON has whole numbers of any length."""
    try:
        return math.isfinite(label)
    except OverflowError:
        return False


def _shown(label: float) -> str:
    return str(label) if isinstance(label, float) else "a whole number that no double holds"


def _batch(labels: Sequence[Label], now_us: int, actor: Actor) -> pa.RecordBatch:
    import pyarrow as pa

    numbers = [None if isinstance(item.label, str) else float(item.label) for item in labels]
    texts = [item.label if isinstance(item.label, str) else None for item in labels]
    time = pa.timestamp("us", tz="UTC")
    event_us = [now_us if item.event_us is None else item.event_us for item in labels]
    return pa.RecordBatch.from_pydict(
        {
            "event_time": pa.array(event_us, type=time),
            "arrival_time": pa.array([now_us] * len(labels), type=time),
            "request_id": pa.array([item.request_id for item in labels], type=pa.string()),
            "row": pa.array([item.row for item in labels], type=pa.int32()),
            "label": pa.array(numbers, type=pa.float64()),
            "label_text": pa.array(texts, type=pa.string()),
            "actor": pa.array([str(actor)] * len(labels), type=pa.string()),
            **({"name": pa.array([item.name for item in labels], type=pa.string())} if labels[0].name is not None else {}),
        }
    )
