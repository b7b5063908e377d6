"""What each input looked like in training: computed once per release, used for every window."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from andon.core.clocks import HOUR_US
from andon.monitoring.laws import (
    CalendarLaw,
    ClockLaw,
    Snapshot,
    absent,
    daily_constants,
    distinct,
    find_calendar_law,
    find_clock_law,
    snapshot,
)
from andon.monitoring.phases import LikeHours, by_day
from andon.monitoring.records import Array, Bools, Floats, Frame, Ints, signature
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
    duplicate_share: float
    age_us: Tail
    age_limit_us: float | None
    step: int
    days: int


def renewed(column: Array) -> Bools:
    """Rows whose value is not the one of the row before; a null always is. bool (n,).

    >>> renewed(np.array([1.0, 1.0, np.nan, np.nan])).tolist()
    [True, False, True, True]
    """
    fresh = np.ones(len(column), dtype=bool)
    fresh[1:] = np.not_equal(column[1:], column[:-1]).astype(np.bool_) | absent(column[1:])
    return fresh


def run_start(column: Array, row: int) -> int:
    """The row at which the value of ``row`` began to stand still. Looks back no further than it has to.

    >>> run_start(np.array([1.0, 2.0, 2.0, 2.0]), 3)
    1
    """
    low, reach = row, 64
    while low > 0:
        low, reach = max(0, row - reach), 8 * reach
        fresh = np.flatnonzero(renewed(column[low : row + 1])[1:])
        if len(fresh):
            return low + 1 + int(fresh[-1])
    return 0


def longest_runs(event_us: Ints, column: Array, step: int) -> Floats:
    """For each row, how long its value has stood still up to and including it, in hours: float64 (n,).

    Hours of event time, but at most one step per row, since a gap in the data is no evidence; a null ends a run.

    >>> longest_runs(np.arange(3, dtype=np.int64) * HOUR_US, np.array([1.0, 1.0, 2.0]), HOUR_US).tolist()
    [1.0, 2.0, 1.0]
    """
    if not len(column):
        return np.zeros(0)
    fresh = renewed(column)
    first = np.flatnonzero(fresh)[np.cumsum(fresh) - 1]
    elapsed = event_us - event_us[first] + step
    return np.asarray(np.minimum(elapsed, (np.arange(len(column)) - first + 1) * step) / HOUR_US)


def profile(training: Frame) -> Profile:
    """Learn the profile of a training snapshot (any number of rows, none included)."""
    seen = snapshot(training)
    names, codes, place, step = tuple(training.inputs), seen.codes, seen.place, seen.step
    laws = {name: law for name in names if (law := find_clock_law(name, seen)) is not None}
    calendar = daily_constants(seen)
    kinds = {name: _kind(name, training.inputs[name], codes[name][1], laws, calendar) for name in names}
    measured = [name for name in names if kinds[name] == "number"]
    numbers = {name: found for name in measured if (found := number_profile(training.event_us, training.inputs[name], step)) is not None}
    relations = _relations(training, tuple(numbers))
    age = None if training.source_us is None else np.where(training.source_us >= 0, training.event_us - training.source_us, -1)
    ages = np.zeros(0) if age is None else age[age >= 0].astype(np.float64)
    daily_ages, _ = _per_day(place[:0] if age is None else place[age >= 0], ages, len(seen.days))
    return Profile(
        names=names,
        signature=signature(training),
        kinds=kinds,
        null_share={name: float(np.mean(codes[name][0] < 0)) if len(training) else 0.0 for name in names},
        values={name: frozenset(codes[name][1]) for name in names if kinds[name] in ("category", "calendar")},
        missing_mass={name: _missing_mass(codes[name][0]) for name in names if kinds[name] in ("category", "calendar")},
        numbers=numbers,
        runs={name: _run_tail(seen, name) for name in names if kinds[name] in ("number", "category")},
        stillness={name: _still_tail(training, ruled, place) for name, ruled in relations.items()},
        ends={name: _ends(seen, name) for name in numbers},
        clock_laws=laws,
        calendar_laws={name: ruled for name in calendar if (ruled := find_calendar_law(name, calendar, seen)) is not None},
        calendar=calendar,
        relations=relations,
        duplicate_share=float(np.mean(duplicates(training))) if len(training) else 0.0,
        age_us=fit_tail(daily_ages),
        age_limit_us=float(np.quantile(ages, 0.99)) if len(ages) else None,
        step=step,
        days=len(seen.days),
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
    days, place = by_day(event_us)
    known = np.isfinite(residual)
    return _per_day(place[known], residual[known], len(days))


def _per_day(place: Ints, values: Floats, days: int) -> tuple[Floats, Floats]:
    """Median and standard deviation of each day's values; days with as many values are worked out together."""
    centre, spread = np.full(days, np.nan), np.full(days, np.nan)
    count = np.bincount(place, minlength=days)
    start = np.cumsum(count) - count
    for size in np.unique(count[count > 0]).tolist():
        chosen = np.flatnonzero(count == size)
        block = values[start[chosen][:, None] + np.arange(size)]
        centre[chosen] = np.median(block, axis=1)
        if size > 3:
            spread[chosen] = np.std(block, axis=1)
    return centre, spread


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
    jumps = level_jumps(centre)[3:]
    finite = centre[np.isfinite(centre)]
    return NumberProfile(
        like, scale, float(known.min()), float(known.max()), fit_tail(jumps, resolution=0.05), fit_tail(spread, resolution=0.05),
        tuple(finite[-7:].tolist()),
    )  # fmt: skip


