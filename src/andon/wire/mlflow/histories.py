"""A metric's points over time: of one run in pages, of several at once, and thinned out for a chart."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.store.statements import rows_of
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import invalid
from andon.wire.mlflow.messages import SEE_DOCS, required, wrong_value
from andon.wire.mlflow.rendering_runs import LARGEST, shown
from andon.wire.mlflow.runs import RunOnly, run_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

MAX_RUNS = 100
MAX_BULK = 25_000
MAX_SAMPLES = 2_500
_Row = tuple[int, int, float, int]
_ROWS = msgspec.json.Decoder(_Row)
_ENCODE = msgspec.json.Encoder().encode
# infinities are kept as 0 and a mark; in order they are what the protocol shows them as
_NUMBER = f"case p.special when 2 then {LARGEST!r} when 3 then -{LARGEST!r} else p.value end"
_POINTS = "from points p join series s on s.id = p.series where s.run = ? and s.key = ?"


class _History(RunOnly):
    metric_key: str | None = None
    max_results: int | None = None
    page_token: str | None = None


class _Interval(msgspec.Struct):
    run_ids: list[str] | None = None
    metric_key: str | None = None
    start_step: int | None = None
    end_step: int | None = None
    max_results: int | None = None


def get_history(call: Call) -> Any:
    """One metric's points by time, then step, then value: all of them, or a page."""
    message = call.read(_History)
    run, limit = run_of(message), message.max_results
    required(message, "metric_key")
    if limit is not None and limit <= 0:
        raise invalid(f"Invalid value {limit} for parameter 'max_results' supplied. It must be a positive integer.")
    key = message.metric_key or ""
    after = _after(message.page_token) if message.page_token else None
    with call.store.ledger.read() as connection:
        if limit is None and after is None:
            return _whole(connection, run, key)
        rows = _by_time(connection, run, key, after=after, limit=None if limit is None else limit + 1)
    more = limit is not None and len(rows) > limit
    rows = rows[:limit]
    return _page(key, rows, _token(rows[-1]) if more else None)


def _whole(connection: Connection, run: str, key: str) -> bytes:
    """All points at once. They are read in the order they are kept in, which is nearly that of time, and so sorted in no time here."""
    rows = rows_of(
        connection, f"select p.at_us, p.step, p.value, p.special {_POINTS} order by p.step, p.at_us, p.value, p.special", (run, key)
    )
    if any(row[3] for row in rows):
        rows.sort(key=lambda row: (row[0], row[1], shown(row[2], row[3]) if row[3] > 1 else row[2], row[3]))
    else:
        rows.sort()
    return _page(key, rows, None)


def _page(key: str, rows: Sequence[Any], token: str | None) -> bytes:
    """The answer, written as text straight from the rows: a long series is little else than numbers."""
    name = msgspec.json.encode(key).decode()
    points = ",".join(
        [
            f'{{"key":{name},"value":{value!r},"timestamp":{at_us // 1000},"step":{step}}}'
            if not special
            else f'{{"key":{name},"value":{_ENCODE(shown(value, special)).decode()},"timestamp":{at_us // 1000},"step":{step}}}'
            for at_us, step, value, special in rows
        ]
    )
    parts = ([f'"metrics":[{points}]'] if points else []) + ([f'"next_page_token":"{token}"'] if token else [])
    return ("{" + ",".join(parts) + "}").encode()


