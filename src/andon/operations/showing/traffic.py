"""What the prediction and label logs say about a service: how many, how fast, by which release."""

from __future__ import annotations

import time
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from andon.core.clocks import DAY_US, HOUR_US, MINUTE_US
from andon.logs import labels, predictions
from andon.operations.showing.records import Traffic, TrafficBucket
from andon.store import Store

BUCKETS = 56
STEPS_US = (MINUTE_US, 5 * MINUTE_US, 15 * MINUTE_US, HOUR_US, 3 * HOUR_US, 6 * HOUR_US, 12 * HOUR_US, DAY_US, 7 * DAY_US, 28 * DAY_US)
ROWS_READ = 2_000_000
"""Of a longer log, about this many of the newest rows are read for the stretches; the counts are of all."""
COSTLY_S, SPARING = 0.1, 20
"""An answer that took long is kept for twenty times as long, though rows have come meanwhile: pages may not keep the log busy."""


class _Kept(NamedTuple):
    changes: int
    until_s: float
    answer: Traffic


_kept: WeakKeyDictionary[Any, dict[str, _Kept]] = WeakKeyDictionary()
"""Tables -> service -> what was read last."""


def traffic(store: Store, service: str) -> Traffic:
    """Counts, and latency quantiles in about fifty stretches of event time. Never raises: a page goes on without it.

    Read again only when rows have come; of a long log, only the newest part is read for the stretches.
    """
    try:
        changes, began_s = store.tables.changes(), time.monotonic()
        kept = _kept.setdefault(store.tables, {})
        last = kept.get(service)
        if last is not None and (last.changes == changes or began_s < last.until_s):
            return last.answer
        found = _look(store, service)
    except Exception as error:  # noqa: BLE001 - a damaged or busy log must not take the page (or the rollback button on it) down
        return _nothing(str(error).splitlines()[0][:300], known=False)
    took_s = time.monotonic() - began_s
    kept[service] = _Kept(changes, began_s + took_s * SPARING if took_s > COSTLY_S else 0.0, found)
    return found


def _look(store: Store, service: str) -> Traffic:
    table = predictions.table_name(service)
    known = store.tables.names()
    if table not in known:
        return _nothing("" if labels.table_name(service) not in known else "there are labels, but no predictions")
    return _read(store, service, table, labels.table_name(service) in known)


def _nothing(problem: str, *, known: bool = True) -> Traffic:
    return Traffic(
        known=known,
        problem=problem,
        rows=0,
        labels=0,
        first_us=None,
        last_us=None,
        last_label_us=None,
        bucket_us=HOUR_US,
        buckets=(),
        by_release={},
    )


def _read(store: Store, service: str, table: str, labelled: bool) -> Traffic:
    query = store.tables.query
    whole = query(f'select count(*) as n, epoch_us(min(event_time)) as a, epoch_us(max(event_time)) as b from "{table}"').to_pylist()[0]
    if not whole["n"]:
        return _nothing("")
    start_us = whole["b"] - int((whole["b"] - whole["a"]) * min(1.0, ROWS_READ / whole["n"]))
    step_us = next((step for step in STEPS_US if (whole["b"] - start_us) / step <= BUCKETS), STEPS_US[-1])
    start_us -= start_us % step_us if start_us > whole["a"] else 0
    rows = query(
        f"select cast(epoch_us(event_time) // {step_us} as bigint) * {step_us} as start_us, count(*) as n, "
        f'quantile_cont(latency_ms, [0.5, 0.95, 0.99]) as q from "{table}" group by 1 order by 1',
        start_us=start_us,
    ).to_pylist()
    released = query(f'select release, count(*) as n from "{table}" group by 1 order by 2 desc limit 20', start_us=start_us).to_pylist()
    last: dict[str, Any] = {"n": 0, "b": None}
    if labelled:
        last = query(f'select count(*) as n, epoch_us(max(event_time)) as b from "{labels.table_name(service)}"').to_pylist()[0]
    return Traffic(
        known=True,
        problem="",
        rows=whole["n"],
        labels=last["n"],
        first_us=whole["a"],
        last_us=whole["b"],
        last_label_us=last["b"],
        bucket_us=step_us,
        buckets=tuple(_bucket(row) for row in rows[-4 * BUCKETS :]),
        by_release={str(row["release"]): int(row["n"]) for row in released},
    )


def _bucket(row: dict[str, Any]) -> TrafficBucket:
    p50, p95, p99 = (float(value) for value in row["q"]) if row["q"] else (None, None, None)
    return TrafficBucket(start_us=int(row["start_us"]), rows=int(row["n"]), p50_ms=p50, p95_ms=p95, p99_ms=p99)
