"""Search over experiments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from andon.core.errors import InvalidInput
from andon.store.statements import rows_of
from andon.tracking.experiments import Experiment
from andon.tracking.search.conditions import View
from andon.tracking.search.fields import EXPERIMENTS
from andon.tracking.search.grammar import Clause, Order, parse_filter, parse_order
from andon.tracking.search.ordering import OrderKey, Page, after, check_size, fingerprint, ordered, page_of, placed, read_token
from andon.tracking.search.sql import Dialect, Sql, compared, joined

if TYPE_CHECKING:
    from sqlalchemy import Connection

_COLUMNS = {
    "name": "r.name",
    "experiment_id": "r.id",
    "creation_time": "r.created_us / 1000",
    "last_update_time": "r.changed_us / 1000",
}
_SHOWN = {"active": "r.deleted_us is null", "deleted": "r.deleted_us is not null", "all": "1 = 1"}


def search_experiments(
    connection: Connection,
    text: str | None = None,
    order_by: Sequence[str] | None = None,
    *,
    view: View = "active",
    max_results: int = 1_000,
    page_token: str | None = None,
) -> tuple[list[int], str | None]:
    """Numbers of the experiments that pass the filter ``text`` (``fields.EXPERIMENTS``), newest first unless ``order_by`` says otherwise,
    and the token of the next page. Raises ``InvalidInput`` naming what is wrong."""
    clauses, orders = parse_filter(text, EXPERIMENTS), parse_order(order_by, EXPERIMENTS)
    check_size(max_results)
    dialect = Dialect(connection.dialect.name == "postgresql")
    if not orders:
        orders = [Order("attribute", "creation_time", False), Order("attribute", "experiment_id", True)]
    elif all(order.key != "experiment_id" for order in orders):
        orders.append(Order("attribute", "experiment_id", False))
    keys = [OrderKey("attribute", o.key, o.ascending, "0", _COLUMNS[o.key], values=str if o.key == "name" else int) for o in orders]
    query = fingerprint(view, clauses, orders)
    tests = [Sql(_SHOWN[view]), *(_test(clause, dialect) for clause in clauses)]
    if page_token:
        tests.append(after(keys, read_token(page_token, query, keys)))
    where = joined("and", tests)
    columns = "".join(f", 0, {key.value}" for key in keys)
    wanted = f"select r.id{columns} from experiments r where {where.text} order by {ordered(keys)} limit ?"
    found = [placed(row) for row in rows_of(connection, wanted, (*where.bound, max_results + 1))]
    page: Page = page_of([row._replace(run=str(row.run)) for row in found], max_results, query)
    return [int(one) for one in page.ids], page.next_page_token


def experiments_in(connection: Connection, numbers: Sequence[int]) -> list[Experiment]:
    """Experiments by number, in the order asked for; those that are not there are left out."""
    some = Dialect(connection.dialect.name == "postgresql").among("id", numbers)
    query = f"select id, name, location, created_us, changed_us, deleted_us from experiments where {some.text}"
    found = {
        row[0]: Experiment(id=row[0], name=row[1], location=row[2], created_us=row[3], changed_us=row[4], deleted_us=row[5])
        for row in rows_of(connection, query, some.bound)
    }
    return [found[number] for number in numbers if number in found]


def _test(clause: Clause, dialect: Dialect) -> Sql:
    if clause.kind == "tag":
        here = "select 1 from tags t where t.subject = 'experiment:' || r.name and t.key = ?"
        if clause.op in ("IS NULL", "IS NOT NULL"):
            return Sql(f"{'not ' if clause.op == 'IS NULL' else ''}exists ({here})", (clause.key,))
        is_so = compared("t.value", clause.op, clause.value, dialect)
        return Sql(f"exists ({here} and {is_so.text})", (clause.key, *is_so.bound))
    value: object = clause.value
    if clause.key == "experiment_id":
        value = tuple(_number(one) for one in value) if isinstance(value, tuple) else _number(value)
    elif isinstance(value, float):
        raise InvalidInput(f"Invalid value for numeric attribute '{clause.key}': '{value}'", field="filter")
    return compared(_COLUMNS[clause.key], clause.op, value, dialect)


def _number(value: object) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = 2**63
    if abs(number) >= 2**63:
        raise InvalidInput(f"Invalid experiment ID '{str(value)[:80]}'. Experiment ID must be a valid integer.", field="filter")
    return number
