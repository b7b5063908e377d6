"""What a front writes down of its answers.

**Prediction log.** Every batch is in the log (safe from kill -9) before its answers go out. If the log refuses (disk full), the answers go
out all the same, the rows are counted in ``andon_prediction_log_dropped_rows_total``, and the replica's note says so: an observer that
fails must not take the service down, and monitors must be able to tell that rows are missing.

What is logged of which requests is said by the service's ``policy:logging/SERVICE``: a share of the requests, and columns that are dropped
or hashed. Hashes are keyed with ``secrets/logging.key`` in the home, made on first use and readable by its owner alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.logs.policies import LoggingPolicy, redacted, sampled
from andon.serving.batching import Work
from andon.serving.loading import Loaded
from andon.serving.metrics import Metrics
from andon.store.disk import disk_errors
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
        self.policy = LoggingPolicy()
        self.key = b""
        """What hashes are keyed with."""
        self.problem: str | None = None
        """Why the last batch could not be written, while that is so."""

    def record(self, loaded: Loaded, batch: Sequence[Work], inputs: Columns, outputs: Columns) -> None:
        """Log one executed batch. Never raises."""
        try:
            if self.policy.sample < 1.0:
                batch, inputs, outputs = self._sampled(batch, inputs, outputs)
            if self.policy.redact:
                inputs, outputs = self._redacted("input.", inputs), self._redacted("output.", outputs)
            if batch:
                self._write(loaded, batch, inputs, outputs)
            self.problem = None
        except Exception as error:  # see the module's docstring: the answer goes out whatever the log does
            if self.problem is None:
                log.exception("predictions of %s are not being logged", self._service)
            self.problem = str(error)
            self._metrics.log_dropped_rows += sum(work.n for work in batch)

    def _sampled(self, batch: Sequence[Work], inputs: Columns, outputs: Columns) -> tuple[list[Work], Columns, Columns]:
        """The requests that are logged, and their rows."""
        import numpy as np

        kept = [sampled(work.request_id, self.policy.sample) for work in batch]
        rows = np.repeat(kept, [work.n for work in batch])
        self._metrics.log_unsampled_rows += int(len(rows) - rows.sum())
        part = [work for work, is_kept in zip(batch, kept, strict=True) if is_kept]
        return part, {name: values[rows] for name, values in inputs.items()}, {name: values[rows] for name, values in outputs.items()}

    def _redacted(self, prefix: str, columns: Columns) -> Columns:
        hidden = self.policy.redact
        shown = dict(columns)
        for name in columns:
            if (how := hidden.get(prefix + name)) is not None:
                shown[name] = redacted(columns[name], how, self.key)
        return shown

    def _write(self, loaded: Loaded, batch: Sequence[Work], inputs: Columns, outputs: Columns) -> None:
        from andon.logs.predictions import Served, log_predictions

        now_s = time.monotonic()
        single = sum([work.n for work in batch]) == len(batch)
        each = batch if single else [work for work in batch for _ in range(work.n)]  # one for each row
        channel = batch[0].channel
        served = Served(
            service=self._service,
            release=loaded.address,
            release_digest=loaded.digest,
            channel=channel if all(work.channel == channel for work in batch) else [work.channel for work in each],
            request_ids=[work.request_id for work in each],
            row=[0] * len(batch) if single else [row for work in batch for row in range(work.n)],
            event_us=[instant for work in batch for instant in work.event_us],
            arrival_us=[work.arrival_us for work in each],
            latency_ms=[(now_s - work.started_s) * 1e3 for work in each],
            inputs=inputs,
            outputs=outputs,
        )
        log_predictions(self._tables, served)


def logging_key(home: str) -> bytes:
    """The key of a home's hashes, made when there is none. Raises ``DiskFull`` and its kin."""
    path = Path(home, "secrets", "logging.key")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            made = os.open(path.with_suffix(f".{os.getpid()}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(made, "wb") as file:
                file.write(os.urandom(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(path.with_suffix(f".{os.getpid()}"), path)  # whole, and the first of several processes wins
            finally:
                path.with_suffix(f".{os.getpid()}").unlink()
        return path.read_bytes()
