"""Round places on a time axis: hours, days, weeks, months or years, whichever gives about as many labels as there is room for."""

from __future__ import annotations

from collections.abc import Iterator

from andon.board.words import moment
from andon.core.clocks import DAY_US, HOUR_US

STEPS_US = tuple(HOUR_US * hours for hours in (1, 3, 6, 12)) + tuple(DAY_US * days for days in (1, 2, 7, 14))
MONTHS = (1, 2, 3, 6, 12, 24, 60, 120, 600, 3000, 12000, 60000)
MONDAY_US = 4 * DAY_US
"""The epoch was a Thursday; weeks begin on Monday."""


def calendar(start_us: int, end_us: int, most: int) -> list[tuple[int, str]]:
    """Instants in ``[start_us, end_us]`` with what to call them; the first names its year.

    >>> [label for _, label in calendar(1312156800000000, 1324771200000000, 6)]
    ['Aug 2011', 'Sep', 'Oct', 'Nov', 'Dec']
    """
    for step in STEPS_US:
        if (end_us - start_us) / step <= most:
            return _named(_every(start_us, end_us, step), step)
    for months in MONTHS:
        if (end_us - start_us) / (31 * DAY_US * months) > most:
            continue
        found = list(_months(start_us, end_us, months))
        if len(found) <= most:
            break
    return [(at, _month_label(at, index == 0, months)) for index, at in enumerate(found)]


def _every(start_us: int, end_us: int, step_us: int) -> list[int]:
    shift = MONDAY_US if step_us > 2 * DAY_US else 0
    first = -((shift - start_us) // step_us) * step_us + shift
    return list(range(first, end_us + 1, step_us))


def _named(instants: list[int], step_us: int) -> list[tuple[int, str]]:
    found = []
    for index, at_us in enumerate(instants):
        at = moment(at_us)
        year = f" {at.year}" if index == 0 else ""
        if step_us < DAY_US and at.hour:
            found.append((at_us, f"{at:%H:%M}" if index else f"{at.day} {at:%b} {at:%H:%M}"))
        else:
            found.append((at_us, f"{at.day} {at:%b}{year}"))
    return found


def _months(start_us: int, end_us: int, step: int) -> Iterator[int]:
    from datetime import UTC, datetime

    at = moment(start_us)
    index = at.year * 12 + at.month - 1
    index -= index % step
    while index // 12 <= 9999:
        found = int(datetime(max(1, index // 12), index % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
        if found > end_us:
            return
        if found >= start_us:
            yield found
        index += step


def _month_label(at_us: int, first: bool, step: int) -> str:
    at = moment(at_us)
    if step >= 12:
        return str(at.year)
    return f"{at:%b} {at.year}" if first or at.month == 1 else f"{at:%b}"
