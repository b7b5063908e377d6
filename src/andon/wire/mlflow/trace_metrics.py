"""Counts, times and tokens over many traces: ``POST 3.0/mlflow/traces/metrics``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from andon.core.errors import InvalidInput
from andon.logs.traces import TOKENS, Usage, tokens_of
from andon.store.statements import rows_of
from andon.telemetry.spans import span_facts
from andon.tracking.search.grammar import Clause, Grammar, Kind, parse_filter
from andon.tracking.search.sql import Dialect, Sql, joined
from andon.tracking.search.tokens import unquoted
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import invalid
from andon.wire.mlflow.messages import missing_field
from andon.wire.mlflow.trace_rendering import STATES
from andon.wire.mlflow.trace_search import condition
from andon.wire.mlflow.traces import experiment_number

MAX_POINTS = 1_000
_COUNT = frozenset({"COUNT"})
_SPREAD = frozenset({"AVG", "MIN", "MAX", "PERCENTILE"})
_SUMMED = _SPREAD | {"SUM"}
_TOKENS = ("input_tokens", "output_tokens", "total_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_MODELS = ("span_model_name", "span_model_provider")
_METRICS: dict[str, dict[str, tuple[frozenset[str], tuple[str, ...]]]] = {
    "TRACES": {
        "trace_count": (_COUNT, ("trace_name", "trace_status")),
        "session_count": (_COUNT, ()),
        "latency": (_SPREAD, ("trace_name",)),
        **dict.fromkeys(_TOKENS, (_SUMMED, ("trace_name",))),
    },
    "SPANS": {
        "span_count": (_COUNT, ("span_name", "span_type", "span_status", *_MODELS)),
        "latency": (_SPREAD, ("span_name", "span_status")),
        **dict.fromkeys(("input_cost", "output_cost", "total_cost"), (_SUMMED, _MODELS)),
    },
    "ASSESSMENTS": {
        "assessment_count": (_COUNT, ("assessment_name", "assessment_value")),
        "assessment_value": (_SPREAD, ("assessment_name",)),
    },
}
"""For each view its metrics: how they may be aggregated, and by what."""
_FILTERS = Grammar(kinds={word: Kind(name=word, operators=frozenset({"="})) for word in ("trace", "span", "assessment")})
_KEYS = {"span": ("name", "status", "type"), "assessment": ("name", "type")}


class _Aggregation(msgspec.Struct):
    aggregation_type: str | None = None
    percentile_value: float | None = None

    @property
    def label(self) -> str:
        """What its values are called."""
        return f"P{self.percentile_value}" if self.aggregation_type == "PERCENTILE" else str(self.aggregation_type)


class _Query(msgspec.Struct):
    experiment_ids: list[str] | None = None
    view_type: str | None = None
    metric_name: str | None = None
    aggregations: list[_Aggregation] | None = None
    dimensions: list[str] | None = None
    filters: list[str] | None = None
    time_interval_seconds: int | None = None
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    max_results: int | None = None
    page_token: str | None = None


class Fact(NamedTuple):
    """One thing that is counted or measured: when, its value, and what it may be grouped by."""

    at_ms: int
    value: float | str
    dimensions: tuple[Any, ...]


def query(call: Call) -> dict[str, Any]:
    """The metric's points, by bucket of time and then by dimension."""
    asked = call.read(_Query)
    for name in ("experiment_ids", "view_type", "metric_name", "aggregations"):
        if not getattr(asked, name):
            raise missing_field(name)
    _check(asked)
    facts = {"TRACES": _traces, "SPANS": _spans, "ASSESSMENTS": _assessments}[str(asked.view_type)]
    experiments = [experiment_number(text) for text in asked.experiment_ids or ()]
    points = _points(asked, facts(call, asked, experiments, _clauses(asked.filters)))
    return {"data_points": points} if points else {}


