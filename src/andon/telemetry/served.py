"""Served rows beside their labels, in event time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from andon.logs.labels import table_name as labels_table
from andon.logs.predictions import table_name as predictions_table
from andon.store import Store

if TYPE_CHECKING:
    import pyarrow as pa


class Activity(msgspec.Struct, frozen=True):
    """How far a service's log reaches. ``None`` when it is empty; instants in microseconds of event time."""

    rows: int
    first_us: int | None
    last_us: int | None


def activity(store: Store, service: str, *, channel: str = "production") -> Activity:
    """How many rows a channel has answered, and between which event times."""
    found = store.tables.query(
        f'select count(*) as n, min(epoch_us(event_time)) as first, max(epoch_us(event_time)) as last from "{predictions_table(service)}"'
        + ("" if not _has_rows(store, service) else " where channel = ?"),
        [channel] if _has_rows(store, service) else [],
    ).to_pylist()[0]
    return Activity(found["n"], found["first"], found["last"])


def served_rows(
    store: Store, service: str, start_us: int, end_us: int, *, known_by_us: int | None = None, channel: str = "production"
) -> pa.Table:
    """Rows answered with ``start_us <= event_time < end_us``, in event-time order: the prediction log's columns and ``label``.

    A label counts if it was known (its own event time) by ``known_by_us``, so that the same events always give the same rows; of several
    the newest counts. A request that was answered twice (a retry) appears once, as last answered.
    """
    if not _has_rows(store, service):
        return store.tables.scan(predictions_table(service), start_us=0, end_us=0)
    known_by_us = 2**62 if known_by_us is None else known_by_us
    sql = f"""
        with answered as (
          select * from "{predictions_table(service)}"
          where event_time >= make_timestamptz(?) and event_time < make_timestamptz(?) and channel = ?
          qualify row_number() over (partition by request_id, "row" order by arrival_time desc) = 1
        )
    """
    params: list[object] = [start_us, end_us, channel]
    if labels_table(service) in store.tables.names():
        sql += f"""
        , told as (
          select request_id, "row", arg_max(label, (event_time, arrival_time)) as label from "{labels_table(service)}"
          where event_time >= make_timestamptz(?) and event_time <= make_timestamptz(?) group by all
        )
        select answered.*, told.label from answered left join told using (request_id, "row") order by event_time, request_id, "row"
        """
        params += [start_us, min(known_by_us, 253_402_300_799_000_000)]
    else:
        sql += ' select answered.*, cast(null as double) as label from answered order by event_time, request_id, "row"'
    return store.tables.query(sql, params, start_us=start_us)


def _has_rows(store: Store, service: str) -> bool:
    return predictions_table(service) in store.tables.names()
