"""What can go wrong upstream: changes to the requests on their way in. Nothing else in Andon imports this."""

from __future__ import annotations

from collections.abc import Callable

Row = dict[str, float]
Fault = Callable[[Row], Row]


def stuck(name: str, value: float) -> Fault:
    """A feature that always says the same."""
    return lambda row: {**row, name: value}


def hour_in_utc(row: Row) -> Row:
    """The hour in UTC instead of Washington's own (five hours ahead)."""
    return {**row, "hr": (row["hr"] + 5) % 24}


def other_unit(row: Row) -> Row:
    """Temperatures in degrees Celsius instead of the share of 41 (and 50 for "feels like") that the model knows."""
    return {**row, "temp": row["temp"] * 41, "atemp": row["atemp"] * 50}


FAULTS: dict[str, tuple[str, Fault]] = {
    "workingday": ("workingday is stuck at 0", stuck("workingday", 0.0)),
    "hr-utc": ("hr is sent in UTC", hour_in_utc),
    "temp-unit": ("temperatures are sent in degrees", other_unit),
}
