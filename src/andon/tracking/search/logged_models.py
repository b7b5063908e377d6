"""Search over logged models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.errors import InvalidInput
from andon.store.statements import rows_of
from andon.tracking.search.conditions import metric_is
from andon.tracking.search.fields import LOGGED_MODELS
from andon.tracking.search.grammar import Clause, parse_filter
from andon.tracking.search.ordering import OrderKey, Page, after, check_size, fingerprint, ordered, page_of, placed, read_token
from andon.tracking.search.sql import Dialect, Sql, compared, joined

if TYPE_CHECKING:
    from sqlalchemy import Connection

_COLUMNS = {
    "name": "r.name",
    "model_id": "r.id",
    "model_type": "r.model_type",
    "status": "upper(r.status)",
    "source_run_id": "r.run",
    "creation_timestamp": "r.created_us / 1000",
    "last_updated_timestamp": "r.changed_us / 1000",
}
_STATUSES = {"1": "PENDING", "2": "READY", "3": "FAILED", "UPLOAD_FAILED": "FAILED"}
Dataset = tuple[str, str | None]
"""A name, and a digest or None for any."""


class ModelOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A key to order by: an attribute, or ``metrics.KEY``, of which the newest point counts; about one dataset if that is named."""

    field: str
    ascending: bool = True
    dataset: str | None = None
    dataset_digest: str | None = None


def search_logged_models(
    connection: Connection,
    experiments: Sequence[int],
    text: str | None = None,
    order_by: Sequence[ModelOrder] = (),
    *,
    datasets: Sequence[Dataset] = (),
    max_results: int = 100,
    page_token: str | None = None,
) -> Page:
    """Logged models of these experiments, not deleted, that pass the filter ``text`` (``fields.LOGGED_MODELS``); newest first, then by id.

    ``datasets``: a metric of the filter must be about one of them; without one, any metric must be. Raises ``InvalidInput``.
    """
    clauses = parse_filter(text, LOGGED_MODELS)
    check_size(max_results)
    dialect = Dialect(connection.dialect.name == "postgresql")
    orders = list(order_by)
    wanted = sorted(set(experiments))
    for tie, ascending in (("creation_timestamp", False), ("model_id", True)):
        if all(LOGGED_MODELS_NAMES.get(order.field) != tie for order in orders):
            orders.append(ModelOrder(field=tie, ascending=ascending))
    keys = [_key(order, f"o{n}", dialect) for n, order in enumerate(orders)]
    query = fingerprint(wanted, clauses, orders, list(datasets))
    tests = [dialect.among("r.experiment", wanted), Sql("r.deleted_us is null")]
    tests += [_test(clause, datasets, dialect) for clause in clauses]
    if datasets and all(clause.kind != "metric" for clause in clauses):
        about = _about(datasets)
        tests.append(Sql(f"exists (select 1 from model_metrics s where s.model = r.id and {about.text})", about.bound))
    if page_token:
        tests.append(after(keys, read_token(page_token, query, keys)))
    if not wanted:
        return Page([], None)
    where = joined("and", tests)
    columns = "".join(f", {key.rank}, {key.value}" for key in keys)
    joins = " ".join(key.join.text for key in keys)
    bound = (*(value for key in keys for value in key.join.bound), *where.bound, max_results + 1)
    select = f"select r.id{columns} from logged_models r {joins} where {where.text} order by {ordered(keys)} limit ?"
    return page_of([placed(row) for row in rows_of(connection, select, bound)], max_results, query)


LOGGED_MODELS_NAMES = {name: key.name for name, key in (LOGGED_MODELS.kinds["attributes"].keys or {}).items()}
"""What an attribute is called, by every name that it goes by."""


def _key(order: ModelOrder, alias: str, dialect: Dialect) -> OrderKey:
    kind, dot, key = order.field.partition(".")
    if order.dataset_digest and not order.dataset:
        raise InvalidInput("`dataset_digest` can only be specified if `dataset_name` is also specified.", field="order_by")
    if not dot:
        name = LOGGED_MODELS_NAMES.get(order.field.strip())
        if name is None:
            raise InvalidInput(f"Invalid order by field name: {order.field[:200]}", field="order_by")
        column = _COLUMNS[name]
        nullable = name in ("model_type", "source_run_id")
        rank = f"case when {column} is null then 1 else 0 end" if nullable else "0"
        return OrderKey("attribute", name, order.ascending, rank, column, values=int if "timestamp" in name else str)
    if kind != "metrics" or not key:
        raise InvalidInput(f"Invalid order by field name: {order.field[:200]}. Only metrics are supported.", field="order_by")
    about, bound = "", [key]
    for column, wanted in (("dataset", order.dataset), ("dataset_digest", order.dataset_digest)):
        if wanted:
            about += f" and {column} = ?"
            bound.append(wanted)
    newest = "row_number() over (partition by model order by at_us / 1000 desc, step desc, run, value desc, special desc) as place"
    points = f"select model, value, special, {newest} from model_metrics where key = ?{about}"
    join = Sql(f"left join ({points}) {alias} on {alias}.model = r.id and {alias}.place = 1", tuple(bound))
    infinity = dialect.infinity
    value = f"case {alias}.special when 0 then {alias}.value when 2 then {infinity} when 3 then -{infinity} end"
    rank = f"case when {alias}.special is null or {alias}.special = 1 then 1 else 0 end"
    return OrderKey("metric", key, order.ascending, rank, value, join, float)


def _test(clause: Clause, datasets: Sequence[Dataset], dialect: Dialect) -> Sql:
    if clause.kind == "metric":
        is_so = metric_is(clause.op, _float(clause.value))
        parts = [Sql("s.model = r.id and s.key = ?", (clause.key,)), joined("or", is_so or [Sql("1 = 0")])]
        test = joined("and", [*parts, *([_about(datasets)] if datasets else [])])
        return Sql(f"exists (select 1 from model_metrics s where {test.text})", test.bound)
    if clause.kind == "attribute":
        value: Any = clause.value
        if clause.key == "status":
            value = tuple(_status(one) for one in value) if isinstance(value, tuple) else _status(str(value))
        return compared(_COLUMNS[clause.key], clause.op, value, dialect)
    table, here = ("params", "c.run = r.id") if clause.kind == "parameter" else ("tags", "c.subject = 'logged-model:' || r.id")
    is_so_text = compared("c.value", clause.op, clause.value, dialect)
    return Sql(f"exists (select 1 from {table} c where {here} and c.key = ? and {is_so_text.text})", (clause.key, *is_so_text.bound))


def _status(given: str) -> str:
    word = given.removeprefix("LOGGED_MODEL_")
    return _STATUSES.get(word, word)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _about(datasets: Sequence[Dataset]) -> Sql:
    return joined(
        "or",
        [
            Sql("s.dataset = ? and s.dataset_digest = ?", (name, digest)) if digest is not None else Sql("s.dataset = ?", (name,))
            for name, digest in datasets
        ],
    )
