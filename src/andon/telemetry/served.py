"""Served rows beside their labels, in event time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from andon.core.clocks import HOUR_US
from andon.logs.labels import table_name as labels_table
from andon.logs.predictions import table_name as predictions_table
from andon.store import Store

if TYPE_CHECKING:
    import pyarrow as pa


SKEW_US = HOUR_US
"""How far a row's event time may lie after its arrival before it says nothing of what time it is: a replica's clock may be fast, but one
caller that writes the year 2099 must not take every window until then for over."""


class Reach(msgspec.Struct, frozen=True):
    """What the log holds around one window. Instants in microseconds of event time, but ``arrived_us``, which is wall time.

    ``rows``: how many were answered from the look-back to the window's end. ``arrived_us``: when the newest of them came in.
    ``next_us``: the first row at or after the window's end, which is what makes the window due.
    """

    rows: int
    arrived_us: int | None
    next_us: int | None


def reach(store: Store, service: str, since_us: int, end_us: int, *, channel: str = "production") -> Reach:
    """What a channel answered in ``[since_us, end_us)``, and whether it went on."""
    if not _has_rows(store, service):
        return Reach(0, None, None)
    sql = f"""
        select count(*) filter (event_time < end_at) as n,
          arg_max(epoch_us(arrival_time), event_time) filter (event_time < end_at) as arrived,
          min(epoch_us(event_time)) filter (event_time >= end_at) as next
        from (select *, make_timestamptz(?) as end_at from "{predictions_table(service)}")
        where channel = ? and event_time >= make_timestamptz(?) and {_CREDIBLE}
    """
    found = store.tables.query(sql, [end_us, channel, since_us], start_us=since_us).to_pylist()[0]
    return Reach(found["n"], found["arrived"], found["next"])


def first_us(
    store: Store,
    service: str,
    *,
    channel: str = "production",
    since_us: int = 0,
    late_us: int | None = None,
    launched_us: int = 0,
    replay_rows: int = 8,
) -> int | None:
    """The earliest event time from ``since_us`` on that a channel has answered, late rows aside.

    With ``late_us``, a row is late when its event lies more than that before its arrival, and before ``launched_us`` (wall time). If all
    rows are late, and there are at least ``replay_rows`` of them, then this is a replay of the past, and they count.
    """
    if not _has_rows(store, service):
        return None
    most_us = 2**62 if late_us is None else late_us  # no row's delay is above that
    sql = f"""
        select min(event_us) filter (not is_late) as first, min(event_us) filter (is_late) as oldest, count(*) filter (is_late) as n
        from (
          select epoch_us(event_time) as event_us,
            epoch_us(event_time) < ? and epoch_us(arrival_time) - epoch_us(event_time) > ? as is_late
          from "{predictions_table(service)}" where channel = ? and event_time >= make_timestamptz(?) and {_CREDIBLE}
        )
    """
    found = store.tables.query(sql, [launched_us, most_us, channel, since_us], start_us=since_us).to_pylist()[0]
    first: int | None = found["first"]
    return found["oldest"] if first is None and found["n"] >= replay_rows else first


def served_rows(
    store: Store,
    service: str,
    start_us: int,
    end_us: int,
    *,
    known_by_us: int | None = None,
    channel: str = "production",
    thin: int = 1,
    whole_from_us: int = 0,
) -> pa.Table:
    """Rows answered with ``start_us <= event_time < end_us``, in event-time order: the prediction log's columns and ``label``.

    A label counts if it was known (its own event time) by ``known_by_us``, so that the same events always give the same rows; of several
    the one that became known last counts (of those, the one that arrived last; of those, the largest). So a correction changes no window
    that was judged before it became known, and counts in every later look. Labels of requests that were never answered match nothing. A
    request that was answered twice (a retry) appears once, as last answered. With ``thin``, only one row in so many is read of those
    before ``whole_from_us``: which ones depends on their event time alone.
    """
    if not _has_rows(store, service):
        return store.tables.scan(predictions_table(service), start_us=0, end_us=0)
    known_by_us = 2**62 if known_by_us is None else known_by_us
    # By arithmetic on the instant, which is cheap and the same everywhere; the prime keeps regular traffic from falling into step with it.
    sample = f"epoch_us(event_time) % 1000003 * 40503 // 64 % {thin:d} = 0"
    kept = f" and (event_time >= make_timestamptz({whole_from_us:d}) or {sample})" if thin > 1 else ""
    answered_only = " and request_id in (select request_id from answered)" if thin > 1 else ""
    sql = f"""
        with answered as (
          select * from "{predictions_table(service)}"
          where event_time >= make_timestamptz(?) and event_time < make_timestamptz(?) and channel = ?{kept}
          qualify row_number() over (partition by request_id, "row" order by arrival_time desc, event_time desc, release desc) = 1
        )
    """
    params: list[object] = [start_us, end_us, channel]
    if labels_table(service) in store.tables.names():
        sql += f"""
        , told as (
          select request_id, "row", arg_max(label, (event_time, arrival_time, label)) as label from "{labels_table(service)}"
          where event_time >= make_timestamptz(?) and event_time <= make_timestamptz(?){answered_only} group by all
        )
        select answered.*, told.label from answered left join told using (request_id, "row")
        """
        params += [start_us, min(known_by_us, 253_402_300_799_000_000)]
    else:
        sql += " select answered.*, cast(null as double) as label from answered"
    rows = store.tables.query(sql, params, start_us=start_us)
    # Arrow sorts what comes out of a join several times faster than the join's own query would.
    return rows.sort_by([("event_time", "ascending"), ("request_id", "ascending"), ("row", "ascending")])


_CREDIBLE = f"event_time <= arrival_time + to_microseconds({SKEW_US})"


def _has_rows(store: Store, service: str) -> bool:
    return predictions_table(service) in store.tables.names()
