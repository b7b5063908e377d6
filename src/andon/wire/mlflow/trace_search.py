"""Searching traces: the protocol's filter language over records, assessments, links and, for spans, the span log."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from andon.core.errors import InvalidInput
from andon.logs.spans import TRACE_PREFIX
from andon.logs.traces import COLUMNS, SOURCE_RUN, TraceRecord, record_of
from andon.store.statements import rows_of
from andon.telemetry.spans import traces_with
from andon.tracking.search.fields import keys, kinds
from andon.tracking.search.grammar import LISTS, NULLS, NUMERIC, TEXTUAL, Clause, Grammar, Key, Kind, Order, parse_filter, parse_order
from andon.tracking.search.sql import Dialect, Sql, compared, joined
from andon.tracking.search.tokens import tokens_of
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import invalid
from andon.wire.mlflow.messages import missing_field, wrong_field
from andon.wire.mlflow.trace_rendering import HERE, LOCATION, NAME, SESSION, info_v2_json, infos_json, roots_in
from andon.wire.mlflow.traces import Location, experiment_number

MAX_RESULTS, DEFAULT_RESULTS = 500, 100
_TEXTS = TEXTUAL | NULLS
_STATE = "case t.state when 'ok' then 'OK' when 'error' then 'ERROR' when 'in-progress' then 'IN_PROGRESS' else 'STATE_UNSPECIFIED' end"
_COLUMNS = {
    "request_id": "t.id",
    "experiment_id": "t.experiment",
    "status": _STATE,
    "client_request_id": "t.client_request_id",
    "name": "t.name",
    "timestamp_ms": "t.requested_us / 1000",
    "execution_time_ms": "((t.requested_us + t.execution_us) / 1000 - t.requested_us / 1000)",
    "end_time_ms": "((t.requested_us + coalesce(t.execution_us, 0)) / 1000)",
}
_LINKED = "t.id in (select l.trace from trace_links l where l.target = ?)"
_FEW = ("run_id", "prompt", "request_id")
_SPAN_KEYS = ("name", "type", "status", "content")


def _attributes() -> dict[str, Key]:
    made = keys("request_id status client_request_id name", "timestamp_ms execution_time_ms end_time_ms", more=LISTS)
    made |= {short: made[f"{short}_ms"] for short in ("timestamp", "execution_time", "end_time")}
    made["client_request_id"] = Key(name="client_request_id", operators=TEXTUAL | LISTS, orders=False)
    made["run_id"] = Key(name="run_id", operators=TEXTUAL | LISTS)
    made["prompt"] = Key(name="prompt", operators=TEXTUAL, orders=False)
    made["text"] = Key(name="text", operators=frozenset({"LIKE", "ILIKE"}), orders=False)
    made["experiment_id"] = Key(name="experiment_id", operators=frozenset())
    return made


_KINDS = kinds(
    ("attribute attributes trace", Kind(name="attribute", keys=_attributes())),
    ("tag tags", Kind(name="tag", operators=_TEXTS)),
    ("request_metadata metadata", Kind(name="request_metadata", operators=_TEXTS)),
    ("span", Kind(name="span", operators=TEXTUAL | LISTS, orders=False)),
    ("issue", Kind(name="issue", keys={"id": Key(name="id", operators=frozenset({"="}))}, orders=False)),
)


def grammar(text: str | None) -> Grammar:
    """What a filter may say. An assessment's value is compared as a number where the filter has one, and else as text."""
    made = dict(_KINDS)
    found = tokens_of(text, "filter") if text else []
    for kind in ("feedback", "expectation"):
        named: dict[str, Key] = {}
        for at, token in enumerate(found):
            if token.kind == "name" and token.parts[0] == kind:
                number = at + 2 < len(found) and found[at + 2].kind == "number"
                named[token.parts[1]] = Key(name=token.parts[1], operators=NUMERIC if number else _TEXTS, numeric=number)
        made[kind] = Kind(name=kind, keys=named, orders=False)
    return Grammar(kinds=made)


