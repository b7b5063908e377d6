"""What each input looked like in training: computed once per release, used for every window."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from andon.core.clocks import DAY_US, HOUR_US
from andon.monitoring.laws import CalendarLaw, ClockLaw, daily_constants, encode, find_calendar_law, find_clock_law
from andon.monitoring.phases import LikeHours, step_us
from andon.monitoring.records import Array, Floats, Frame, Ints, signature
from andon.monitoring.tails import Tail, fit_tail

_FEW = 12
_RELATED = 0.9


@dataclass(frozen=True, slots=True)
class NumberProfile:
    """A measured quantity: its like-hour mean, the tails of its day statistics, and how long it ever stood still."""

    like: LikeHours
    scale: float
    low: float
    high: float
    shift: Tail
    spread: Tail
    recent: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """``feature`` is nearly a function of ``partner``: means over the partner's quantiles, and the tail of the day's median residual."""

    feature: str
    partner: str
    edges: Floats
    means: Floats
    residual: Tail
    scale: float
    spread: float

    def expect(self, partner: Array) -> Floats:
        """The value the partner implies, by linear interpolation between bin means; NaN where the partner is null or outside training's
        range: a new season is no broken relation."""
        inside = np.isfinite(partner) & (partner >= self.edges[0]) & (partner <= self.edges[-1])
        return np.where(inside, np.interp(np.nan_to_num(partner), self.edges, self.means), np.nan)


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything the input checks need to know of the training snapshot."""

    names: tuple[str, ...]
    signature: Mapping[str, str]
    kinds: Mapping[str, str]
    null_share: Mapping[str, float]
    values: Mapping[str, frozenset[float | str]]
    missing_mass: Mapping[str, float]
    numbers: Mapping[str, NumberProfile]
    runs: Mapping[str, Tail]
    stillness: Mapping[str, Tail]
    ends: Mapping[str, tuple[float, ...]]
    clock_laws: Mapping[str, ClockLaw]
    calendar_laws: Mapping[str, CalendarLaw]
    calendar: tuple[str, ...]
    relations: Mapping[str, Relation]
    volume: LikeHours
    volume_per_day: float
    duplicate_share: float
    age_us: Tail
    age_limit_us: float | None
    step: int
    days: int


