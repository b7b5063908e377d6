"""How a search over runs is carried out, so that its time follows the page and not the ledger.

Two ways. *Drive*: take the runs of the most selective clause by its index, test the others on each, sort. *Walk*: go along the index of the
first key of the order, a slice at a time, test each run, and stop when the page is full. Which one: by counts of what each clause's index
holds, bounded (``_COUNTED``); a walk that finds less than was hoped for turns into a drive.

A slice ends where a value ends, so that its runs can be sorted by the other keys. Many runs of one value (a constant metric) are a search
of their own: one more clause, one key less. So are infinities, NaN and runs that have no value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from andon.store.statements import rows_of
from andon.tracking.search.conditions import Condition, View, has_metric, lacks, scope, text_condition
from andon.tracking.search.grammar import Clause
from andon.tracking.search.ordering import Found, OrderKey, after, ordered, past, placed
from andon.tracking.search.sql import Dialect, Sql, joined

if TYPE_CHECKING:
    from sqlalchemy import Connection

_COUNTED = 10_000
"""Rows of an index that are counted for one clause, at most: some 0.3 ms."""
_COUNTED_WELL = 50_000
"""The same where more depends on it: some 2 ms."""
_FEW = 400
"""So few are sorted without a thought."""
_SLICE = 500
_PATIENCE = 4_000
"""Runs that a walk looks at for nothing before it thinks again."""


class _Source(NamedTuple):
    """The index of an order's first key: a table, what is fixed in it, its column in order, and how its rows name their run."""

    table: str
    at: Sql
    column: str
    run: str | None


