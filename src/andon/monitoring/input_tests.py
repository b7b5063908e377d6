"""One test, one feature, one window: is this input broken? Each returns a :class:`Finding` or nothing to say.

Two kinds of threshold. Rare-event tests (jump, spread, frozen, relation, soft laws) compare a tail probability with ``alpha``, the share
of the yearly false-alarm budget that one test of one window gets. Impossibility tests (strict laws, unseen values, nulls where there
were none, out of range) fail on a share of rows that training rules out; season cannot trigger them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from andon.core.clocks import DAY_US, HOUR_US
from andon.core.verdicts import Status
from andon.monitoring.laws import CalendarLaw, ClockLaw, absent, broken, encode
from andon.monitoring.phases import amount, times
from andon.monitoring.profiles import NumberProfile, Profile, Relation, baseline, day_statistics, longest_runs, partner_moves, run_start
from andon.monitoring.records import Array, Floats, Frame, Policy
from andon.monitoring.tails import binomial_tail, both

SHARE = 0.1
"""Share of a window's rows (and at least two) that must be impossible before the feature, not the row, is at fault."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one test says of one feature: ``value`` in the test's unit, ``p`` where it is a tail probability.

    ``limit`` is the value (or the probability) beyond which it may fail; ``None`` where the test has one limit for all features.
    """

    feature: str
    test: str
    status: Status
    value: float
    p: float
    message: str
    n: int
    limit: float | None = None


def _shown(value: float | str | None) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value) or "''"


def _rare(p: float, alpha: float) -> Status:
    """Rarer than the budget allows for: fail. Rarer than one day in a thousand: worth a look, no page."""
    return "fail" if p <= alpha else "warn" if p <= 1e-3 else "pass"


def _share(bad: Array, n: int) -> Status:
    count = int(np.sum(bad))
    return "fail" if count >= 2 and count >= SHARE * n else "warn" if count else "pass"


def schema(name: str, rows: Frame, wanted: str) -> Finding:
    """The column is there and of training's kind (a column that is null throughout has no kind)."""
    column = rows.inputs.get(name)
    if column is None:
        return Finding(name, "schema", "fail", 1.0, 0.0, "is not sent any more", len(rows))
    kind = "text" if column.dtype.kind == "O" else "number"
    empty = kind == "number" and not np.isfinite(column).any()
    if kind != wanted and not empty:
        return Finding(name, "schema", "fail", 1.0, 0.0, f"holds {kind}s now; in training it held {wanted}s", len(rows))
    return Finding(name, "schema", "pass", 0.0, 1.0, "", len(rows))


def nulls(name: str, column: Array, profile: Profile, alpha: float) -> Finding:
    """More nulls than training had: the share exceeds both a tenth and training's share, beyond chance."""
    bad = int(absent(column).sum())
    n, usual = len(column), profile.null_share.get(name, 0.0)
    p = binomial_tail(bad, n, max(usual, 0.5 / max(1, n))) if bad else 1.0
    over = bad >= 2 and bad / n >= max(SHARE, 2 * usual)
    status: Status = "fail" if over and p <= alpha else "warn" if bad and usual == 0.0 else "pass"
    message = f"{bad:,} of {n:,} are null; in training {'none' if usual == 0 else 'hardly any' if usual < 0.001 else f'{usual:.1%}'} were"
    return Finding(name, "nulls", status, bad / n if n else 0.0, p, message, n, max(SHARE, 2 * usual))


