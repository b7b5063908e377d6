"""Live quality from matured labels: is the service harmed, by how much, since when?

A window's loss is divided by the loss the gate saw at like hours, and by the growth of the naive baseline (the same hour one season
ago) since the gate, so that a busier city is not a worse model. Growth is never below 1: a calm fortnight does not tighten the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np

from andon.core.verdicts import Evidence, Interval, SliceResult, Status, Verdict
from andon.monitoring.betting import Bettor, bet_on_change
from andon.monitoring.phases import LikeHours, count, season_ago, times, when
from andon.monitoring.records import Frame, Policy, Reference, concat, losses

_MEMORY = 28
"""Windows of scores that are carried along."""
_PRIOR = 7
"""Windows of "no growth" that the estimate of growth starts from."""
_FLOOR, _CAP = 0.5, 2.0
"""A window's harm is clipped to this many times the margin: the floor lets one stake more, the cap keeps one wild day from deciding."""


class WindowScore(msgspec.Struct, frozen=True):
    """What one window's labels say. Sums over the scored rows, in units of the loss (``label``, ``prediction``: of the label)."""

    start_us: int
    n: int
    loss: float
    expected: float
    naive: float
    naive_expected: float
    naive_n: int
    label: float
    prediction: float
    growth: float = 1.0

    @property
    def ratio(self) -> float:
        """Loss over expected loss; 1 is as good as on the gate's period."""
        return self.loss / (self.expected * self.growth)


class QualityState(msgspec.Struct, frozen=True):
    """Carried from window to window; serialisable. Start with ``QualityState()``."""

    release: str = ""
    bettor: Bettor = Bettor()
    scores: tuple[WindowScore, ...] = ()
    before: tuple[WindowScore, ...] = ()
    """Scores of earlier releases: the naive baseline is the same whatever release answers, so growth is remembered across a rollback."""
    judged_until_us: int = 0


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the release's own gate says a loss should be at each hour; computed once per release by :func:`expectations`."""

    loss: LikeHours
    naive: LikeHours
    history: Frame
    naive_usual: float = 1.0
    """The median over the gate's days of the naive baseline's loss over its like-hour mean (below 1: a few days are stormy)."""


def expectations(reference: Reference, policy: Policy) -> Expectations:
    """Like-hour losses of the release and of the naive baseline over the gate's period, and the labels that the baseline starts from."""
    gate = reference.gate
    history = concat([_bare(reference.training), _bare(gate)])
    naive = losses(season_ago(history, gate.event_us, policy.period_us), gate.label, policy.loss)
    scored = losses(gate.prediction, gate.label, policy.loss)
    like_naive = LikeHours(gate.event_us, naive, period_us=policy.period_us)
    windows = gate.event_us // policy.window_us
    known = np.isfinite(naive)
    days = [known & (windows == window) for window in np.unique(windows)]
    ratios = [
        float(naive[day].sum() / max(like_naive.expect(gate.event_us[day]).sum(), 1e-12)) for day in days if day.sum() >= policy.min_labels
    ]
    usual = float(np.median([ratio for ratio in ratios if np.isfinite(ratio)] or [1.0]))
    return Expectations(LikeHours(gate.event_us, scored, period_us=policy.period_us), like_naive, history, usual if usual > 0 else 1.0)


def _bare(rows: Frame) -> Frame:
    return Frame(rows.event_us, {}, rows.prediction, rows.label, rows.release)