def clauses_of(text: str | None) -> list[Clause]:
    """The clauses of a filter. Raises ``WireError`` that says what is wrong with it."""
    try:
        clauses = parse_filter(text, grammar(text))
    except InvalidInput as error:
        raise invalid(error.message) from None
    for clause in clauses:
        if clause.kind == "span" and clause.key not in _SPAN_KEYS and not clause.key.startswith("attributes."):
            shown = "Supported attributes: name, status, type, attributes.<attribute_name>."
            raise invalid(f"Invalid span attribute '{clause.key[:80]}'. {shown}")
        if clause.kind == "attribute" and clause.key == "prompt" and (clause.op != "=" or str(clause.value).count("/") != 1):
            raise invalid(f"Invalid prompts filter value '{str(clause.value)[:80]}'. Expected format: prompt = \"name/version\"")
    return clauses


def condition(call: Call, experiments: Sequence[int], clauses: Sequence[Clause], dialect: Dialect) -> Sql:
    """A test of one trace ``t``: in these experiments, and as the clauses say."""
    few = any(clause.kind == "attribute" and clause.key in _FEW and clause.op in ("=", "IN") for clause in clauses)
    column = "+t.experiment" if few else "t.experiment"  # the sign keeps the planner from walking the experiment in order of time
    parts = [Sql(f"{column} = ?", (experiments[0],)) if len(experiments) == 1 else dialect.among(column, experiments)]
    of_spans: list[Clause] = []
    since_us: int | None = None
    for clause in clauses:
        if clause.kind == "span" or (clause.kind == "attribute" and clause.key == "text"):
            of_spans.append(clause)
            continue
        parts.append(_one(clause, dialect))
        if clause.key == "timestamp_ms" and clause.op in (">", ">=") and isinstance(clause.value, int | float):
            since_us = max(since_us or 0, math.floor(clause.value) * 1000)
    if of_spans:
        tests = [("content" if each.key == "text" else each.key, each.op, each.value) for each in of_spans]
        found = traces_with(call.store, experiments, tests, since_us=since_us)
        parts.append(dialect.among("t.id", [TRACE_PREFIX + one for one in found]) if found else Sql("1 = 0"))
    return joined("and", parts)


def _one(clause: Clause, dialect: Dialect) -> Sql:
    if clause.kind == "attribute":
        return _attribute(clause, dialect)
    if clause.kind in ("tag", "request_metadata"):
        return _fact(clause, dialect)
    if clause.kind == "issue":
        return Sql("t.id in (select a.trace from assessments a where a.kind = 'issue' and a.name = ?)", (clause.value,))
    return _assessment(clause, dialect)


def _attribute(clause: Clause, dialect: Dialect) -> Sql:
    if clause.key == "run_id":
        if clause.op != "=":
            return _fact(Clause("request_metadata", SOURCE_RUN, clause.op, clause.value), dialect)
        return Sql(_LINKED, (f"run:{clause.value}",))  # which a trace that says its run when it is told gets, too
    if clause.key == "prompt":
        return Sql(_LINKED, (f"prompt:{str(clause.value).replace('/', '@')}",))
    if clause.key == "timestamp_ms" and clause.op != "!=" and isinstance(clause.value, int):
        low, high = clause.value * 1000, clause.value * 1000 + 999  # so that the index on the time is of use
        if abs(high) < 2**63:
            bounds = {"=": ("between ? and ?", (low, high)), ">": ("> ?", (high,)), ">=": (">= ?", (low,)), "<": ("< ?", (low,))}
            test, bound = bounds.get(clause.op, ("<= ?", (high,)))
            return Sql(f"t.requested_us {test}", bound)
    return compared(_COLUMNS[clause.key], clause.op, clause.value, dialect)


def _value(column: str, key: str, dialect: Dialect) -> Sql:
    """The text that a JSON column has under a key."""
    if dialect.postgres:
        return Sql(f"({column}::jsonb ->> ?::text)", (key,))
    if '"' not in key and "\\" not in key:
        return Sql(f"json_extract({column}, ?)", (f'$."{key}"',))
    return Sql(f"(select j.value from json_each({column}) j where j.key = ?)", (key,))


def _fact(clause: Clause, dialect: Dialect) -> Sql:
    if clause.kind == "tag" and clause.key == NAME:
        value = Sql("t.name")
    elif clause.kind == "tag" and clause.key == LOCATION:
        value = Sql(f"case when t.first_us is not null then '{HERE}' end")
    elif clause.kind == "request_metadata" and clause.key == SESSION:
        value = Sql("t.session")
    else:
        value = _value("t.tags" if clause.kind == "tag" else "t.facts", clause.key, dialect)
    if clause.op in NULLS:
        return Sql(f"{value.text} {clause.op.lower()}", value.bound)
    is_so = compared(value.text, clause.op, clause.value, dialect)
    return Sql(is_so.text, (*value.bound, *is_so.bound))


