"""The table of runs: a filter in the search grammar, an order, chosen columns, groups; one page at a time, whatever there is in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import msgspec
from sqlalchemy import Connection, func, select

from andon.core.errors import InvalidInput, NotFound
from andon.operations.showing.records import RunRow
from andon.operations.showing.run_records import ATTRIBUTES, Column, ExperimentRow, Experiments, GroupRow, Kind, RunsTable, Spread, TableRow
from andon.operations.showing.runs import chunks, read_rows
from andon.store import Store
from andon.store import schema as s
from andon.tracking.search.grammar import Clause, render_clause
from andon.tracking.search.runs import columns_of, count_runs, search_runs

PAGE = 50
GROUPED = 1_000
"""Groups are made of so many runs at most: the first that match, in the order asked for."""
MOST_COLUMNS = 60
OFFERED = 400
KINDS: tuple[Kind, ...] = get_args(Kind)
USUAL = (Column("attributes", "status"),)
USUAL_LAST = (Column("attributes", "duration"), Column("attributes", "start_time"))


def experiment_rows(store: Store) -> Experiments:
    """Living experiments by name, each with its living runs; those without runs too."""
    r, e = s.runs.c, s.experiments.c
    with store.ledger.read() as connection:
        counted: dict[int, int] = dict(
            connection.execute(select(r.experiment, func.count()).where(r.deleted_us.is_(None)).group_by(r.experiment)).all()
        )
        rows = connection.execute(select(e.id, e.name).where(e.deleted_us.is_(None)).order_by(e.name)).all()
    made = tuple(ExperimentRow(row.id, row.name, counted.get(row.id, 0)) for row in rows if row.id != 0 or counted.get(0))
    return Experiments(rows=made, total=sum(one.runs for one in made))


def read_column(name: str) -> Column:
    """A column from its name, ``metrics.val/mae``. Raises ``InvalidInput``."""
    kind, dot, key = name.partition(".")
    for known in KINDS:
        if kind == known and dot and key and (kind != "attributes" or key in (*ATTRIBUTES, "run_name")):
            return Column(known, key)
    raise InvalidInput("a column is metrics.KEY, params.KEY, tags.KEY or attributes." + "/".join(ATTRIBUTES), field="column", got=name[:80])


def runs_table(
    store: Store,
    *,
    experiment: str | None = None,
    filter: str = "",  # noqa: A002 - the name in the URL
    order_by: Sequence[str] = (),
    deleted: bool = False,
    columns: Sequence[str] | None = None,
    group: str = "",
    page_token: str | None = None,
    limit: int = PAGE,
) -> RunsTable:
    """A page of runs that match ``filter``, or the groups of the first of them by ``group`` (``params.seed``, ``attributes.run_name``).

    ``columns`` None: those that most of the shown runs have. Raises ``InvalidInput`` naming the field, ``NotFound`` for the experiment.
    """
    chosen = None if columns is None else tuple(dict.fromkeys(read_column(one) for one in columns[:MOST_COLUMNS]))
    by = read_column(group) if group else None
    if by is not None and (by.kind == "metrics" or (by.kind == "attributes" and by.key not in ("run_name", "status", "user_id"))):
        raise InvalidInput("runs are grouped by a param, a tag, or attributes.run_name", field="group", got=group[:80])
    now_us = store.clock.now_us()
    with store.ledger.read() as connection:
        numbers = _experiments(connection, experiment)
        page = search_runs(
            connection,
            numbers,
            filter or None,
            list(order_by),
            view="deleted" if deleted else "active",
            max_results=GROUPED if by is not None else limit,
            page_token=page_token,
        )
        seen = page.ids if by is None else page.ids[: 4 * limit]
        shown = _usual(connection, seen, by) if chosen is None else chosen
        offered, more = _offered(connection, numbers, page.ids[:limit], shown)
        rows, groups = tuple[TableRow, ...](), tuple[GroupRow, ...]()
        if by is None:
            rows = _rows(connection, page.ids, shown, now_us=now_us)
        else:
            groups = _groups(connection, page.ids, shown, by, now_us=now_us)
    return RunsTable(
        experiment=experiment,
        columns=shown,
        offered=offered,
        more_offered=more,
        rows=rows,
        groups=groups,
        group=by,
        grouped_all=by is not None and page.next_page_token is None,
        grouped=len(page.ids) if by is not None else 0,
        next_page_token=page.next_page_token if by is None else None,
    )


class RunsCount(msgspec.Struct, frozen=True):
    """How many runs match; ``exact`` is False when there are at least so many, and counting stopped there."""

    count: int
    exact: bool


def runs_count(store: Store, *, experiment: str | None = None, filter: str = "", deleted: bool = False) -> RunsCount:  # noqa: A002 - as above
    """How many runs match a filter, counted up to some thousands."""
    with store.ledger.read() as connection:
        numbers = _experiments(connection, experiment)
        return RunsCount(*count_runs(connection, numbers, filter or None, view="deleted" if deleted else "active"))


def _experiments(connection: Connection, name: str | None) -> list[int]:
    e = s.experiments.c
    query = select(e.id)
    found = list(connection.execute(query if name is None else query.where(e.name == name)).scalars())
    if name is not None and not found:
        raise NotFound(
            "there is no experiment of this name", address=f"experiment:{name[:200]}", next_step="open /runs to see what there is"
        )
    return found


def _usual(connection: Connection, ids: Sequence[str], by: Column | None) -> tuple[Column, ...]:
    """Status, three metrics and three params that most of these runs have, duration and start; of groups only what they can share."""
    metrics = _common(connection, s.series, ids, leave="system/")
    params = _common(connection, s.params, ids, differing=True)
    shown = (
        *USUAL,
        *(Column("metrics", key) for key in metrics),
        *(Column("params", key) for key in params),
        *(USUAL_LAST if by is None else ()),
    )
    return tuple(one for one in shown if one != by)


def _common(connection: Connection, table: Any, ids: Sequence[str], *, leave: str = "\x00", differing: bool = False) -> list[str]:
    """The three keys that most runs have; of params those that differ first."""
    counts: Counter[str] = Counter()
    values: dict[str, set[Any]] = {}
    for part in chunks(ids):
        for key, value in connection.execute(select(table.c.key, table.c.value).where(table.c.run.in_(part))):
            counts[key] += 1
            values.setdefault(key, set()).add(value if differing else None)
    known = [key for key in counts if not key.startswith(leave)]
    return sorted(known, key=lambda key: (-counts[key], len(values[key]) == 1 and differing, key))[:3]


def _offered(
    connection: Connection, experiments: Sequence[int], ids: Sequence[str], shown: Sequence[Column]
) -> tuple[tuple[Column, ...], bool]:
    """What can be shown: the experiments' metrics and params, and the tags of the runs at hand."""
    metrics, params = columns_of(connection, experiments)
    t = s.tags.c
    tagged = select(t.key).where(t.subject.in_([f"run:{one}" for one in ids])).distinct()
    tags = sorted(key for key in connection.execute(tagged).scalars() if not key.startswith("mlflow."))
    found: dict[Column, None] = {}
    for kind, keys in (("metrics", metrics), ("params", params), ("tags", tags), ("attributes", ATTRIBUTES)):
        for key in keys[:OFFERED]:
            found[Column(kind, key)] = None  # type: ignore[arg-type] # the kinds above are Kinds
    return tuple(found | dict.fromkeys(shown)), max(len(metrics), len(params), len(tags)) > OFFERED


