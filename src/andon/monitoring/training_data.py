"""Is a training snapshot fit to learn from? A day on which an input was broken teaches the model, and the monitor, that broken is normal.

A learned range cannot see them (a humidity of 0 *is* the training minimum); each suspicious day is judged against all the other days.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from andon.core.clocks import DAY_US, to_iso
from andon.core.verdicts import Evidence, SliceResult, Status, Verdict
from andon.monitoring import input_tests as tests
from andon.monitoring.input_tests import Finding
from andon.monitoring.laws import absent
from andon.monitoring.phases import by_day, count
from andon.monitoring.profiles import Profile, day_maximum, day_statistics, level_jumps, longest_runs, partner_moves, profile
from andon.monitoring.records import Array, Floats, Frame, Policy
from andon.monitoring.tails import fit_tail

_CANDIDATES = 6
"""The most extreme days that are looked at, per feature and test; more broken days than this are a regime, not a fault."""
_SAID = {"frozen": "stood still", "relation": "disagreed with what explains it", "nulls": "null"}


def suspect_days(training: Frame, policy: Policy, found: Profile | None = None) -> dict[int, list[Finding]]:
    """The broken days of a snapshot: first instant of the day -> what is broken on it (frozen, off its partner, or null)."""
    known = profile(training) if found is None else found
    days, place = by_day(training.event_us)
    alpha = policy.row_alpha(2 * len(known.names))
    broken: dict[int, list[Finding]] = {}
    for name in known.names:
        for day, one in [
            *_frozen(name, training, known, place, alpha),
            *_unrelated(name, training, known, place, alpha),
            *_nulls(name, training, place),
        ]:
            broken.setdefault(int(days[day]) * DAY_US, []).append(one)
    return {
        day: kept
        for day, listed in sorted(broken.items())
        if (kept := [one for one in listed if one.test != "relation" or _own_fault(one, listed, known)])
    }


def _own_fault(one: Finding, listed: list[Finding], known: Profile) -> bool:
    """A broken relation is the partner's doing if only the partner is broken on its own evidence."""
    direct = {other.feature for other in listed if other.test != "relation"}
    return one.feature in direct or known.relations[one.feature].partner not in direct


def _extreme(statistic: Floats) -> list[int]:
    ranked = np.argsort(np.where(np.isfinite(statistic), -statistic, np.inf), kind="stable")
    return [int(day) for day in ranked[:_CANDIDATES] if np.isfinite(statistic[day])]


def _frozen(name: str, training: Frame, known: Profile, place: Array, alpha: float) -> list[tuple[int, Finding]]:
    if name not in known.runs:
        return []
    runs = longest_runs(training.event_us, training.inputs[name], known.step)
    longest = day_maximum(place, runs)
    candidates = _extreme(longest)
    others = np.delete(longest, candidates)
    still = day_maximum(place, partner_moves(training, known.relations[name])) if name in known.relations else np.zeros(len(longest))
    levels = _level_p(name, training, known)
    # the suspects are left out of their own yardstick only as far as they are proven: the mildest first, as in a step-up test
    found = []
    for day in reversed(candidates):
        at = np.flatnonzero(place == day)
        start = int(training.event_us[at[0]]) // DAY_US * DAY_US
        judged = dataclasses.replace(
            known,
            runs={**known.runs, name: fit_tail(others, resolution=1.0, heaviest=0.1)},
            stillness={**known.stillness, name: fit_tail(np.delete(still, candidates), resolution=0.5, heaviest=0.2)},
            ends=_ends_without(name, training, known, at),
        )
        one = tests.frozen(name, start, training.take(slice(max(0, at[0] - 500), at[-1] + 1)), judged, alpha, levels[day])  # type: ignore[arg-type]
        if one.status == "fail":
            found.append((day, one))
        else:
            others = np.append(others, longest[day])
    return found


def _level_p(name: str, training: Frame, known: Profile) -> list[float]:
    """The tail probability of each day's jump of level against the week before."""
    number = known.numbers.get(name)
    if number is None:
        return [1.0] * len(by_day(training.event_us)[0])
    residual = (training.inputs[name] - number.like.expect_by_day(training.event_us)) / number.scale
    centre, _ = day_statistics(training.event_us, residual)
    return [number.shift.p(jump) for jump in level_jumps(centre).tolist()]


def _ends_without(name: str, training: Frame, known: Profile, rows: Array) -> Mapping[str, tuple[float, ...]]:
    column = training.inputs[name]
    if column.dtype.kind == "O":
        return known.ends
    rest = np.delete(column, rows)
    return {**known.ends, name: tuple(end for end in known.ends.get(name, ()) if (rest == end).sum() >= 9)}


