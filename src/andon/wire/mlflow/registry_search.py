"""Searching registered models and their versions."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import msgspec

from andon.registry import Entry, entry_titled_in
from andon.store.statements import rows_of
from andon.tracking.search.fields import keys, kinds
from andon.tracking.search.grammar import LISTS, NUMERIC, TEXTUAL, Clause, Grammar, Key, Kind, Order, parse_filter, parse_order
from andon.tracking.search.sql import Dialect, Sql, compared, joined
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import invalid
from andon.wire.mlflow.messages import wrong_field
from andon.wire.mlflow.prompts import IS_PROMPT
from andon.wire.mlflow.registry_rendering import KINDS, Row, models_json, versions_json

MAX_MODELS, MAX_VERSIONS = 1_000, 200_000
_TAG = ("tag tags", Kind(name="tag", operators=TEXTUAL, orders=False))
_NAME = {"name": Key(name="name", operators=TEXTUAL | LISTS)}
_NUMBER = {"version_number": Key(name="version_number", operators=NUMERIC, numeric=True, quoted=True)}
_VERSION_KEYS = keys("source_path") | keys("run_id", more=LISTS) | _NUMBER | _NAME
MODELS = Grammar(kinds=kinds(("attribute", Kind(name="attribute", keys=_NAME)), _TAG))
VERSIONS = Grammar(kinds=kinds(("attribute", Kind(name="attribute", keys=_VERSION_KEYS)), _TAG))
_TIMES = keys("", "timestamp last_updated_timestamp")
MODEL_ORDERS = Grammar(
    kinds=kinds(("attribute", Kind(name="attribute", keys=_NAME | dict.fromkeys(_TIMES, _TIMES["last_updated_timestamp"]))))
)
VERSION_ORDERS = Grammar(
    kinds=kinds(("attribute", Kind(name="attribute", keys=_NAME | keys("", "version_number creation_timestamp last_updated_timestamp"))))
)
_TITLE = "coalesce(e.title, e.name)"
_COLUMNS = {
    "name": _TITLE,
    "run_id": "coalesce(x.run, '')",
    "source_path": "coalesce(x.source, '')",
    "version_number": "v.version",
    "creation_timestamp": "v.created_us",
    "last_updated_timestamp": "coalesce(x.changed_us, v.created_us)",
}
_DEFAULT_ORDER = [
    Order("attribute", "last_updated_timestamp", False),
    Order("attribute", "name"),
    Order("attribute", "version_number", False),
]


class _Search(msgspec.Struct):
    filter: str | None = None
    max_results: int | None = None
    order_by: list[str] | None = None
    page_token: str | None = None


def search_models(call: Call) -> dict[str, Any]:
    """Registered models that match; prompts only when the filter asks for them."""
    asked = call.read(_Search)
    limit = 100 if asked.max_results is None else asked.max_results
    if limit > MAX_MODELS:
        raise wrong_field("max_results", str(limit))
    clauses, orders = parse_filter(asked.filter, MODELS), parse_order(asked.order_by, MODEL_ORDERS)
    offset, limit = read_offset(asked.page_token), max(limit, 0)
    with call.store.ledger.read() as connection:
        dialect = Dialect(connection.dialect.name == "postgresql")
        where = [_kinds(clauses), Sql("e.deleted_us is null")]
        where += [_clause(clause, "e.kind || ':' || e.name", dialect) for clause in _told(clauses)]
        columns = {"name": _TITLE, "last_updated_timestamp": "e.changed_us"}
        order = _order(orders or [], columns, [Order("attribute", "name")])
        found = joined("and", where)
        sql = (
            "select e.kind, e.name, e.head, e.created_us, e.changed_us, e.title, e.description from entries e"
            f" where {found.text} order by {order} limit ? offset ?"
        )
        rows = rows_of(connection, sql, (*found.bound, limit + 1, offset))
        entries = [
            Entry(kind=kind, name=name, head=head, created_us=made, changed_us=changed, title=title, description=description or "")
            for kind, name, head, made, changed, title, description in rows[:limit]
        ]
        shown = models_json(connection, entries)
    return _page("registered_models", shown, more=len(rows) > limit, offset=offset + limit)


def search_versions(call: Call) -> dict[str, Any]:
    """Living versions that match; prompts' only when the filter asks for them."""
    asked = call.read(_Search)
    limit = 10_000 if asked.max_results is None else asked.max_results
    if limit < 1:
        raise invalid(f"Invalid value for max_results. It must be a positive integer, but got {limit}")
    if limit > MAX_VERSIONS:
        raise wrong_field("max_results", str(limit))
    clauses, orders = parse_filter(asked.filter, VERSIONS), parse_order(asked.order_by, VERSION_ORDERS)
    offset = read_offset(asked.page_token)
    with call.store.ledger.read() as connection:
        dialect = Dialect(connection.dialect.name == "postgresql")
        where = [_kinds(clauses), Sql("v.deleted_us is null"), Sql("e.deleted_us is null")]
        for clause in _told(clauses):
            if (clause.kind, clause.key, clause.op) == ("attribute", "name", "="):  # an index knows the address, not the title
                entry = entry_titled_in(connection, KINDS, str(clause.value))
                if entry is None:
                    return {}
                where.append(Sql("v.kind = ? and v.name = ?", (entry.kind, entry.name)))
            else:
                if clause.key == "version_number" and isinstance(clause.value, float):
                    raise invalid(f"Invalid value for numeric attribute 'version_number': {clause.value!r}")
                where.append(_clause(clause, "v.kind || ':' || v.name || '@' || cast(v.version as text)", dialect))
        order = _order(orders or _DEFAULT_ORDER, _COLUMNS, [Order("attribute", "name"), Order("attribute", "version_number", False)])
        found = joined("and", where)
        sql = (
            f"select v.kind, v.name, v.version, v.created_us, x.source, x.run, x.link, x.description, x.changed_us, {_TITLE}"
            " from versions v join entries e on e.kind = v.kind and e.name = v.name"
            " left join version_sources x on x.kind = v.kind and x.name = v.name and x.version = v.version"
            f" where {found.text} order by {order} limit ? offset ?"
        )
        rows = rows_of(connection, sql, (*found.bound, limit + 1, offset))
        titles = {(row[0], row[1]): row[-1] for row in rows}
        shown = versions_json(connection, [Row(*row[:-1]) for row in rows[:limit]], titles)
    return _page("model_versions", shown, more=len(rows) > limit, offset=offset + limit)


