"""The exposure log of a front: rows are gathered and written every ``EVERY_S``, on a thread, so that no request waits for them.

A replica that is killed (-9) loses at most the exposures of that time, and those of a write that is under way. While the log cannot be
written, rows are kept up to ``MOST_KEPT`` and then counted in ``andon_exposures_dropped_total``.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from andon.logs.exposures import Exposure, log_exposures
from andon.logs.policies import LoggingPolicy, digest_of, hides_unit
from andon.releases.splits import Split
from andon.serving.batching import Work
from andon.serving.metrics import Metrics
from andon.store.ports import Tables

log = logging.getLogger("andon.serving")
EVERY_S = 0.05
RETRY_S = 1.0
MOST_KEPT = 100_000


class Exposer:
    """Writes one service's exposures. All methods belong to one event loop."""

    def __init__(self, tables: Tables, service: str, metrics: Metrics) -> None:
        self._tables = tables
        self._service = service
        self._metrics = metrics
        self._waiting: list[Exposure] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self.policy = LoggingPolicy()
        self.key = b""
        """What hashes are keyed with."""
        self.problem: str | None = None
        """Why the last rows could not be written, while that is so."""

    def expose(self, split: Split, work: Work, unit: str, release: str, status: str) -> None:
        """A request that ``split`` decided about has its outcome: ``ok`` or the code of an error."""
        if hides_unit(self.policy, split.key):
            if not self.key:  # what cannot be hidden is not written
                self._metrics.exposures_dropped += 1
                return
            unit = digest_of(unit, self.key)
        slices = None if work.slices is None else msgspec.json.encode(self._shown(work.slices)).decode()
        self.add(
            Exposure(
                event_us=work.event_us[0],
                arrival_us=work.arrival_us,
                request_id=work.request_id,
                unit=unit,
                rollout=split.rollout,
                stage=split.stage,
                channel=work.channel,
                release=release,
                status=status,
                latency_ms=(time.monotonic() - work.started_s) * 1e3,
                rows=work.n,
                slices=slices,
            )
        )

    def _shown(self, slices: dict[str, str]) -> dict[str, str]:
        """Slice fields as the policy lets them be written down."""
        redact = self.policy.redact
        if not redact:
            return slices
        shown = {}
        for name, value in slices.items():
            how = redact.get(f"input.{name}")
            shown[name] = value if how is None else digest_of(value, self.key) if how == "hash" and self.key and value else ""
        return shown

    def add(self, exposure: Exposure) -> None:
        """One more row."""
        self._waiting.append(exposure)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._writing is None:  # else the end of that write comes back to it
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        rows, self._waiting = self._waiting, []
        try:
            await asyncio.to_thread(log_exposures, self._tables, self._service, rows)
            self.problem = None
        except Exception as error:  # whatever the log does, answers go on
            if self.problem is None:
                log.exception("exposures of %s are not being logged", self._service)
            self.problem = str(error)
            self._waiting = rows + self._waiting
            dropped = len(self._waiting) - MOST_KEPT
            if dropped > 0:
                del self._waiting[:dropped]
                self._metrics.exposures_dropped += dropped
        finally:
            self._writing = None
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_S if self.problem is None else RETRY_S, self._due)

    async def close(self) -> None:
        """Write what waits."""
        while self._writing is not None:
            await asyncio.wait((self._writing,))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            await self._write()
        if self._timer is not None:  # it could not be written
            self._timer.cancel()
