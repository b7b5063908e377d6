"""Triage: what changed, since when, for whom it is worst, and the one thing to do. It knows of no fault in particular.

What decides between a rollback and anything else is the *counterfactual replay*: the loss of the last good release on the very same
requests. What decides that an input is to blame is the *repair replay*: the live release on the same requests with the suspect inputs
replaced by what they usually say. The world is what is left when both say no.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from andon.core.clocks import DAY_US
from andon.core.verdicts import Evidence, Interval, SliceResult, Verdict
from andon.incidents.records import Advice, Cause, Change, Finding, TriageEvidence
from andon.incidents.repair import repaired
from andon.monitoring.comparison import onset_of, replay_ratio
from andon.monitoring.laws import encode
from andon.monitoring.phases import count, times, when
from andon.monitoring.quality import harm_since
from andon.monitoring.records import Floats, losses

_ENOUGH_WINDOWS = 5
"""Compared windows before "the previous release is no better" is worth saying."""
_PIPELINE = {"rows": "requests that are missing or repeated", "source time": "inputs that are too old"}
"""What failed when no single feature did, in words."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """The numbers that the decision is made from."""

    harmed: bool
    rollback_proven: bool
    suspects: tuple[str, ...]
    fault_onset_us: int | None
    harm: float | None
    harm_interval: Interval | None
    onset_us: int
    replay: float | None
    replay_interval: Interval | None
    compared: int
    repair: float | None
    repairs: tuple[tuple[str, float | None, float], ...]
    pipeline: tuple[str, ...]


def triage(evidence: TriageEvidence) -> Finding:
    """One finding. Pure and total: with too little to go on the cause is ``unknown`` and the advice ``wait``."""
    measured = _measure(evidence)
    cause, advice, message = _conclude(measured, evidence)
    onset = measured.fault_onset_us if cause == "upstream" and measured.fault_onset_us is not None else measured.onset_us
    if cause == "release" and evidence.comparison.bettor.steps:
        onset = onset_of(evidence.comparison)
    changed = _changes(evidence, onset)
    return Finding(
        subject=evidence.subject,
        release=evidence.release,
        cause=cause,
        advice=advice,
        message=message,
        onset_us=onset,
        changed=changed,
        suspects=measured.suspects if cause == "upstream" else (),
        rollback_to=evidence.comparison.previous if advice == "rollback" else "",
        harm_ratio=measured.harm,
        harm_interval=measured.harm_interval,
        replay_ratio=measured.replay,
        replay_interval=measured.replay_interval,
        repair_ratio=measured.repair,
        worst_slice=worst_slice(evidence, onset),
        evidence=_tables(measured, evidence, changed),
    )


def _failed(verdicts: tuple[Verdict, ...], prefix: str) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.status == "fail" and verdict.check.startswith(prefix)]


def _measure(evidence: TriageEvidence) -> _Measured:
    faults = _failed(evidence.verdicts, "inputs/")
    named = [(one.slice, verdict) for verdict in faults for one in verdict.slices if one.status == "fail"]
    suspects = tuple(dict.fromkeys(name for name, _ in named if name in evidence.profile.names))
    pipeline = tuple(dict.fromkeys(name for name, _ in named if name not in evidence.profile.names))
    starts = [verdict.window_us[0] for verdict in faults if verdict.window_us is not None]
    harmed = bool(_failed(evidence.verdicts, "live-quality"))
    onset = evidence.quality.bettor.onset_us if evidence.quality.bettor.steps else 0
    harm, interval = (harm_since(evidence.quality.scores, onset)[:2]) if evidence.quality.scores else (None, None)
    ratio, ratio_interval, _ = replay_ratio(evidence.comparison, onset_of(evidence.comparison))
    fault_onset = min(starts) if starts else None
    repair, repairs, kept = _repair(evidence, suspects, fault_onset)
    return _Measured(
        harmed,
        bool(_failed(evidence.verdicts, "previous-release")),
        kept,
        fault_onset,
        harm,
        interval,
        onset,
        ratio,
        ratio_interval,
        len(evidence.comparison.windows),
        repair,
        repairs,
        pipeline,
    )


def _repair(
    evidence: TriageEvidence, suspects: tuple[str, ...], onset_us: int | None
) -> tuple[float | None, tuple[tuple[str, float | None, float], ...], tuple[str, ...]]:
    """(best loss ratio of repairing all or one suspect; per suspect: loss ratio, mean change of the prediction; suspects, worst first)."""
    if evidence.predict is None or not suspects or onset_us is None:
        return None, (), suspects
    rows = evidence.served.between(onset_us, 1 << 62)
    rows = rows.take(rows.release == evidence.release)
    if not len(rows):
        return None, (), suspects
    before = evidence.served.between(0, onset_us)
    as_is = losses(rows.prediction, rows.label, evidence.policy.loss)

    def replay(names: tuple[str, ...]) -> tuple[float | None, float]:
        assert evidence.predict is not None
        again = repaired(rows, names, evidence.profile, evidence.predict, before)
        moved = np.abs(again - rows.prediction)
        return _ratio(losses(again, rows.label, evidence.policy.loss), as_is), float(np.nanmean(moved)) if np.isfinite(moved).any() else 0.0

    # the input whose repair helps most comes first (before labels: the one that moves the prediction most); the others may be collateral
    each = sorted(((name, *replay((name,))) for name in suspects), key=lambda row: (9.9 if row[1] is None else row[1], -row[2], row[0]))
    ratios = [ratio for ratio in (replay(suspects)[0], *(ratio for _, ratio, _ in each)) if ratio is not None]
    return min(ratios, default=None), tuple(each), tuple(name for name, _, _ in each)


def _ratio(above: Floats, below: Floats) -> float | None:
    known = np.isfinite(above) & np.isfinite(below)
    total = float(below[known].sum())
    return float(above[known].sum()) / total if known.sum() >= 8 and total > 0 else None


def _conclude(measured: _Measured, evidence: TriageEvidence) -> tuple[Cause, Advice, str]:
    policy, previous = evidence.policy, evidence.comparison.previous
    repaired_well = measured.repair is not None and measured.repair <= policy.repair_ratio
    if measured.rollback_proven and measured.replay is not None:
        # with the inputs repaired the live release does as well as the previous one does without: the input is the fault, not the release
        if repaired_well and measured.repair is not None and measured.repair <= 1.1 * measured.replay:
            return "upstream", "fix-upstream", _say_upstream(measured) + f"; a rollback to {previous} would only hide it"
        if _began_with_the_fault(measured, evidence):
            why = f"; {previous} only looks better since the input broke ({times(measured.replay)} x the loss)"
            return "upstream", "fix-upstream", _say_upstream(measured) + why
        return (
            "release",
            "rollback",
            f"{previous} would have had {times(measured.replay)} x the loss of {evidence.release} on the same requests",
        )
    if measured.suspects or measured.pipeline:
        before_fault = measured.fault_onset_us is not None and measured.onset_us < measured.fault_onset_us - 2 * policy.window_us
        if measured.harmed and before_fault and not repaired_well:
            cause, advice, message = _conclude_harm(measured, evidence)
            return cause, advice, message + f"; besides, {_say_upstream(measured)}"
        return "upstream", "fix-upstream", _say_upstream(measured)
    if measured.harmed:
        return _conclude_harm(measured, evidence)
    return "unknown", "wait", "nothing failed that calls for action"


def _began_with_the_fault(measured: _Measured, evidence: TriageEvidence) -> bool:
    """Before the inputs broke (at least three windows of it) the previous release was no better, and they are still broken."""
    if measured.fault_onset_us is None:
        return False
    judged = [verdict for verdict in evidence.verdicts if verdict.check.startswith("inputs/")]
    latest = max(verdict.at_us for verdict in judged)
    ongoing = any(verdict.status == "fail" and verdict.at_us >= latest - evidence.policy.window_us for verdict in judged)
    sound = [window for window in evidence.comparison.windows if window.start_us < measured.fault_onset_us]
    live = sum(window.live * window.n for window in sound)
    return ongoing and len(sound) >= 3 and live > 0 and sum(window.previous * window.n for window in sound) >= 0.9 * live


def _say_upstream(measured: _Measured) -> str:
    names = [*measured.suspects, *(_PIPELINE.get(name, name) for name in measured.pipeline)]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    since = "" if measured.fault_onset_us is None else f" since {when(measured.fault_onset_us)}"
    told = f"broken input: {', '.join(names[:4])}{more}{since}"
    if measured.repair is None:
        return told
    if measured.repair >= 1:
        return f"{told}; putting the expected value back does not help (loss {times(measured.repair)} x as large)"
    return f"{told}; with the expected value put back the loss is {times(measured.repair)} x as large"


def _conclude_harm(measured: _Measured, evidence: TriageEvidence) -> tuple[Cause, Advice, str]:
    harm = (
        f"loss is {times(measured.harm)} x as expected since {when(measured.onset_us)}"
        if measured.harm is not None
        else "the service is harmed"
    )
    sound = "no input was broken when it began" if measured.suspects or measured.pipeline else "no input is broken"
    moved = [change.at_us for change in evidence.changes if change.kind == "release" and change.after == evidence.release]
    fresh = bool(moved) and abs(max(moved) - measured.onset_us) <= 2 * evidence.policy.window_us
    if measured.replay is None:
        if fresh and evidence.comparison.previous:
            return "unknown", "wait", f"{harm}, since the release changed; the previous one has not been replayed yet"
        return "world", "retrain", f"{harm}; {sound}, and there is no previous release to compare with"
    overall, _, _ = replay_ratio(evidence.comparison)
    if fresh and measured.compared < _ENOUGH_WINDOWS and overall is not None and overall <= 0.95:
        seen = count(measured.compared, "window")
        return "unknown", "wait", f"{harm}, since the release changed; the replay has seen {seen}, too few to tell"
    if fresh and overall is not None and overall <= evidence.policy.rollback_ratio:
        why = f"{evidence.comparison.previous} looks better ({times(overall)} x the loss), but it is not proven yet"
        return "unknown", "wait", f"{harm}; {why}"
    ratio = measured.replay if overall is None else overall
    better = "no better" if ratio >= 1 else "not clearly better"
    why = f"{sound}, and {evidence.comparison.previous} would have been {better} ({times(ratio)} x the loss)"
    return "world", "retrain", f"{harm}; {why}"


def _changes(evidence: TriageEvidence, onset_us: int) -> tuple[Change, ...]:
    """The changes near the onset, the nearest first: they are suspects, not culprits."""
    near = [change for change in evidence.changes if -14 * DAY_US <= change.at_us - onset_us <= 2 * evidence.policy.window_us]
    return tuple(sorted(near, key=lambda change: (abs(change.at_us - onset_us), change.subject)))[:8]


def worst_slice(evidence: TriageEvidence, onset_us: int) -> SliceResult | None:
    """The slice with the highest loss over expected loss, less two standard errors: by each input with few values, and by quarter day."""
    rows = evidence.served.between(onset_us, 1 << 62)
    rows = rows.take(rows.release == evidence.release)
    loss = losses(rows.prediction, rows.label, evidence.policy.loss)
    expected = evidence.expected.loss.expect(rows.event_us)
    known = np.isfinite(loss) & np.isfinite(expected) & (expected > 0)
    if known.sum() < evidence.policy.min_labels:
        return None
    slices = [(f"hours {6 * part}-{6 * part + 6} UTC", (rows.event_us // (DAY_US // 4)) % 4 == part) for part in range(4)]
    for name, column in rows.inputs.items():
        codes, values = encode(column)
        if len(values) <= 12:
            slices += [
                (f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}", codes == code)
                for code, value in enumerate(values)
            ]
            slices += [(f"{name} is null", codes < 0)]
    best: SliceResult | None = None
    best_low = -math.inf
    for label, mask in slices:
        chosen = known & mask
        n = int(chosen.sum())
        if n < evidence.policy.min_labels or n > 0.95 * known.sum():
            continue
        ratio = float(loss[chosen].sum() / expected[chosen].sum())
        low = ratio - 2 * float(np.std(loss[chosen] - ratio * expected[chosen])) / math.sqrt(n) / float(expected[chosen].mean())
        if low > best_low:
            best_low, best = (
                low,
                SliceResult(slice=label, status="fail" if ratio > evidence.policy.harm_ratio else "pass", value=ratio, n=n),
            )
    return best


def _tables(measured: _Measured, evidence: TriageEvidence, changed: tuple[Change, ...]) -> tuple[Evidence, ...]:
    def told(value: float | None) -> float | None:
        return None if value is None else round(value, 3)

    policy = evidence.policy
    suspects = (*measured.suspects, *measured.pipeline)
    helps = measured.repair is not None and measured.repair <= policy.repair_ratio
    repairs = tuple((name, told(ratio), told(moved)) for name, ratio, moved in measured.repairs[:12])
    questions = (
        ("Is the service harmed?", "live / expected loss", told(measured.harm), policy.harm_ratio, measured.harmed),
        (
            "Would the previous release do better?",
            "previous / live loss",
            told(measured.replay),
            policy.rollback_ratio,
            measured.rollback_proven,
        ),
        ("Is an input broken?", "inputs that failed a test", float(len(suspects)), 0.0, bool(suspects)),
        ("Does repairing it help?", "repaired / live loss", told(measured.repair), policy.repair_ratio, helps),
    )
    recent = evidence.quality.scores[-28:]
    predicted = sum(score.prediction for score in recent)
    bias = round(sum(score.label for score in recent) / predicted, 3) if predicted else None
    return (
        Evidence("Questions", ("question", "measure", "value", "threshold", "yes"), questions),
        Evidence("Suspect inputs", ("feature", "repaired / live loss", "mean change of prediction"), repairs),
        Evidence(
            "Changes near the onset",
            ("when", "what", "from", "to", "components"),
            tuple((when(c.at_us), c.subject, c.before, c.after, ", ".join(c.components)) for c in changed),
        ),
        Evidence(
            "World",
            ("actual / predicted, last windows", "growth of the naive baseline"),
            ((bias, told(recent[-1].growth) if recent else None),),
        ),
    )
