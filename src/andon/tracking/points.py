"""Metric points in SQL: the hot path. One batch is four statements whatever its size, or three for a new series.

Points are keyed by all they hold, so writing one twice changes nothing; ``series`` keeps the newest point, count and extremes of each
metric, and is right after every batch because writers take turns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from andon.core.errors import InvalidInput
from andon.store.statements import rows_of, run_sql

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlalchemy import Connection

MAX_KEY_CHARACTERS = 250
_NAN, _POSITIVE, _NEGATIVE = 1, 2, 3
_CHUNK = 500  # names in one IN (…): below every database's limit on bound values
_INT64 = 2**63
_AT_ONCE = 50  # rows in one insert
_ZEROS = (0,) * 1_000
_FLOATS, _INTS = {float}, {int}

Row = tuple[int, int, float, int]
"""``step, at_us, value, special``, which is also the order of a series' points."""


@dataclass(frozen=True, slots=True)
class Group:
    """The points of one metric in one batch, by column: ``step``, ``at_us``, ``value`` and ``special``, each ``[n]``."""

    key: str
    columns: tuple[Sequence[int], Sequence[int], Sequence[float], Sequence[int]]
    newest: Row
    low: float | None
    high: float | None

    @property
    def rows(self) -> list[Row]:
        """The same, point by point."""
        return list(zip(*self.columns, strict=True))

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.columns[0])


@dataclass(frozen=True, slots=True)
class SeriesPoints:
    """Points in order of step, then time: ``steps`` and ``at_us`` int64 ``[n]``, ``values`` float64 ``[n]`` (NaN and infinities kept)."""

    key: str
    steps: NDArray[np.int64]
    at_us: NDArray[np.int64]
    values: NDArray[np.float64]


def group(points: Iterable[tuple[str, float, int, int]]) -> list[Group]:
    """Points by metric, checked. Pure, and so done before the writer's turn. Raises ``InvalidInput`` naming the key."""
    given = points if isinstance(points, list) else list(points)
    if not given:
        return []
    keys, values, steps, times = zip(*given, strict=True)
    return group_columns(keys, values, steps, times)


def group_columns(keys: Sequence[str], values: Sequence[float], steps: Sequence[int], times: Sequence[int]) -> list[Group]:
    """``group``, given keys, values, steps and microseconds each as a column. Work that is the same for every point is done in C."""
    specials: Sequence[int] = _ZEROS[: len(keys)] if len(keys) <= len(_ZEROS) else (0,) * len(keys)
    if set(map(type, values)) != _FLOATS or not math.isfinite(sum(values)):
        rows = [point_row(key, value, 0, 0) for key, value in zip(keys, values, strict=True)]
        values, specials = [row[2] for row in rows], [row[3] for row in rows]
    for name, numbers in (("step", steps), ("at_us", times)):
        if set(map(type, numbers)) != _INTS or not -_INT64 <= min(numbers) <= max(numbers) < _INT64:
            _wrong_number(name, keys, numbers)
    if keys.count(keys[0]) == len(keys):
        return [_group(keys[0], steps, times, values, specials)]
    places: dict[str, list[int]] = {}
    for n, key in enumerate(keys):
        try:
            places[key].append(n)
        except KeyError:
            places[key] = [n]
    return [
        _group(key, *([column[n] for n in at] for column in (steps, times, values, specials)))  # type: ignore[arg-type]
        for key, at in places.items()
    ]


def _wrong_number(name: str, keys: Sequence[str], numbers: Sequence[Any]) -> None:
    for key, number in zip(keys, numbers, strict=True):
        if type(number) is not int or not -_INT64 <= number < _INT64:
            raise InvalidInput(f"a point's {name} is a whole number of 64 bits", field=str(key)[:80], got=str(number)[:40])


def check_key(key: str) -> str:
    """Return ``key`` if it can name a metric or parameter, else raise ``InvalidInput``."""
    if not isinstance(key, str) or not key or len(key) > MAX_KEY_CHARACTERS or not key.isprintable():
        raise InvalidInput(f"a key is printable text of 1 to {MAX_KEY_CHARACTERS} characters", field="key", got=str(key)[:80])
    return key


