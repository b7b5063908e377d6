"""Paired comparison of two models on the same examples, with examples that depend on each other in time.

Hourly errors of one day share their weather, so treating 24 of them as independent makes every interval too short. The examples are cut
into contiguous blocks (days), the differences are averaged within each, and a Student interval is put on the block sums: the method of
batch means (Law & Kelton, *Simulation Modeling and Analysis*, 9.5.3), as a ratio estimator where blocks differ in size (Cochran, *Sampling
Techniques*, 6.3).
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from andon.core.verdicts import Interval

MIN_BLOCKS = 8
POWER = 0.8


class PairedDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Mean of ``a - b`` in the loss's unit. ``interval`` and ``detectable`` are None with fewer than eight blocks."""

    mean: float
    mean_a: float
    mean_b: float
    n: int
    blocks: int
    interval: Interval | None
    detectable: float | None
    """The smallest true difference that this comparison would have called with 80 % power."""


def paired_difference(a: NDArray[Any], b: NDArray[Any], block: NDArray[Any], *, level: float = 0.95) -> PairedDifference | None:
    """Compare losses ``a`` and ``b``, shape (n,), of the same examples; ``block`` (n,) int says which belong together.

    Examples where either is NaN are left out. None when nothing is left. The interval is two-sided at ``level``.

    >>> rng = np.random.default_rng(0)
    >>> b = rng.random(240)
    >>> found = paired_difference(b + 0.5, b, np.arange(240) // 24)
    >>> round(found.mean, 3), found.blocks
    (0.5, 10)
    """
    known = np.isfinite(a) & np.isfinite(b)
    if not known.any():
        return None
    a, b, block = a[known], b[known], block[known]
    difference = a - b
    mean = float(difference.mean())
    _, index, sizes = np.unique(block, return_inverse=True, return_counts=True)
    blocks = len(sizes)
    interval = detectable = None
    if blocks >= MIN_BLOCKS:
        from scipy.special import stdtrit

        residuals = np.bincount(index, weights=difference) - mean * sizes
        error = float(np.sqrt(blocks / (blocks - 1) * np.square(residuals).sum()) / sizes.sum())
        quantile = float(stdtrit(blocks - 1, 0.5 + level / 2))
        interval = Interval(mean - quantile * error, mean + quantile * error, level)
        detectable = (quantile + float(stdtrit(blocks - 1, POWER))) * error
    return PairedDifference(
        mean=mean, mean_a=float(a.mean()), mean_b=float(b.mean()), n=len(a), blocks=blocks, interval=interval, detectable=detectable
    )
