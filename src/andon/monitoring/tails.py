"""How rare is this? Tail probabilities for counts, and for day statistics more extreme than any day of training."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from andon.monitoring.records import Array

_MIN_DAYS = 20


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X binomial(n, p), exactly (a sum of logs).

    >>> round(binomial_tail(2, 3, 0.5), 3)
    0.5
    """
    if k <= 0:
        return 1.0
    if k > n or p <= 0:
        return 0.0
    if p >= 1:
        return 1.0
    whole, yes, no = math.lgamma(n + 1), math.log(p), math.log1p(-p)

    def chance(i: int) -> float:
        return whole - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * yes + (n - i) * no

    # terms fall off on both sides of the likeliest count; those too small to change the sum are left out
    likeliest = min(n, max(k, math.floor((n + 1) * p)))
    peak = chance(likeliest)
    logs = [peak]
    for i in range(likeliest - 1, k - 1, -1):
        logs.append(chance(i))
        if logs[-1] < peak - 800:
            break
    logs.reverse()
    for i in range(likeliest + 1, n + 1):
        logs.append(chance(i))
        if logs[-1] < peak - 40:
            break
    top = max(logs)
    return min(1.0, math.exp(top) * sum(math.exp(value - top) for value in logs))


def both(p: float, q: float) -> float:
    """Fisher's combination of two independent tail probabilities: p q (1 - ln(p q)).

    >>> round(both(0.01, 0.01), 5)
    0.00102
    """
    product = p * q
    return min(1.0, product * (1 - math.log(product))) if product > 0 else 0.0


class Tail(msgspec.Struct, frozen=True):
    """The upper tail of a day statistic: empirical inside the sample, generalised Pareto above it (peaks over threshold).

    The shape comes from probability-weighted moments of the top tenth (Hosking & Wallis, Technometrics 1987; their k is minus our shape),
    the scale from its mean; the shape is kept between 0.1 and 0.5 so that a few quiet months never promise a thin tail.
    ``n`` days; below 20 there is no tail and p is 1.
    """

    n: int
    above: tuple[float, ...] = ()
    start: float = 0.0
    scale: float = 0.0
    shape: float = 0.1

    def p(self, value: float) -> float:
        """P(a day's statistic >= value), estimated; 1 when it cannot be."""
        if self.n < _MIN_DAYS or not math.isfinite(value) or value <= self.start:
            return 1.0
        if value <= self.above[-1]:
            return (1 + sum(one >= value for one in self.above)) / (self.n + 1)
        if self.scale <= 0:
            return 1 / (self.n + 1) if value <= self.above[-1] else 0.0
        rate = len(self.above) / self.n
        return float(min(rate, rate * (1 + self.shape * (value - self.start) / self.scale) ** (-1 / self.shape), 1.0))


def fit_tail(values: Array, *, resolution: float = 0.0, heaviest: float = 0.5) -> Tail:
    """Fit the tail of day statistics: floats (days,), NaN left out. The scale is at least ``resolution``, in the statistic's unit.

    ``heaviest`` is the largest shape allowed; lengths of runs are geometric by nature and take 0.1.

    >>> tail = fit_tail(np.arange(100.0))
    >>> round(tail.p(95.0), 2), tail.p(99.0) > tail.p(150.0) > 0
    (0.06, True)
    """
    found = np.sort(np.asarray(values, dtype=np.float64)[np.isfinite(values)])
    n = len(found)
    if n < _MIN_DAYS:
        return Tail(n)
    k = max(10, n // 10)
    start = float(found[n - k - 1])
    excess = found[n - k :] - start
    mean = float(excess.mean())
    weighted = float(np.mean(excess * (1 - (np.arange(1, k + 1) - 0.35) / k)))
    gap = mean - 2 * weighted
    shape = 0.1 if gap <= 0 else min(heaviest, max(0.1, 2 - mean / gap))
    scale = max(mean * (1 - shape), resolution)
    return Tail(n, tuple(found[n - k :].tolist()), start, scale, shape)
