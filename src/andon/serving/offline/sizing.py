"""How many rows one batch has, offline: static batching, where nobody waits and only throughput and memory count.

A batch of n rows costs a + b n seconds. Per row that is b + a/n, so larger is better, but ever less: from n = 99 a/b on, the fixed part is
below 1 % of the time. The size is the largest that memory and the runner's time limit allow, and no larger than that point.
"""

from __future__ import annotations

import msgspec

FIRST_ROWS = 1_024
MAX_ROWS = 65_536
OVERHEAD = 0.01
"""The part of the time that the fixed cost of a batch may take."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """``row_bytes`` is what one row takes in memory on its way, ``memory_bytes`` what a batch may, ``batch_s`` how long it may run."""

    row_bytes: float
    memory_bytes: int
    batch_s: float = 10.0
    most_rows: int = MAX_ROWS


class Cost:
    """Least squares of seconds on rows, over the batches of this job."""

    __slots__ = ("_n", "_nn", "_nt", "_t", "_w")

    def __init__(self) -> None:
        self._w = self._n = self._nn = self._t = self._nt = 0.0

    def learn(self, n: int, seconds: float) -> None:
        """One batch ran."""
        self._w += 1.0
        self._n += n
        self._nn += n * n
        self._t += seconds
        self._nt += n * seconds

    def fit(self) -> tuple[float, float] | None:
        """(a, b) in seconds and seconds a row, neither below 0; None before two sizes have been seen.

        >>> cost = Cost()
        >>> for n in (1000, 2000, 4000):
        ...     cost.learn(n, 0.001 + 1e-6 * n)
        >>> [round(value, 6) for value in cost.fit()]
        [0.001, 1e-06]
        """
        if self._w < 2:
            return None
        mean_n, mean_t = self._n / self._w, self._t / self._w
        variance = self._nn / self._w - mean_n * mean_n
        if variance <= 1e-9 * mean_n * mean_n:
            return None
        b = max(0.0, (self._nt / self._w - mean_n * mean_t) / variance)
        return max(0.0, mean_t - b * mean_n), b


def choose(fit: tuple[float, float] | None, tried: int, limits: Limits) -> int:
    """The rows of the next batch, when ``tried`` is the largest size so far (0: none). It grows at most fourfold at a time.

    >>> choose(None, 0, Limits(row_bytes=100, memory_bytes=1 << 26))
    1024
    >>> choose((0.001, 1e-6), 65_536, Limits(row_bytes=100, memory_bytes=1 << 26))
    65536
    >>> choose((0.00001, 1e-6), 4096, Limits(row_bytes=100, memory_bytes=1 << 26))
    1024
    >>> choose((0.001, 1e-6), 4096, Limits(row_bytes=40_000, memory_bytes=1 << 26))
    1677
    """
    most = max(1, min(limits.most_rows, int(limits.memory_bytes / max(limits.row_bytes, 1.0))))
    if not tried:
        return min(FIRST_ROWS, most)
    wanted = min(most, 4 * tried)
    if fit is not None:
        a, b = fit
        if b > 0:
            wanted = min(wanted, max(FIRST_ROWS, int((1 - OVERHEAD) / OVERHEAD * a / b)))
            wanted = min(wanted, max(1, int((limits.batch_s - a) / b)))
    return max(1, wanted)
