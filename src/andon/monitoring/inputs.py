"""Data quality of the served inputs, window by window: no labels needed, so it speaks on the first day.

Judge a window as soon as it has ended. False alarms are bounded by construction: the yearly budget of the policy is divided by windows
and by all rare-event tests of all features (Bonferroni holds under any dependence). The laws of :mod:`andon.monitoring.laws` have their
own bound: a law that held on all of N training days is broken by a healthy day with chance about 1/(N+2).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from andon.core.verdicts import Evidence, SliceResult, Status, Verdict
from andon.monitoring import input_tests as tests
from andon.monitoring.input_tests import SHARE, Finding
from andon.monitoring.phases import count
from andon.monitoring.profiles import Profile, duplicates
from andon.monitoring.records import Frame, Policy

CHECKS = (
    "schema",
    "nulls",
    "unseen",
    "clock",
    "calendar",
    "frozen",
    "jump",
    "spread",
    "relation",
    "volume",
    "duplicates",
    "staleness",
)
_PATIENCE = 28
"""Windows after which a level that jumped and stayed is the new normal."""


class InputsState(msgspec.Struct, frozen=True):
    """Carried from window to window; serialisable. Start with ``InputsState()``: it begins from the training snapshot's last week
    (but for the volume: how many rows come is known from the service's own weeks alone)."""

    levels: dict[str, tuple[float, ...]] = {}
    held: dict[str, tuple[float, ...]] = {}
    offences: dict[str, tuple[int, ...]] = {}
    counts: tests.Counts = ()
    """Rows of the windows of the last four weeks that lost none: what the service's own like hours are."""
    judged_until_us: int = 0


def rare_tests(profile: Profile) -> int:
    """How many rare-event tests share one window's part of the budget."""
    soft_laws = sum(law.exceptions > 0 for law in profile.clock_laws.values()) + sum(
        law.exceptions > 0 for law in profile.calendar_laws.values()
    )
    return len(profile.names) + 3 * len(profile.numbers) + len(profile.runs) + 2 * len(profile.relations) + soft_laws


def judge_inputs(
    profile: Profile, state: InputsState, served: Frame, window_us: tuple[int, int], *, subject: str, policy: Policy
) -> tuple[tuple[Verdict, ...], InputsState]:
    """One verdict per test (``inputs/nulls``, ``inputs/frozen``, …), each with a slice per feature; and the state for the next window.

    ``served`` holds the window's rows and, for long runs, up to a few days before it; later rows are ignored. A window with fewer than
    ``policy.min_rows`` rows gets only the volume test, the rest is ``undecided``.
    """
    start, end = window_us
    past = served.between(min(start, int(served.event_us[0]) if len(served) else start), end)
    rows = past.between(start, end)
    alpha = policy.row_alpha(rare_tests(profile))
    volume, counts = _volume(len(rows), state, window_us, policy, alpha, subject)
    if len(rows) < max(1, policy.min_rows):
        why = f"{count(len(rows), 'row')} in this window; {max(1, policy.min_rows)} are needed"
        silent = tuple(_undecided(name, subject, window_us, why, len(rows)) for name in CHECKS if name != "volume")
        return (volume, *silent), msgspec.structs.replace(state, counts=counts, judged_until_us=end)
    found = [_repeats(rows, profile)]
    late = tests.staleness(rows, profile, policy, alpha)
    found += [late] if late is not None else []
    levels, held, offences = dict(state.levels), dict(state.held), dict(state.offences)
    for name in profile.names:
        some = _judge_feature(name, profile, past, rows, start, alpha, policy, (levels, held, offences))
        found += some
    found = _blame(found, profile)
    verdicts = (
        volume,
        *(
            _verdict(name, chosen, subject, window_us, alpha if name in ("frozen", "jump", "spread", "relation") else SHARE)
            for name in CHECKS
            if (chosen := [one for one in found if one.test == name])
        ),
    )
    return verdicts, InputsState(levels, held, offences, counts, end)


def _volume(
    n: int, state: InputsState, window_us: tuple[int, int], policy: Policy, alpha: float, subject: str
) -> tuple[Verdict, tests.Counts]:
    """A window that lost its rows must not become what is usual; after four weeks of it nothing is known any more, and it begins anew."""
    start, _ = window_us
    after = tests.counted(n, start, state.counts, policy)
    known = tests.recent(start, state.counts, policy)
    finding = tests.volume(n, start, known, policy, alpha)
    if finding is None:
        seen = sum(windows for _, windows, _ in state.counts)
        return _undecided("volume", subject, window_us, f"{count(seen, 'window')} seen; a week is needed", n), after
    return _verdict("volume", [finding], subject, window_us, 0.25), known if finding.status == "fail" else after


def _judge_feature(
    name: str,
    profile: Profile,
    past: Frame,
    rows: Frame,
    start_us: int,
    alpha: float,
    policy: Policy,
    carried: tuple[dict[str, tuple[float, ...]], dict[str, tuple[float, ...]], dict[str, tuple[int, ...]]],
) -> list[Finding]:
    levels, held, offences = carried
    found = [tests.schema(name, rows, profile.signature[name])]
    column = rows.inputs.get(name)
    if column is None or found[0].status == "fail":
        return found
    found += [tests.nulls(name, column, profile, alpha), tests.unseen(name, column, profile, policy)]
    past_offences = offences.get(f"clock:{name}", ()), offences.get(f"calendar:{name}", ())
    if name in profile.clock_laws:
        finding, offence = tests.clock_law(profile.clock_laws[name], rows, past_offences[0], alpha)
        offences[f"clock:{name}"] = (*past_offences[0], offence)[-7:]
        found.append(finding)
    if name in profile.calendar_laws:
        finding, offence = tests.calendar_law(profile.calendar_laws[name], rows, past_offences[1], alpha)
        offences[f"calendar:{name}"] = (*past_offences[1], offence)[-7:]
        found.append(finding)
    p_level = 1.0
    if name in profile.numbers and column.dtype.kind != "O":
        number = profile.numbers[name]
        # levels are kept in the feature's own unit, so that they mean the same to the next release's profile
        first = tuple(number.like.overall + number.scale * level for level in number.recent)
        recent = tuple((level - number.like.overall) / number.scale for level in levels.get(name, first))
        some, level = tests.jump(name, column, rows.event_us, number, recent, alpha)
        found += some
        p_level = min((one.p for one in some if one.test == "jump"), default=1.0)
    if name in profile.runs and past.inputs[name].dtype == column.dtype:
        found.append(tests.frozen(name, start_us, past, profile, alpha, p_level))
    if name in profile.numbers and column.dtype.kind != "O":
        raw = number.like.overall + number.scale * level
        _remember(name, raw, any(one.status == "fail" for one in found), first, levels, held)
    if name in profile.relations and (off := tests.relation(profile.relations[name], rows, alpha)) is not None:
        found.append(off)
    return found


def _remember(
    name: str,
    level: float,
    faulty: bool,
    first: tuple[float, ...],
    levels: dict[str, tuple[float, ...]],
    held: dict[str, tuple[float, ...]],
) -> None:
    """A faulty day must not become next week's normal, unless it stays for four weeks."""
    if not np.isfinite(level):
        return
    if faulty:
        held[name] = (*held.get(name, ()), level)[-_PATIENCE:]
        if len(held[name]) >= _PATIENCE:
            levels[name] = held.pop(name)[-7:]
        return
    held.pop(name, None)
    levels[name] = (*levels.get(name, first), level)[-7:]


def _blame(found: list[Finding], profile: Profile) -> list[Finding]:
    """When a feature is broken on its own evidence, its partners' broken relations and laws are its doing: say so, do not fail them."""
    own = {one.feature for one in found if one.status == "fail" and one.test not in ("relation", "calendar")}
    kept = []
    for one in found:
        culprits = _others(one, profile) & own if one.status == "fail" and one.feature not in own else set()
        if culprits and one.test in ("relation", "calendar"):
            one = Finding(
                one.feature,
                one.test,
                "warn",
                one.value,
                one.p,
                f"{one.message}; explained by {', '.join(sorted(culprits))}",
                one.n,
                one.limit,
            )
        kept.append(one)
    return kept


def _others(one: Finding, profile: Profile) -> set[str]:
    if one.test == "relation":
        return {profile.relations[one.feature].partner}
    return set(profile.calendar_laws[one.feature].given) if one.test == "calendar" else set()


def _repeats(rows: Frame, profile: Profile) -> Finding:
    bad = duplicates(rows)
    share = float(bad.mean())
    status: Status = (
        "fail"
        if bad.sum() >= 2 and share >= max(SHARE, 3 * profile.duplicate_share)
        else "warn"
        if share > 3 * profile.duplicate_share
        else "pass"
    )
    message = f"{int(bad.sum()):,} of {len(rows):,} repeat an earlier one"
    return Finding("rows", "duplicates", status, share, 1.0, message, len(rows), max(SHARE, 3 * profile.duplicate_share))


def _undecided(check: str, subject: str, window_us: tuple[int, int], why: str, n: int) -> Verdict:
    return Verdict(subject=subject, check=f"inputs/{check}", status="undecided", message=why, n=n, at_us=window_us[1], window_us=window_us)


def worst_status(statuses: Iterable[Status]) -> Status:
    """fail, else warn, else pass, else undecided.

    >>> worst_status(["pass", "warn"])
    'warn'
    """
    found = set(statuses)
    order: tuple[Status, ...] = ("fail", "warn", "pass")
    return next((status for status in order if status in found), "undecided")


def _verdict(check: str, found: list[Finding], subject: str, window_us: tuple[int, int], threshold: float) -> Verdict:
    status = worst_status(one.status for one in found)
    chosen = [one for one in found if one.status == status]
    by_p = check in ("frozen", "jump", "spread", "relation")
    ranked = sorted(chosen, key=lambda one: one.p if by_p else -one.value)
    worst = ranked[0]
    limit = threshold if worst.limit is None else worst.limit
    # a pass beyond the limit has its reason, and says it
    beyond = check != "volume" and (worst.p <= limit if by_p else worst.value > limit)
    if status in ("fail", "warn"):
        message = "; ".join(f"{one.feature}: {one.message}" for one in ranked[:3])
        message += f"; and {len(ranked) - 3} more" if len(ranked) > 3 else ""
    else:
        message = f"nothing to act on; {worst.feature}: {worst.message}" if beyond else "nothing unusual"
    rows = tuple(
        (one.feature, one.status, round(one.value, 4), float(f"{one.p:.3g}"), one.message)
        for one in sorted(found, key=lambda one: one.p)[:30]
    )
    return Verdict(
        subject=subject,
        check=f"inputs/{check}",
        status=status,
        message=message,
        value=worst.p if by_p else worst.value,
        unit="tail probability of a training day" if by_p else _unit(check),
        threshold=limit,
        n=max(one.n for one in found),
        slices=tuple(SliceResult(slice=one.feature, status=one.status, value=one.value, n=one.n) for one in found),
        evidence=(Evidence(f"Inputs: {check}", ("feature", "status", "value", "p", "what"), rows),),
        at_us=window_us[1],
        window_us=window_us,
    )


def _unit(check: str) -> str:
    return {"volume": "x rows of like hours", "staleness": "hours"}.get(check, "share of rows")