def score_window(expected: Expectations, served: Frame, history: Frame, start_us: int, policy: Policy) -> WindowScore | None:
    """Sums over the labelled rows of ``served`` (one window, one release); ``None`` where the gate gives nothing to compare with."""
    loss = losses(served.prediction, served.label, policy.loss)
    known = np.isfinite(loss)
    if not math.isfinite(expected.loss.overall) or expected.loss.overall <= 0 or not known.any():
        return None
    naive = losses(season_ago(history, served.event_us, policy.period_us), served.label, policy.loss)
    naive_known = np.isfinite(naive) & known & np.isfinite(expected.naive.overall)
    return WindowScore(
        start_us=start_us,
        n=int(known.sum()),
        loss=float(loss[known].sum()),
        expected=float(expected.loss.expect(served.event_us[known]).sum()),
        naive=float(naive[naive_known].sum()),
        naive_expected=float(expected.naive.expect(served.event_us[naive_known]).sum()),
        naive_n=int(naive_known.sum()),
        label=float(served.label[known].sum()),
        prediction=float(served.prediction[known].sum()),
    )


def growth(scores: tuple[WindowScore, ...], usual: float = 1.0) -> float:
    """How much harder the naive baseline finds the world than at the gate: at least 1.

    The median over windows, so that three stormy days do not excuse a bad model; it starts from a week at the gate's ``usual`` ratio.

    >>> growth(())
    1.0
    """
    found = [score.naive / score.naive_expected for score in scores if score.naive_expected > 0]
    return max(1.0, float(np.median([usual] * _PRIOR + found)) / usual)


def _rebased(scores: tuple[WindowScore, ...], expected: Expectations, policy: Policy) -> tuple[WindowScore, ...]:
    """Old scores with what the *new* release's gate leads one to expect of the naive baseline in those windows."""
    if not math.isfinite(expected.naive.overall):
        return ()

    def again(score: WindowScore) -> WindowScore:
        steps = np.arange(score.start_us, score.start_us + policy.window_us, expected.naive.step, dtype=np.int64)
        return msgspec.structs.replace(score, naive_expected=float(expected.naive.expect(steps).mean()) * score.naive_n)

    return tuple(again(score) for score in scores)


def judge_quality(
    expected: Expectations, state: QualityState, served: Frame, window_us: tuple[int, int], *, subject: str, release: str, policy: Policy
) -> tuple[Verdict, QualityState]:
    """Judge one window whose labels are due, and carry the state on.

    ``served`` holds the window's rows and, for the baseline, one season before it (more does no harm); rows of other releases count
    only as history. Call it once per window, in order; a window that was already judged gives ``undecided`` and the same state. When
    ``release`` is not the state's, the evidence starts anew.
    """
    start, end = window_us
    if release == state.release and end <= state.judged_until_us:
        return _undecided(subject, window_us, "this window has been judged already", 0), state
    rows = _bare(served).between(start, end)
    rows = rows.take(rows.release == release)
    n = int(np.isfinite(losses(rows.prediction, rows.label)).sum())
    if release != state.release:
        state = QualityState(release, before=_rebased((*state.before, *state.scores)[-_MEMORY:], expected, policy))
    scores, bettor = state.scores, state.bettor
    history = concat([expected.history, _bare(served)]) if n >= policy.min_labels else expected.history
    score = score_window(expected, rows, history, start, policy) if n >= policy.min_labels else None
    if score is None or score.expected <= 0:
        why = f"{count(n, 'label')} came for this window; {policy.min_labels} are needed"
        if n >= policy.min_labels:
            why = "the gate's answers have no labels or no errors, so there is nothing to compare with"
        return _undecided(subject, window_us, why, n), msgspec.structs.replace(state, judged_until_us=end)
    score = msgspec.structs.replace(score, growth=growth((*state.before, *scores)[-_MEMORY:], expected.naive_usual))
    harm = min(_CAP, max(_FLOOR, score.ratio / policy.harm_ratio))
    bettor = bet_on_change(bettor, harm - 1.0, 1.0 - _FLOOR, start)
    scores = (*scores, score)[-_MEMORY:]
    after = QualityState(release, bettor, scores, state.before, end)
    return _verdict(after, rows, expected, window_us, subject, policy), after