def unseen(name: str, column: Array, profile: Profile, policy: Policy) -> Finding:
    """Values never seen in training, beyond the share that Good and Turing lead one to expect; outside declared bounds."""
    n = len(column)
    low, high = policy.bounds.get(name, (None, None))
    numbers = column if column.dtype.kind != "O" else np.full(n, np.nan)
    bad = (numbers < (-np.inf if low is None else low)) | (numbers > (np.inf if high is None else high))
    if bad.any():
        return Finding(
            name,
            "unseen",
            _share(bad, n),
            float(bad.mean()),
            0.0,
            f"{int(bad.sum()):,} of {n:,} are outside the bounds that the policy sets",
            n,
        )
    if name in profile.values:
        codes, values = encode(column)
        new = [value not in profile.values[name] for value in values]
        bad = np.array([*new, False])[codes]
        p = binomial_tail(int(bad.sum()), n, profile.missing_mass[name]) if bad.any() else 1.0
        status = _share(bad, n) if p < 0.01 else "pass"
        # a calendar feature that the month dictates meets new months; a text of many values meets new values: both are seasons
        law = profile.clock_laws.get(name)
        if status == "fail" and law is not None and law.clock in ("month", "day of month"):
            status = "warn"
        if status == "fail" and name in profile.calendar and law is None and name not in profile.calendar_laws:
            status = "warn"
        sample = sorted({_shown(value) for value, is_new in zip(values, new, strict=True) if is_new})[:3]
        message = f"{int(bad.sum()):,} of {n:,} are values that training never had" + (f", such as {', '.join(sample)}" if sample else "")
        if status == "pass" and bad.any():
            message += "; as many new values as training leads one to expect"
        return Finding(name, "unseen", status, float(bad.mean()), p, message, n)
    number = profile.numbers.get(name)
    if number is None:
        return Finding(name, "unseen", "pass", 0.0, 1.0, "", n)
    span = max(number.high - number.low, number.scale)
    bad = (column < number.low - span) | (column > number.high + span)
    message = f"{int(bad.sum()):,} of {n:,} are far outside training's range of {_shown(number.low)} to {_shown(number.high)}"
    return Finding(name, "unseen", _share(bad, n), float(bad.mean()), 0.0 if bad.any() else 1.0, message, n)


def clock_law(law: ClockLaw, rows: Frame, history: tuple[int, ...], alpha: float) -> tuple[Finding, int]:
    """The clock no longer dictates the feature (a shifted time zone, a stuck calendar flag)."""
    return _law(law, "clock", law.expected(rows.event_us), rows, history, alpha, f"the {law.clock}")


def calendar_law(law: CalendarLaw, rows: Frame, history: tuple[int, ...], alpha: float) -> tuple[Finding, int]:
    """The other calendar features no longer dictate this one."""
    return _law(law, "calendar", law.expected(rows), rows, history, alpha, ", ".join(law.given) + " and the day of the week")


def _law(
    law: ClockLaw | CalendarLaw, test: str, expected: Array, rows: Frame, history: tuple[int, ...], alpha: float, by: str
) -> tuple[Finding, int]:
    bad = broken(expected, rows.inputs[law.feature])
    testable = int((~absent(expected)).sum())
    share = float(bad.sum()) / testable if testable else 0.0
    offence = int(testable >= 2 and share >= 0.5)
    days = [*history[-6:], offence]
    p = binomial_tail(sum(days), len(days), (law.exceptions + 1) / (law.days + 2))
    strict = law.exceptions == 0
    status: Status = "fail" if offence and (strict or p <= alpha) else "warn" if offence or (bad.any() and strict) else "pass"
    held = f"all {law.days}" if strict else f"{law.days - law.exceptions} of {law.days}"
    message = f"{int(bad.sum()):,} of {testable:,} are not what {by} dictates; on {held} days of training they were"
    return Finding(law.feature, test, status, share, p, message, testable, 0.5), offence


def frozen(name: str, start_us: int, served: Frame, profile: Profile, alpha: float, p_level: float = 1.0) -> Finding:
    """The value stands still as it never did in training. ``served`` ends with the window and may begin before it.

    Three ways to be too still: for too long; while the feature it depends on moved too often; for long *and* at an odd level
    (``p_level``, the tail probability of the level's jump). The first and the last are Fisher-combined.
    """
    # what was before the run that the window begins in says nothing of it
    served = served.take(slice(run_start(served.inputs[name], int(np.searchsorted(served.event_us, start_us))), None))  # type: ignore[arg-type]
    column = served.inputs[name]
    window = served.event_us >= start_us
    runs = longest_runs(served.event_us, column, profile.step)
    inside = np.flatnonzero(window)
    worst = int(inside[np.argmax(runs[inside])])
    hours = float(runs[worst])
    # a run counts if it covers at least half of this window: yesterday's fault is not today's
    began = int(served.event_us[worst] - (hours - 1) * 3_600_000_000)
    covered = float(np.mean((served.event_us[inside] >= began) & (inside <= worst)))
    p_long = profile.runs[name].p(hours) if name in profile.runs else 1.0
    ways = {"": p_long, "odd": both(p_long, p_level), "still": _p_still(name, served, inside, profile)}
    p = min(ways.values())
    status: Status = _rare(p, alpha) if covered >= 0.5 else "pass"
    longest = max(profile.runs[name].above, default=0.0) if name in profile.runs else 0.0
    message = _stood(name, column[worst], hours, longest, profile, next(way for way, found in ways.items() if found == p))
    if covered < 0.5:
        message += "; it moves again"
    if profile.kinds[name] == "category" and hours < 2 * longest:
        # categories rest by nature (a dry month is all clear sky), and longer in some seasons than in others
        status, message = "pass", message + "; a category may rest that long"
    if status == "fail" and hours < 48 and column.dtype.kind != "O" and float(column[worst]) in profile.ends.get(name, ()):
        status, message = "warn", message + "; it is an end of the range where it is known to rest"
    if status == "fail" and _partner_rests(name, served, inside, profile):
        status, message = "warn", message + "; the feature it depends on stands still too, and they agree"
    return Finding(name, "frozen", status, hours, p, message, int(window.sum()))