def baseline(recent: tuple[float, ...]) -> float:
    """The level that a new day is compared with: the median of the last accepted days, NaN without any.

    >>> baseline((1.0, 2.0, 9.0))
    2.0
    """
    found = sorted(value for value in recent if math.isfinite(value))
    half = len(found) // 2
    return math.nan if not found else found[half] if len(found) % 2 else (found[half - 1] + found[half]) / 2


def level_jumps(centre: Floats) -> Floats:
    """How far each day's level is from that of the week before: float64 (days,), NaN without one."""
    levels = centre.tolist()
    return np.array([abs(level - baseline(tuple(levels[max(0, day - 7) : day]))) for day, level in enumerate(levels)], dtype=np.float64)


def day_maximum(place: Ints, values: Floats) -> Floats:
    """The largest value of each day, at least 0: floats (days,). ``place`` is each row's day, sorted and without gaps."""
    if not len(place):
        return np.zeros(0)
    starts = np.flatnonzero(np.r_[True, place[1:] != place[:-1]])
    return np.asarray(np.maximum(np.maximum.reduceat(values, starts), 0.0))


def partner_moves(rows: Frame, law: Relation) -> Floats:
    """How far (in the relation's scales) the partner moved the feature's expected value while it stood still, so far: float64 (n,)."""
    low = law.expect(rows.inputs[law.partner])
    high = low.copy()
    n = len(rows)
    stood = np.arange(n) - np.maximum.accumulate(np.where(renewed(rows.inputs[law.feature]), np.arange(n), 0))
    # each pass doubles how far back a row has looked (Hillis & Steele 1986), never past the start of its own run
    reach, later = 1, np.flatnonzero(stood)
    while len(later):
        low[later], high[later] = np.fmin(low[later], low[later - reach]), np.fmax(high[later], high[later - reach])
        reach *= 2
        later = later[stood[later] >= reach]
    return np.where(np.isnan(high), 0.0, (high - low) / law.scale)


def _still_tail(training: Frame, law: Relation, place: Ints) -> Tail:
    return fit_tail(day_maximum(place, partner_moves(training, law)), resolution=0.5, heaviest=0.2)


