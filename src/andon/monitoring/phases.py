"""Like hours: an hour is compared with the same hour of other days and weeks, never with the average of all hours."""

from __future__ import annotations

import numpy as np

from andon.core.clocks import DAY_US, HOUR_US, MINUTE_US, to_iso
from andon.monitoring.records import Array, Floats, Frame, Ints

_SHRINK_DAY, _SHRINK_WEEK = 1.0, 4.0
"""How many observations the coarser mean is worth; a gate of four weeks has 28 per hour of the day, four per hour of the week."""


def when(at_us: int) -> str:
    """An instant as a message says it: a date when it is a midnight.

    >>> when(15 * DAY_US), when(15 * DAY_US + HOUR_US)
    ('1970-01-16', '1970-01-16T01:00:00Z')
    """
    return to_iso(at_us)[:10] if at_us % DAY_US == 0 else to_iso(at_us)


def count(n: int, noun: str) -> str:
    """How many, in words.

    >>> count(1, "row"), count(200_000, "label")
    ('1 row', '200,000 labels')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def times(ratio: float) -> str:
    """A ratio with three digits that matter.

    >>> times(0.954), times(27.43), times(627.04)
    ('0.95', '27.4', '627')
    """
    return f"{ratio:.2f}" if abs(ratio) < 10 else f"{ratio:.1f}" if abs(ratio) < 100 else f"{ratio:,.0f}"


def amount(value: float) -> str:
    """A quantity with three digits that matter, never as a power of ten when it is large.

    >>> amount(0.5151), amount(31.27), amount(13_400.4)
    ('0.515', '31.3', '13,400')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def step_us(event_us: Ints) -> int:
    """The width of a "like hour": an hour, or the data's own regular step when that is shorter (at least 15 minutes).

    >>> step_us(np.arange(10, dtype=np.int64) * HOUR_US) == HOUR_US
    True
    >>> step_us(np.arange(10, dtype=np.int64) * HOUR_US // 2) == HOUR_US // 2
    True
    """
    gaps = np.diff(event_us)
    gaps = gaps[gaps > 0]
    if len(gaps) == 0:
        return HOUR_US
    usual = int(np.median(gaps))
    regular = np.mean(gaps == usual) > 0.8
    return usual if regular and 15 * MINUTE_US <= usual < HOUR_US and DAY_US % usual == 0 else HOUR_US


def by_day(event_us: Ints) -> tuple[Ints, Ints]:
    """(day number of each distinct day, position of each row's day): int64 (days,), int64 (n,). Takes sorted instants.

    >>> [found.tolist() for found in by_day(np.array([1, 2, DAY_US, 3 * DAY_US]))]
    [[0, 1, 3], [0, 0, 1, 2]]
    """
    days = event_us // DAY_US
    fresh = np.ones(len(days), dtype=bool)
    fresh[1:] = days[1:] != days[:-1]
    return days[fresh], np.cumsum(fresh) - 1


def hour_of_day(event_us: Ints, step: int = HOUR_US) -> Ints:
    """Which step of the day each row falls in: int64 (n,), from 0."""
    return (event_us % DAY_US) // step


def hour_of_week(event_us: Ints, step: int = HOUR_US, period_us: int = 7 * DAY_US) -> Ints:
    """Which step of the season each row falls in: int64 (n,), from 0; Monday midnight UTC is 0 when the season is a week.

    >>> hour_of_week(np.array([4 * DAY_US]))  # 1970-01-05 was a Monday
    array([0])
    """
    return ((event_us - 4 * DAY_US) % period_us) // step


class LikeHours:
    """The mean of a value at like hours, shrunk: hour of the week towards hour of the day towards the overall mean.

    ``expect(event_us)`` gives float64 (n,), finite if any value was, else NaN throughout.
    Shrinkage is the usual one-way random-effects estimate with a fixed prior weight (Gelman & Hill 2007, ch. 12).

    >>> when = np.arange(14 * 24, dtype=np.int64) * HOUR_US
    >>> like = LikeHours(when, (when // HOUR_US % 24).astype(float))
    >>> [round(x, 1) for x in like.expect(np.array([5 * HOUR_US, 29 * HOUR_US])).tolist()]
    [5.3, 5.3]
    """

    def __init__(self, event_us: Ints, values: Array, *, period_us: int = 7 * DAY_US, step: int | None = None) -> None:
        known = np.isfinite(values)
        self.step = step if step is not None else step_us(event_us)
        self.period_us = period_us
        when, found = event_us[known], np.asarray(values, dtype=np.float64)[known]
        self.n = len(found)
        self.overall = float(found.mean()) if self.n else float("nan")
        self._day = _shrunk(
            hour_of_day(when, self.step), found, -(-DAY_US // self.step), np.full(-(-DAY_US // self.step), self.overall), _SHRINK_DAY
        )
        size = max(1, -(-period_us // self.step))
        starts = (np.arange(size, dtype=np.int64) * self.step + 4 * DAY_US) if period_us % DAY_US == 0 else np.zeros(size, dtype=np.int64)
        coarse = self._day[hour_of_day(starts, self.step)]
        self._week = _shrunk(hour_of_week(when, self.step, period_us), found, size, coarse, _SHRINK_WEEK)

    def expect(self, event_us: Ints) -> Floats:
        """The like-hour mean for each row: float64 (n,)."""
        return np.asarray(self._week[hour_of_week(event_us, self.step, self.period_us)])

    def expect_by_day(self, event_us: Ints) -> Floats:
        """The mean for the hour of the day alone: float64 (n,)."""
        return np.asarray(self._day[hour_of_day(event_us, self.step)])


def _shrunk(group: Ints, values: Floats, size: int, prior: Floats, weight: float) -> Floats:
    count = np.bincount(group, minlength=size)[:size].astype(np.float64)
    total = np.bincount(group, weights=values, minlength=size)[:size]
    return np.asarray((total + weight * prior) / (count + weight))


def season_ago(history: Frame, event_us: Ints, period_us: int) -> Floats:
    """The label one season earlier (the honest baseline): float64 (n,), NaN on a gap.

    A row is matched to the mean of the labels in the same step one season before.

    >>> from andon.monitoring.records import frame
    >>> week = 7 * DAY_US
    >>> season_ago(frame([0, HOUR_US], {}, label=[3, 4]), np.array([week, week + 2 * HOUR_US]), week).tolist()
    [3.0, nan]
    """
    known = np.isfinite(history.label)
    step = step_us(history.event_us)
    slots, place = np.unique(history.event_us[known] // step, return_inverse=True)
    if len(slots) == 0:
        return np.full(len(event_us), np.nan)
    mean = np.bincount(place, weights=history.label[known]) / np.bincount(place)
    wanted = (event_us - period_us) // step
    at = np.clip(np.searchsorted(slots, wanted), 0, len(slots) - 1)
    return np.where(slots[at] == wanted, mean[at], np.nan)