def _kinds(clauses: list[Clause]) -> Sql:
    """Prompts or models: as the first clause about that says, else models."""
    for clause in clauses:
        if clause.kind == "tag" and clause.key == IS_PROMPT:
            told = str(clause.value).lower()
            asked = (clause.op == "=" and told == "true") or (clause.op == "!=" and told == "false")
            return Sql("e.kind = ?", ("prompt" if asked else "model",))
    return Sql("e.kind = ?", ("model",))


def _told(clauses: list[Clause]) -> list[Clause]:
    return [clause for clause in clauses if not (clause.kind == "tag" and clause.key == IS_PROMPT)]


def _clause(clause: Clause, subject: str, dialect: Dialect) -> Sql:
    if clause.kind == "tag":
        value = compared("t.value", clause.op, clause.value, dialect)
        return Sql(f"exists (select 1 from tags t where t.subject = {subject} and t.key = ? and {value.text})", (clause.key, *value.bound))
    return compared(_COLUMNS[clause.key], clause.op, clause.value, dialect)


def _order(orders: list[Order], columns: dict[str, str], last: list[Order]) -> str:
    given = {order.key for order in orders}
    every = [*orders, *(order for order in last if order.key not in given)]
    return ", ".join(f"{columns[order.key]} {'asc' if order.ascending else 'desc'}" for order in every)


def _page(name: str, shown: list[dict[str, Any]], *, more: bool, offset: int) -> dict[str, Any]:
    made: dict[str, Any] = {name: shown} if shown else {}
    if more:
        made["next_page_token"] = base64.b64encode(json.dumps({"offset": offset}).encode()).decode()
    return made


def read_offset(token: str | None) -> int:
    """Where a page token says to go on. Raises ``WireError``."""
    if not token:
        return 0
    try:
        told = json.loads(base64.b64decode(token[:1000], validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise invalid("Invalid page token, could not base64-decode") from None
    offset = told.get("offset") if isinstance(told, dict) else None
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset < 2**62:
        raise invalid("Invalid page token, parsed value has no offset")
    return offset


ROUTES = [
    Route("GET", "2.0/mlflow/registered-models/search", search_models),
    Route("GET", "2.0/mlflow/model-versions/search", search_versions),
]
