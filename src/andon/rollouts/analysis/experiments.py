"""A/B: sequential analysis of a difference in means or rates between the control and each of the candidates, at any look.

Two confidence sequences from the same sums (``differences.py``):

- ``exact``: for values with declared limits, the mixture of exponential e-processes there; holds at every look from the first, whatever the
  distribution; as wide as the limits are far away;
- ``asymptotic``: the normal mixture of Robbins with the variance estimated, for values whose limits are too wide to be of use, such as
  revenue (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of
  Statistics 2024, Theorem 2.2). It holds in the limit, so looks begin at ``min_units`` in each arm.

With several candidates, Holm over them: the chance that any candidate that makes no difference is called better or worse is at most alpha.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from andon.core.errors import InvalidInput
from andon.core.verdicts import Interval
from andon.rollouts.analysis import differences
from andon.rollouts.analysis.families import holm
from andon.rollouts.analysis.odds import log_mean_exp
from andon.rollouts.analysis.records import AnalysisPolicy, AnalysisState, Difference

Method = Literal["exact", "asymptotic"]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate against the control. ``effect`` is the candidate's mean minus the control's, in the metric's unit, as declared."""

    arm: int
    n_control: int
    n_candidate: int
    effect: float | None
    interval: Interval | None
    """At level 1 - alpha / candidates, so that all candidates' intervals hold together."""
    p: float
    """Of no difference, two-sided; valid whenever one stops."""
    finding: Literal["better", "worse", "undecided"]


def compare(
    state: AnalysisState, policy: AnalysisPolicy, metric: str, *, alpha: float = 0.05, method: Method = "exact"
) -> tuple[Comparison, ...]:
    """Every candidate against the control, in ``metric`` (a declared name, or ``errors``).

    Raises ``InvalidInput`` when the policy does not declare the metric.
    """
    rule = next((one for one in policy.metrics if one.name == metric), None)
    if rule is None and not (metric == "errors" and policy.errors is not None):
        raise InvalidInput("not a metric that the policy declares", field="metric", got=metric)
    scale, flip = (rule.high - rule.low, rule.better == "higher") if rule else (1.0, False)
    candidates = len(state.counts) - 1
    found, p_values = {}, {}
    for one in state.arms:
        difference = one.error_rate if rule is None else one.metrics[metric].difference if metric in one.metrics else Difference()
        enough = min(difference.n_control, difference.n_candidate) >= policy.min_units
        found[one.arm] = difference
        p_values[str(one.arm)] = p_value(difference, method) if enough else 1.0
    if state.ratio.peak >= math.log(1 / policy.alpha_mismatch):
        p_values = dict.fromkeys(p_values, 1.0)  # nothing can be said of arms that did not get their shares
    called = holm(p_values, alpha)
    return tuple(
        _told(arm, difference, scale, flip, p_values[str(arm)], called, alpha / candidates, method) for arm, difference in found.items()
    )


def _told(
    arm: int, difference: Difference, scale: float, flip: bool, p: float, called: set[str], alpha: float, method: Method
) -> Comparison:
    worse = differences.estimate(difference)
    low, high = interval(difference, alpha, method) if difference.n else (None, None)
    if low is not None and high is not None:
        low, high = (-high * scale, -low * scale) if flip else (low * scale, high * scale)
    finding: Literal["better", "worse", "undecided"] = "undecided"
    if str(arm) in called and worse is not None:
        finding = "worse" if worse > 0 else "better"
    return Comparison(
        arm=arm,
        n_control=difference.n_control,
        n_candidate=difference.n_candidate,
        effect=None if worse is None else worse * scale * (-1 if flip else 1),
        interval=Interval(low, high, 1 - alpha) if low is not None else None,
        p=p,
        finding=finding,
    )


def interval(difference: Difference, alpha: float, method: Method) -> tuple[float, float]:
    """The two-sided confidence sequence now, in the inner scale (harm positive)."""
    if method == "exact":
        return differences.interval(difference, alpha / 2, alpha / 2)
    value = differences.estimate(difference)
    if value is None or difference.variance <= 0:
        return -1.0, 1.0
    n = differences.played(difference)
    radius = asymptotic_radius(difference.variance / n, n, alpha) / difference.weight
    return max(-1.0, value - radius), min(1.0, value + radius)


def asymptotic_radius(variance: float, n: int, alpha: float, *, tightest_n: int = 5_000) -> float:
    """Largest plausible |S - d W| after n units of ``variance`` each, at any look: sqrt(v (n + r) log((n + r) / (r alpha^2))).

    ``r`` makes it tightest at ``tightest_n`` units (Howard, Ramdas, McAuliffe & Sekhon 2021, Proposition 3).

    >>> bool(asymptotic_radius(1.0, 5_000, 0.05) / 5_000**0.5 < 3.1)
    True
    """
    r = _spread(alpha, tightest_n)
    return math.sqrt(variance * (n + r) * math.log((n + r) / (r * alpha**2)))


def _spread(alpha: float, tightest_n: int) -> float:
    return tightest_n / (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1))


def p_value(difference: Difference, method: Method) -> float:
    """Two-sided, of no difference; 1 over the evidence now."""
    if not difference.n or difference.variance <= 0:
        return 1.0
    if method == "exact":
        sides = [differences.log_evidence(np.asarray(s * difference.excess), np.asarray(difference.variance)) for s in (1, -1)]
        return min(1.0, math.exp(-float(log_mean_exp(np.asarray(sides)))))
    n, r = differences.played(difference), _spread(0.05, 5_000)
    square = difference.excess**2 / (difference.variance / n)
    return min(1.0, math.exp(-square / (2 * (n + r))) * math.sqrt((n + r) / r))
