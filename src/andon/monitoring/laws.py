"""Laws that held all through training: a feature that the clock dictates, a calendar feature that the others dictate.

``hr`` sent in UTC is still a plausible hour; what it breaks is the law "hr is the hour of the event". A ``workingday`` stuck at 0 breaks
"a Tuesday that is no holiday is a working day". Laws are found by looking, never by name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from andon.core.clocks import DAY_US, HOUR_US
from andon.monitoring.phases import by_day, step_us
from andon.monitoring.records import Array, Bools, Frame, Ints

CLOCKS = ("time of day", "day of week", "time of week", "month", "day of month")
_AGREES = 0.9
_MIN_DAYS = 21
_MAX_CODES = 64
_NONE = np.array(None, dtype=object)


def clock(name: str, event_us: Ints, step: int = HOUR_US) -> Ints:
    """What a clock shows at each event: int64 (n,)."""
    if name == "time of day":
        return event_us % DAY_US // step
    if name == "day of week":
        return (event_us // DAY_US + 3) % 7
    if name == "time of week":
        return (event_us - 4 * DAY_US) % (7 * DAY_US) // step
    days = (event_us // DAY_US).astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    if name == "month":
        return np.asarray(months.astype(np.int64) % 12)
    return np.asarray((days - months).astype(np.int64))


def encode(column: Array) -> tuple[Ints, list[float | str]]:
    """Codes from 0 (``-1`` for null) and the values they stand for, in order.

    >>> codes, values = encode(np.array(["b", None, "a"], dtype=object))
    >>> codes.tolist(), values
    ([1, -1, 0], ['a', 'b'])
    """
    if column.dtype.kind == "O":
        listed = column.tolist()
        texts = {value: None if value is None or value != value else str(value) for value in dict.fromkeys(listed)}
        names = sorted({text for text in texts.values() if text is not None})
        place = {name: code for code, name in enumerate(names)}
        codes_of = {value: -1 if text is None else place[text] for value, text in texts.items()}
        return np.fromiter(map(codes_of.__getitem__, listed), dtype=np.int64, count=len(listed)), list(names)
    values, codes = np.unique(column, return_inverse=True)
    finite = np.isfinite(values)
    return np.where(finite[codes], codes, -1).astype(np.int64), values[finite].tolist()


def absent(column: Array) -> Bools:
    """The rows that are null: bool (n,).

    >>> absent(np.array([1.0, np.nan])).tolist(), absent(np.array(["", None], dtype=object)).tolist()
    ([False, True], [False, True])
    """
    if column.dtype.kind == "O":
        return np.asarray(np.equal(column, _NONE) | np.not_equal(column, column), dtype=np.bool_)
    return ~np.isfinite(column)


def distinct(columns: Sequence[Array]) -> tuple[Ints, Ints]:
    """(the first row of each distinct combination of values, which combination each row is); null equals null.

    >>> [found.tolist() for found in distinct([np.array([1.0, 1.0, np.nan, np.nan]), np.array(["a", "a", None, "a"], dtype=object)])]
    [[0, 3, 2], [0, 0, 2, 1]]
    """
    n = len(columns[0])
    fresh = np.ones(n, dtype=bool)
    if n > 1:  # rows that only repeat the row before are left out of the search
        fresh[1:] = np.logical_or.reduce([np.not_equal(column[1:], column[:-1]).astype(np.bool_) for column in columns])
    at = np.flatnonzero(fresh)
    first, group = _grouped([column[at] for column in columns]) if len(at) > 1 else (at[:1] * 0, at * 0)
    return at[first], group[np.cumsum(fresh) - 1]


def _grouped(columns: Sequence[Array]) -> tuple[Ints, Ints]:
    n = len(columns[0])
    group = np.zeros(n, dtype=np.int64)
    for column in columns:
        if column.dtype.kind == "O":
            place = {value: code for code, value in enumerate(dict.fromkeys(column.tolist()))}
            nowhere = len(place)
            place |= {value: nowhere for value in place if value is None or value != value}
            codes = np.fromiter(map(place.__getitem__, column.tolist()), dtype=np.int64, count=n)
        else:
            codes = np.unique(column, return_inverse=True)[1]
        group = np.unique(group * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)[1]
    _, first, group = np.unique(group, return_index=True, return_inverse=True)
    return first, group


def _said(values: Sequence[float | str | None]) -> Array:
    """Values with gaps as a column: float64 with NaN, or objects with ``None`` if any of them is a text."""
    if any(isinstance(value, str) for value in values):
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return column
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Training rows with what every test needs of them, worked out once: codes of each input, the rows' days, and what clocks showed."""

    rows: Frame
    step: int
    codes: Mapping[str, tuple[Ints, list[float | str]]]
    days: Ints
    place: Ints
    readings: Mapping[str, Ints]


def snapshot(rows: Frame) -> Snapshot:
    """A training frame, looked at once."""
    step = step_us(rows.event_us)
    days, place = by_day(rows.event_us)
    codes = {name: encode(column) for name, column in rows.inputs.items()}
    return Snapshot(rows, step, codes, days, place, {name: clock(name, rows.event_us, step) for name in CLOCKS})


