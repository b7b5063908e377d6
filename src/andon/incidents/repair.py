"""Repair replay: would the predictions have been right if the suspect inputs had said what they usually say?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from andon.monitoring.laws import absent, encode
from andon.monitoring.profiles import Profile, baseline
from andon.monitoring.records import Array, Frame, Predict


def expected_values(name: str, rows: Frame, profile: Profile, *, trusted: Sequence[str]) -> Array:
    """The best guess at a feature without looking at it: (n,) of its own dtype kind.

    By what is known, in this order: the law of the calendar, the law of the clock, the partner that explains it, the like-hour mean at
    the level of the last sound week, the commonest value. ``trusted`` are the features that may be used.
    """
    calendar, clock = profile.calendar_laws.get(name), profile.clock_laws.get(name)
    demands: list[Array] = []
    if calendar is not None and set(calendar.given) <= set(trusted):
        demands.append(calendar.expected(rows))
    if clock is not None:
        demands.append(clock.expected(rows.event_us))
    if demands:
        usual = _commonest(rows, name, profile)
        filled = np.full(len(rows), usual, dtype=object)
        for demand in reversed(demands):
            said = ~absent(demand)
            filled[said] = demand[said]
        return filled if str in set(map(type, filled.tolist())) else filled.astype(np.float64)
    number = profile.numbers.get(name)
    if number is not None:
        level = baseline(number.recent)
        usual_level = number.like.expect_by_day(rows.event_us) + (0.0 if np.isnan(level) else level) * number.scale
        law = profile.relations.get(name)
        if law is not None and law.partner in trusted and law.partner in rows.inputs and rows.inputs[law.partner].dtype.kind != "O":
            implied = law.expect(rows.inputs[law.partner])
            return np.where(np.isfinite(implied), implied, usual_level)
        return np.asarray(usual_level)
    common = _commonest(rows, name, profile)
    return np.full(len(rows), common, dtype=object if isinstance(common, str) else np.float64)


def _commonest(rows: Frame, name: str, profile: Profile) -> float | str:
    known = profile.values.get(name, frozenset())
    codes, values = encode(rows.inputs[name]) if name in rows.inputs else (np.zeros(0, dtype=np.int64), [])
    counted = np.bincount(codes[codes >= 0], minlength=len(values)).tolist()
    counts = {value: count for value, count in zip(values, counted, strict=True) if not known or value in known}
    if counts:
        return max(counts, key=lambda value: counts[value])
    return min(known, key=str) if known else float("nan")


def repaired(rows: Frame, suspects: Sequence[str], profile: Profile, predict: Predict, before: Frame | None = None) -> Array:
    """Predictions with the suspects' expected values put in: float64 (n,).

    ``before`` are sound rows from before the fault: they say what is common and at which level the season stands.
    """
    trusted = [name for name in profile.names if name not in suspects]
    inputs = dict(rows.inputs)
    for name in suspects:
        inputs[name] = _levelled(name, rows, profile, trusted, before)
    return np.asarray(predict(inputs), dtype=np.float64)


def _levelled(name: str, rows: Frame, profile: Profile, trusted: Sequence[str], before: Frame | None) -> Array:
    values = expected_values(name, rows, profile, trusted=trusted)
    if before is None or not len(before) or name not in before.inputs or before.inputs[name].dtype.kind == "O":
        return values
    ruled = name in profile.clock_laws or name in profile.calendar_laws
    number = profile.numbers.get(name)
    if ruled:
        return values
    if number is None:
        common = _commonest(before, name, profile)
        return np.full(len(rows), common, dtype=object if isinstance(common, str) else np.float64)
    law = profile.relations.get(name)
    if law is not None and law.partner in trusted:
        return values
    known = before.inputs[name] - number.like.expect_by_day(before.event_us)
    if not np.isfinite(known).any():
        return values
    return np.asarray(number.like.expect_by_day(rows.event_us) + float(np.nanmedian(known)))