def _stood(name: str, value: float | str | None, hours: float, longest: float, profile: Profile, way: str) -> str:
    """How long it stood still, and what is odd about it if not the length alone."""
    message = f"stood still at {_shown(value)} for {amount(hours)} h; the longest in training was {amount(longest)} h"
    if way == "odd":
        return message + ", and its level is unusual too"
    if way == "still":
        return message + f", though {profile.relations[name].partner}, which it follows, moved"
    return message


def _p_still(name: str, served: Frame, inside: Array, profile: Profile) -> float:
    law = profile.relations.get(name)
    partner = None if law is None else served.inputs.get(law.partner)
    if law is None or partner is None or partner.dtype.kind == "O":
        return 1.0
    return profile.stillness[name].p(float(partner_moves(served, law)[inside].max()))


def _partner_rests(name: str, served: Frame, inside: Array, profile: Profile) -> bool:
    relation = profile.relations.get(name)
    partner = None if relation is None else served.inputs.get(relation.partner)
    if relation is None or partner is None or partner.dtype.kind == "O":
        return False
    chosen = partner[inside]
    expected = relation.expect(chosen)
    if not np.isfinite(expected).any():
        return False
    moves = float(np.nanmax(expected) - np.nanmin(expected))
    differences = np.abs(served.inputs[name][inside] - expected)
    off = float(np.nanmax(differences)) if np.isfinite(differences).any() else np.inf
    return moves <= relation.scale and off <= 4 * relation.scale


def jump(
    name: str, column: Floats, event_us: Array, number: NumberProfile, recent: tuple[float, ...], alpha: float
) -> tuple[list[Finding], float]:
    """The level or the spread jumped against last week's like hours (another unit, an offset, noise); and the level, for the state."""
    residual = (column - number.like.expect_by_day(event_us)) / number.scale
    centre, spreads = day_statistics(event_us, residual)
    centre = centre[np.isfinite(centre)]
    if not len(centre):
        return [], float("nan")
    level = float(np.median(centre))
    spread = float(np.nanmean(spreads)) if np.isfinite(spreads).any() else 0.0
    moved = abs(level - baseline(recent)) if len(recent) else 0.0
    p_jump, p_spread = number.shift.p(moved), number.spread.p(spread)
    n = int(np.isfinite(column).sum())
    told = f"is {amount(moved * number.scale)} away from last week's level at the same hours, {times(moved)} x its usual spread"
    found = [
        Finding(name, "jump", _rare(p_jump, alpha), moved, p_jump, told, n),
        Finding(name, "spread", _rare(p_spread, alpha), spread, p_spread, f"varies {times(spread)} x as widely as usual", n),
    ]
    return found, level


def relation(law: Relation, rows: Frame, alpha: float) -> Finding | None:
    """A feature no longer agrees with the one that explained it."""
    partner = rows.inputs.get(law.partner)
    column = rows.inputs[law.feature]
    if partner is None or partner.dtype.kind == "O" or column.dtype.kind == "O":
        return None
    # median over rows: one odd hour is not a fault
    residual = np.abs(column - law.expect(partner)) / law.scale
    if not np.isfinite(residual).any():
        return None
    value = float(np.nanmedian(residual))
    p = law.residual.p(value)
    # a relation of 99.9 % is broken by very little: ask for a difference that a reader of the feature would see as well
    small = value * law.scale < 0.5 * law.spread
    status = "pass" if small else _rare(p, alpha)
    message = f"is {amount(value * law.scale)} away from what {law.partner} implies, {times(value)} x the usual error"
    message += "; too little to matter" if small else ""
    return Finding(law.feature, "relation", status, value, p, message, int(np.isfinite(residual).sum()))