def _check(asked: _Query) -> None:
    metrics = _METRICS.get(str(asked.view_type))
    if metrics is None:
        raise invalid(f"view_type must be one of {list(_METRICS)}, got '{str(asked.view_type)[:80]}'")
    known = metrics.get(str(asked.metric_name))
    if known is None:
        raise invalid(f"metric_name must be one of {list(metrics)}, got '{str(asked.metric_name)[:80]}'")
    kinds, dimensions = known
    wrong = sorted({str(each.aggregation_type)[:80] for each in asked.aggregations or ()} - kinds)
    if wrong:
        raise invalid(f"Found invalid aggregation_type(s): {wrong}. Supported aggregation types: {sorted(kinds)}")
    for each in asked.aggregations or ():
        if each.aggregation_type == "PERCENTILE" and (each.percentile_value is None or not 0 <= each.percentile_value <= 100):
            raise invalid("percentile_value must be set, from 0 to 100, for a PERCENTILE aggregation")
    others = sorted(set(asked.dimensions or ()) - set(dimensions))
    if others:
        raise invalid(f"Found invalid dimension(s): {[name[:80] for name in others]}. Supported dimensions: {sorted(dimensions)}")
    if asked.time_interval_seconds is not None and asked.time_interval_seconds < 0:
        raise invalid("time_interval_seconds must be a positive integer")
    if asked.time_interval_seconds and (asked.start_time_ms is None or asked.end_time_ms is None):
        raise invalid("start_time_ms and end_time_ms are required if time_interval_seconds is set")


def _clauses(filters: Sequence[str] | None) -> list[Clause]:
    """``trace.status``, ``trace.tag.K``, ``trace.metadata.K``, ``span.…`` and ``assessment.…``, each with ``=`` and a text."""
    made: list[Clause] = []
    for text in filters or ():
        try:
            made += parse_filter(text, _FILTERS)
        except InvalidInput as error:
            raise invalid(error.message) from None
    for clause in made:
        known = clause.key in _KEYS.get(clause.kind, ()) or (
            clause.kind == "trace" and (clause.key == "status" or clause.key.startswith(("tag.", "metadata.")))
        )
        if not known:
            raise invalid(f"Invalid filter: there is no '{clause.kind}.{clause.key[:80]}'")
    return made


def _where(call: Call, asked: _Query, experiments: Sequence[int], clauses: Sequence[Clause]) -> tuple[Sql, Dialect]:
    """A test of the traces ``t`` that are asked about."""
    told = []
    for clause in clauses:
        if clause.kind == "trace":
            word, _, key = clause.key.partition(".")
            kind = {"status": "attribute", "tag": "tag", "metadata": "request_metadata"}[word]
            told.append(Clause(kind, unquoted(key) if key else word, "=", clause.value))
    dialect = Dialect(call.store.ledger.url.startswith("postgres"))
    parts = [condition(call, experiments, told, dialect)]
    if asked.start_time_ms is not None:
        parts.append(Sql("t.requested_us >= ?", (_bounded(asked.start_time_ms * 1000),)))
    if asked.end_time_ms is not None:
        parts.append(Sql("t.requested_us <= ?", (_bounded(asked.end_time_ms * 1000 + 999),)))
    return joined("and", parts), dialect


def _bounded(us: int) -> int:
    return max(min(us, 2**63 - 1), -(2**63))


