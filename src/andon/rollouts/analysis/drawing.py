"""Confidence sequences over time, in each metric's own unit: what the board draws."""

from __future__ import annotations

import msgspec

from andon.core.errors import InvalidInput
from andon.rollouts.analysis import differences
from andon.rollouts.analysis.judging import guard_alphas
from andon.rollouts.analysis.records import AnalysisPolicy, AnalysisState, Difference


class Point(msgspec.Struct, frozen=True, gc=False):
    """How much worse the candidate was known to be after n units; times are microseconds of exposure."""

    n: int
    at_us: int
    low: float
    middle: float
    high: float


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One check's confidence sequence, at most 64 points, and the margin that ``high`` has to come below."""

    check: str
    what: str
    margin: float
    points: tuple[Point, ...]


def series(state: AnalysisState, policy: AnalysisPolicy, *, arm: int = 1) -> tuple[Series, ...]:
    """The sequences of errors, latency (each threshold) and the declared metrics; the bounds are those that ``judge`` decides with."""
    if not 1 <= arm < len(state.counts):
        raise InvalidInput("no such candidate", field="arm", got=arm)
    one, alphas, found = state.arms[arm - 1], guard_alphas(policy, candidates=len(state.counts) - 1), []
    if policy.errors is not None:
        part = alphas.get("errors", policy.alpha_abort)
        found.append(_series("errors", "share of units with an error", policy.errors.margin, one.error_rate, 1.0, part, policy))
    if policy.latency is not None:
        names = [f"{t:g} ms" for t in policy.latency.thresholds_ms] or [f"the latest p{level * 100:g}" for level in policy.latency.levels]
        part = alphas.get("latency", policy.alpha_abort) / len(names)
        for name, margin, rate in zip(names, policy.latency.margins, one.latency.rates or (Difference(),) * len(names), strict=True):
            found.append(_series("latency", f"share of units slower than {name}", margin, rate, 1.0, part, policy))
    for rule in policy.metrics:
        if rule.name in one.metrics:
            check = f"metric/{rule.name}"
            part, difference = alphas.get(check, policy.alpha_abort), one.metrics[rule.name].difference
            found.append(_series(check, rule.name, rule.margin, difference, rule.high - rule.low, part, policy))
    return tuple(found)


def _series(check: str, what: str, margin: float, difference: Difference, scale: float, alpha: float, policy: AnalysisPolicy) -> Series:
    points = differences.history(difference, alpha, policy.alpha_promote)
    drawn = tuple(Point(n, at, low * scale, middle * scale, high * scale) for n, at, low, middle, high in points)
    return Series(check=check, what=what, margin=margin, points=drawn)
