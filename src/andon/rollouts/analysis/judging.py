"""From the state to verdicts, and from verdicts to a conclusion. Looking changes nothing, so look as often as you like.

- ``fail``: an e-process against "no worse" (or "no worse than tolerated") has at some time passed 1 / (the guard's part of alpha). It
stays.
- ``pass``: the e-process against "worse by at least the margin" is at or above 1 / ``alpha_promote`` **now**, with enough units in each
arm.
- ``undecided``: neither; too few units, nothing measured, arms that report unequally, or a sample-ratio mismatch, which leaves nothing
  else to believe.

Promotion needs every required check to pass. The null of the whole is "some required metric is worse by its margin", a union; rejecting
it takes rejecting each part, and whichever part is true is rejected with chance ``alpha_promote`` at most: so no correction is owed
(intersection- union test, Berger, Technometrics 1982). Aborting takes only one guard, so the guards share ``alpha_abort``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from msgspec.structs import replace

from andon.core.errors import InvalidInput
from andon.core.verdicts import Evidence, Interval, SliceResult, Status, Verdict
from andon.rollouts.analysis import differences
from andon.rollouts.analysis.families import anytime_p, divide, holm
from andon.rollouts.analysis.quantiles import quantile
from andon.rollouts.analysis.records import (
    AnalysisPolicy,
    AnalysisState,
    ArmState,
    Coverage,
    Difference,
    ErrorPolicy,
    LatencyPolicy,
    Metric,
    MetricPolicy,
    ScorePolicy,
)

Conclusion = Literal["abort", "promote", "hold"]
_MOST = 1e9


def guard_alphas(policy: AnalysisPolicy, *, candidates: int = 1) -> dict[str, float]:
    """Each guard's part of ``alpha_abort``, by check name; ``slices`` is a guard of its own. Divided by the number of candidates too."""
    weights = {
        name: part.weight
        for name, part in (("errors", policy.errors), ("latency", policy.latency), ("scores", policy.scores))
        if part is not None and part.guard
    }
    weights |= {f"metric/{metric.name}": metric.weight for metric in policy.metrics if metric.guard}
    if policy.slices:
        weights["slices"] = policy.slice_weight
    return divide(policy.alpha_abort / candidates, weights)


def required_checks(policy: AnalysisPolicy) -> tuple[str, ...]:
    """The checks that must pass before a promotion, beside a sound sample ratio."""
    named = (("errors", policy.errors), ("latency", policy.latency), ("scores", policy.scores))
    found = [name for name, part in named if part is not None and part.required]
    return (*found, *(f"metric/{metric.name}" for metric in policy.metrics if metric.required))


def conclude(verdicts: Iterable[Verdict], policy: AnalysisPolicy) -> Conclusion:
    """``abort`` on a failed guard, ``promote`` when all that is required passes, else ``hold``; a sample-ratio mismatch holds.

    Without a required check nothing is ever proven, and nothing is promoted.
    """
    by_check = {verdict.check: verdict.status for verdict in verdicts}
    if by_check.get("sample-ratio") == "fail":
        return "hold"
    if any(status == "fail" for check, status in by_check.items() if check != "sample-ratio"):
        return "abort"
    required = required_checks(policy)
    sound = by_check.get("sample-ratio") == "pass" and bool(required)
    return "promote" if sound and all(by_check.get(check) == "pass" for check in required) else "hold"


def judge(state: AnalysisState, policy: AnalysisPolicy, *, subject: str, arm: int = 1) -> tuple[Verdict, ...]:
    """Verdicts on one candidate, ``sample-ratio`` first; ``subject`` is the address that they are about.

    ``value`` and ``interval`` say how much *worse* the candidate is, in the metric's unit; ``threshold`` is the margin. The interval is
    the confidence sequence that the decision comes from: its low end holds with the guard's part of alpha, its high end with
    ``alpha_promote``.
    """
    if not 1 <= arm < len(state.counts):
        raise InvalidInput("no such candidate", field="arm", got=arm)
    alphas = guard_alphas(policy, candidates=len(state.counts) - 1)
    one = state.arms[arm - 1]
    ratio = _sample_ratio(state, policy)
    found = []
    if policy.errors is not None:
        found.append(_errors(one, policy, policy.errors, alphas))
    if policy.latency is not None:
        found.append(_latency(one, policy, policy.latency, alphas))
    if policy.scores is not None:
        found.append(_scores(one, policy, policy.scores, alphas))
    found += [_metric(one, policy, metric, alphas) for metric in policy.metrics]
    if ratio.status == "fail":
        found = [replace(one, status="undecided", message=f"not judged: {ratio.message}") for one in found]
    window = (state.first_us, state.last_us + 1) if state.last_us else None
    return tuple(replace(one, subject=subject, at_us=state.last_us, window_us=window) for one in (ratio, *found))