def _assessment(clause: Clause, dialect: Dialect) -> Sql:
    here = "select a.trace from assessments a where a.kind = ? and a.name = ? and a.valid = 1"
    bound: tuple[Any, ...] = (clause.kind, clause.key)
    if clause.op in NULLS:
        return Sql(f"t.id {'not in' if clause.op == 'IS NULL' else 'in'} ({here})", bound)
    if isinstance(clause.value, str):
        texts = (clause.value, msgspec.json.encode(clause.value).decode())  # a text is kept in quotes, other values as they are
        if clause.op in ("=", "!="):
            word = "in" if clause.op == "=" else "not in"
            return Sql(f"t.id in ({here} and a.value {word} (?, ?))", (*bound, *texts))
        is_so = compared("a.value", clause.op, clause.value, dialect)
    else:
        is_so = compared("a.number", clause.op, clause.value, dialect)
    return Sql(f"t.id in ({here} and {is_so.text})", (*bound, *is_so.bound))


def order(texts: Sequence[str] | None, dialect: Dialect) -> Sql:
    """What to order by: the newest first, unless said otherwise; nulls last."""
    try:
        orders = parse_order(texts, grammar(None))
    except InvalidInput as error:
        raise invalid(error.message) from None
    parts: list[Sql] = []
    for item in orders:
        value = _ordered(item, dialect)
        way = "asc" if item.ascending else "desc"
        parts.append(Sql(f"case when {value.text} is null then 1 else 0 end, {value.text} {way}", (*value.bound, *value.bound)))
    named = {item.key for item in orders if item.kind == "attribute"}
    if "timestamp_ms" not in named:
        parts.append(Sql("t.requested_us desc"))
    if "request_id" not in named:
        parts.append(Sql("t.id"))
    return Sql(", ".join(part.text for part in parts), tuple(value for part in parts for value in part.bound))


def _ordered(item: Order, dialect: Dialect) -> Sql:
    if item.kind == "attribute" and item.key != "run_id":
        return Sql(_COLUMNS[item.key])
    if item.kind == "tag":
        return Sql("t.name") if item.key == NAME else _value("t.tags", item.key, dialect)
    if item.key == SESSION:
        return Sql("t.session")
    return _value("t.facts", SOURCE_RUN if item.kind == "attribute" else item.key, dialect)


# --- endpoints


class _Search(msgspec.Struct):
    locations: list[Location] | None = None
    experiment_ids: list[str] | None = None
    filter: str | None = None
    max_results: int | None = None
    order_by: list[str] | None = None
    page_token: str | None = None


class _Correlate(msgspec.Struct):
    experiment_ids: list[str] | None = None
    filter_string1: str | None = None
    filter_string2: str | None = None
    base_filter: str | None = None


def search(call: Call) -> bytes:
    """``POST 3.0/mlflow/traces/search``."""
    message = call.read(_Search)
    if not message.locations:
        raise missing_field("locations")
    texts = [each.mlflow_experiment.experiment_id for each in message.locations if each.mlflow_experiment is not None]
    records, token = _found(call, message, [experiment_number(text) for text in texts])
    with call.store.ledger.read() as connection:
        answer: dict[str, Any] = {"traces": infos_json(connection, records)} if records else {}
    if token:
        answer["next_page_token"] = token
    return msgspec.json.encode(answer)


def search_v2(call: Call) -> bytes:
    """``GET 2.0/mlflow/traces``."""
    message = call.read(_Search)
    if not message.experiment_ids:
        raise missing_field("experiment_ids")
    records, token = _found(call, message, [experiment_number(text) for text in message.experiment_ids])
    with call.store.ledger.read() as connection:
        roots = roots_in(connection, records)
    answer: dict[str, Any] = {"traces": [info_v2_json(record, roots[record.experiment]) for record in records]} if records else {}
    if token:
        answer["next_page_token"] = token
    return msgspec.json.encode(answer)


