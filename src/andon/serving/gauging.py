"""What a replica measures of itself: memory and rows a second. Read on the follower's thread, so that no request pays for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from andon.serving.metrics import Metrics

EVERY_S = 0.25
_STATM = Path("/proc/self/statm")


def rss_mb() -> float:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    except (OSError, ValueError, IndexError):
        return 0.0


class Gauge:
    """``full`` says that memory is over ``most_mb`` (0: no bound); new requests are refused then, while others are under way."""

    def __init__(self, metrics: Metrics, most_mb: int = 0, *, measure_mb: Callable[[], float] = rss_mb) -> None:
        self._metrics = metrics
        self._most_mb = most_mb
        self._measure_mb = measure_mb
        self._looked_s = 0.0
        self._counted = (time.monotonic(), 0)
        self.full = False
        self.rss_mb = 0.0
        self.rows_s = 0.0

    def look(self) -> None:
        """Measure, if the last time is ``EVERY_S`` ago."""
        now_s = time.monotonic()
        if now_s - self._looked_s < EVERY_S:
            return
        self._looked_s = now_s
        self.rss_mb = round(self._measure_mb(), 1)
        self.full = bool(self._most_mb) and self.rss_mb > self._most_mb
        then_s, rows = self._counted
        if now_s - then_s >= 1.0:
            answered = sum(list(self._metrics.rows.values()))
            self.rows_s = round((answered - rows) / (now_s - then_s), 1)
            self._counted = (now_s, answered)