def _sample_ratio(state: AnalysisState, policy: AnalysisPolicy) -> Verdict:
    n, low = sum(state.counts), min(state.counts)
    p = anytime_p(state.ratio.peak)
    rows = tuple((f"arm {k}", count, round(want, 1)) for k, (count, want) in enumerate(zip(state.counts, state.expected, strict=True)))
    share = state.ratio.taken / n if n else None
    if state.ratio.peak >= math.log(1 / policy.alpha_mismatch):
        status: Status = "fail"
        message = (
            f"the arms do not get the shares they were given (anytime p {p:.1g} after {state.ratio.peak_n:,} units): "
            "assignment or logging is broken, and no comparison can be believed"
        )
    elif low < policy.min_units:
        status, message = "undecided", f"{low:,} units in the smallest arm, {policy.min_units:,} are needed"
    else:
        status, message = "pass", f"{n:,} units went where they should"
    return Verdict(
        subject="", check="sample-ratio", status=status, message=message, value=share, unit="share of the candidates",
        threshold=state.ratio.expected / n if n else None, n=n,
        evidence=(Evidence("Units by arm, at their first appearance", ("arm", "units", "expected"), rows),),
    )  # fmt: skip


def _few(difference: Difference, policy: AnalysisPolicy) -> str | None:
    least = min(difference.n_control, difference.n_candidate)
    if difference.n == 0:
        return "nothing was measured yet"
    return f"{least:,} units in the smaller arm, {policy.min_units:,} are needed" if least < policy.min_units else None


def _unequal(coverage: Coverage | None, policy: AnalysisPolicy) -> str | None:
    """Why this metric cannot be compared: one arm reports it more often. Two tests, half of alpha each."""
    peak = max(coverage.absent.peak, coverage.present.peak) if coverage is not None else 0.0
    if coverage is None or peak < math.log(2 / policy.alpha_mismatch):
        return None
    share = coverage.absent.taken / coverage.absent.n if coverage.absent.n else 0.0
    expected = coverage.absent.expected / coverage.absent.n if coverage.absent.n else 0.0
    return f"one arm reports this more often: {share:.0%} of the missing values are the candidate's, {expected:.0%} would be its share"


def _settled(
    check: str,
    unit: str,
    difference: Difference,
    margin: float,
    scale: float,
    *,
    failed: str | None,
    passes: bool,
    blocked: str | None,
    alphas: tuple[float, float],
    evidence: tuple[Evidence, ...],
    slices: tuple[SliceResult, ...] = (),
) -> Verdict:
    """One verdict from what was found; ``scale`` turns the inner scale of 0 to 1 into the metric's unit."""
    low, high = differences.interval(difference, *alphas) if difference.n else (None, None)
    value = differences.estimate(difference)
    status: Status = "undecided"
    if failed and not (blocked and blocked.startswith("one arm")):
        status, message = "fail", failed
    elif blocked:
        message = blocked
    elif passes:
        status, message = "pass", f"proven to be worse by less than the margin of {margin:g}"
    else:
        most = (high if high is not None else 1.0) * scale
        message = f"not proven yet: it may be worse by up to {most:.3g}, the margin is {margin:g}"
    return Verdict(
        subject="", check=check, status=status, message=message, value=None if value is None else value * scale, unit=unit,
        interval=None if low is None or high is None else Interval(low * scale, high * scale, round(1 - sum(alphas), 6)),
        threshold=margin, n=difference.n, slices=slices, evidence=evidence,
    )  # fmt: skip


def _proven(peak: float, alpha: float | None) -> bool:
    return alpha is not None and peak >= math.log(1 / alpha)