def _values(connection: Connection, ids: Sequence[str], columns: Iterable[Column]) -> dict[tuple[str, Column], Any]:
    """The cells of metrics, params and tags: only of the columns that are shown."""
    of: dict[str, list[str]] = {}
    for column in columns:
        of.setdefault(column.kind, []).append(column.key)
    found: dict[tuple[str, Column], Any] = {}
    m, p, t = s.series.c, s.params.c, s.tags.c
    for part in chunks(ids):
        if "metrics" in of:
            query = select(m.run, m.key, m.value, m.special).where(m.run.in_(part), _kept(m.key).in_(of["metrics"]))
            for run, key, value, special in connection.execute(query):
                found[run, Column("metrics", key)] = ("NaN", "∞", "-∞")[special - 1] if special else value
        if "params" in of:
            for run, key, text in connection.execute(select(p.run, p.key, p.value).where(p.run.in_(part), _kept(p.key).in_(of["params"]))):
                found[run, Column("params", key)] = text
        if "tags" in of:
            named = [f"run:{one}" for one in part]
            for subject, key, text in connection.execute(
                select(t.subject, t.key, t.value).where(t.subject.in_(named), _kept(t.key).in_(of["tags"]))
            ):
                found[subject[4:], Column("tags", key)] = text
    return found


