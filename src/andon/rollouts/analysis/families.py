"""Many questions, one bound: dividing alpha among guards, and Holm or e-BH among slices and arms.

An e-process gives an *anytime* p-value, 1 over its largest value so far: P(p <= a at any time) <= a. What is true of p-values at one
fixed time (Bonferroni, Holm) is then true at all times at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from andon.core.errors import InvalidInput


def divide(alpha: float, weights: Mapping[str, float]) -> dict[str, float]:
    """Weighted Bonferroni: the parts add up to ``alpha``, so that all guards together are wrong with chance ``alpha`` at most.

    >>> divide(0.05, {"errors": 2.0, "latency": 1.0, "metric/cost": 1.0})["errors"]
    0.025
    """
    whole = sum(weights.values())
    return {name: alpha * weight / whole for name, weight in weights.items()}


def anytime_p(log_peak: float) -> float:
    """The p-value of an e-process whose largest logarithm so far is ``log_peak``.

    >>> anytime_p(math.log(40)) <= 0.0251
    True
    """
    return min(1.0, math.exp(-log_peak))


def holm(p_values: Mapping[str, float], alpha: float, *, most: int | None = None) -> set[str]:
    """The hypotheses that Holm (1979) rejects: the chance that any true one is among them is at most ``alpha``.

    ``most``: how many hypotheses there may ever be, when they turn up one by one; those not seen yet have p = 1.

    >>> sorted(holm({"a": 0.001, "b": 0.02, "c": 0.9}, 0.05))
    ['a', 'b']
    """
    count = len(p_values) if most is None else most
    if count < len(p_values):
        raise InvalidInput("more hypotheses than were allowed for", field="most", got=count, found=len(p_values))
    rejected: set[str] = set()
    for at, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: (item[1], item[0]))):
        if p > alpha / (count - at):
            break
        rejected.add(name)
    return rejected


def e_bh(log_values: Mapping[str, float], alpha: float, *, most: int | None = None) -> set[str]:
    """The hypotheses that e-BH rejects, from logarithms of e-values **now** (not their peaks): a false discovery rate of ``alpha`` at most.

    Wang & Ramdas ("False discovery rate control with e-values", JRSS-B 2022): valid however the e-values depend on each other.

    >>> sorted(e_bh({"a": math.log(100), "b": math.log(35), "c": 0.0}, 0.05))
    ['a', 'b']
    """
    count = len(log_values) if most is None else most
    ordered = sorted(log_values.items(), key=lambda item: (-item[1], item[0]))
    best = 0
    for rank, (_, log_value) in enumerate(ordered, start=1):
        if log_value >= math.log(count / (alpha * rank)):
            best = rank
    return {name for name, _ in ordered[:best]}
