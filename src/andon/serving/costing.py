"""What a batch of n rows costs: seconds = a + b n, learnt from the batches themselves.

One fit serves everything that asks how long something will take: whether a batch may run on the event loop, whether waiting for more rows
would pay, how long a queue takes to drain, and how many replicas the work needs.
"""

from __future__ import annotations

KEEP = 0.98
"""How much of the past each batch leaves: about the last fifty batches count."""


class Cost:
    """Exponentially forgotten least squares of seconds over rows, both at least 0.

    >>> cost = Cost()
    >>> for n in (1, 2, 10):
    ...     cost.learn(n, 0.005 + 0.001 * n)
    >>> [round(value, 6) for value in (cost.a, cost.b, cost.predict_s(100))]
    [0.005, 0.001, 0.105]
    """

    __slots__ = ("_n", "_nn", "_nt", "_t", "_w", "a", "b")

    def __init__(self) -> None:
        self._w = self._n = self._nn = self._t = self._nt = 0.0
        self.a = 0.0
        """Seconds that a batch takes whatever its size."""
        self.b = 0.0
        """Seconds for each row."""

    @property
    def known(self) -> bool:
        """Whether there was a batch to learn from."""
        return self._w > 0.0

    def learn(self, n: int, seconds: float) -> None:
        """One batch of ``n`` rows took ``seconds``."""
        w = self._w = self._w * KEEP + 1.0
        self._n = self._n * KEEP + n
        self._nn = self._nn * KEEP + n * n
        self._t = self._t * KEEP + seconds
        self._nt = self._nt * KEEP + n * seconds
        mean_n, mean_t = self._n / w, self._t / w
        variance = self._nn / w - mean_n * mean_n
        if variance <= 1e-9 * mean_n * mean_n:  # one size only: as if all of the time were per row, until a larger batch says otherwise
            self.a, self.b = 0.0, mean_t / mean_n
            return
        slope = (self._nt / w - mean_n * mean_t) / variance
        if slope <= 0.0:
            self.a, self.b = mean_t, 0.0
        elif slope * mean_n >= mean_t:
            self.a, self.b = 0.0, mean_t / mean_n
        else:
            self.a, self.b = mean_t - slope * mean_n, slope

    def predict_s(self, n: int) -> float:
        """How long ``n`` rows in one batch will take; infinite while nothing is known."""
        return self.a + self.b * n if self._w else float("inf")

    def drain_s(self, rows: int, max_rows: int) -> float:
        """How long ``rows`` in batches of at most ``max_rows`` will take, one after the other; 0 while nothing is known."""
        return self.a * -(-rows // max_rows) + self.b * rows