def _kept(column: Any) -> Any:
    """A column that SQLite will not look up by: it would take the index of the key, and read every run there is."""
    return column.concat("")


def _attribute(row: RunRow, key: str) -> Any:
    ended = row.ended_us
    values = {
        "status": row.status,
        "duration": None if ended is None else ended - row.started_us,
        "start_time": row.started_us,
        "end_time": ended,
        "user_id": row.actor,
        "experiment": row.experiment,
        "run_id": row.id,
        "run_name": row.name,
    }
    return values[key]


def _rows(connection: Connection, ids: Sequence[str], columns: Sequence[Column], *, now_us: int) -> tuple[TableRow, ...]:
    runs = read_rows(connection, ids, now_us=now_us, values=False)
    values = _values(connection, ids, columns)
    gone: dict[str, int | None] = {}
    for part in chunks(ids):
        r = s.runs.c
        gone |= dict(connection.execute(select(r.id, r.deleted_us).where(r.id.in_(part), r.deleted_us.is_not(None))).all())
    return tuple(
        TableRow(
            run=row,
            deleted_us=gone.get(row.id),
            cells=tuple(_attribute(row, one.key) if one.kind == "attributes" else values.get((row.id, one)) for one in columns),
        )
        for row in runs
    )


def _groups(connection: Connection, ids: Sequence[str], columns: Sequence[Column], by: Column, *, now_us: int) -> tuple[GroupRow, ...]:
    """Groups in the order of their first run; those without the value last."""
    metrics = [one for one in columns if one.kind == "metrics"]
    others = [one for one in columns if one.kind in ("params", "tags")]
    values = _values(connection, ids, [*metrics, *others, *(() if by.kind == "attributes" else (by,))])
    rows = {row.id: row for row in read_rows(connection, ids, now_us=now_us, values=False)}
    members: dict[str | None, list[str]] = {}
    for one in ids:
        value = _attribute(rows[one], by.key) if by.kind == "attributes" else values.get((one, by))
        members.setdefault(value, []).append(one)
    made = []
    for value in sorted(members, key=lambda value: value is None):
        inside = members[value]
        cells = tuple(_spread(column, [_cell(rows[one], values, column) for one in inside]) for column in columns)
        made.append(GroupRow(value=value, count=len(inside), cells=cells, filter=_only(by, value)))
    return tuple(made)


def _only(by: Column, value: str | None) -> str:
    """The clause that finds the runs of one group; empty where the language cannot say it."""
    kind = {"params": "params", "tags": "tags", "attributes": "attributes"}[by.kind]
    told = value.upper() if value is not None and by.name == "attributes.status" else value
    try:
        return render_clause(Clause(kind, by.key, "IS NULL" if told is None else "=", told))
    except InvalidInput:
        return ""


def _cell(row: RunRow, values: dict[tuple[str, Column], Any], column: Column) -> Any:
    return _attribute(row, column.key) if column.kind == "attributes" else values.get((row.id, column))


def _spread(column: Column, cells: Sequence[Any]) -> Any:
    """Mean, least and most of a metric (of its finite values); of anything else the one value that all have, or None."""
    if column.kind == "metrics":
        known = [value for value in cells if isinstance(value, float)]
        return Spread(sum(known) / len(known), min(known), max(known), len(known)) if known else None
    if column.kind == "attributes" and column.key in ("duration", "start_time", "end_time", "run_id"):
        return None
    return cells[0] if len(set(cells)) == 1 else None
