"""What a front writes down of its answers.

**Prediction log.** Every batch is in the log (safe from kill -9) before its answers go out. If the log refuses (disk full), the answers go
out all the same, the rows are counted in ``andon_prediction_log_dropped_rows_total``, and the replica's note says so: an observer that
fails must not take the service down, and monitors must be able to tell that rows are missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from andon.serving.batching import Work
from andon.serving.loading import Loaded
from andon.serving.metrics import Metrics
from andon.store.ports import Tables

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

log = logging.getLogger("andon.serving")


class Recorder:
    """Writes one service's prediction log."""

    def __init__(self, tables: Tables, service: str, metrics: Metrics) -> None:
        self._tables = tables
        self._service = service
        self._metrics = metrics
        self.problem: str | None = None
        """Why the last batch could not be written, while that is so."""

    def record(self, loaded: Loaded, batch: Sequence[Work], inputs: Columns, outputs: Columns) -> None:
        """Log one executed batch, all of one channel. Never raises."""
        from andon.logs.predictions import Served, log_predictions

        now_s = time.perf_counter()
        single = all(work.n == 1 for work in batch)
        served = Served(
            service=self._service,
            release=loaded.address,
            release_digest=loaded.digest,
            channel=batch[0].channel,
            request_ids=[work.request_id for work in batch] if single else [work.request_id for work in batch for _ in range(work.n)],
            row=[0] * len(batch) if single else [row for work in batch for row in range(work.n)],
            event_us=[instant for work in batch for instant in work.event_us],
            arrival_us=[work.arrival_us for work in batch for _ in range(work.n)],
            latency_ms=[(now_s - work.started_s) * 1e3 for work in batch for _ in range(work.n)],
            inputs=inputs,
            outputs=outputs,
        )
        try:
            log_predictions(self._tables, served)
            self.problem = None
        except Exception as error:  # see the module's docstring: the answer goes out whatever the log does
            if self.problem is None:
                log.exception("predictions of %s are not being logged", self._service)
            self.problem = str(error)
            self._metrics.log_dropped_rows += len(served.request_ids)