def _rates(title: str, difference: Difference, scale: float, offset: float, unit: str) -> Evidence:
    rows: list[tuple[Any, ...]] = []
    for name, n, total in (
        ("control", difference.n_control, difference.total_control),
        ("candidate", difference.n_candidate, difference.total_candidate),
    ):
        rows.append((name, n, offset + scale * total / n if n else None))
    return Evidence(title, ("arm", "units", unit), tuple(rows))


def _errors(one: ArmState, policy: AnalysisPolicy, rule: ErrorPolicy, alphas: dict[str, float]) -> Verdict:
    alpha = alphas.get("errors")
    failed = None
    if _proven(one.errors.peak, alpha):
        failed = (
            f"{one.errors.taken:,} of {one.errors.n:,} failing units are the candidate's, {one.errors.expected:.1f} would be its share "
            f"(anytime p {anytime_p(one.errors.peak):.1g} after {one.errors.peak_n:,} of them)"
        )
    slices, worst = _slice_results(one, policy, alphas, None)
    evidence = (
        _rates("Units with an error", one.error_rate, 1.0, 0.0, "error rate"),
        Evidence(
            "Whose are the failing units", ("failing units", "candidate's", "expected", "log evidence", "needed"),
            ((one.errors.n, one.errors.taken, round(one.errors.expected, 2), round(one.errors.peak, 3), _needed(alpha)),),
        ),
    )  # fmt: skip
    return _settled(
        "errors", "share of units", one.error_rate, rule.margin, 1.0,
        failed=failed or worst,
        passes=differences.harmless_evidence(one.error_rate, rule.margin) >= math.log(1 / policy.alpha_promote),
        blocked=_unequal(one.coverage.get("errors"), policy) or _few(one.error_rate, policy),
        alphas=(alpha or policy.alpha_abort, policy.alpha_promote), evidence=evidence, slices=slices,
    )  # fmt: skip


def _needed(alpha: float | None) -> float | None:
    return None if alpha is None else round(math.log(1 / alpha), 3)


def _latency(one: ArmState, policy: AnalysisPolicy, rule: LatencyPolicy, alphas: dict[str, float]) -> Verdict:
    alpha, found = alphas.get("latency"), one.latency
    names = [f"{t:g} ms" for t in rule.thresholds_ms] or [f"the latest p{level * 100:g}" for level in rule.levels]
    rates = found.rates or (Difference(),) * len(names)
    worst = max(range(len(names)), key=lambda j: (differences.estimate(rates[j]) or 0.0) - rule.margins[j])
    part = ((alpha or policy.alpha_abort) / len(names), policy.alpha_promote)
    rows = []
    for j, name in enumerate(names):
        low, high = differences.interval(rates[j], *part) if rates[j].n else (None, None)
        rows.append((name, rates[j].n, differences.estimate(rates[j]), low, high, rule.margins[j]))
    table = []
    for which, counts in zip(("control", "candidate"), found.histogram, strict=True):
        for level in (0.5, 0.95, 0.99):
            low, middle, high = quantile(counts, level)
            table.append((which, f"p{level * 100:g}", middle, low, high))
    failed = None
    if _proven(found.peak, alpha):
        failed = f"the candidate is slower (anytime p {anytime_p(found.peak):.1g} after {found.peak_n:,} units)"
    return _settled(
        "latency", f"share of units slower than {names[worst]}", rates[worst], rule.margins[worst], 1.0,
        failed=failed,
        passes=all(
            differences.harmless_evidence(rate, margin) >= math.log(1 / policy.alpha_promote)
            for rate, margin in zip(rates, rule.margins, strict=True)
        ),
        blocked=_unequal(one.coverage.get("latency"), policy) or _few(rates[worst], policy),
        alphas=part,
        evidence=(
            Evidence("More often slower than", ("threshold", "units", "by", "at least", "at most", "margin"), tuple(rows)),
            Evidence("Latency in this stage (95 % at any look, without drift)", ("arm", "quantile", "ms", "low", "high"), tuple(table)),
        ),
    )  # fmt: skip


