"""Laws that held all through training: a feature that the clock dictates, a calendar feature that the others dictate.

``hr`` sent in UTC is still a plausible hour; what it breaks is the law "hr is the hour of the event". A ``workingday`` stuck at 0 breaks
"a Tuesday that is no holiday is a working day". Laws are found by looking, never by name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from andon.core.clocks import DAY_US, HOUR_US
from andon.monitoring.records import Array, Bools, Frame, Ints

CLOCKS = ("time of day", "day of week", "time of week", "month", "day of month")
_AGREES = 0.9
_MIN_DAYS = 21
_MAX_CODES = 64


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
    """Codes from 0 (``-1`` for null) and the values they stand for."""
    if column.dtype.kind == "O":
        texts = [None if value is None or value != value else str(value) for value in column.tolist()]
        names = sorted({text for text in texts if text is not None})
        place = {name: code for code, name in enumerate(names)}
        return np.array([-1 if text is None else place[text] for text in texts], dtype=np.int64), list(names)
    values, codes = np.unique(column, return_inverse=True)
    finite = np.isfinite(values)
    return np.where(finite[codes], codes, -1).astype(np.int64), values[finite].tolist()


@dataclass(frozen=True, slots=True)
class ClockLaw:
    """``feature`` is what ``table`` says at each reading of ``clock``; ``exceptions`` of ``days`` training days broke it."""

    feature: str
    clock: str
    table: Mapping[int, float | str]
    days: int
    exceptions: int
    step: int

    def expected(self, event_us: Ints) -> list[float | str | None]:
        """The value the law demands for each row; ``None`` where the clock reads what training never saw."""
        return [self.table.get(reading) for reading in clock(self.clock, event_us, self.step).tolist()]


@dataclass(frozen=True, slots=True)
class CalendarLaw:
    """Within a day ``feature`` is constant, and is what ``table`` says for the day's other calendar features."""

    feature: str
    given: tuple[str, ...]
    table: Mapping[tuple[float | str, ...], float | str]
    days: int
    exceptions: int

    def expected(self, rows: Frame) -> list[float | str | None]:
        """The value the law demands for each row; ``None`` where the others stand as training never saw them stand."""
        return [self.table.get(key) for key in _keys(rows, self.given)]


def _keys(rows: Frame, given: tuple[str, ...]) -> list[tuple[float | str, ...]]:
    nowhere = np.full(len(rows), np.nan)
    columns = [rows.inputs.get(name, nowhere).tolist() for name in given]
    weekday = clock("day of week", rows.event_us).tolist()
    return list(zip(weekday, *columns, strict=True))


def broken(expected: list[float | str | None], column: Array) -> Bools:
    """Rows that break a law: a demand, a value, and the two differ. bool (n,).

    >>> broken([1.0, None, 2.0], np.array([2.0, 2.0, np.nan])).tolist()
    [True, False, False]
    """
    return np.array(
        [
            want is not None and have is not None and have == have and have != want
            for want, have in zip(expected, column.tolist(), strict=True)
        ],
        dtype=bool,
    )


def days_broken(rows: Frame, mask: Bools) -> tuple[int, int]:
    """(days on which most rows break the law, days)."""
    if not len(rows):
        return 0, 0
    _, place = np.unique(rows.event_us // DAY_US, return_inverse=True)
    share = np.bincount(place, weights=mask) / np.bincount(place)
    return int((share >= 0.5).sum()), len(share)


def find_clock_law(name: str, training: Frame, step: int) -> ClockLaw | None:
    """The simplest clock that dictates the feature in at least 90 % of training rows, or ``None``; a constant obeys no clock."""
    column = training.inputs[name]
    codes, values = encode(column)
    if not 2 <= len(values) <= 400 or len(np.unique(training.event_us // DAY_US)) < _MIN_DAYS:
        return None
    for clock_name in CLOCKS:
        readings = clock(clock_name, training.event_us, step)
        counts = np.zeros((int(readings.max()) + 1, len(values)))
        np.add.at(counts, (readings[codes >= 0], codes[codes >= 0]), 1)
        seen = counts.sum(axis=1) > 0
        modal = counts.argmax(axis=1)
        if len(np.unique(modal[seen])) < 2 or counts.max(axis=1).sum() / max(1.0, counts.sum()) < _AGREES:
            continue
        law = ClockLaw(name, clock_name, {int(r): values[modal[r]] for r in np.flatnonzero(seen)}, 0, 0, step)
        exceptions, days = days_broken(training, broken(law.expected(training.event_us), column))
        return ClockLaw(name, clock_name, law.table, days, exceptions, step)
    return None


def daily_constants(training: Frame) -> tuple[str, ...]:
    """Features with few values that (nearly) never change within a day: the calendar features."""
    days = training.event_us // DAY_US
    same_day = days[1:] == days[:-1]
    if not same_day.any() or len(np.unique(days)) < _MIN_DAYS:
        return ()
    found = []
    for name, column in training.inputs.items():
        codes, values = encode(column)
        changes = (codes[1:] != codes[:-1]) & same_day
        if 2 <= len(values) <= _MAX_CODES and changes.sum() <= 0.02 * len(np.unique(days)):
            found.append(name)
    return tuple(found)


def find_calendar_law(name: str, calendar: tuple[str, ...], training: Frame) -> CalendarLaw | None:
    """What the other calendar features and the weekday dictate about this one; ``None`` if training is too short or says too little.

    Only combinations that stood on at least three days, always with the same value, make law; the rest say nothing, so that a
    holiday on a weekday that never was one is no offence.
    """
    given = tuple(other for other in calendar if other != name)
    if name not in calendar or not given:
        return None
    _, first = np.unique(training.event_us // DAY_US, return_index=True)
    rows = training.take(first)
    seen: dict[tuple[float | str, ...], Counter[float | str]] = defaultdict(Counter)
    for key, value in zip(_keys(rows, given), rows.inputs[name].tolist(), strict=True):
        if value is not None and value == value:
            seen[key][value] += 1
    table = {key: counter.most_common(1)[0][0] for key, counter in seen.items() if len(counter) == 1 and counter.total() >= 3}
    tested = sum(seen[key].total() for key in table)
    # exceptions: days that stood against at least three equal ones; each would have been called a fault
    against = sum(counter.total() - counter.most_common(1)[0][1] for counter in seen.values() if counter.most_common(1)[0][1] >= 3)
    if tested < _MIN_DAYS or len(set(table.values())) < 2:
        return None
    return CalendarLaw(name, given, table, tested, against)