def _undecided(subject: str, window_us: tuple[int, int], why: str, n: int) -> Verdict:
    return Verdict(subject=subject, check="live-quality", status="undecided", message=why, n=n, at_us=window_us[1], window_us=window_us)


def harm_since(scores: tuple[WindowScore, ...], since_us: int) -> tuple[float, Interval | None, int]:
    """Pooled ratio over the windows from ``since_us`` on, its 95 % interval over windows (delta method), and their labels."""
    chosen = [score for score in scores if score.start_us >= since_us] or list(scores[-1:])
    weights = np.array([score.expected * score.growth for score in chosen])
    value = float(sum(score.loss for score in chosen) / weights.sum())
    n = sum(score.n for score in chosen)
    if len(chosen) < 3:
        return value, None, n
    residual = np.array([score.loss for score in chosen]) - value * weights
    error = float(np.sqrt(np.sum(residual**2) * len(chosen) / (len(chosen) - 1)) / weights.sum())
    return value, Interval(max(0.0, value - 1.96 * error), value + 1.96 * error, 0.95), n


def _verdict(state: QualityState, rows: Frame, expected: Expectations, window_us: tuple[int, int], subject: str, policy: Policy) -> Verdict:
    alarmed = state.bettor.crossed(policy.alpha)
    heard = state.bettor.evidence >= 0.5 * math.log(1 / policy.alpha)
    since = state.bettor.onset_us if heard else state.scores[-min(7, len(state.scores))].start_us
    value, interval, n = harm_since(state.scores, since)
    above = value > policy.harm_ratio
    # Above the margin, though not for long enough to be sure, is worth an amber light and no more.
    status: Status = "fail" if above and alarmed else "warn" if above else "pass"
    said = {"fail": "harmed", "warn": "perhaps harmed", "pass": "as expected"}[status]
    message = f"{said}: loss is {times(value)} x what its gate promised, since {when(since)} ({count(n, 'label')})"
    columns = ("window", "labels", "loss", "expected", "naive", "growth", "ratio", "actual/predicted")
    table = tuple(
        (
            when(score.start_us),
            score.n,
            _per(score.loss, score.n),
            _per(score.expected, score.n),
            _per(score.naive, score.naive_n),
            round(score.growth, 3),
            round(score.ratio, 3),
            _per(score.label, score.prediction),
        )
        for score in state.scores[-14:]
    )
    evidence = (
        Evidence("Scored windows", columns, table),
        Evidence(
            "Evidence",
            ("log evidence", "fails at", "windows"),
            ((round(state.bettor.evidence, 3), round(math.log(1 / policy.alpha), 3), state.bettor.steps),),
        ),
    )
    return Verdict(
        subject=subject,
        check="live-quality",
        status=status,
        message=message,
        value=value,
        unit="x expected loss",
        interval=interval,
        threshold=policy.harm_ratio,
        n=n,
        slices=_slices(rows, expected, state.scores[-1].growth, policy),
        evidence=evidence,
        at_us=window_us[1],
        window_us=window_us,
    )


def _per(total: float, count: float) -> float | None:
    return round(total / count, 4) if count else None


def _slices(rows: Frame, expected: Expectations, grown: float, policy: Policy) -> tuple[SliceResult, ...]:
    """Quarters of the day, a view that every service has; triage looks at slices of the inputs."""
    loss = losses(rows.prediction, rows.label, policy.loss)
    known = np.isfinite(loss)
    wanted = expected.loss.expect(rows.event_us) * grown
    quarter = (rows.event_us // 21_600_000_000) % 4
    found = []
    for part in range(4):
        chosen = known & (quarter == part)
        total = float(wanted[chosen].sum())
        if total > 0:
            ratio = float(loss[chosen].sum()) / total
            status: Status = "warn" if ratio > policy.harm_ratio else "pass"
            found.append(SliceResult(slice=f"hours {6 * part}-{6 * part + 6} UTC", status=status, value=ratio, n=int(chosen.sum())))
    return tuple(found)