def _scores(one: ArmState, policy: AnalysisPolicy, rule: ScorePolicy, alphas: dict[str, float]) -> Verdict:
    alpha, found = alphas.get("scores"), one.scores
    rates = found.rates or (Difference(),) * len(rule.levels)
    worst = max(range(len(rates)), key=lambda j: abs(differences.estimate(rates[j]) or 0.0))
    part = ((alpha or policy.alpha_abort) / (2 * len(rates)), policy.alpha_promote)
    rows = []
    for level, rate in zip(rule.levels, rates, strict=True):
        low, high = differences.interval(rate, *part) if rate.n else (None, None)
        rows.append((f"p{level * 100:g}", rate.n, differences.estimate(rate), low, high))
    failed = None
    if _proven(found.peak, alpha):
        failed = (
            f"the candidate's predictions are distributed otherwise, by more than {rule.tolerance:g} "
            f"(anytime p {anytime_p(found.peak):.1g} after {found.peak_n:,} units)"
        )
    return _settled(
        "scores", "largest gap between the distributions", rates[worst], rule.margin, 1.0,
        failed=failed,
        passes=min(differences.within_evidence(rate, rule.margin) for rate in rates) >= math.log(1 / policy.alpha_promote),
        blocked=_unequal(one.coverage.get("scores"), policy) or _few(rates[worst], policy),
        alphas=part,
        evidence=(Evidence("More often above", ("the latest", "units", "by", "at least", "at most"), tuple(rows)),),
    )  # fmt: skip


def _metric(one: ArmState, policy: AnalysisPolicy, rule: MetricPolicy, alphas: dict[str, float]) -> Verdict:
    check = f"metric/{rule.name}"
    alpha, metric = alphas.get(check), one.metrics.get(rule.name, Metric())
    scale = rule.high - rule.low
    failed = None
    if _proven(metric.difference.peak, alpha):
        by = f" by more than {rule.tolerance:g}" if rule.tolerance else ""
        failed = f"worse{by} (anytime p {anytime_p(metric.difference.peak):.1g} after {metric.difference.peak_n:,} units)"
    slices, worst = _slice_results(one, policy, alphas, rule)
    signed = (-scale, rule.high) if rule.better == "higher" else (scale, rule.low)
    return _settled(
        check, "", metric.difference, rule.margin, scale,
        failed=failed or worst,
        passes=differences.harmless_evidence(metric.difference, rule.margin / scale) >= math.log(1 / policy.alpha_promote),
        blocked=_unequal(metric.coverage, policy) or _few(metric.difference, policy),
        alphas=(alpha or policy.alpha_abort, policy.alpha_promote),
        evidence=(_rates(f"Mean of {rule.name}, clipped to {rule.low:g} … {rule.high:g}", metric.difference, *signed, "mean"),),
        slices=slices,
    )  # fmt: skip


def _slice_results(
    one: ArmState, policy: AnalysisPolicy, alphas: dict[str, float], rule: MetricPolicy | None
) -> tuple[tuple[SliceResult, ...], str | None]:
    """Slices of the errors (``rule`` None) or of a metric; Holm is over all slices and all that is judged in them."""
    alpha = alphas.get("slices")
    if alpha is None or not one.slices:
        return (), None
    judged = [None, *(metric for metric in policy.metrics if metric.guard)] if policy.errors else [m for m in policy.metrics if m.guard]
    p_values = {}
    for name, part in one.slices.items():
        for metric in judged:
            difference = part.metrics.get(metric.name, Difference()) if metric else part.error_rate
            p_values[f"{metric.name if metric else ''}/{name}"] = anytime_p(difference.peak if metric else part.errors.peak)
    rejected = holm(p_values, alpha, most=policy.most_slices * len(judged))
    results, worst = [], None
    for name, part in one.slices.items():
        difference = part.metrics.get(rule.name, Difference()) if rule else part.error_rate
        key = f"{rule.name if rule else ''}/{name}"
        if key not in p_values:
            continue
        scale = rule.high - rule.low if rule else 1.0
        low, high = differences.interval(difference, alpha / (policy.most_slices * len(judged)), policy.alpha_promote)
        value = differences.estimate(difference)
        worst = worst or (f"worse where {name} (anytime p {p_values[key]:.1g}, Holm over the slices)" if key in rejected else None)
        results.append(
            SliceResult(
                slice=name,
                status="fail" if key in rejected else "undecided",
                value=None if value is None else value * scale,
                n=difference.n,
                interval=Interval(low * scale, high * scale, 1 - alpha - policy.alpha_promote),
            )
        )
    return tuple(results), worst