def by_day(event_us: Ints) -> tuple[Ints, Ints]:
    """(day number of each distinct day, position of each row's day): int64 (days,), int64 (n,)."""
    days, place = np.unique(event_us // DAY_US, return_inverse=True)
    return days, place


def longest_runs(event_us: Ints, column: Array, step: int) -> Floats:
    """For each row, how long its value has stood still up to and including it, in hours: float64 (n,).

    Hours of event time, but at most one step per row, since a gap in the data is no evidence; a null ends a run.

    >>> longest_runs(np.arange(3, dtype=np.int64) * HOUR_US, np.array([1.0, 1.0, 2.0]), HOUR_US).tolist()
    [1.0, 2.0, 1.0]
    """
    if not len(column):
        return np.zeros(0)
    codes, _ = encode(column)
    fresh = np.r_[True, (codes[1:] != codes[:-1]) | (codes[1:] < 0)]
    first = np.flatnonzero(fresh)[np.cumsum(fresh) - 1]
    elapsed = event_us - event_us[first] + step
    return np.asarray(np.minimum(elapsed, (np.arange(len(column)) - first + 1) * step) / HOUR_US)


def profile(training: Frame) -> Profile:
    """Learn the profile of a training snapshot (any number of rows, none included)."""
    step = step_us(training.event_us)
    names = tuple(training.inputs)
    codes = {name: encode(column) for name, column in training.inputs.items()}
    days, place = by_day(training.event_us)
    laws = {name: law for name in names if (law := find_clock_law(name, training, step)) is not None}
    calendar = daily_constants(training)
    kinds = {name: _kind(name, training.inputs[name], codes[name][1], laws, calendar) for name in names}
    measured = [name for name in names if kinds[name] == "number"]
    numbers = {name: found for name in measured if (found := number_profile(training.event_us, training.inputs[name], step)) is not None}
    relations = _relations(training, tuple(numbers))
    age = None if training.source_us is None else np.where(training.source_us >= 0, training.event_us - training.source_us, -1)
    ages = np.zeros(0) if age is None else age[age >= 0].astype(np.float64)
    told = np.zeros(0, dtype=np.int64) if age is None else place[age >= 0]
    daily_ages = [float(np.median(ages[told == day])) for day in np.unique(told)]
    return Profile(
        names=names,
        signature=signature(training),
        kinds=kinds,
        null_share={name: float(np.mean(codes[name][0] < 0)) if len(training) else 0.0 for name in names},
        values={name: frozenset(codes[name][1]) for name in names if kinds[name] in ("category", "calendar")},
        missing_mass={name: _missing_mass(codes[name][0]) for name in names if kinds[name] in ("category", "calendar")},
        numbers=numbers,
        runs={name: _run_tail(training, name, place, step) for name in names if kinds[name] in ("number", "category")},
        stillness={name: _still_tail(training, ruled, place) for name, ruled in relations.items()},
        ends={name: _ends(training.event_us, training.inputs[name], step) for name in numbers},
        clock_laws=laws,
        calendar_laws={name: ruled for name in calendar if (ruled := find_calendar_law(name, calendar, training)) is not None},
        calendar=calendar,
        relations=relations,
        volume=_volume(training, step),
        volume_per_day=len(training) / len(days) if len(days) else 0.0,
        duplicate_share=float(np.mean(duplicates(training))) if len(training) else 0.0,
        age_us=fit_tail(np.array(daily_ages)),
        age_limit_us=float(np.quantile(ages, 0.99)) if len(ages) else None,
        step=step,
        days=len(days),
    )  # fmt: skip


def _kind(name: str, column: Array, values: list[float | str], laws: Mapping[str, ClockLaw], calendar: tuple[str, ...]) -> str:
    """``constant``, ``clock``, ``calendar``, ``category`` or ``number``: decides which tests make sense."""
    if len(values) < 2:
        return "constant"
    if name in laws and name not in calendar:
        return "clock"
    if name in calendar:
        return "calendar"
    if column.dtype.kind == "O":
        return "category"
    whole = all(float(value).is_integer() for value in values)
    return "category" if whole and len(values) <= _FEW else "number"


def _missing_mass(codes: Ints) -> float:
    """Chance that the next value was never seen: singletons over rows (Good 1953)."""
    seen = codes[codes >= 0]
    return float((np.bincount(seen) == 1).sum() / len(seen)) if len(seen) else 1.0


def day_statistics(event_us: Ints, residual: Floats) -> tuple[Floats, Floats]:
    """Per day, in event order: the median residual, and the standard deviation of the residuals; NaN on a day without values."""
    _, place = by_day(event_us)
    centre, spread = [], []
    for day in range(int(place.max()) + 1 if len(place) else 0):
        found = residual[place == day]
        found = found[np.isfinite(found)]
        centre.append(float(np.median(found)) if len(found) else math.nan)
        spread.append(float(np.std(found)) if len(found) > 3 else math.nan)
    return np.array(centre), np.array(spread)


def number_profile(event_us: Ints, column: Floats, step: int) -> NumberProfile | None:
    """Like-hour mean and the tails of two day statistics: the jump of the day's level against the week before, and its spread."""
    known = column[np.isfinite(column)]
    if len(known) < 48:
        return None
    like = LikeHours(event_us, column, step=step)
    residual = column - like.expect_by_day(event_us)
    low, high = np.nanquantile(residual, [0.16, 0.84])
    scale = max(float(high - low) / 2, 1e-9 * max(1.0, float(np.max(np.abs(known)))), 1e-12)
    centre, spread = day_statistics(event_us, residual / scale)
    jumps = [abs(centre[d] - baseline(tuple(centre[max(0, d - 7) : d].tolist()))) for d in range(3, len(centre))]
    finite = centre[np.isfinite(centre)]
    return NumberProfile(
        like, scale, float(known.min()), float(known.max()), fit_tail(np.array(jumps), resolution=0.05), fit_tail(spread, resolution=0.05),
        tuple(finite[-7:].tolist()),
    )  # fmt: skip


def baseline(recent: tuple[float, ...]) -> float:
    """The level that a new day is compared with: the median of the last accepted days, NaN without any.

    >>> baseline((1.0, 2.0, 9.0))
    2.0
    """
    found = [value for value in recent if math.isfinite(value)]
    return float(np.median(found)) if found else math.nan


def day_maximum(place: Ints, values: Floats) -> Floats:
    """The largest value of each day: floats (days,)."""
    largest = np.zeros(int(place.max()) + 1 if len(place) else 0)
    np.maximum.at(largest, place, values)
    return largest


def partner_moves(rows: Frame, law: Relation) -> Floats:
    """How far (in the relation's scales) the partner moved the feature's expected value while it stood still, so far: float64 (n,)."""
    expected = law.expect(rows.inputs[law.partner])
    own = encode(rows.inputs[law.feature])[0]
    moved = np.zeros(len(rows))
    low = high = np.nan
    for row in range(len(rows)):
        if row == 0 or own[row] != own[row - 1] or own[row] < 0:
            low = high = np.nan
        low, high = np.fmin(low, expected[row]), np.fmax(high, expected[row])
        moved[row] = 0.0 if np.isnan(high) else (high - low) / law.scale
    return moved


def _still_tail(training: Frame, law: Relation, place: Ints) -> Tail:
    return fit_tail(day_maximum(place, partner_moves(training, law)), resolution=0.5, heaviest=0.2)


def _run_tail(training: Frame, name: str, place: Ints, step: int) -> Tail:
    return fit_tail(day_maximum(place, longest_runs(training.event_us, training.inputs[name], step)), resolution=1.0, heaviest=0.1)


def _ends(event_us: Ints, column: Floats, step: int) -> tuple[float, ...]:
    """The ends of the range at which the value is known to rest (a saturated humidity, a calm): at least 3 rests of 3 hours."""
    known = column[np.isfinite(column)]
    runs = longest_runs(event_us, column, step)
    resting = [float(end) for end in (known.min(), known.max()) if int(((column == end) & (runs == 3 * step / HOUR_US)).sum()) >= 3]
    return tuple(resting)


def _relations(training: Frame, numbers: tuple[str, ...]) -> dict[str, Relation]:
    """For each number the partner that explains it best, if that explains at least 90 % of its variance."""
    found = {}
    for name in numbers:
        best: Relation | None = None
        best_share = _RELATED
        for partner in numbers:
            if partner == name:
                continue
            share, relation = _relate(training, name, partner)
            if relation is not None and share >= best_share:
                best, best_share = relation, share
        if best is not None:
            found[name] = best
    return found


def _relate(training: Frame, name: str, partner: str) -> tuple[float, Relation | None]:
    y, x = training.inputs[name], training.inputs[partner]
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 200 or np.var(y[known]) <= 0:
        return 0.0, None
    cuts = np.unique(np.quantile(x[known], np.linspace(0, 1, 21)))
    if len(cuts) < 4:
        return 0.0, None
    group = np.clip(np.searchsorted(cuts, x, side="right") - 1, 0, len(cuts) - 2)
    count = np.maximum(1, np.bincount(group[known], minlength=len(cuts) - 1))
    means = np.bincount(group[known], weights=y[known], minlength=len(cuts) - 1) / count
    centres = np.bincount(group[known], weights=x[known], minlength=len(cuts) - 1) / count
    predicted = np.interp(np.nan_to_num(x), centres, means)
    residual = np.where(known, y - predicted, np.nan)
    share = 1 - float(np.nanvar(residual) / np.var(y[known]))
    scale = max(float(np.nanstd(residual)), 1e-12)
    daily, _ = day_statistics(training.event_us, np.abs(residual) / scale)
    return share, Relation(name, partner, centres, means, fit_tail(daily, resolution=0.1), scale, float(np.std(y[known])))


def duplicates(rows: Frame) -> Array:
    """Rows that repeat an earlier one: the same request id, or the same instant and inputs. bool (n,)."""
    ids = rows.request_id.tolist() if rows.request_id is not None else [None] * len(rows)
    columns = [rows.event_us.tolist(), *([None if v != v else v for v in column.tolist()] for column in rows.inputs.values())]
    seen_ids: set[object] = set()
    seen: set[tuple[object, ...]] = set()
    found = []
    for request, key in zip(ids, zip(*columns, strict=True), strict=True):
        found.append((request in seen_ids) if request is not None else key in seen)
        seen_ids.add(request)
        seen.add(key)
    return np.array(found, dtype=bool)


def _volume(training: Frame, step: int) -> LikeHours:
    """Rows per step at like hours, empty steps counted."""
    if not len(training):
        return LikeHours(training.event_us, np.zeros(0), step=step)
    first, last = int(training.event_us[0] // step), int(training.event_us[-1] // step)
    if last - first > 2_000_000:
        return LikeHours(training.event_us[:0], np.zeros(0), step=step)
    counts = np.bincount((training.event_us // step - first).astype(np.int64), minlength=last - first + 1)
    return LikeHours(np.arange(first, last + 1, dtype=np.int64) * step, counts.astype(np.float64), step=step)