@dataclass(frozen=True, slots=True)
class ClockLaw:
    """``feature`` is what ``table`` says at each reading of ``clock``; ``exceptions`` of ``days`` training days broke it."""

    feature: str
    clock: str
    table: Mapping[int, float | str]
    days: int
    exceptions: int
    step: int

    def expected(self, event_us: Ints) -> Array:
        """The value the law demands for each row (n,): null where the clock reads what training never saw."""
        return self.demanded(clock(self.clock, event_us, self.step))

    def demanded(self, readings: Ints) -> Array:
        """The value the law demands at each reading of its clock (n,)."""
        found, place = np.unique(readings, return_inverse=True)
        return _said([self.table.get(reading) for reading in found.tolist()])[place]


@dataclass(frozen=True, slots=True)
class CalendarLaw:
    """Within a day ``feature`` is constant, and is what ``table`` says for the day's other calendar features."""

    feature: str
    given: tuple[str, ...]
    table: Mapping[tuple[float | str, ...], float | str]
    days: int
    exceptions: int

    def expected(self, rows: Frame) -> Array:
        """The value the law demands for each row (n,): null where the others stand as training never saw them stand."""
        columns = _given(rows, self.given)
        first, place = distinct(columns)
        return _said([self.table.get(key) for key in _keys([column[first] for column in columns])])[place]


def _given(rows: Frame, given: tuple[str, ...]) -> list[Array]:
    nowhere = np.full(len(rows), np.nan)
    return [clock("day of week", rows.event_us), *(rows.inputs.get(name, nowhere) for name in given)]


def _keys(columns: list[Array]) -> list[tuple[float | str, ...]]:
    return list(zip(*(column.tolist() for column in columns), strict=True))


def broken(expected: Array, column: Array) -> Bools:
    """Rows that break a law: a demand, a value, and the two differ. bool (n,).

    >>> broken(np.array([1.0, np.nan, 2.0]), np.array([2.0, 2.0, np.nan])).tolist()
    [True, False, False]
    """
    known = ~absent(expected) & ~absent(column)
    return np.asarray(known & np.not_equal(expected, column).astype(np.bool_), dtype=np.bool_)


def days_broken(place: Ints, mask: Bools) -> tuple[int, int]:
    """(days on which most rows break the law, days); ``place`` is each row's day, counted from 0."""
    if not len(place):
        return 0, 0
    share = np.bincount(place, weights=mask) / np.bincount(place)
    return int((share >= 0.5).sum()), len(share)


def find_clock_law(name: str, training: Snapshot) -> ClockLaw | None:
    """The simplest clock that dictates the feature in at least 90 % of training rows, or ``None``; a constant obeys no clock."""
    codes, values = training.codes[name]
    if not 2 <= len(values) <= 400 or len(training.days) < _MIN_DAYS:
        return None
    known = codes >= 0
    for clock_name in CLOCKS:
        readings = training.readings[clock_name]
        size = int(readings.max()) + 1
        counts = np.bincount(readings[known] * len(values) + codes[known], minlength=size * len(values)).reshape(size, len(values))
        seen = counts.sum(axis=1) > 0
        modal = counts.argmax(axis=1)
        if len(np.unique(modal[seen])) < 2 or counts.max(axis=1).sum() / max(1.0, counts.sum()) < _AGREES:
            continue
        law = ClockLaw(name, clock_name, {int(r): values[modal[r]] for r in np.flatnonzero(seen)}, 0, 0, training.step)
        exceptions, days = days_broken(training.place, broken(law.demanded(readings), training.rows.inputs[name]))
        return ClockLaw(name, clock_name, law.table, days, exceptions, training.step)
    return None


def daily_constants(training: Snapshot) -> tuple[str, ...]:
    """Features with few values that (nearly) never change within a day: the calendar features."""
    same_day = training.place[1:] == training.place[:-1]
    if not same_day.any() or len(training.days) < _MIN_DAYS:
        return ()
    found = []
    for name, (codes, values) in training.codes.items():
        changes = (codes[1:] != codes[:-1]) & same_day
        if 2 <= len(values) <= _MAX_CODES and changes.sum() <= 0.02 * len(training.days):
            found.append(name)
    return tuple(found)


def find_calendar_law(name: str, calendar: tuple[str, ...], training: Snapshot) -> CalendarLaw | None:
    """What the other calendar features and the weekday dictate about this one; ``None`` if training is too short or says too little.

    Only combinations that stood on at least three days, always with the same value, make law; the rest say nothing, so that a
    holiday on a weekday that never was one is no offence.
    """
    given = tuple(other for other in calendar if other != name)
    if name not in calendar or not given:
        return None
    rows = training.rows.take(np.searchsorted(training.place, np.arange(len(training.days))))
    seen: dict[tuple[float | str, ...], Counter[float | str]] = defaultdict(Counter)
    for key, value in zip(_keys(_given(rows, given)), rows.inputs[name].tolist(), strict=True):
        if value is not None and value == value:
            seen[key][value] += 1
    table = {key: counter.most_common(1)[0][0] for key, counter in seen.items() if len(counter) == 1 and counter.total() >= 3}
    tested = sum(seen[key].total() for key in table)
    # exceptions: days that stood against at least three equal ones; each would have been called a fault
    against = sum(counter.total() - counter.most_common(1)[0][1] for counter in seen.values() if counter.most_common(1)[0][1] >= 3)
    if tested < _MIN_DAYS or len(set(table.values())) < 2:
        return None
    return CalendarLaw(name, given, table, tested, against)
