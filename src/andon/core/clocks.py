"""Time is handed in. Every instant in Andon is an ``int`` of microseconds since the Unix epoch, UTC, named ``…_us``."""

from __future__ import annotations

import datetime as dt
import math
import time
from typing import Protocol

from andon.core.errors import InvalidInput

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
_FIRST_US = -62_135_596_800_000_000  # the year 1
_LAST_US = 253_402_300_799_999_999  # the end of the year 9999


class Clock(Protocol):
    """Where "now" comes from."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


class ManualClock:
    """A clock for tests and simulations: it moves only when told to.

    >>> clock = ManualClock(1_000)
    >>> clock.advance(500)
    >>> clock.now_us()
    1500
    """

    def __init__(self, at_us: int = 0) -> None:
        self._at_us = at_us

    def now_us(self) -> int:
        return self._at_us

    def advance(self, by_us: int) -> None:
        """Move forward (or back, with a negative number) by ``by_us`` microseconds."""
        self._at_us += by_us

    def set(self, at_us: int) -> None:
        """Jump to ``at_us``."""
        self._at_us = at_us


def to_us(value: int | float | str | dt.datetime, *, field: str = "time") -> int:
    """An instant from what callers send: ISO 8601 text, a datetime, or a number of microseconds.

    A naive time is read as UTC. Raises ``InvalidInput`` naming ``field``.

    >>> to_us("2011-08-01T00:00:00Z")
    1312156800000000
    >>> to_us(dt.datetime(2011, 8, 1))
    1312156800000000
    """
    if isinstance(value, bool):
        raise InvalidInput("a time is ISO 8601 text or microseconds since 1970", field=field, got=value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput("a time must be finite", field=field, got=str(value))
    if isinstance(value, int | float):
        if not _FIRST_US <= value <= _LAST_US:
            raise InvalidInput("a time lies between the years 1 and 9999, in microseconds since 1970", field=field, got=str(value)[:80])
        return int(value)
    moment = value if isinstance(value, dt.datetime) else None
    if isinstance(value, str):
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError:
            raise InvalidInput("not an ISO 8601 time, such as 2011-08-01T13:00:00Z", field=field, got=value[:80]) from None
    if moment is None:
        raise InvalidInput("a time is ISO 8601 text or microseconds since 1970", field=field, got=repr(value)[:80])
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    delta = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return delta // dt.timedelta(microseconds=1)


def to_iso(at_us: int) -> str:
    """ISO 8601 text in UTC; seconds unless there is a fraction.

    >>> to_iso(1312156800000000)
    '2011-08-01T00:00:00Z'
    """
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at_us)
    return moment.isoformat().replace("+00:00", "Z")