def _run_tail(training: Snapshot, name: str) -> Tail:
    runs = longest_runs(training.rows.event_us, training.rows.inputs[name], training.step)
    return fit_tail(day_maximum(training.place, runs), resolution=1.0, heaviest=0.1)


def _ends(training: Snapshot, name: str) -> tuple[float, ...]:
    """The ends of the range at which the value is known to rest (a saturated humidity, a calm): at least 3 rests of 3 hours."""
    column, step = training.rows.inputs[name], training.step
    known = column[np.isfinite(column)]
    runs = longest_runs(training.rows.event_us, column, step)
    resting = [float(end) for end in (known.min(), known.max()) if int(((column == end) & (runs == 3 * step / HOUR_US)).sum()) >= 3]
    return tuple(resting)


def _relations(training: Frame, numbers: tuple[str, ...]) -> dict[str, Relation]:
    """For each number the partner that explains it best, if that explains at least 90 % of its variance."""
    found = {}
    for name in numbers:
        best: tuple[str, Floats, Floats, Floats, float] | None = None
        best_share = _RELATED
        for partner in numbers:
            if partner == name or (fitted := _relate(training.inputs[name], training.inputs[partner])) is None:
                continue
            share, edges, means, residual, variance = fitted
            if share >= best_share:
                best, best_share = (partner, edges, means, residual, variance), share
        if best is not None:
            partner, edges, means, residual, variance = best
            scale = max(float(np.nanstd(residual)), 1e-12)
            daily, _ = day_statistics(training.event_us, np.abs(residual) / scale)
            found[name] = Relation(name, partner, edges, means, fit_tail(daily, resolution=0.1), scale, float(np.sqrt(variance)))
    return found


def _relate(y: Floats, x: Floats) -> tuple[float, Floats, Floats, Floats, float] | None:
    """(share of y's variance that x explains, the bins' centres and means, residuals, y's variance); ``None``: too little to say."""
    known = np.isfinite(x) & np.isfinite(y)
    variance = float(np.var(y[known])) if known.sum() >= 200 else 0.0
    if variance <= 0:
        return None
    cuts = np.unique(np.quantile(x[known], np.linspace(0, 1, 21)))
    if len(cuts) < 4:
        return None
    group = np.clip(np.searchsorted(cuts, x, side="right") - 1, 0, len(cuts) - 2)
    count = np.maximum(1, np.bincount(group[known], minlength=len(cuts) - 1))
    means = np.bincount(group[known], weights=y[known], minlength=len(cuts) - 1) / count
    centres = np.bincount(group[known], weights=x[known], minlength=len(cuts) - 1) / count
    predicted = np.interp(np.nan_to_num(x), centres, means)
    residual = np.where(known, y - predicted, np.nan)
    return 1 - float(np.nanvar(residual)) / variance, centres, means, residual, variance


def duplicates(rows: Frame) -> Array:
    """Rows that repeat an earlier one: the same request id, or the same instant and inputs. bool (n,)."""
    named = ~absent(rows.request_id) if rows.request_id is not None else np.zeros(len(rows), dtype=bool)
    found = np.zeros(len(rows), dtype=bool)
    if rows.request_id is not None and len(set(rows.request_id[named].tolist())) < named.sum():
        found[named] = _repeated([rows.request_id[named]])
    if not named.all():
        # only rows of the same instant can be the same row, and most services have few of those
        together = np.r_[False, rows.event_us[1:] == rows.event_us[:-1], False]
        at = np.flatnonzero(together[1:] | together[:-1])
        again = _repeated([rows.event_us[at], *(column[at] for column in rows.inputs.values())])
        found[at] = np.where(named[at], found[at], again)
    return found


def _repeated(columns: list[Array]) -> Bools:
    """Rows that say what an earlier row says: bool (n,)."""
    repeats = np.ones(len(columns[0]), dtype=bool)
    repeats[distinct(columns)[0]] = False
    return repeats