Counts = tuple[tuple[int, int, int], ...]
"""What a service was asked: (start of a stretch of event time, windows of it that were judged, rows in them), oldest first."""
ESTABLISHED_US = 7 * DAY_US
"""Own traffic that like hours need before a count is compared with them; a count can fail only after twice as long."""
_COUNTED_US = 28 * DAY_US
"""How far back like hours reach."""


def volume(n: int, start_us: int, counts: Counts, policy: Policy, alpha: float) -> Finding | None:
    """Fewer or more rows than the service's own like hours had; ``None`` before it has served for a week.

    Training says nothing of it: a sample, a backfill or a pooled history has another rate. The world makes a count fall as much as the
    pipeline does, so it fails only when that is established: after two weeks, below a quarter of every like window, and beyond chance.
    """
    if not counts or start_us - counts[0][0] < ESTABLISHED_US:
        return None
    like = _like(start_us, counts, policy)
    rates = [rows / windows for _, windows, rows in like]
    expected = float(np.median(rates))
    ratio = n / expected if expected > 0 else 1.0
    windows, rows = sum(one[1] for one in like), sum(one[2] for one in like)
    p = binomial_tail(rows, n + rows, windows / (windows + 1))  # how the rows would fall to this window and to those, were all alike
    lost = len(like) >= 2 and start_us - counts[0][0] >= 2 * ESTABLISHED_US and n < 0.25 * min(rates) and p <= alpha
    status: Status = "fail" if lost else "warn" if expected >= 4 and not 0.75 < ratio < 4 else "pass"
    return Finding("rows", "volume", status, ratio, 1.0, f"{n:,} came; the service had {expected:,.0f} at like hours", n)


def _like(start_us: int, counts: Counts, policy: Policy) -> Counts:
    """The same hours of the season; where windows do not fall on them, of the day; else all."""
    slot = _slot(start_us, policy)
    for period in (policy.period_us, DAY_US, 1):
        if found := tuple(one for one in counts if (slot - one[0]) % period == 0):
            return found
    return counts


def _slot(start_us: int, policy: Policy) -> int:
    return start_us if policy.window_us >= HOUR_US else start_us // HOUR_US * HOUR_US


def recent(start_us: int, counts: Counts, policy: Policy) -> Counts:
    """The counts of the four weeks before a window."""
    return tuple(one for one in counts if one[0] >= _slot(start_us, policy) - _COUNTED_US)


def counted(n: int, start_us: int, counts: Counts, policy: Policy) -> Counts:
    """The counts with one more window; windows shorter than an hour are kept by the hour, and what is older than four weeks is dropped.

    >>> counted(3, HOUR_US, counted(5, 0, (), Policy(window_us=HOUR_US // 2)), Policy(window_us=HOUR_US // 2))
    ((0, 1, 5), (3600000000, 1, 3))
    """
    slot = _slot(start_us, policy)
    kept = recent(start_us, counts, policy)
    if kept and kept[-1][0] == slot:
        return (*kept[:-1], (slot, kept[-1][1] + 1, kept[-1][2] + n))
    return (*kept, (slot, 1, n))


def staleness(rows: Frame, profile: Profile, policy: Policy, alpha: float) -> Finding | None:
    """The inputs are old: event time less source time against training's. ``None`` where no source time is sent."""
    if rows.source_us is None or not (rows.source_us >= 0).any():
        return None
    age = (rows.event_us - rows.source_us)[rows.source_us >= 0].astype(np.float64)
    value = float(np.median(age))
    hours = value / 3_600_000_000
    if policy.max_age_us is not None and value > policy.max_age_us:
        allowed = policy.max_age_us / 3_600_000_000
        message = f"inputs are {amount(hours)} h old; the policy allows {amount(allowed)} h"
        return Finding("source time", "staleness", "fail", hours, 0.0, message, len(age), allowed)
    if profile.age_limit_us is None:
        return None
    limit = max(2 * profile.age_limit_us, profile.age_limit_us + 4 * profile.step)
    status: Status = "fail" if value > limit and profile.age_us.p(value) <= max(alpha, 0.01) else "pass"
    message = f"inputs are {amount(hours)} h old; in training 99% were younger than {amount(profile.age_limit_us / 3_600_000_000)} h"
    return Finding("source time", "staleness", status, hours, profile.age_us.p(value), message, len(age), limit / 3_600_000_000)
