"""Confidence sequences for the quantiles of one arm, from counts on a fixed grid.

At the true quantile x of level q the count of values <= x is a sum of n coin tosses with chance q, and a mixture of coins makes an
e-process of it (the beta-binomial mixture of Howard & Ramdas, "Sequential estimation of quantiles with applications to A/B testing and
best-arm identification", Bernoulli 2022, section 3; Robbins, Annals of Mathematical Statistics 1970):

    E_n(k) = B(a + k, b + n - k) / B(a, b) / (q^k (1 - q)^(n - k)),    a = c q, b = c (1 - q).

Every x whose count is not refuted is in the sequence. It supposes one distribution throughout, so it is kept for one stage at a time and
shown beside the decision, which does not rest on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from andon.rollouts.analysis.records import Floats

GRID: Floats = np.round(0.05 * 1.08 ** np.arange(200), 6)
"""Upper ends of the bins in milliseconds: 0.05 ms to 224 s, 8 % apart; one more bin holds what is slower or failed."""
_CONCENTRATION = 50.0


def log_refutation(count: Floats, n: int, level: float) -> Floats:
    """Log evidence that ``count`` of n values lie below the quantile of ``level``, where about ``level`` n should."""
    from scipy.special import betaln

    a, b = _CONCENTRATION * level, _CONCENTRATION * (1 - level)
    count = np.asarray(count, dtype=np.float64)
    found: Floats = betaln(a + count, b + n - count) - betaln(a, b) - count * math.log(level) - (n - count) * math.log1p(-level)
    return found


def quantile(counts: Sequence[int], level: float, *, alpha: float = 0.05) -> tuple[float | None, float | None, float | None]:
    """(low, middle, high) of a quantile in milliseconds; a bound outside the grid is None, and so is everything without data.

    >>> counts = [0] * 201
    >>> counts[100] = 500
    >>> low, middle, high = quantile(counts, 0.5)
    >>> low == GRID.tolist()[99], middle == high == GRID.tolist()[100]
    (True, True)
    """
    n = int(sum(counts))
    if n == 0:
        return None, None, None
    below = np.cumsum(counts)[:-1]  # below[i]: values <= GRID[i]
    refuted = log_refutation(below, n, level) >= math.log(2 / alpha)
    refuted_low = refuted & (below < level * n)  # too few values lie below: the quantile is larger
    refuted_high = refuted & (below > level * n)
    low = float(GRID[np.flatnonzero(refuted_low)[-1]]) if refuted_low.any() else None
    high = float(GRID[np.flatnonzero(refuted_high)[0]]) if refuted_high.any() else None
    at = np.flatnonzero(below >= max(1.0, level * n))
    return low, float(GRID[at[0]]) if len(at) else None, high
