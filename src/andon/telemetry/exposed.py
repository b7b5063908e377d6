"""Queries over what a rollout showed to whom: exposures, the answers that belong to them, and what became of those.

An exposure has two instants: when its request arrived, and when it was done (``arrival + latency``), which is when the row was written.
Units are compared in the order in which they arrived, and a request that hangs is written long after a quick one that came later; so what
has been read already is said by a :class:`Mark` with both instants, and no row is read twice or never, however late it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.clocks import HOUR_US
from andon.logs.exposures import table_name as exposures_table
from andon.logs.labels import outcomes_table
from andon.logs.labels import table_name as labels_table
from andon.logs.predictions import table_name as predictions_table
from andon.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

SHADOW = "shadow"
LONGEST_US = HOUR_US
"""No request takes longer: what lets a look pass over the parts of the log that lie before."""
_LAST_US = 253_402_300_799_000_000  # the end of what a timestamp holds
_DONE = "epoch_us(arrival_time) + cast(latency_ms * 1000.0 as bigint)"


EXPOSED = (
    "request_id", "unit", "stage", "channel", "release", "status", "latency_ms", "slices", "event_us", "arrival_us", "done_us",
)  # fmt: skip


class Mark(msgspec.Struct, frozen=True):
    """Read are the exposures that arrived before ``arrived_us`` and were done before ``done_us``."""

    arrived_us: int = 0
    done_us: int = 0


def exposed(store: Store, service: str, rollout: str, since: Mark, done_before_us: int) -> pa.Table:
    """The exposures of a rollout that are not behind ``since`` and were done before an instant, in the order of arrival.

    Columns: those of ``EXPOSED``; ``slices`` is JSON text or null. Shadows are not among them, nor is stage 0, in which everybody sees
    production: who came then has not been assigned yet.
    """
    table = exposures_table(service)
    if table not in store.tables.names():
        return _none(EXPOSED)
    known = store.tables.query(f'select * from "{table}" limit 0').column_names
    slices = "slices" if "slices" in known else "cast(null as varchar)"  # a column of only nulls is not stored
    sql = f"""
        select * from (
          select request_id, unit, stage, channel, release, status, latency_ms, {slices} as slices, epoch_us(event_time) as event_us,
            epoch_us(arrival_time) as arrival_us, {_DONE} as done_us
          from "{table}" where rollout = ? and stage > 0 and channel <> '{SHADOW}' and arrival_time >= make_timestamptz(?)
        ) where done_us < ? and not (arrival_us < ? and done_us < ?)
        order by arrival_us, request_id
    """
    from_us = max(0, min(since.arrived_us, since.done_us) - LONGEST_US)
    return store.tables.query(sql, [rollout, from_us, done_before_us, since.arrived_us, since.done_us])


def done_after(store: Store, service: str, rollout: str, since_us: int, rows: int) -> int | None:
    """When the exposure was done that comes ``rows`` after an instant, in the order of being done; None when there are fewer."""
    if exposures_table(service) not in store.tables.names():
        return None
    sql = f"""
        select done_us from (
          select {_DONE} as done_us from "{exposures_table(service)}"
          where rollout = ? and stage > 0 and channel <> '{SHADOW}' and arrival_time >= make_timestamptz(?)
        ) where done_us >= ? order by done_us limit 1 offset {rows:d}
    """
    found = store.tables.query(sql, [rollout, max(0, since_us - LONGEST_US), since_us]).to_pylist()
    return int(found[0]["done_us"]) if found else None


def arrived(store: Store, service: str, rollout: str, from_us: int, until_us: int) -> pa.Table:
    """The exposures of a rollout that arrived in ``[from_us, until_us)``, in that order; columns as of :func:`exposed`."""
    found = exposed(store, service, rollout, Mark(from_us, _LAST_US), _LAST_US)
    import pyarrow.compute as pc

    return found.filter(pc.less(found.column("arrival_us"), until_us)) if found.num_rows else found


def seen_before(store: Store, service: str, rollout: str, before: Mark, units: Sequence[str]) -> list[tuple[str, int, str]]:
    """(unit, stage, release) of what these units were shown behind a mark, each once."""
    if not units or not before.arrived_us:
        return []
    sql = f"""
        select distinct unit, stage, release from "{exposures_table(service)}"
        where rollout = ? and stage > 0 and channel <> '{SHADOW}' and epoch_us(arrival_time) < ? and {_DONE} < ?
          and unit in (select unnest(cast(? as varchar[])))
        order by stage, unit, release
    """
    found = store.tables.query(sql, [rollout, before.arrived_us, before.done_us, list(units)])
    return [(row["unit"], row["stage"], row["release"]) for row in found.to_pylist()]


class Answers(msgspec.Struct, frozen=True):
    """Columns by name, of one type each: ``outputs`` and ``inputs`` that the log has."""

    columns: frozenset[str]

    @classmethod
    def of(cls, store: Store, service: str) -> Answers:
        """What the prediction log of a service has."""
        table = predictions_table(service)
        if table not in store.tables.names():
            return cls(frozenset())
        return cls(frozenset(store.tables.query(f'select * from "{table}" limit 0').column_names))


def answers(
    store: Store, service: str, exposures: pa.Table, output: str | None, inputs: Sequence[str] = ()
) -> dict[tuple[str, str], dict[str, Any]]:
    """What was answered to these exposures: (request_id, channel) -> ``score`` (the first row's output, None for NaN) and inputs.

    Requests without an answer in the log are left out.
    """
    known = Answers.of(store, service).columns
    picked = [f'"input.{name}" as "{name}"' for name in inputs if f"input.{name}" in known and '"' not in name]
    has_score = output is not None and f"output.{output}" in known and '"' not in output
    if not exposures.num_rows or not (picked or has_score):
        return {}
    score = f'try_cast("output.{output}" as double)' if has_score else "cast(null as double)"
    sql = f"""
        select request_id, channel, {", ".join([f"{score} as score", *picked])} from "{predictions_table(service)}"
        where "row" = 0 and request_id in (select unnest(cast(? as varchar[])))
    """
    low, high = _range(exposures)
    found = store.tables.query(sql, [exposures.column("request_id").to_pylist()], start_us=low, end_us=high)
    return {(row["request_id"], row["channel"]): row for row in found.to_pylist()}


def losses(store: Store, service: str, exposures: pa.Table, output: str, delay_us: int) -> pa.Table:
    """Labels beside predictions of these exposures' requests, row by row: request_id, channel, prediction, label.

    A label counts if it came in within ``delay_us`` of its request, in either arm alike; of several the last that did.
    """
    known = Answers.of(store, service).columns
    if not exposures.num_rows or f"output.{output}" not in known or '"' in output or labels_table(service) not in store.tables.names():
        return _none(("request_id", "channel", "prediction", "label"))
    sql = f"""
        with asked as (select unnest(cast(? as varchar[])) as request_id, unnest(cast(? as bigint[])) as arrival_us),
        told as (
          select request_id, "row", arg_max(label, (event_time, arrival_time, label)) as label
          from "{labels_table(service)}" join asked using (request_id)
          where label is not null and epoch_us(arrival_time) <= asked.arrival_us + ? group by all
        )
        select request_id, channel, try_cast("output.{output}" as double) as prediction, told.label
        from "{predictions_table(service)}" join told using (request_id, "row")
    """
    params = [exposures.column("request_id").to_pylist(), exposures.column("arrival_us").to_pylist(), delay_us]
    return store.tables.query(sql, params)


def outcomes(store: Store, service: str, exposures: pa.Table, name: str, delay_us: int) -> dict[str, float]:
    """request_id -> the mean over its rows of the outcome ``name``, of what came in within ``delay_us`` of the request."""
    table = outcomes_table(service)
    if not exposures.num_rows or table not in store.tables.names():
        return {}
    sql = f"""
        with asked as (select unnest(cast(? as varchar[])) as request_id, unnest(cast(? as bigint[])) as arrival_us),
        told as (
          select request_id, "row", arg_max(label, (event_time, arrival_time, label)) as label from "{table}" join asked using (request_id)
          where name = ? and label is not null and epoch_us(arrival_time) <= asked.arrival_us + ? group by all
        )
        select request_id, avg(label) as value from told group by request_id
    """
    params = [exposures.column("request_id").to_pylist(), exposures.column("arrival_us").to_pylist(), name, delay_us]
    return {row["request_id"]: row["value"] for row in store.tables.query(sql, params).to_pylist()}


def mirrored(store: Store, service: str, rollout: str, stage: int, from_us: int, until_us: int, output: str | None) -> pa.Table:
    """Requests that were answered and mirrored at a stage, arrived in ``[from_us, until_us)``, in that order; of each unit only its first.

    Columns: request_id, arrival_us, status, latency_ms, said (the first row's output as it was logged, as text, or null), and the shadow's
    shadow_status, shadow_latency_ms, shadow_said. A copy is known by its request's id and arrival: callers may use an id again.
    """
    names = ("request_id", "arrival_us", "status", "latency_ms", "said", "shadow_status", "shadow_latency_ms", "shadow_said")
    table = exposures_table(service)
    if table not in store.tables.names():
        return _none(names)
    has_output = output is not None and f"output.{output}" in Answers.of(store, service).columns and '"' not in output
    said, joins = ("null", "null"), ""
    if has_output:
        said = ("cast(p.said as varchar)", "cast(q.said as varchar)")
        logged = f"""
          (select request_id, arrival_time, channel, "output.{output}" as said from "{predictions_table(service)}" where "row" = 0)
        """
        joins = f"""
          left join {logged} p on p.request_id = a.request_id and p.arrival_time = a.arrival_time and p.channel = a.channel
          left join {logged} q on q.request_id = a.request_id and q.arrival_time = a.arrival_time and q.channel = '{SHADOW}'
        """
    sql = f"""
        with mine as (select * from "{table}" where rollout = ? and stage = ? and arrival_time < make_timestamptz(?)),
        pairs as (
          select a.request_id, a.channel, a.arrival_time, epoch_us(a.arrival_time) as arrival_us, a.status, a.latency_ms,
            b.status as shadow_status, b.latency_ms as shadow_latency_ms
          from (select * from mine where channel <> '{SHADOW}') a
          join (select * from mine where channel = '{SHADOW}') b on a.request_id = b.request_id and a.arrival_time = b.arrival_time
          qualify row_number() over (partition by a.unit order by a.arrival_time, a.request_id) = 1
        )
        select a.request_id, a.arrival_us, a.status, a.latency_ms, {said[0]} as said,
          a.shadow_status, a.shadow_latency_ms, {said[1]} as shadow_said
        from pairs a {joins} where a.arrival_us >= ? order by a.arrival_us, a.request_id
    """
    return store.tables.query(sql, [rollout, stage, until_us, from_us])


def says_numbers(store: Store, service: str, output: str) -> bool:
    """Whether production's answers in the log have a number for an output: it may be a text, or be kept out of the log."""
    if f"output.{output}" not in Answers.of(store, service).columns or '"' in output:
        return False
    sql = f"""
        select 1 from "{predictions_table(service)}"
        where channel = 'production' and try_cast("output.{output}" as double) is not null limit 1
    """
    return bool(store.tables.query(sql).num_rows)


def requests_an_hour(store: Store, service: str, now_us: int, *, over_us: int = 24 * HOUR_US) -> float:
    """How many requests production answered an hour, of late: over the last day, or since the first of them if that was later."""
    if predictions_table(service) not in store.tables.names():
        return 0.0
    sql = f"""
        select count(*) as n, min(epoch_us(arrival_time)) as first from "{predictions_table(service)}"
        where "row" = 0 and channel = 'production' and arrival_time >= make_timestamptz(?) and arrival_time <= make_timestamptz(?)
    """
    found = store.tables.query(sql, [max(0, now_us - over_us), now_us]).to_pylist()[0]
    if not found["n"]:
        return 0.0
    n, first_us = int(found["n"]), int(found["first"])
    return n * HOUR_US / max(now_us - first_us, HOUR_US / 60)


def failed_share(store: Store, service: str, sound: Sequence[str], since_us: int) -> tuple[int, int]:
    """(requests, failed) of production since an instant, of what is known: errors are logged only while a split is in force.

    ``sound`` are the statuses that are no failing.
    """
    table = exposures_table(service)
    if table not in store.tables.names():
        return 0, 0
    sql = f"""
        select count(*) as n, count(*) filter (status not in (select unnest(cast(? as varchar[])))) as bad
        from "{table}" where channel = 'production' and arrival_time >= make_timestamptz(?)
    """
    found = store.tables.query(sql, [list(sound), max(0, since_us)]).to_pylist()[0]
    return int(found["n"]), int(found["bad"])


def latest_told(store: Store, service: str, from_us: int, until_us: int, *, output: str | None, name: str | None, most: int) -> pa.Table:
    """Production's newest requests that arrived in a stretch of time, beside what became of their first rows: prediction, label (or null).

    With ``name`` the label is that outcome, else the truth.
    """
    names, known = store.tables.names(), Answers.of(store, service).columns
    told = labels_table(service) if name is None else outcomes_table(service)
    if predictions_table(service) not in names or told not in names or (name is None and f"output.{output}" not in known):
        return _none(("prediction", "label"))
    said = "cast(null as double)" if name is not None else f'try_cast("output.{output}" as double)'
    sql = f"""
        with asked as (
          select request_id, {said} as prediction from "{predictions_table(service)}"
          where "row" = 0 and channel = 'production' and arrival_time >= make_timestamptz(?) and arrival_time < make_timestamptz(?)
          order by arrival_time desc limit {most:d}
        ),
        told as (
          select request_id, arg_max(label, (event_time, arrival_time, label)) as label from "{told}"
          where "row" = 0 and label is not null {"" if name is None else "and name = ?"} group by all
        )
        select prediction, label from asked left join told using (request_id)
    """
    params: list[Any] = [max(0, from_us), max(0, until_us)]
    return store.tables.query(sql, params if name is None else [*params, name])


def _range(exposures: pa.Table) -> tuple[int, int]:
    import pyarrow.compute as pc

    least, most = pc.min_max(exposures.column("event_us")).as_py().values()
    return int(least), int(most) + 1


def _none(names: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    return pa.table({name: pa.array([], pa.null()) for name in names})