def get_bulk(call: Call) -> bytes:
    """One metric's points in several runs, by run, then time; NaN is bare here, as in the protocol's server's answer."""
    runs, key = call.query.get("run_id", []), call.query.get("metric_key", [None])[0]
    if not runs:
        raise invalid("GetMetricHistoryBulk request must specify at least one run_id.")
    if len(runs) > MAX_RUNS:
        raise invalid(f"GetMetricHistoryBulk request cannot specify more than {MAX_RUNS} run_ids. Received {len(runs)} run_ids.")
    if key is None:
        raise invalid("GetMetricHistoryBulk request must specify a metric_key.")
    asked = call.query.get("max_results", [str(MAX_BULK)])[0]
    if not asked.isdecimal():
        raise wrong_value("max_results", asked)
    limit = min(int(asked), MAX_BULK)
    made: list[dict[str, Any]] = []
    with call.store.ledger.read() as connection:
        for run in sorted(set(runs)):
            for at_us, step, value, special in _by_time(connection, run, key, limit=limit - len(made)):
                number = math.nan if special == 1 else shown(value, special)
                made.append({"key": key, "value": number, "timestamp": at_us // 1000, "step": step, "run_id": run})
    return json.dumps({"metrics": made}).encode()


def get_interval(call: Call) -> Any:
    """At most ``max_results`` points of each run, evenly over those in the interval of steps; the first and last are among them."""
    message = call.read(_Interval)
    runs, key = message.run_ids, message.metric_key or ""
    if runs is None:
        raise invalid(f"Missing value for required parameter 'run_ids'.{SEE_DOCS}")
    if len(runs) > MAX_RUNS:
        said = f"GetMetricHistoryBulkInterval request must specify at most {MAX_RUNS} run_ids. Received {len(runs)} run_ids."
        raise invalid(said + SEE_DOCS)
    required(message, "metric_key")
    most = MAX_SAMPLES if message.max_results is None else message.max_results
    if not 1 <= most <= MAX_SAMPLES:
        raise invalid(f"max_results must be between 1 and {MAX_SAMPLES}.{SEE_DOCS}")
    first, last = message.start_step, message.end_step
    if (first is None) != (last is None):
        raise invalid("If either start step or end step are specified, both must be specified.")
    if first is not None and last is not None and first > last:
        raise invalid(f"end_step must be greater than start_step. Found start_step={first} and end_step={last}.")
    steps = None if first is None or last is None else (first, last)
    made = []
    with call.store.ledger.read() as connection:
        for run in runs:
            made += [
                {"key": key, "value": shown(value, special), "timestamp": at_us // 1000, "step": step, "run_id": run}
                for at_us, step, value, special in _sampled(connection, run, key, steps, most)
            ]
    return {"metrics": made} if made else {}


def _by_time(connection: Connection, run: str, key: str, *, after: _Row | None = None, limit: int | None = None) -> list[Any]:
    where = f" and (p.at_us, p.step, {_NUMBER}, p.special) > (?, ?, ?, ?)" if after is not None else ""
    query = f"select p.at_us, p.step, p.value, p.special {_POINTS}{where} order by p.at_us, p.step, {_NUMBER}, p.special"
    bound = (run, key, *(after or ()), *((limit,) if limit is not None else ()))
    return rows_of(connection, query + (" limit ?" if limit is not None else ""), bound)


def _sampled(connection: Connection, run: str, key: str, steps: tuple[int, int] | None, most: int) -> Sequence[Any]:
    """The first point of each of ``most`` equal shares of a series (the earlier ones are a point longer), and its last point."""
    bound: tuple[Any, ...] = (run, key, *(steps or ()))
    inside = _POINTS + (" and p.step between ? and ?" if steps else "")
    total = rows_of(connection, f"select count(*) {inside}", bound)[0][0]
    order = f"p.step, p.at_us, {_NUMBER}, p.special"
    if total <= most:
        return rows_of(connection, f"select p.at_us, p.step, p.value, p.special {inside} order by {order}", bound)
    size, longer = divmod(total, most)
    edge = longer * (size + 1)
    numbered = f"select p.at_us, p.step, p.value, p.special, row_number() over (order by {order}) - 1 as n {inside}"
    chosen = f"(n < {edge} and n % {size + 1} = 0) or (n >= {edge} and (n - {edge}) % {size} = 0) or n = {total - 1}"
    rows = rows_of(connection, f"select at_us, step, value, special from ({numbered}) numbered where {chosen} order by n", bound)
    return [*rows[: most - 1], rows[-1]]


def _token(row: _Row) -> str:
    at_us, step, value, special = row
    number = shown(value, special) if special > 1 else value
    return base64.urlsafe_b64encode(msgspec.json.encode((at_us, step, number, special))).decode()


def _after(token: str) -> _Row:
    try:
        row: _Row = _ROWS.decode(base64.urlsafe_b64decode(token))
    except (ValueError, msgspec.MsgspecError):
        raise invalid("Invalid page token, could not base64-decode") from None
    return row


ROUTES = [
    Route("GET", "2.0/mlflow/metrics/get-history", get_history),
    Route("GET", "2.0/mlflow/metrics/get-history-bulk", get_bulk),
    Route("GET", "2.0/mlflow/metrics/get-history-bulk-interval", get_interval),
]