def _traces(call: Call, asked: _Query, experiments: Sequence[int], clauses: Sequence[Clause]) -> Iterator[Fact]:
    if any(clause.kind != "trace" for clause in clauses):
        raise invalid("Traces are filtered by trace.… only")
    where, dialect = _where(call, asked, experiments, clauses)
    metric = str(asked.metric_name)
    said = f"(t.facts::jsonb ->> '{TOKENS}')" if dialect.postgres else f"json_extract(t.facts, '$.\"{TOKENS}\"')"
    columns = f"{said}, t.usage" if metric in _TOKENS else "t.session, t.id"
    text = f"select t.requested_us, t.execution_us, t.name, t.state, {columns} from traces t where {where.text}"
    with call.store.ledger.read() as connection:
        rows = rows_of(connection, text, where.bound)
    for requested_us, execution_us, name, state, one, two in rows:
        value: Any = two
        if metric == "latency":
            value = None if execution_us is None else (requested_us + execution_us) // 1000 - requested_us // 1000
        elif metric == "session_count":
            value = one
        elif metric in _TOKENS:
            value = _tokens(one, two).get(metric)
        if value is not None:
            shown = {"trace_name": name, "trace_status": STATES[state]}
            yield Fact(requested_us // 1000, value, tuple(shown[each] for each in asked.dimensions or ()))


def _tokens(said: str | None, usage: str | None) -> dict[str, Any]:
    try:
        made = msgspec.json.decode(said) if said else tokens_of(msgspec.json.decode(usage, type=Usage)) if usage else {}
    except msgspec.DecodeError:
        return {}
    return made if isinstance(made, dict) else {}


def _spans(call: Call, asked: _Query, experiments: Sequence[int], clauses: Sequence[Clause]) -> Iterator[Fact]:
    if any(clause.kind == "assessment" for clause in clauses):
        raise invalid("Spans are filtered by trace.… and span.… only")
    traces: set[str] | None = None
    if any(clause.kind == "trace" for clause in clauses):
        plain = msgspec.structs.replace(asked, start_time_ms=None, end_time_ms=None)
        where, _ = _where(call, plain, experiments, clauses)
        with call.store.ledger.read() as connection:
            traces = {row[0][3:] for row in rows_of(connection, f"select t.id from traces t where {where.text}", where.bound)}
    tests = [(clause.key, "=", clause.value) for clause in clauses if clause.kind == "span"]
    start_us = None if asked.start_time_ms is None else asked.start_time_ms * 1000
    end_us = None if asked.end_time_ms is None else asked.end_time_ms * 1000 + 1000
    for row in span_facts(call.store, experiments, str(asked.metric_name), tests, start_us=start_us, end_us=end_us):
        if row["value"] is not None and (traces is None or row["trace_id"] in traces):
            yield Fact(row["at_ms"], row["value"], tuple(row[each] for each in asked.dimensions or ()))


def _assessments(call: Call, asked: _Query, experiments: Sequence[int], clauses: Sequence[Clause]) -> Iterator[Fact]:
    if any(clause.kind == "span" for clause in clauses):
        raise invalid("Assessments are filtered by trace.… and assessment.… only")
    where, _ = _where(call, asked, experiments, clauses)
    own = [(clause.key.replace("type", "kind"), clause.value) for clause in clauses if clause.kind == "assessment"]
    more = "".join(f" and a.{column} = ?" for column, _ in own)
    text = (
        "select t.requested_us, a.name, a.value from assessments a join traces t on t.id = a.trace"
        f" where a.valid = 1{more} and ({where.text})"
    )
    with call.store.ledger.read() as connection:
        rows = rows_of(connection, text, (*(value for _, value in own), *where.bound))
    for requested_us, name, said in rows:
        value = 1.0 if asked.metric_name == "assessment_count" else graded(msgspec.json.decode(said))
        if value is not None:
            shown = {"assessment_name": name, "assessment_value": said}
            yield Fact(requested_us // 1000, value, tuple(shown[each] for each in asked.dimensions or ()))


def graded(value: Any) -> float | None:
    """An assessment's value as a number: yes and true are 1, no and false are 0; None for what is no grade.

    >>> graded(0.5), graded(True), graded("no"), graded("maybe")
    (0.5, 1.0, 0.0, None)
    """
    if isinstance(value, str):
        return {"yes": 1.0, "no": 0.0}.get(value.strip().lower())
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _points(asked: _Query, facts: Iterator[Fact]) -> list[dict[str, Any]]:
    bucket_ms = (asked.time_interval_seconds or 0) * 1000
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for fact in facts:
        if None not in fact.dimensions:
            bucket = fact.at_ms // bucket_ms * bucket_ms if bucket_ms else 0
            groups.setdefault((bucket, *fact.dimensions), []).append(fact.value)
    if not groups and not asked.dimensions and not bucket_ms and all(each.aggregation_type == "COUNT" for each in asked.aggregations or ()):
        groups[(0,)] = []
    most = MAX_POINTS if asked.max_results is None else asked.max_results
    if most < 0:
        raise invalid(f"Invalid value {most} for parameter 'max_results' supplied. It must not be negative")
    points = []
    for key in sorted(groups)[:most]:
        values = sorted(groups[key])
        point: dict[str, Any] = {"metric_name": asked.metric_name}
        dimensions = dict(zip(asked.dimensions or (), key[1:], strict=True))
        if bucket_ms:
            dimensions = {"time_bucket": datetime.fromtimestamp(key[0] / 1000, UTC).isoformat()} | dimensions
        if dimensions:
            point["dimensions"] = dimensions
        distinct = asked.metric_name == "session_count"
        point["values"] = {each.label: _aggregated(each, values, distinct=distinct) for each in asked.aggregations or ()}
        points.append(point)
    return points


def _aggregated(how: _Aggregation, values: Sequence[Any], *, distinct: bool) -> float:
    """Over sorted values. Percentiles are interpolated (Hyndman and Fan 1996, type 7)."""
    match how.aggregation_type:
        case "COUNT":
            return float(len(set(values)) if distinct else len(values))
        case "SUM":
            return float(math.fsum(values))
        case "AVG":
            return math.fsum(values) / len(values)
        case "MIN":
            return float(values[0])
        case "MAX":
            return float(values[-1])
    at = (how.percentile_value or 0.0) / 100 * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return float(values[low] + (values[high] - values[low]) * (at - low))


ROUTES = [Route("POST", "3.0/mlflow/traces/metrics", query)]
