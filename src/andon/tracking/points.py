"""Metric points in SQL: the hot path. One batch is four statements whatever its size, or three for a new series.

Points are keyed by all they hold, so writing one twice changes nothing; ``series`` keeps the newest point, count and extremes of each
metric, and is right after every batch because writers take turns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from andon.core.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlalchemy import Connection

MAX_KEY_CHARACTERS = 250
_NAN, _POSITIVE, _NEGATIVE = 1, 2, 3
_CHUNK = 500  # names in one IN (…): below every database's limit on bound values
_INT64 = 2**63

Row = tuple[int, int, float, int]
"""``step, at_us, value, special``, which is also the order of a series' points."""


@dataclass(frozen=True, slots=True)
class Group:
    """The points of one metric in one batch."""

    key: str
    rows: list[Row]
    newest: Row
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class SeriesPoints:
    """Points in order of step, then time: ``steps`` and ``at_us`` int64 ``[n]``, ``values`` float64 ``[n]`` (NaN and infinities kept)."""

    key: str
    steps: NDArray[np.int64]
    at_us: NDArray[np.int64]
    values: NDArray[np.float64]


def group(points: Iterable[tuple[str, float, int, int]]) -> list[Group]:
    """Points by metric, checked. Pure, and so done before the writer's turn. Raises ``InvalidInput`` naming the key."""
    gathered: dict[str, list[Row]] = {}
    for key, value, step, at_us in points:
        # value - value is 0.0 for every finite float and for nothing else
        row = (step, at_us, value, 0) if type(value) is float and value - value == 0.0 else _row(key, value, step, at_us)
        try:
            gathered[key].append(row)
        except KeyError:
            check_key(key)
            gathered[key] = [row]
    return [_group(key, rows) for key, rows in gathered.items()]


def check_key(key: str) -> str:
    """Return ``key`` if it can name a metric or parameter, else raise ``InvalidInput``."""
    if not isinstance(key, str) or not key or len(key) > MAX_KEY_CHARACTERS or not key.isprintable():
        raise InvalidInput(f"a key is printable text of 1 to {MAX_KEY_CHARACTERS} characters", field="key", got=str(key)[:80])
    return key


def _row(key: str, value: Any, step: int, at_us: int) -> Row:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidInput("a metric's value is a number", field=str(key)[:80], got=repr(value)[:80]) from None
    if math.isnan(number):
        return (step, at_us, 0.0, _NAN)
    if math.isinf(number):
        return (step, at_us, 0.0, _POSITIVE if number > 0 else _NEGATIVE)
    return (step, at_us, number, 0)


def _group(key: str, rows: list[Row]) -> Group:
    for step, at_us, _, _ in rows if len(rows) < 2 else (min(rows), max(rows), max(rows, key=_time), min(rows, key=_time)):
        for name, number in (("step", step), ("at_us", at_us)):
            if type(number) is not int or not -_INT64 <= number < _INT64:
                raise InvalidInput(f"a point's {name} is a whole number of 64 bits", field=key, got=str(number)[:40])
    finite = [row[2] for row in rows if not row[3]]
    return Group(key, rows, max(rows), min(finite, default=None), max(finite, default=None))


def _time(row: Row) -> int:
    return row[1]


def write_points(connection: Connection, run: str, groups: Sequence[Group]) -> None:
    """Add a batch to a run's series, in the caller's transaction."""
    known = {row[1]: row for row in _series_rows(connection, run, [item.key for item in groups])}
    fresh = [item for item in groups if item.key not in known]
    if fresh:
        insert = _sql(
            connection, "insert into series (run, key, step, at_us, value, special, count, min, max) values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        connection.exec_driver_sql(insert, [(run, item.key, *item.newest, len(item.rows), item.low, item.high) for item in fresh])
        ids = {row[1]: row[0] for row in _series_rows(connection, run, [item.key for item in fresh])}
    else:
        ids = {}
    ids |= {key: row[0] for key, row in known.items()}
    total = sum(len(item.rows) for item in groups)
    written = _insert_points(connection, [(ids[item.key], *row) for item in groups for row in item.rows])
    if written == total:
        changes = [_merged(known[item.key], item, known[item.key][6] + len(item.rows)) for item in groups if item.key in known]
    else:  # some were there already (a client that tried again, say): count what is there now
        counts = _counts(connection, list(ids.values()))
        changes = [
            _merged(known[item.key], item, counts[ids[item.key]])
            if item.key in known
            else (*item.newest, counts[ids[item.key]], item.low, item.high, ids[item.key])
            for item in groups
        ]
    if changes:
        update = _sql(connection, "update series set step = ?, at_us = ?, value = ?, special = ?, count = ?, min = ?, max = ? where id = ?")
        connection.exec_driver_sql(update, changes)


def _merged(row: Any, item: Group, count: int) -> tuple[Any, ...]:
    identity, _, step, at_us, value, special, _, low, high = row
    newest = max((step, at_us, value, special), item.newest)
    if item.low is not None and item.high is not None:
        low = item.low if low is None or item.low < low else low
        high = item.high if high is None or item.high > high else high
    return (*newest, count, low, high, identity)


def _insert_points(connection: Connection, rows: list[tuple[int, int, int, float, int]]) -> int:
    """Returns how many were new."""
    if connection.dialect.name == "postgresql":  # one statement over arrays: six times the speed of executemany there
        columns = [list(column) for column in zip(*rows, strict=True)]
        made = connection.exec_driver_sql(
            "insert into points select * from unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::float8[], %s::smallint[])"
            " on conflict do nothing",
            tuple(columns),
        )
        return int(made.rowcount)
    made = connection.exec_driver_sql("insert or ignore into points values (?, ?, ?, ?, ?)", rows)
    return int(made.rowcount)


def _series_rows(connection: Connection, run: str, keys: list[str]) -> Iterator[Any]:
    for start in range(0, len(keys), _CHUNK):
        part = keys[start : start + _CHUNK]
        names = ", ".join("?" * len(part))
        query = f"select id, key, step, at_us, value, special, count, min, max from series where run = ? and key in ({names})"
        yield from connection.exec_driver_sql(_sql(connection, query), (run, *part)).cursor.fetchall()  # plain tuples


def _counts(connection: Connection, ids: list[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for start in range(0, len(ids), _CHUNK):
        part = ids[start : start + _CHUNK]
        query = f"select series, count(*) from points where series in ({', '.join('?' * len(part))}) group by series"
        counts |= {row[0]: row[1] for row in connection.exec_driver_sql(_sql(connection, query), tuple(part))}
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
    rows = connection.exec_driver_sql(_sql(connection, query), bound).cursor.fetchall()  # plain tuples: SQLAlchemy's rows cost more
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


def _sql(connection: Connection, text: str) -> str:
    """Our ``?`` in the driver's own style of bound values."""
    return text if connection.dialect.paramstyle == "qmark" else text.replace("?", "%s")