class Search:
    """One search over the runs of some experiments, on one connection."""

    def __init__(self, connection: Connection, experiments: Sequence[int], view: View) -> None:
        self._connection = connection
        self._dialect = Dialect(connection.dialect.name == "postgresql")
        self._experiments = experiments
        self._scope = scope(experiments, view, self._dialect)
        self._by_id = self._dialect.by("runs_by_id")
        self._counts: dict[tuple[str, str, int], int] = {}
        self._all_runs: int | None = None

    def count(self, conditions: Sequence[Condition], most: int) -> int:
        """How many runs pass, counted up to ``most``."""
        best: Condition | None = None
        if conditions:
            best, _ = self._best(conditions, _COUNTED_WELL)
            best = best or next((each for each in conditions if each.scan is not None), None)
        source, tests = self._driven(best, conditions)
        query = f"select count(*) from (select 1 from {source.text} where {tests.text} limit ?) counted"
        return int(rows_of(self._connection, query, (*source.bound, *tests.bound, most))[0][0])

    def find(self, conditions: Sequence[Condition], keys: Sequence[OrderKey], last: Found | None, need: int) -> list[Found]:
        """The next ``need`` runs in order after ``last``."""
        if any(each.low > each.high for each in conditions):
            return []
        if not conditions and len(keys) == 1 and self._served(keys[0]):
            return self._drive(None, conditions, keys, last, need)
        best, counted = self._best(conditions, _COUNTED)
        if counted == 0 or need <= 0:
            return []
        if counted > _FEW and keys and self._walks(keys[0]):
            if self._to_walk(conditions, keys[0], need, _COUNTED) <= counted:
                return self._walk(conditions, keys, last, need)
            if counted >= _COUNTED:  # many, but to walk may take more still: look closer
                best, counted = self._best(conditions, _COUNTED_WELL)
                if self._to_walk(conditions, keys[0], need, _COUNTED_WELL) <= counted:
                    return self._walk(conditions, keys, last, need)
        elif counted >= _COUNTED:
            best, _ = self._best(conditions, _COUNTED_WELL)
        return self._drive(best, conditions, keys, last, need)

    # --- deciding

    def _best(self, conditions: Sequence[Condition], most: int) -> tuple[Condition | None, int]:
        """The condition that the fewest runs pass, with how many, up to ``most``; None: to be in scope."""
        best: Condition | None = None
        fewest = self._count(self._scope.driver, most)
        for each in conditions:
            if each.driver is not None and fewest:
                counted = self._count(each.driver, most)
                if counted < fewest:
                    best, fewest = each, counted
        return best, fewest

    def _count(self, driver: Sql | None, most: int) -> int:
        if driver is None:
            return most
        known = (driver.text, repr(driver.bound), most)
        if known not in self._counts:
            query = f"select count(*) from (select 1 from ({driver.text}) d limit ?) counted"
            self._counts[known] = int(rows_of(self._connection, query, (*driver.bound, most))[0][0])
        return self._counts[known]

    def _to_walk(self, conditions: Sequence[Condition], key: OrderKey, need: int, most: int) -> float:
        """About how many runs a walk looks at, if the clauses are independent and what has no index holds of all."""
        total = max(self._total(), 1)
        share = 1.0
        for each in (self._scope, *conditions):
            if each.driver is not None and each.needs != ("metric", key.key):
                counted = self._count(each.driver, most)
                least = min(1.0, counted / total)
                share *= least if counted < most else math.sqrt(least)  # somewhere from that to all
        return min(need / max(share, 1e-12), total)

    def _total(self) -> int:
        """About how many runs there are."""
        if self._all_runs is None:
            if self._dialect.postgres:
                query = "select reltuples::bigint from pg_class where oid = 'runs'::regclass"
            else:
                query = "select max(rowid) from runs"
            self._all_runs = max(int(rows_of(self._connection, query)[0][0] or 0), 0) or _COUNTED_WELL
        return self._all_runs

    def _served(self, key: OrderKey) -> bool:
        """Whether an index has the whole order by this key alone, as it was asked for."""
        return len(self._experiments) == 1 and (key.kind, key.key, key.ascending) == ("attribute", "start_time", False)

    def _walks(self, key: OrderKey) -> bool:
        if key.kind == "attribute":
            return key.key == "start_time"
        return key.kind == "metric" or not self._dialect.postgres  # whose indexes leave long texts out

    # --- driving

    def _driven(self, driver: Condition | None, conditions: Sequence[Condition]) -> tuple[Sql, Sql]:
        """What follows ``from``, without the order's joins, and what follows ``where``."""
        if driver is None:
            return Sql("runs r"), joined("and", [self._scope.test, *self._tests(conditions, "r.id")])
        runs = driver.driver or driver.scan or Sql("")
        source = Sql(f"({runs.text}) driven cross join runs r{self._by_id}", runs.bound)
        rest = self._tests([each for each in conditions if each is not driver], "driven.run")
        return source, joined("and", [Sql("r.id = driven.run"), *rest, self._scope.test])

    def _tests(self, conditions: Sequence[Condition], run: str) -> list[Sql]:
        """Tests, those first that fewer pass; of the id as ``run`` has it where that is all they ask, before ``r`` is looked up."""
        counts = [_COUNTED if each.driver is None else self._count(each.driver, _COUNTED) for each in conditions]
        tests = [each.test for _, each in sorted(zip(counts, conditions, strict=True), key=lambda pair: pair[0])]
        return [
            Sql(test.text.replace("r.id", run), test.bound) if test.text.count("r.") == test.text.count("r.id") else test for test in tests
        ]

    def _drive(
        self,
        driver: Condition | None,
        conditions: Sequence[Condition],
        keys: Sequence[OrderKey],
        last: Found | None,
        need: int,
        beyond: Sql | None = None,
    ) -> list[Found]:
        source, tests = self._driven(driver, conditions)
        more = [*([after(keys, last)] if last is not None else []), *([beyond] if beyond is not None else [])]
        return self._rows(source, joined("and", [tests, *more]), keys, need)

    def _rows(self, source: Sql, tests: Sql, keys: Sequence[OrderKey], need: int) -> list[Found]:
        columns = "".join(f", {key.rank}, {key.value}" for key in keys)
        joins = [key.join for key in keys if key.join.text]
        query = (
            f"select r.id{columns} from {source.text} {' '.join(join.text for join in joins)}"
            f" where {tests.text} order by {ordered(keys)} limit ?"
        )
        bound = (*source.bound, *(value for join in joins for value in join.bound), *tests.bound, need)
        return [placed(row) for row in rows_of(self._connection, query, bound)]

    # --- walking

    def _walk(
        self,
        conditions: Sequence[Condition],
        keys: Sequence[OrderKey],
        last: Found | None,
        need: int,
    ) -> list[Found]:
        """The parts of the order by the first key, one after the other: each is one value, or (None) the values of a range."""
        key = keys[0]
        parts: list[tuple[int, Any, Condition | None]] = [(0, None, None)]
        if key.kind == "metric":
            high, low = (
                (0, math.inf, has_metric(key.key, 2, None, self._dialect)),
                (0, -math.inf, has_metric(key.key, 3, None, self._dialect)),
            )
            parts = [low, *parts, high] if key.ascending else [high, *parts, low]
            parts.append((1, None, has_metric(key.key, 1, None, self._dialect)))
        if key.kind != "attribute" and not any(each.needs == (key.kind, key.key) for each in conditions):
            parts.append((2 if key.kind == "metric" else 1, None, lacks(key.kind, key.key, self._dialect)))
        if last is not None:
            parts = parts[self._part(parts, last) :]
        found: list[Found] = []
        for rank, value, only in parts:
            if len(found) >= need:
                break
            if only is None:
                more, all_of_it = self._range(conditions, keys, last, need - len(found))
                found += more
                if all_of_it:
                    break
            else:
                rest = None if last is None else Found(last.run, last.places[1:])
                found += self._one(conditions, only, (rank, value), keys, rest, need - len(found))
            last = None
        return found

    @staticmethod
    def _part(parts: Sequence[tuple[int, Any, Condition | None]], last: Found) -> int:
        rank, value = last.places[0]
        for at, (at_rank, at_value, only) in enumerate(parts):
            if rank == at_rank and (rank > 0 or (only is not None and value == at_value)):
                return at
        between = [at for at, part in enumerate(parts) if part[2] is None]
        return between[0] if not rank else len(parts)

    def _one(
        self,
        conditions: Sequence[Condition],
        only: Condition,
        place: tuple[int, Any],
        keys: Sequence[OrderKey],
        rest: Found | None,
        need: int,
    ) -> list[Found]:
        """The runs that stand at one place by the first key, in order of the others."""
        rows = self.find([*conditions, only], keys[1:], rest, need)
        return [Found(row.run, (place, *row.places)) for row in rows]

    def _range(
        self,
        conditions: Sequence[Condition],
        keys: Sequence[OrderKey],
        last: Found | None,
        need: int,
    ) -> tuple[list[Found], bool]:
        """Along the index of the first key, in slices that grow; and whether the parts that follow are in it too."""
        key = keys[0]
        source = self._source(key)
        found: list[Found] = []
        at, end = self._bounds(conditions, key)
        if last is not None:
            at = (last.places[0][1], False)
            found += self._group(conditions, keys, at[0], last, need)
        size, looked = max(_SLICE, 4 * need), 0
        while len(found) < need:
            stop = self._boundary(source, key, at, end, size)
            if stop is not None and self._many(source, stop, size):
                found += self._slice(conditions, keys, source, (at, (stop, False)), need - len(found))
                found += self._group(conditions, keys, stop, None, need - len(found))
            else:
                found += self._slice(conditions, keys, source, (at, end if stop is None else (stop, True)), need - len(found))
            if stop is None:
                break
            at, looked, size = (stop, False), looked + size, size * 3
            if looked > _PATIENCE * (1 + 10 * len(found)) and len(found) < need and (driver := self._instead(conditions)) is not None:
                return found + self._remaining(conditions, keys, driver, at, need - len(found)), True
        return found[:need], False

    def _instead(self, conditions: Sequence[Condition]) -> Condition | None:
        """What to drive by when a walk has looked at many runs for few: there is something that far fewer pass than there are."""
        best, counted = self._best(conditions, _COUNTED_WELL)
        if best is not None and counted < self._total() // 2:
            return best
        return next((each for each in conditions if each.driver is None), None)

    def _remaining(
        self, conditions: Sequence[Condition], keys: Sequence[OrderKey], driver: Condition, at: tuple[Any, bool], need: int
    ) -> list[Found]:
        """What is left of the order beyond ``at``, by driving."""
        key = keys[0]
        tests = past(key, at[0])
        if key.rank != "0":
            tests = joined("or", (Sql(f"{key.rank} > 0"), tests))
        return self._drive(driver if driver.driver or driver.scan else None, conditions, keys, None, need, tests)

    def _source(self, key: OrderKey) -> _Source:
        by = self._dialect.by
        if key.kind == "metric":
            return _Source(f"series w{by('series_by_value')}", Sql("w.key = ? and w.special = 0", (key.key,)), "w.value", "w.run")
        if key.kind == "parameter":
            return _Source(f"params w{by('params_by_value')}", Sql("w.key = ?", (key.key,)), "w.value", "w.run")
        if key.kind == "tag":
            at = Sql("w.key = ? and w.subject >= 'run:' and w.subject < 'run;'", (key.key,))
            return _Source(f"tags w{by('tags_by_key')}", at, "w.value", "substr(w.subject, 5)")
        at = Sql("r.experiment = ?", (self._experiments[0],)) if len(self._experiments) == 1 else Sql("1 = 1")
        return _Source("runs r", at, "r.started_us", None)

    def _bounds(self, conditions: Sequence[Condition], key: OrderKey) -> tuple[tuple[Any, bool] | None, tuple[Any, bool] | None]:
        """Where clauses about the key itself let the walk begin and end, inclusive."""
        if key.kind != "metric":
            return None, None
        low = max((each.low for each in conditions if each.needs == ("metric", key.key)), default=-math.inf)
        high = min((each.high for each in conditions if each.needs == ("metric", key.key)), default=math.inf)
        ends = [(bound, True) if math.isfinite(bound) else None for bound in ((low, high) if key.ascending else (high, low))]
        return ends[0], ends[1]

    def _within(self, source: _Source, key: OrderKey, at: tuple[Any, bool] | None, end: tuple[Any, bool] | None) -> Sql:
        """The rows of the index from ``at`` to ``end`` in the order's direction."""
        first, then = (">", "<") if key.ascending else ("<", ">")
        tests = [source.at]
        for bound, sign in ((at, first), (end, then)):
            if bound is not None:
                tests.append(Sql(f"{source.column} {sign}{'=' if bound[1] else ''} ?", (bound[0],)))
        return joined("and", tests)

    def _boundary(self, source: _Source, key: OrderKey, at: tuple[Any, bool] | None, end: tuple[Any, bool] | None, size: int) -> Any:
        """The value at which a slice of about ``size`` rows ends; None when fewer are left."""
        within = self._within(source, key, at, end)
        way = "asc" if key.ascending else "desc"
        query = f"select {source.column} from {source.table} where {within.text} order by {source.column} {way} limit 1 offset ?"
        rows = rows_of(self._connection, query, (*within.bound, size - 1))
        return rows[0][0] if rows else None

    def _many(self, source: _Source, value: Any, size: int) -> bool:
        """Whether more than a slice's rows have this one value."""
        query = f"select count(*) from (select 1 from {source.table} where {source.at.text} and {source.column} = ? limit ?) counted"
        return int(rows_of(self._connection, query, (*source.at.bound, value, size + 1))[0][0]) > size

    def _slice(
        self,
        conditions: Sequence[Condition],
        keys: Sequence[OrderKey],
        source: _Source,
        part: tuple[tuple[Any, bool] | None, tuple[Any, bool] | None],
        need: int,
    ) -> list[Found]:
        if need <= 0:
            return []
        within = self._within(source, keys[0], *part)
        if source.run is None:
            tests = [within, self._scope.test, *self._tests(conditions, "r.id")]
            return self._rows(Sql(source.table), joined("and", tests), keys, need)
        here = keys[0]._replace(rank="0", value=source.column, join=Sql(""))
        tests = [within, *self._tests(conditions, source.run), Sql(f"r.id = {source.run}"), self._scope.test]
        return self._rows(Sql(f"{source.table} cross join runs r{self._by_id}"), joined("and", tests), [here, *keys[1:]], need)

    def _group(self, conditions: Sequence[Condition], keys: Sequence[OrderKey], value: Any, last: Found | None, need: int) -> list[Found]:
        """The runs of one value of the first key's index, after ``last``."""
        key = keys[0]
        rest = None if last is None else Found(last.run, last.places[1:])
        if key.kind == "metric":
            only = has_metric(key.key, 0, value, self._dialect)
        elif key.kind == "attribute":
            same = Sql("r.started_us = ?", (value,))
            only = Condition(same, Sql(f"select r.id as run from runs r where {same.text}", same.bound))
        else:
            only = text_condition(Clause(key.kind, key.key, "=", value), self._dialect)._replace(needs=None)
        return self._one(conditions, only, (0, value), keys, rest, need)