def _found(call: Call, message: _Search, experiments: list[int]) -> tuple[list[TraceRecord], str | None]:
    most = DEFAULT_RESULTS if message.max_results is None else message.max_results
    if most > MAX_RESULTS:
        raise wrong_field("max_results", most)
    if most <= 0:
        raise invalid(f"Invalid value {most} for parameter 'max_results' supplied. It must be a positive integer")
    offset = _offset(message.page_token)
    clauses = clauses_of(message.filter)
    dialect = Dialect(call.store.ledger.url.startswith("postgres"))
    by = order(message.order_by, dialect)
    if not experiments:
        return [], None
    where = condition(call, experiments, clauses, dialect)
    query = f"select {_SELECTED} from traces t where {where.text} order by {by.text} limit {int(most)} offset {offset}"
    with call.store.ledger.read() as connection:
        records = [record_of(row) for row in rows_of(connection, query, (*where.bound, *by.bound))]
    token = json.dumps({"offset": offset + most}).encode()
    return records, base64.b64encode(token).decode() if len(records) == most else None


_SELECTED = ", ".join(f"t.{name}" for name in COLUMNS.split(", "))


def _offset(token: str | None) -> int:
    if not token:
        return 0
    try:
        text = base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Invalid page token, could not base64-decode") from None
    try:
        offset = json.loads(text)["offset"]
    except (ValueError, KeyError, TypeError):
        raise invalid("Invalid page token, parsed value is not a token of this search") from None
    if not isinstance(offset, int) or not 0 <= offset < 2**53:
        raise invalid(f"Invalid page token, parsed offset is not a number: {str(offset)[:40]}")
    return offset


def correlate(call: Call) -> dict[str, Any]:
    """``POST 3.0/mlflow/traces/calculate-filter-correlation``: normalised pointwise mutual information of two filters."""
    message = call.read(_Correlate)
    if not message.experiment_ids:
        raise missing_field("experiment_ids")
    for name in ("filter_string1", "filter_string2"):
        if not getattr(message, name):
            raise missing_field(name)
    experiments = [experiment_number(text) for text in message.experiment_ids]
    dialect = Dialect(call.store.ledger.url.startswith("postgres"))
    base = condition(call, experiments, clauses_of(message.base_filter), dialect)
    one = condition(call, experiments, clauses_of(message.filter_string1), dialect)
    two = condition(call, experiments, clauses_of(message.filter_string2), dialect)
    counted = ", ".join(
        f"coalesce(sum(case when {test} then 1 else 0 end), 0)" for test in (one.text, two.text, f"({one.text}) and ({two.text})")
    )
    query = f"select count(*), {counted} from traces t where {base.text}"
    with call.store.ledger.read() as connection:
        row = rows_of(connection, query, (*one.bound, *two.bound, *one.bound, *two.bound, *base.bound))[0]
    total, first, second, both = (int(value) for value in row)
    counts = {"filter1_count": first, "filter2_count": second, "joint_count": both, "total_count": total}
    scores = {"npmi": npmi(both, first, second, total), "npmi_smoothed": npmi(both, first, second, total, smoothing=0.5)}
    return {name: value for name, value in scores.items() if value is not None} | counts


def npmi(both: int, first: int, second: int, total: int, *, smoothing: float = 0.0) -> float | None:
    """How far two filters go together, from -1 (never) over 0 (by chance) to 1 (always); None where that is not defined.

    Bouma (2009), normalised pointwise mutual information. ``smoothing`` is added to each cell of the two-by-two table (0.5: Jeffreys).
    """
    if not first or not second or not total:
        return None
    cells = (both, first - both, second - both, total - first - second + both)
    if min(cells) < 0:
        return None
    if not both and not smoothing:
        return -1.0
    if cells[1:] == (0, 0, 0):
        return 1.0
    joint, only_first, only_second, _ = (cell + smoothing for cell in cells)
    whole = sum(cells) + 4 * smoothing
    gain = math.log(joint * whole / ((joint + only_first) * (joint + only_second)))
    return max(-1.0, min(1.0, gain / -math.log(joint / whole)))


ROUTES = [
    Route("POST", "3.0/mlflow/traces/search", search),
    Route("GET", "2.0/mlflow/traces", search_v2),
    Route("POST", "3.0/mlflow/traces/calculate-filter-correlation", correlate),
]