def point_row(key: str, value: Any, step: int, at_us: int) -> Row:
    """A point as it is kept. Raises ``InvalidInput`` naming the key when the value is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidInput("a metric's value is a number", field=str(key)[:80], got=repr(value)[:80]) from None
    if math.isnan(number):
        return (step, at_us, 0.0, _NAN)
    if math.isinf(number):
        return (step, at_us, 0.0, _POSITIVE if number > 0 else _NEGATIVE)
    return (step, at_us, number, 0)


def _group(key: str, steps: Sequence[int], times: Sequence[int], values: Sequence[float], specials: Sequence[int]) -> Group:
    check_key(key)
    columns, rows = (steps, times, values, specials), zip(steps, times, values, specials, strict=True)
    if not any(specials):
        return Group(key, columns, max(rows), min(values), max(values))
    finite = [value for value, special in zip(values, specials, strict=True) if not special]
    return Group(key, columns, max(rows, key=_age), min(finite, default=None), max(finite, default=None))


def _age(row: Row) -> tuple[int, int, float]:
    """What makes one point newer than another: step, then time, then value, where NaN counts as 0 (and infinities for what they are)."""
    step, at_us, value, special = row
    return step, at_us, value if special < _POSITIVE else real_value(value, special)


def write_points(connection: Connection, run: str, groups: Sequence[Group]) -> None:
    """Add a batch to a run's series, in the caller's transaction."""
    known = {row[1]: row for row in _series_rows(connection, run, [item.key for item in groups])}
    fresh = [item for item in groups if item.key not in known]
    if fresh:
        insert = "insert into series (run, key, step, at_us, value, special, count, min, max) values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        run_sql(connection, insert, [(run, item.key, *item.newest, item.n, item.low, item.high) for item in fresh])
        ids = {row[1]: row[0] for row in _series_rows(connection, run, [item.key for item in fresh])}
    else:
        ids = {}
    ids |= {key: row[0] for key, row in known.items()}
    total = sum(item.n for item in groups)
    written = _insert_points(connection, [(ids[item.key], item) for item in groups])
    if written == total:
        changes = [_merged(known[item.key], item, known[item.key][6] + item.n) for item in groups if item.key in known]
    else:  # some were there already (a client that tried again, say): count what is there now
        counts = _counts(connection, list(ids.values()))
        changes = [
            _merged(known[item.key], item, counts[ids[item.key]])
            if item.key in known
            else (*item.newest, counts[ids[item.key]], item.low, item.high, ids[item.key])
            for item in groups
        ]
    if changes:
        update = "update series set step = ?, at_us = ?, value = ?, special = ?, count = ?, min = ?, max = ? where id = ?"
        run_sql(connection, update, changes)


def _merged(row: Any, item: Group, count: int) -> tuple[Any, ...]:
    identity, _, step, at_us, value, special, _, low, high = row
    before = (step, at_us, value, special)
    newest = item.newest if _age(item.newest) > _age(before) else before
    if item.low is not None and item.high is not None:
        low = item.low if low is None or item.low < low else low
        high = item.high if high is None or item.high > high else high
    return (*newest, count, low, high, identity)


def _insert_points(connection: Connection, series: Sequence[tuple[int, Group]]) -> int:
    """Returns how many were new."""
    rows = chain.from_iterable(zip(repeat(number), *item.columns, strict=False) for number, item in series)
    if connection.dialect.name == "postgresql":  # one statement over arrays: six times the speed of executemany there
        columns = [list(column) for column in zip(*rows, strict=True)]
        made = connection.exec_driver_sql(
            "insert into points select * from unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::float8[], %s::smallint[])"
            " on conflict do nothing",
            tuple(columns),
        )
        return int(made.rowcount)
    flat = list(chain.from_iterable(rows))
    whole = len(flat) - len(flat) % (5 * _AT_ONCE)
    written = 0
    if whole:  # many rows a statement: twice the speed
        written = run_sql(connection, _inserting(_AT_ONCE), [tuple(flat[n : n + 5 * _AT_ONCE]) for n in range(0, whole, 5 * _AT_ONCE)])
    if whole < len(flat):
        written += run_sql(connection, _inserting((len(flat) - whole) // 5), tuple(flat[whole:]))
    return written


@cache
def _inserting(rows: int) -> str:
    return "insert or ignore into points values " + ", ".join(["(?, ?, ?, ?, ?)"] * rows)


def _series_rows(connection: Connection, run: str, keys: list[str]) -> Iterator[Any]:
    for start in range(0, len(keys), _CHUNK):
        part = keys[start : start + _CHUNK]
        names = ", ".join("?" * len(part))
        query = f"select id, key, step, at_us, value, special, count, min, max from series where run = ? and key in ({names})"
        yield from rows_of(connection, query, (run, *part))


def _counts(connection: Connection, ids: list[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for start in range(0, len(ids), _CHUNK):
        part = ids[start : start + _CHUNK]
        query = f"select series, count(*) from points where series in ({', '.join('?' * len(part))}) group by series"
        counts |= dict(rows_of(connection, query, part))
    return counts


def read_points(connection: Connection, run: str, key: str, *, after: Row | None = None, limit: int | None = None) -> SeriesPoints:
    """A metric's points in order, from just after the row ``after``; empty when there is no such metric."""
    import numpy as np

    query = (
        "select p.step, p.at_us, p.value, p.special from points p join series s on s.id = p.series where s.run = ? and s.key = ?"
        + (" and (p.step, p.at_us, p.value, p.special) > (?, ?, ?, ?)" if after is not None else "")
        + " order by p.step, p.at_us, p.value, p.special"
        + (" limit ?" if limit is not None else "")
    )
    bound = (run, key, *(after or ()), *((limit,) if limit is not None else ()))
    rows = rows_of(connection, query, bound)
    if not rows:
        return SeriesPoints(key, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
    steps, times, values, specials = zip(*rows, strict=True)
    numbers = np.array(values, dtype=np.float64)
    if any(specials):
        marks = np.array(specials)
        numbers[marks == _NAN] = np.nan
        numbers[marks == _POSITIVE] = np.inf
        numbers[marks == _NEGATIVE] = -np.inf
    return SeriesPoints(key, np.array(steps, dtype=np.int64), np.array(times, dtype=np.int64), numbers)


def real_value(value: float, special: int) -> float:
    """What ``value`` and ``special`` stand for.

    >>> real_value(0.0, 3)
    -inf
    """
    return value if not special else (math.nan, math.inf, -math.inf)[special - 1]
