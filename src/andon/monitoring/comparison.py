"""Is the live release worse than the last good one *on the same requests*? The only question that decides a rollback.

Both are scored on every window since the live release took over. The null hypothesis: the window's log loss ratio, given the past, is
symmetric about 0 or lies below it (the live release is no worse). Any odd function of it then has a conditional mean of at most 0, so
betting on it is valid at any time (de la Pena 1999 for symmetry; Waudby-Smith & Ramdas 2024, section 4, for the betting).
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from andon.core.verdicts import Evidence, Interval, Status, Verdict
from andon.monitoring.betting import Bettor, bet_once
from andon.monitoring.phases import count, times, when
from andon.monitoring.records import Array, Frame, Policy, losses

_SOFT = 0.1
"""Log loss ratio at which a bet counts three quarters: smaller differences are mostly noise, larger ones say little more."""


class ComparedWindow(msgspec.Struct, frozen=True):
    """Mean losses of both releases over the same rows of one window."""

    start_us: int
    n: int
    live: float
    previous: float


class ComparisonState(msgspec.Struct, frozen=True):
    """Carried from window to window; serialisable. It starts anew when either release changes."""

    release: str = ""
    previous: str = ""
    bettor: Bettor = Bettor()
    windows: tuple[ComparedWindow, ...] = ()
    judged_until_us: int = 0


def judge_comparison(
    state: ComparisonState,
    served: Frame,
    previous_prediction: Array | None,
    window_us: tuple[int, int],
    *,
    subject: str,
    release: str,
    previous: str,
    policy: Policy,
) -> tuple[Verdict, ComparisonState]:
    """Judge one window whose labels are due; ``fail`` means the previous release would clearly have been better.

    ``previous_prediction`` float64, one per row of ``served``: what the previous release says to the *same inputs*, through its own
    transform (``None``: it cannot be run). Only rows that ``release`` answered and whose label is known count.
    """
    fresh = release != state.release or previous != state.previous
    if fresh:
        state = ComparisonState(release, previous)
    start, end = window_us
    if not fresh and end <= state.judged_until_us:
        return _undecided(subject, window_us, "this window has been judged already", 0), state
    if previous_prediction is None or not previous or len(previous_prediction) != len(served):
        return _undecided(subject, window_us, "there is no previous release to compare with", 0), state
    ours = losses(served.prediction, served.label, policy.loss)
    theirs = losses(previous_prediction, served.label, policy.loss)
    known = np.isfinite(ours) & np.isfinite(theirs) & (served.release == release) & (served.event_us >= start) & (served.event_us < end)
    n = int(known.sum())
    if n < policy.min_labels:
        kept = msgspec.structs.replace(state, judged_until_us=end)
        return _undecided(subject, window_us, f"{count(n, 'label')} came for this window; {policy.min_labels} are needed", n), kept
    window = ComparedWindow(start, n, float(ours[known].mean()), float(theirs[known].mean()))
    bettor = bet_once(state.bettor, _gain(window), 1.0, start)
    after = ComparisonState(release, previous, bettor, (*state.windows, window)[-56:], end)
    return _verdict(after, window_us, subject, policy), after


def _gain(window: ComparedWindow) -> float:
    if window.live <= 0 or window.previous <= 0:
        return float(np.sign(window.live - window.previous))
    return math.tanh(math.log(window.live / window.previous) / _SOFT)


def replay_ratio(state: ComparisonState, since_us: int = 0) -> tuple[float | None, Interval | None, int]:
    """Previous over live loss on the same rows from ``since_us`` on, a 95 % interval over windows (delta method), and the rows."""
    chosen = [window for window in state.windows if window.start_us >= since_us]
    live = np.array([window.live * window.n for window in chosen])
    theirs = np.array([window.previous * window.n for window in chosen])
    n = sum(window.n for window in chosen)
    if not chosen or live.sum() <= 0:
        return None, None, n
    ratio = float(theirs.sum() / live.sum())
    if len(chosen) < 3:
        return ratio, None, n
    error = float(np.sqrt(np.sum((theirs - ratio * live) ** 2) * len(chosen) / (len(chosen) - 1)) / live.sum())
    return ratio, Interval(max(0.0, ratio - 1.96 * error), ratio + 1.96 * error, 0.95), n


def onset_of(state: ComparisonState) -> int:
    """When the live release began to be worse: the last minimum of the running sum of log loss ratios less half the margin (Page 1954)."""
    total = lowest = 0.0
    onset = state.windows[0].start_us if state.windows else 0
    for place, window in enumerate(state.windows):
        if window.live > 0 and window.previous > 0:
            total += math.log(window.live / window.previous) - 0.1
        else:
            total += float(np.sign(window.live - window.previous))
        if total <= lowest and place + 1 < len(state.windows):
            lowest, onset = total, state.windows[place + 1].start_us
    return onset


def _undecided(subject: str, window_us: tuple[int, int], why: str, n: int) -> Verdict:
    return Verdict(subject=subject, check="previous-release", status="undecided", message=why, n=n, at_us=window_us[1], window_us=window_us)


def _verdict(state: ComparisonState, window_us: tuple[int, int], subject: str, policy: Policy) -> Verdict:
    crossed = state.bettor.crossed(policy.rollback_alpha)
    since = onset_of(state)
    ratio, interval, n = replay_ratio(state, since)
    if ratio is None:
        return _undecided(subject, window_us, "the live release makes no errors", n)
    # the margin must hold for more than a few odd days: the interval may reach half way back to "no better", no further
    clear = ratio <= policy.rollback_ratio and interval is not None and (interval.high or 0.0) <= (1 + policy.rollback_ratio) / 2
    status: Status = "fail" if crossed and clear else "warn" if crossed and ratio < 1 else "pass"
    said = {"fail": "would have been clearly better", "warn": "would have been better, though not clearly enough to go back"}.get(status)
    if said is None:
        said = "would have been no better" if ratio >= 1 else "is not proven to be better"
    message = f"{state.previous} {said}: {times(ratio)} x the loss of {state.release} on the same requests since {when(since)}"
    table = tuple((when(w.start_us), w.n, round(w.live, 4), round(w.previous, 4)) for w in state.windows[-14:])
    limits = ((round(state.bettor.evidence, 3), round(math.log(1 / policy.rollback_alpha), 3), state.bettor.steps),)
    return Verdict(
        subject=subject,
        check="previous-release",
        status=status,
        message=message,
        value=ratio,
        unit="x live loss",
        interval=interval,
        threshold=policy.rollback_ratio,
        n=n,
        at_us=window_us[1],
        window_us=window_us,
        evidence=(
            Evidence("Same requests, both releases", ("window", "rows", "loss live", "loss previous"), table),
            Evidence("Evidence", ("log evidence", "fails at", "windows"), limits),
        ),
    )
