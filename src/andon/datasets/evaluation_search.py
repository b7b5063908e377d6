"""Search over evaluation datasets, in the language of the other searches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from andon.core.errors import InvalidInput
from andon.store.statements import rows_of
from andon.tracking.search.grammar import LISTS, NUMERIC, TEXTUAL, Clause, Grammar, Key, Kind, Order, parse_filter, parse_order
from andon.tracking.search.ordering import OrderKey, Page, after, check_size, fingerprint, ordered, page_of, placed, read_token
from andon.tracking.search.sql import Dialect, Sql, compared, joined

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TIMES = {"created_time": "r.created_us / 1000", "last_update_time": "r.changed_us / 1000"}
_COLUMNS = {"name": "r.name", "created_by": "r.created_by", "last_updated_by": "r.changed_by", **_TIMES}
_ATTRIBUTE = Kind(
    name="attribute",
    keys={
        "name": Key(name="name", operators=TEXTUAL | (LISTS - {"NOT IN"})),
        "created_by": Key(name="created_by", operators=TEXTUAL, orders=False),
        "last_updated_by": Key(name="last_updated_by", operators=TEXTUAL, orders=False),
        **{name: Key(name=name, operators=NUMERIC, numeric=True) for name in _TIMES},
    },
)
_TAG = Kind(name="tag", operators=TEXTUAL, orders=False)
FIELDS = Grammar(kinds={"attribute": _ATTRIBUTE, "tags": _TAG, "tag": _TAG})


def search_evaluation_datasets(
    connection: Connection,
    text: str | None = None,
    order_by: Sequence[str] | None = None,
    *,
    experiments: Sequence[int] | None = None,
    max_results: int = 1_000,
    page_token: str | None = None,
) -> Page:
    """Ids of the datasets that pass the filter ``text`` (``FIELDS``) and are about one of the experiments (None: whatever they are about).

    Newest first unless ``order_by`` says otherwise. Raises ``InvalidInput`` naming what is wrong.
    """
    clauses, orders = parse_filter(text, FIELDS), parse_order(order_by, FIELDS)
    check_size(max_results)
    dialect = Dialect(connection.dialect.name == "postgresql")
    keys = [
        OrderKey("attribute", order.key, order.ascending, "0", _COLUMNS[order.key], values=int if order.key in _TIMES else str)
        for order in orders or [Order("attribute", "created_time", False)]
    ]
    keys.append(OrderKey("attribute", "dataset_id", False, "0", "r.id"))
    wanted = None if experiments is None else sorted(set(experiments))
    query = fingerprint(wanted, clauses, orders)
    tests = [Sql("1 = 1"), *(_test(clause, dialect) for clause in clauses)]
    if wanted is not None:
        among = dialect.among("e.experiment", wanted)
        tests.append(Sql(f"exists (select 1 from evaluation_experiments e where e.dataset = r.id and {among.text})", among.bound))
    if page_token:
        tests.append(after(keys, read_token(page_token, query, keys)))
    where = joined("and", tests)
    columns = "".join(f", 0, {key.value}" for key in keys)
    select = f"select r.id{columns} from evaluation_datasets r where {where.text} order by {ordered(keys)} limit ?"
    return page_of([placed(row) for row in rows_of(connection, select, (*where.bound, max_results + 1))], max_results, query)


def _test(clause: Clause, dialect: Dialect) -> Sql:
    if clause.kind == "tag":
        is_so = compared("t.value", clause.op, clause.value, dialect)
        here = "select 1 from tags t where t.subject = 'evaluation-dataset:' || r.id and t.key = ?"
        return Sql(f"exists ({here} and {is_so.text})", (clause.key, *is_so.bound))
    if isinstance(clause.value, float):
        raise InvalidInput(f"Invalid value for numeric attribute '{clause.key}': '{clause.value}'", field="filter_string")
    return compared(_COLUMNS[clause.key], clause.op, clause.value, dialect)
