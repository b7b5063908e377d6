"""Search over runs, and what there is to choose columns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from andon.store.statements import rows_of
from andon.tracking.search.conditions import View, conditions_of
from andon.tracking.search.fields import RUNS
from andon.tracking.search.grammar import parse_filter, parse_order
from andon.tracking.search.ordering import Page, check_size, fingerprint, order_keys, page_of, read_token
from andon.tracking.search.running import Search
from andon.tracking.search.sql import Dialect, Sql

if TYPE_CHECKING:
    from sqlalchemy import Connection

COUNTED = 10_000
_SAMPLE = 500


def search_runs(
    connection: Connection,
    experiments: Sequence[int],
    text: str | None = None,
    order_by: Sequence[str] | None = None,
    *,
    view: View = "active",
    max_results: int = 1_000,
    page_token: str | None = None,
) -> Page:
    """Runs of these experiments that pass the filter ``text`` (``fields.RUNS``), by ``order_by``, then newest first, then by id.

    Runs without what is ordered by come last, those whose metric is NaN before them, whichever way it goes. A page begins where the one
    before ended, so runs that come in between are neither skipped nor repeated unless what they are ordered by has changed.
    Raises ``InvalidInput`` naming what is wrong.
    """
    clauses, orders = parse_filter(text, RUNS), parse_order(order_by, RUNS)
    check_size(max_results)
    dialect = Dialect(connection.dialect.name == "postgresql")
    keys = order_keys(orders, dialect)
    wanted = sorted(set(experiments))
    query = fingerprint(wanted, view, clauses, orders)
    last = read_token(page_token, query, keys) if page_token else None
    if not wanted:
        return Page([], None)
    conditions = conditions_of(clauses, dialect)
    found = Search(connection, wanted, view).find(conditions, keys, last, max_results + 1)
    return page_of(found, max_results, query)


def count_runs(
    connection: Connection, experiments: Sequence[int], text: str | None = None, *, view: View = "active", most: int = COUNTED
) -> tuple[int, bool]:
    """How many runs pass, and whether that is all of them: counting stops at ``most``."""
    dialect = Dialect(connection.dialect.name == "postgresql")
    conditions = conditions_of(parse_filter(text, RUNS), dialect)
    if not experiments:
        return 0, True
    counted = Search(connection, sorted(set(experiments)), view).count(conditions, most + 1)
    return min(counted, most), counted <= most


class Columns(NamedTuple):
    """Keys of metrics and of params, in order."""

    metrics: list[str]
    params: list[str]


def columns_of(connection: Connection, experiments: Sequence[int]) -> Columns:
    """The metrics and params that runs of these experiments have.

    All keys of the ledger come from a loose scan of its index; which of them are these experiments' is looked up in the first few hundred
    runs of each key and in the newest runs. A key that only older runs have, among many of other experiments, may be missed; in Postgres
    also a param that is never short, and that none of the newest runs has.
    """
    if not experiments:
        return Columns([], [])
    dialect = Dialect(connection.dialect.name == "postgresql")
    scope = dialect.among("r.experiment", sorted(set(experiments)))
    newest = Sql(f"select r.id as run from runs r where {scope.text} order by r.started_us desc limit {_SAMPLE}", scope.bound)
    return Columns(_keys(connection, "series", "", scope, newest), _keys(connection, "params", dialect.short("c"), scope, newest))


def _keys(connection: Connection, table: str, indexed: str, scope: Sql, newest: Sql) -> list[str]:
    seen = f"select distinct c.key from ({newest.text}) n cross join {table} c where c.run = n.run"
    keys = {row[0] for row in rows_of(connection, seen, newest.bound)}
    above = f"select c.key from {table} c where c.key > each_key.key{indexed} order by c.key limit 1"
    loose = (
        f"with recursive each_key(key) as (select '' as key union all select ({above}) from each_key where each_key.key is not null)"
        " select key from each_key where key > ''"
    )
    found = (
        f"select 1 from (select c.run from {table} c where c.key = ?{indexed} limit {_SAMPLE}) c cross join runs r"
        f" where r.id = c.run and {scope.text} limit 1"
    )
    for (key,) in rows_of(connection, loose):
        if key not in keys and rows_of(connection, found, (key, *scope.bound)):
            keys.add(key)
    return sorted(keys)
