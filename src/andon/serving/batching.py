"""Batching that never waits for nothing: while the model is idle a request runs at once; what queues while it is busy is taken together.

Requests that arrive in one turn of the event loop share a batch too (the flush is scheduled behind them), which costs nobody anything
and shares the price of the prediction log. The queue is bounded in rows; over the bound a request is refused with ``Busy`` on arrival.
A batch that fails is run again request by request, so that one bad row is only its own sender's error. When the runner's process dies,
each request of the batch is tried once more on its own: the one that kills the process again fails alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from andon.core.errors import AndonError, Busy, ModelFailed
from andon.serving.runners import Runner, RunnerDied

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

MAX_BATCH_ROWS = 4096
MAX_QUEUED_ROWS = 65_536
INLINE_BUDGET_S = 0.005
"""How long inline batches may hold the event loop before others get a turn."""


class Work:
    """One request's rows on their way through a release. ``rows`` are tuples in the signature's order, or ``columns`` are given."""

    __slots__ = ("arrival_us", "channel", "columns", "event_us", "future", "n", "raw", "request_id", "rows", "started_s")

    def __init__(
        self,
        n: int,
        rows: Sequence[tuple[Any, ...]] | None,
        columns: Columns | None,
        request_id: str,
        event_us: Sequence[int],
        arrival_us: int,
        channel: str,
        future: asyncio.Future[Any],
    ) -> None:
        self.n = n
        self.rows = rows
        self.columns = columns
        self.request_id = request_id
        self.event_us = event_us
        self.arrival_us = arrival_us
        self.channel = channel
        self.future = future
        self.raw = False  # whether its answer is arrays
        self.started_s = time.perf_counter()


Merge = Callable[[Sequence[Work]], "Columns"]
Finish = Callable[[Sequence[Work], "Columns", "Columns"], None]


class Batcher:
    """The queue in front of one runner.

    ``merge`` makes one set of columns of several requests' rows; ``finish`` takes what was executed and resolves the futures (it logs
    first). Both run on the event loop.
    """

    def __init__(
        self, runner: Runner, merge: Merge, finish: Finish, *, max_batch_rows: int = MAX_BATCH_ROWS, max_queued_rows: int = MAX_QUEUED_ROWS
    ) -> None:
        self._runner = runner
        self._merge = merge
        self._finish = finish
        self._max_batch_rows = max_batch_rows
        self._max_queued_rows = max_queued_rows
        self._queue: deque[Work] = deque()
        self._queued_rows = 0
        self._active = False  # a flush is scheduled, or a batch is running
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None  # a reference: the loop itself keeps only a weak one
        self.batches = 0
        self.rows = 0

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    def submit(self, work: Work) -> None:
        """Queue one request; its future gets the outcome. Raises ``Busy``. A request of any size is taken when nothing waits."""
        if self._queue and self._queued_rows + work.n > self._max_queued_rows:
            raise Busy(next_step="try again in a second", queued_rows=self._queued_rows)
        self._queue.append(work)
        self._queued_rows += work.n
        if not self._active:
            self._active = True
            self._loop.call_soon(self._flush)

    def _take(self) -> list[Work]:
        taken: list[Work] = []
        rows = 0
        while self._queue and (not taken or rows + self._queue[0].n <= self._max_batch_rows):
            work = self._queue.popleft()
            self._queued_rows -= work.n
            if work.future.done():  # whoever asked has gone
                continue
            taken.append(work)
            rows += work.n
        return taken

    def _flush(self) -> None:
        """Run what is queued: inline while that is cheap, else in a task."""
        give_way_at = time.perf_counter() + INLINE_BUDGET_S
        while batch := self._take():
            n = sum(work.n for work in batch)
            if not self._runner.cheap(n):
                self._task = self._loop.create_task(self._drain(batch))
                return
            self._run_inline(batch, n)
            if self._queue and time.perf_counter() > give_way_at:
                self._loop.call_soon(self._flush)
                return
        self._active = False

    def _run_inline(self, batch: list[Work], n: int) -> None:
        try:
            inputs = self._merge(batch)
            outputs = self._runner.run_now(inputs, n)
            self._count(n)
            self._finish(batch, inputs, outputs)
        except Exception as error:  # noqa: BLE001  # a defect here must reach the requests, or they would wait for ever
            if len(batch) == 1:
                fail(batch, error)
                return
            for work in batch:
                self._run_inline([work], work.n)

    async def _drain(self, batch: list[Work]) -> None:
        while batch:
            await self._run(batch)
            batch = self._take()
        self._active = False

    async def _run(self, batch: list[Work]) -> None:
        try:
            await self._try(batch)
        except RunnerDied as death:
            for work in batch:
                await self._again(work, death)
        except Exception as error:  # noqa: BLE001  # as above
            if len(batch) == 1:
                fail(batch, error)
                return
            for work in batch:
                await self._run([work])

    async def _try(self, batch: list[Work]) -> None:
        n = sum(work.n for work in batch)
        inputs = self._merge(batch)
        outputs = await self._runner.run(inputs, n)
        self._count(n)
        self._finish(batch, inputs, outputs)

    async def _again(self, work: Work, death: RunnerDied) -> None:
        try:
            await self._try([work])
        except RunnerDied:
            fail([work], ModelFailed("this request ended the process that runs the release, twice", first=death.message))
        except Exception as error:  # noqa: BLE001  # as above
            fail([work], error)

    def _count(self, n: int) -> None:
        self.batches += 1
        self.rows += n


def fail(batch: Sequence[Work], error: BaseException) -> None:
    """Give every request of ``batch`` that still waits the same error."""
    known = error if isinstance(error, AndonError) else ModelFailed(f"the answer could not be made: {type(error).__name__}: {error}"[:1500])
    for work in batch:
        if not work.future.done():
            work.future.set_exception(known)
