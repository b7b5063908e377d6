"""Clauses about runs as SQL: for each a test of one run ``r``, and, where an index can serve it, the runs that pass."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Literal, NamedTuple

from andon.tracking.search.grammar import Clause
from andon.tracking.search.sql import Dialect, Sql, beyond, compared, joined, literal_prefix

View = Literal["active", "deleted", "all"]
USER = "substr(r.actor, case when substr(r.actor, 1, 7) = 'person:' then 8 else 1 end)"
"""A run's user: a person's bare name."""
ARTIFACTS = (
    "(select rtrim(coalesce(e.location, 'mlflow-artifacts:/' || e.id), '/') from experiments e where e.id = r.experiment)"
    " || '/' || r.id || '/artifacts'"
)
NAME_TAG, PARENT_TAG, USER_TAG = "mlflow.runName", "mlflow.parentRunId", "mlflow.user"
"""Tags that stand for what a run knows of itself."""
_ATTRIBUTES = {
    "run_id": "r.id",
    "status": "upper(r.status)",
    "start_time": "r.started_us / 1000",
    "end_time": "r.ended_us / 1000",
}
_COMPARED = {"=": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


class Condition(NamedTuple):
    """``test`` is about the run ``r``. ``driver`` selects the column ``run`` of those that pass, each once, from the part of an index that
    holds them; ``scan`` from more of it than that. None where there is no index.

    ``needs`` is the kind and key without which no run passes; ``low`` and ``high`` bound that metric's value where it is finite.
    """

    test: Sql
    driver: Sql | None = None
    needs: tuple[str, str] | None = None
    scan: Sql | None = None
    low: float = -math.inf
    high: float = math.inf


def scope(experiments: Sequence[int], view: View, dialect: Dialect) -> Condition:
    """The runs of these experiments that a view shows."""
    one = Sql("r.experiment = ?", (experiments[0],)) if len(experiments) == 1 else dialect.among("r.experiment", experiments)
    shown = {"active": " and r.deleted_us is null", "deleted": " and r.deleted_us is not null", "all": ""}[view]
    test = Sql(one.text + shown, one.bound)
    return Condition(test, Sql(f"select r.id as run from runs r where {test.text}", test.bound))


def conditions_of(clauses: Sequence[Clause], dialect: Dialect) -> list[Condition]:
    """Clauses of ``fields.RUNS``. A metric between two bounds is one condition, since it is one range of an index."""
    made: list[Condition] = []
    for clause in clauses:
        new = condition(clause, dialect)
        for at, other in enumerate(made):
            if clause.kind == "metric" and other.needs == new.needs and other.driver is not None and new.driver is not None:
                made[at] = _both(other, new, clause.key, dialect)
                break
        else:
            made.append(new)
    return made


def condition(clause: Clause, dialect: Dialect) -> Condition:
    """One clause."""
    if clause.kind == "metric":
        return _metric(clause, dialect)
    if clause.kind == "parameter":
        return text_condition(clause, dialect)
    if clause.kind == "tag":
        return _tag(clause, dialect)
    if clause.kind == "dataset":
        return _dataset(clause, dialect)
    return _attribute(clause, dialect)


def has_metric(key: str, special: int, value: float | None, dialect: Dialect) -> Condition:
    """Runs whose metric is this one value: a part of the order by it."""
    at = Sql("s.special = ?" + (" and s.value = ?" if value is not None else ""), (special, *(() if value is None else (value,))))
    return _of_metric(key, [at], dialect)


def lacks(kind: str, key: str, dialect: Dialect) -> Condition:
    """Runs without this metric, param or tag: they come last in the order by it."""
    if kind == "metric":
        return Condition(Sql(f"not exists (select 1 from series c{dialect.by('series_by_key')} where c.key = ? and c.run = r.id)", (key,)))
    table, here = _TEXTS[kind][:2]
    return Condition(Sql(f"not exists (select 1 from {table} c where {here} and c.key = ?)", (key,)))


_TEXTS = {
    "parameter": ("params", "c.run = r.id", "c.run", "params_by_value", ""),
    "tag": ("tags", "c.subject = 'run:' || r.id", "substr(c.subject, 5)", "tags_by_key", " and c.subject >= 'run:' and c.subject < 'run;'"),
}
"""Of params and tags: the table, what ties it to a run, how it names the run, its index by value, and which rows are of runs."""


def _of_metric(key: str, parts: Sequence[Sql], dialect: Dialect) -> Condition:
    """Runs whose metric passes one of ``parts``, each a range of the index."""
    any_of = joined("or", parts or [Sql("1 = 0")])
    test = f"exists (select 1 from series s{dialect.by('series_by_key')} where s.key = ? and s.run = r.id and ({any_of.text}))"
    # one range of the index each: an OR in one query would be two, looked up twice
    by = dialect.by("series_by_value")
    each = [Sql(f"select s.run as run from series s{by} where s.key = ? and {part.text}", (key, *part.bound)) for part in parts]
    driver = Sql(" union all ".join(part.text for part in each), tuple(value for part in each for value in part.bound))
    return Condition(Sql(test, (key, *any_of.bound)), driver if each else None, ("metric", key))


def _both(one: Condition, other: Condition, key: str, dialect: Dialect) -> Condition:
    low, high = max(one.low, other.low), min(one.high, other.high)
    test = joined("and", (one.test, other.test))
    if math.isfinite(low) and math.isfinite(high):
        driver = _of_metric(key, [Sql("s.special = 0 and s.value between ? and ?", (low, high))], dialect).driver
    else:
        driver = one.driver
    return one._replace(test=test, driver=driver, low=low, high=high)


def metric_is(op: str, number: float) -> list[Sql]:
    """When a row ``s`` with ``value`` and ``special`` compares so: ranges of an index, any of which will do. NaN only differs."""
    holds = _COMPARED[op]
    specials = [str(special) for special, stands in ((2, math.inf), (3, -math.inf)) if holds(stands, number)]
    if op == "!=":
        specials.append("1")
    parts = []
    if math.isfinite(number):
        parts.append(Sql(f"s.special = 0 and s.value {op} ?", (number,)))
    elif holds(0.0, number):
        parts.append(Sql("s.special = 0"))
    if specials:
        parts.append(Sql(f"s.special in ({', '.join(specials)})"))
    return parts


def _metric(clause: Clause, dialect: Dialect) -> Condition:
    number = float(clause.value)  # type: ignore[arg-type]
    made = _of_metric(clause.key, metric_is(clause.op, number), dialect)
    low = number if clause.op in ("=", ">", ">=") else -math.inf
    high = number if clause.op in ("=", "<", "<=") else math.inf
    return made._replace(driver=made.driver if clause.op != "!=" else None, low=low, high=high)


def text_condition(clause: Clause, dialect: Dialect) -> Condition:
    """A param or a tag."""
    table, here, run, index, of_runs = _TEXTS[clause.kind]
    needs, bound = (clause.kind, clause.key), (clause.key,)
    if clause.op == "IS NULL":
        return lacks(clause.kind, clause.key, dialect)
    if clause.op == "IS NOT NULL":
        test = Sql(f"exists (select 1 from {table} c where {here} and c.key = ?)", bound)
        return Condition(test, Sql(f"select {run} as run from {table} c where c.key = ?{of_runs}", bound), needs)
    is_so = compared("c.value", clause.op, clause.value, dialect)
    bound = (clause.key, *is_so.bound)
    select = f"select {run} as run from {table} c{dialect.by(index)} where c.key = ? and {is_so.text}"
    if clause.op == "=":
        short = dialect.indexed("c", clause.key, str(clause.value))
        # the index has the runs of one value together, so testing many runs touches few pages
        test = Sql(f"exists (select 1 from {table} c{dialect.by(index)} where c.key = ? and {is_so.text}{short or ''} and {here})", bound)
        return Condition(test, None if short is None else Sql(f"{select}{short}{of_runs}", bound), needs)
    test = Sql(f"exists (select 1 from {table} c where {here} and c.key = ? and {is_so.text})", bound)
    begins = literal_prefix(str(clause.value)) if clause.op == "LIKE" and not dialect.postgres else ""
    end = beyond(begins)
    scan = Sql(select + of_runs, bound)
    if not begins or end is None:
        return Condition(test, None, needs, scan)
    return Condition(test, Sql(f"{select} and c.value >= ? and c.value < ?{of_runs}", (*bound, begins, end)), needs)


def _tag(clause: Clause, dialect: Dialect) -> Condition:
    plain = text_condition(clause, dialect)
    if clause.key == NAME_TAG and clause.op not in ("IS NULL", "IS NOT NULL"):
        return _named(clause, dialect)
    if clause.key not in (NAME_TAG, PARENT_TAG, USER_TAG):
        return plain
    # a run of our own library has no such tags, but what they say
    own = {NAME_TAG: Sql("r.name"), PARENT_TAG: Sql("r.parent"), USER_TAG: Sql(USER)}[clause.key]
    said = Sql(
        "coalesce((select t.value from tags t where t.subject = 'run:' || r.id and t.key = ?),"
        f" case when length(r.facts) > 2 then {own.text} end)",
        (clause.key, *own.bound),
    )
    if clause.value is None:
        return Condition(Sql(f"{said.text} {clause.op.lower()}", said.bound))
    is_so = compared(said.text, clause.op, clause.value, dialect)
    test = Sql(is_so.text, (*said.bound, *is_so.bound))
    if clause.key == PARENT_TAG and clause.op == "=" and plain.driver is not None:
        union = f"{plain.driver.text} union select p.id as run from runs p where p.parent = ?"
        return Condition(test, Sql(union, (*plain.driver.bound, clause.value)))
    return Condition(test)


def _named(clause: Clause, dialect: Dialect) -> Condition:
    is_so = compared("r.name", clause.op, clause.value, dialect)
    select = Sql(f"select r.id as run from runs r where {is_so.text}", is_so.bound)
    begins = literal_prefix(str(clause.value)) if clause.op == "LIKE" else ""
    end = beyond(begins)
    if begins and end is not None:
        return Condition(is_so, Sql(f"{select.text} and r.name >= ? and r.name < ?", (*select.bound, begins, end)))
    return Condition(is_so, select if clause.op == "=" else None)


def _dataset(clause: Clause, dialect: Dialect) -> Condition:
    is_so = compared(f"d.{clause.key}", clause.op, clause.value, dialect)
    test = Sql(f"exists (select 1 from described_inputs d where d.run = r.id and {is_so.text})", is_so.bound)
    driven = clause.key == "name" and clause.op in ("=", "IN")
    driver = Sql(f"select distinct d.run as run from described_inputs d where {is_so.text}", is_so.bound) if driven else None
    return Condition(test, driver)


def _attribute(clause: Clause, dialect: Dialect) -> Condition:
    if clause.key in ("user_id", "artifact_uri"):
        column = Sql(USER) if clause.key == "user_id" else Sql(ARTIFACTS)
        is_so = compared(column.text, clause.op, clause.value, dialect)
        return Condition(Sql(is_so.text, (*column.bound, *is_so.bound)))
    if clause.key == "run_name":
        return _named(clause, dialect)
    if clause.key == "status" and clause.op in ("=", "!="):
        # bare, so that an index that holds the status serves it; it is upper case outside, so lower case is no status
        value = str(clause.value)
        return Condition(compared("r.status", clause.op, value.lower() if value.isupper() else value.upper(), dialect))
    test = compared(_ATTRIBUTES[clause.key], clause.op, clause.value, dialect)
    if clause.key == "run_id" and clause.op in ("=", "IN"):
        values = clause.value if isinstance(clause.value, tuple) else (str(clause.value),)
        return Condition(test, dialect.listed("run", values))
    if clause.key == "start_time" and clause.op != "!=":
        return _started(clause, test)
    return Condition(test)


def _started(clause: Clause, test: Sql) -> Condition:
    """Milliseconds as a range of microseconds beside the exact test, for the index."""
    number = float(clause.value)  # type: ignore[arg-type]
    parts = [test]
    if math.isfinite(number) and abs(number) < 9e15:
        if clause.op in ("=", ">", ">="):
            parts.append(Sql("r.started_us >= ?", (math.floor(number) * 1000,)))
        if clause.op in ("=", "<", "<="):
            parts.append(Sql("r.started_us < ?", ((math.floor(number) + 1) * 1000,)))
    return Condition(joined("and", parts))