def _unrelated(name: str, training: Frame, known: Profile, place: Array, alpha: float) -> list[tuple[int, Finding]]:
    law = known.relations.get(name)
    if law is None:
        return []
    residual = np.abs(training.inputs[name] - law.expect(training.inputs[law.partner])) / law.scale
    daily, _ = day_statistics(training.event_us, residual)
    candidates = _extreme(daily)
    others = np.delete(daily, candidates)
    found = []
    for day in reversed(candidates):
        judged = dataclasses.replace(law, residual=fit_tail(others, resolution=0.1))
        one = tests.relation(judged, training.take(place == day), alpha)
        if one is not None and one.status == "fail":
            found.append((day, one))
        else:
            others = np.append(others, daily[day])
    return found


def _nulls(name: str, training: Frame, place: Array) -> list[tuple[int, Finding]]:
    gone = absent(training.inputs[name])
    share = np.bincount(place, weights=gone) / np.maximum(1, np.bincount(place))
    if not len(share) or float(np.median(share)) > 0.05:
        return []
    return [
        (
            int(day),
            Finding(name, "nulls", "fail", float(share[day]), 0.0, f"{share[day]:.0%} of the day is null", int((place == day).sum())),
        )
        for day in np.flatnonzero(share >= 0.5)
    ]


def sound(training: Frame, policy: Policy) -> tuple[Frame, Profile]:
    """The snapshot without its broken days, and its profile: what a monitor compares with even when a person let the snapshot pass."""
    known = profile(training)
    if not len(training):
        return training, known
    days = suspect_days(training, policy, known)
    if not days:
        return training, known
    keep = ~np.isin(training.event_us // DAY_US * DAY_US, list(days))
    kept = training.take(keep)
    return kept, profile(kept)


def judge_training_data(training: Frame, *, subject: str, policy: Policy) -> Verdict:
    """Data validation for a gate or a pipeline step: ``fail`` if a day's input is broken or an input is null or constant throughout.

    ``slices`` name the features, ``evidence`` the days to leave out. Too few rows for any answer (fewer than 20 days) is ``undecided``.
    """
    window = (int(training.event_us[0]), int(training.event_us[-1]) + 1) if len(training) else (0, 0)
    days = len(by_day(training.event_us)[0])
    if days < 20:
        return Verdict(
            subject=subject,
            check="training-data",
            status="undecided",
            message=f"{count(days, 'day')} of data; 20 are needed",
            n=len(training),
            at_us=window[1],
            window_us=window,
        )
    known = profile(training)
    broken = suspect_days(training, policy, known)
    rows = [(to_iso(day)[:10], one.feature, one.test, one.message) for day, listed in broken.items() for one in listed]
    faulty: dict[str, int] = {}
    for listed in broken.values():
        for feature in {one.feature for one in listed}:
            faulty[feature] = faulty.get(feature, 0) + 1
    empty = [name for name in known.names if known.null_share[name] >= 0.999]
    unlabelled = float(np.mean(~np.isfinite(training.label)))
    statuses: dict[str, Status] = {
        name: "fail" if name in faulty or name in empty else "warn" if known.kinds[name] == "constant" else "pass" for name in known.names
    }
    status: Status = "fail" if "fail" in statuses.values() or unlabelled > 0.5 else "warn" if "warn" in statuses.values() else "pass"
    told = [f"{feature} on {day} ({_SAID.get(what, what)})" for day, feature, what, _ in rows[:4]]
    told += [f"{len(rows) - 4} more"] if len(rows) > 4 else []
    told += [f"{name} is null throughout" for name in empty[:3]]
    told += [f"{unlabelled:.0%} of the labels are missing"] if unlabelled > 0.5 else []
    message = f"broken: {'; '.join(told)}" if told else "no broken day found"
    flat = [name for name in known.names if statuses[name] == "warn"]
    message += f"; {', '.join(flat[:3])} never changed, so nothing can be learned from it" if flat else ""
    return Verdict(
        subject=subject,
        check="training-data",
        status=status,
        message=message,
        value=float(len(broken)),
        unit="broken days",
        threshold=0.0,
        n=len(training),
        slices=tuple(
            SliceResult(slice=name, status=statuses[name], value=float(faulty.get(name, 0)), n=len(training)) for name in known.names
        ),
        evidence=(Evidence("Broken days", ("day", "feature", "test", "what"), tuple(rows[:60])),),
        at_us=window[1],
        window_us=window,
    )
