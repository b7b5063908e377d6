"""Queries over the span log. A span that was sent twice counts once: the row that arrived last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.errors import InvalidInput
from andon.logs.spans import TABLE
from andon.logs.traces import TraceRecord, hidden_in
from andon.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

_READ = (
    "trace_id, epoch_us(arrival_time) as arrived_us, span_id, parent_id, name, kind, status, status_message, start_ns, end_ns,"
    " attributes, events, links, resource, scope, extra"
)
_MORE = "type, provider, model, input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_write_tokens"


def spans_of(store: Store, traces: Sequence[TraceRecord]) -> dict[str, list[dict[str, Any]]]:
    """The spans of some traces, by the trace's id: each a dict of the log's columns, the root first and then by start.

    Only what overlaps the traces' time is read. Traces far apart in time are cheaper asked for one by one.
    """
    wanted = {trace.spans_id: trace for trace in traces if trace.spans_id is not None and trace.first_us is not None}
    if not wanted:
        return {}
    starts = [trace.first_us for trace in wanted.values() if trace.first_us is not None]
    ends = [trace.last_us for trace in wanted.values() if trace.last_us is not None]
    marks = ", ".join("?" * len(wanted))
    query = f'select {_READ}, {_MORE} from "{TABLE}" where trace_id in ({marks}) order by arrival_time'
    found = _asked(store, query, list(wanted), min(starts), max(ends) + 1)
    if found is None:
        return {}
    with store.ledger.read() as connection:
        hidden = hidden_in(connection, [trace.id for trace in wanted.values()])
    newest: dict[str, dict[str, dict[str, Any]]] = {}
    for row in found.to_pylist():
        if row["trace_id"] in hidden and row["arrived_us"] <= hidden[row["trace_id"]]:
            continue
        newest.setdefault(row["trace_id"], {})[row["span_id"]] = row
    return {wanted[trace].id: sorted(spans.values(), key=_order) for trace, spans in newest.items()}


def _order(span: dict[str, Any]) -> tuple[bool, int, str]:
    return (span["parent_id"] is not None, span["start_ns"], span["span_id"])


def tokens_by_model(
    store: Store, *, start_us: int | None = None, end_us: int | None = None, bucket_us: int = 3_600_000_000, experiment: int | None = None
) -> pa.Table:
    """Calls and tokens of each model in each bucket of time: columns ``at`` (the bucket's start), ``model``, ``calls``, ``input_tokens``,
    ``output_tokens``, ``total_tokens``; spans without a model are left out, and each span counts once however often it was sent."""
    within = "" if experiment is None else f" and experiment = {int(experiment)}"
    shown, bound = _shown(store)
    wanted = f'from "{TABLE}" where model is not null{within}{shown}'
    query = f"""
        with again as (select key from "{TABLE}" where model is not null group by key having count(*) > 1),
        once as (
          select model, event_time, input_tokens, output_tokens, total_tokens {wanted} and key not in (select key from again)
          union all
          select max(model), max(event_time), max(input_tokens), max(output_tokens), max(total_tokens)
          {wanted} and key in (select key from again) group by key
        )
        select time_bucket(to_microseconds({int(bucket_us)}), event_time) as "at", model, count(*) as calls,
               sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens, sum(total_tokens) as total_tokens
        from once group by 1, 2 order by 1, 2
        """
    bound += bound
    found = _asked(store, query, bound, start_us, end_us)
    return _no_tokens() if found is None else found


def _no_tokens() -> pa.Table:
    import pyarrow as pa

    counts = [(name, pa.int64()) for name in ("calls", "input_tokens", "output_tokens", "total_tokens")]
    return pa.schema([("at", pa.timestamp("us", "UTC")), ("model", pa.string()), *counts]).empty_table()


_TESTS = {"=", "!=", "LIKE", "ILIKE", "IN", "NOT IN"}
_COLUMNS = {"name": "name", "type": "coalesce(type, 'UNKNOWN')", "status": "upper(status)"}


def traces_with(
    store: Store, experiments: Sequence[int], tests: Sequence[tuple[str, str, Any]], *, since_us: int | None = None
) -> list[str]:
    """Trace ids (hex) that have one span of which all ``tests`` hold: ``(key, operator, value)``, where a key is ``name``, ``type``,
    ``status``, ``content`` (anywhere in the span) or ``attributes.NAME``. ``since_us``: spans that began at most a minute before then."""
    bound: list[Any] = []
    where = [_within(experiments)]
    for key, operator, value in tests:
        if operator not in _TESTS:
            raise InvalidInput("spans are not compared so", field=key, got=operator)
        if key == "content":
            column = "concat_ws(' ', name, status_message, attributes, events, links)"
        elif key in _COLUMNS:
            column = _COLUMNS[key]
        else:
            name = key.removeprefix("attributes.")
            where.append("contains(attributes, ?)")  # cheap, and most spans fail it
            bound.append(msgspec.json.encode(name).decode())
            column = "json_extract_string(attributes, ?)"
            bound.append("/" + name.replace("~", "~0").replace("/", "~1"))
        if operator in ("IN", "NOT IN"):
            where.append(f"{column} {operator} (select unnest(?))")
            bound.append(list(value))
        else:
            where.append(f"{column} {operator} ?")
            bound.append(value)
    shown, hidden = _shown(store)
    bound += hidden
    query = f'select distinct trace_id from "{TABLE}" where {" and ".join(where)}{shown}'
    found = _asked(store, query, bound, None if since_us is None else since_us - 60_000_000, None)
    return found.column(0).to_pylist() if found is not None else []


def _shown(store: Store) -> tuple[str, list[Any]]:
    """A condition that leaves out the spans of deleted traces, and what it binds."""
    with store.ledger.read() as connection:
        hidden = hidden_in(connection)
    if not hidden:
        return "", []
    test = (
        " and not exists (select 1 from (select unnest(?) as gone, unnest(?) as until_us) as hidden"
        " where gone = trace_id and epoch_us(arrival_time) <= until_us)"
    )
    return test, [list(hidden), list(hidden.values())]


def _asked(store: Store, query: str, bound: Sequence[Any], start_us: int | None, end_us: int | None) -> pa.Table | None:
    """A query of the log; None where there is no span in that time, and so no column to ask about."""
    try:
        return store.tables.query(query, bound, start_us=start_us, end_us=end_us)
    except InvalidInput:
        if store.tables.query(f'select 1 from "{TABLE}" limit 1', start_us=start_us, end_us=end_us).num_rows:
            raise
        return None


_MEASURED = {
    "span_count": "1.0",
    "latency": "(end_ns - start_ns) // 1000000",
    "total_cost": "cost_usd",
    "input_cost": "try_cast(json_extract_string(attributes, '/mlflow.llm.cost/input_cost') as double)",
    "output_cost": "try_cast(json_extract_string(attributes, '/mlflow.llm.cost/output_cost') as double)",
}


def span_facts(
    store: Store,
    experiments: Sequence[int],
    measure: str,
    tests: Sequence[tuple[str, str, Any]] = (),
    *,
    start_us: int | None = None,
    end_us: int | None = None,
) -> list[dict[str, Any]]:
    """One dict for each span of which all ``tests`` hold (a key of ``name``, ``type``, ``status``; only ``=``): ``trace_id``, ``at_ms``,
    ``value`` and ``span_name``, ``span_type``, ``span_status``, ``span_model_name``, ``span_model_provider``.

    ``measure``: ``span_count`` (1), ``latency`` (whole ms), ``input_cost``, ``output_cost`` or ``total_cost`` (USD, as the client said).
    """
    shown, hidden = _shown(store)
    where = "".join(f" and {_COLUMNS[key]} = ?" for key, _, _ in tests)
    query = f"""
        select arg_max(trace_id, arrival_time) as trace_id, max(start_ns) // 1000000 as at_ms,
               arg_max({_MEASURED[measure]}, arrival_time) as value,
               arg_max(name, arrival_time) as span_name, arg_max({_COLUMNS["type"]}, arrival_time) as span_type,
               arg_max({_COLUMNS["status"]}, arrival_time) as span_status,
               arg_max(model, arrival_time) as span_model_name, arg_max(provider, arrival_time) as span_model_provider
        from "{TABLE}" where {_within(experiments)}{where}{shown} group by key
        """
    found = _asked(store, query, [*(value for _, _, value in tests), *hidden], start_us, end_us)
    return [] if found is None else found.to_pylist()


def _within(experiments: Sequence[int]) -> str:
    return f"experiment in ({', '.join(str(int(number)) for number in experiments)})"
