"""Batching that never waits for nothing: while the model is idle a request runs at once; what queues while it is busy is taken together.

Requests that arrive in one turn of the event loop share a batch too (the flush is scheduled behind them), which costs nobody anything
and shares the price of the prediction log. A batch takes rows, not requests, up to a row and a byte cap.

**Back-pressure.** What waits is bounded in rows and bytes. A request whose deadline would pass before its turn, by the measured cost of
what is ahead of it, is refused on arrival (``Busy``, with the seconds until the queue has drained); when nothing is ahead it always runs,
so that a wrong measure corrects itself. What waited past its deadline, or whose client has gone, is dropped before it runs.

A batch that fails is cut in halves and run again, so that one bad row is only its own sender's error. When the runner's process dies, each
request of the batch is tried once more on its own: the one that kills the process again fails alone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from andon.core.errors import AndonError, Busy, DeadlineExceeded, ModelFailed
from andon.serving.costing import Cost
from andon.serving.fairness import FairQueue
from andon.serving.options import Options
from andon.serving.runners import Runner, RunnerDied
from andon.serving.statistics import Statistics

if TYPE_CHECKING:
    import numpy as np

    from andon.serving.tracing import Trace

    Columns = dict[str, np.ndarray[Any, Any]]

INLINE_BUDGET_S = 0.005
"""How long inline batches may hold the event loop before others get a turn."""
SWEEP_S = 0.005
"""At least so long between two looks for deadlines that passed."""
HEADROOM = 0.9
"""The share of a request's time that what is ahead of it may take by prediction: who is let in to the last moment is half the time late."""
CALM_S = 0.02
LONGER = 1.2
"""How much longer than predicted a batch is taken to last, when it is asked whether a request that waited is still in time."""
MUCH = 4.0
"""Waiting for more rows can pay while a batch's fixed cost is so many times that of its rows."""


class Reply(Protocol):
    """Where a request's outcome goes: a future, or whatever else takes it at once."""

    def done(self) -> bool:
        """Whether there is an outcome; before it was set, that nobody waits for one."""
        ...

    def set_result(self, result: Any, /) -> None:
        """The outputs. Must not raise."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """What went wrong. Must not raise."""
        ...


class Work:
    """One request's rows on their way through a release. ``rows`` are tuples in the signature's order, or ``columns`` are given."""

    __slots__ = (
        "arrival_us",
        "behind",
        "channel",
        "client",
        "columns",
        "deadline_s",
        "event_us",
        "future",
        "n",
        "raw",
        "request_id",
        "rows",
        "size_bytes",
        "slices",
        "started_s",
        "taken_s",
        "trace",
    )

    def __init__(
        self,
        n: int,
        rows: Sequence[tuple[Any, ...]] | None,
        columns: Columns | None,
        request_id: str,
        event_us: Sequence[int],
        arrival_us: int,
        channel: str,
        future: Reply,
        *,
        started_s: float | None = None,
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
        self.client = ""  # what queues are shared out between
        self.size_bytes = 0  # about what it holds in memory
        self.started_s = time.monotonic() if started_s is None else started_s
        self.deadline_s = math.inf  # on the same clock
        self.behind = False  # whether something was ahead of it when it came
        self.taken_s = 0.0  # when its batch was taken from the queue
        self.trace: Trace | None = None
        self.slices: dict[str, str] | None = None  # fields of its first row that its exposure says


Merge = Callable[[Sequence[Work]], "Columns"]
Finish = Callable[[Sequence[Work], "Columns", "Columns"], None]


class Batcher:
    """The queue in front of one runner.

    ``merge`` makes one set of columns of several requests' rows; ``finish`` takes what was executed and resolves the futures (it logs
    first). Both run on the event loop. ``cost`` may have been taught by a warm-up; it goes on learning, from whole batches.
    """

    def __init__(
        self,
        runner: Runner,
        merge: Merge,
        finish: Finish,
        *,
        options: Options | None = None,
        cost: Cost | None = None,
        statistics: Statistics | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._merge = merge
        self._finish = finish
        self._now = now
        self.options = options or Options()
        self.cost = cost or Cost()
        self.statistics = statistics or Statistics()
        self._max_rows = self.options.batch.max_rows
        self._max_bytes = self.options.batch.max_bytes
        self._max_queued_bytes = self.options.queue.max_bytes
        self._calm_rows = 0  # with no more than these waiting, nobody who has CALM_S can be late
        self._max_wait_s = self.options.batch.max_wait_ms / 1e3
        self._queue = FairQueue()
        self._loop = asyncio.get_running_loop()
        self._active = 0  # batches that run outside of the event loop
        self._flushing = False  # whether a flush is on its way
        self._running: dict[int, tuple[float, int, Sequence[Work]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at_s = math.inf
        self._purged_s = -math.inf
        self._gap_s = math.inf  # between two requests, on average; followed only where waiting is allowed
        self._last_s = -math.inf
        self._slots_seen = 0

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queue.rows

    def backlog_s(self) -> float:
        """Predicted seconds until what waits and what runs is done."""
        return (self.cost.drain_s(self._queue.rows, self._max_rows) + self._running_s(self._now())) / max(1, self._slots_seen)

    def submit(self, work: Work) -> None:
        """Queue one request; its future gets the outcome. Raises ``Busy``. A request of any size is taken when nothing waits."""
        queue = self._queue
        if queue.rows or self._active >= self._runner.slots:
            work.behind = True
            calm = queue.rows + work.n <= self._calm_rows and queue.size_bytes + work.size_bytes <= self._max_queued_bytes
            if not calm or self._running or work.deadline_s - work.started_s < CALM_S:
                self._admit(work)
        if self._max_wait_s:
            self._arrived(work.started_s)
        queue.append(work)
        if self._active and work.deadline_s < self._sweep_at_s:
            self._sweep_before(work.deadline_s)
        if not self._flushing and self._active < self._runner.slots:
            self._flushing = True
            self._loop.call_soon(self._flush)

    # --- back-pressure

    def _admit(self, work: Work) -> None:
        queue, limit = self._queue, self.options.queue
        if queue.rows and (queue.rows + work.n > limit.max_rows or queue.size_bytes + work.size_bytes > limit.max_bytes):
            self._make_room(work)
        within_s = HEADROOM * (work.deadline_s - work.started_s)
        if self._wait_s(work) > within_s and not (self._purge() and self._wait_s(work) <= within_s):
            raise self._busy("more work waits here than is done before this request's deadline", "predicted-wait")

    def _wait_s(self, work: Work) -> float:
        """Predicted seconds until ``work`` is done, itself included."""
        cost, queue = self.cost, self._queue
        ahead = queue.rows_before(work.client, work.n)
        seconds = cost.drain_s(ahead + work.n, self._max_rows)
        if self._running:
            seconds += self._running_s(work.started_s)
            if self._slots_seen > 1:
                seconds /= self._slots_seen
        return seconds

    def _running_s(self, now_s: float) -> float:
        """Predicted seconds until what runs is done. What is late is expected to stay as long again as it is late."""
        left = 0.0
        for started_s, n, _ in list(self._running.values()):  # the heartbeat's thread asks, too
            ahead_s = started_s + self.cost.a + self.cost.b * n - now_s
            left += abs(ahead_s)
        return left

    def _make_room(self, work: Work) -> None:
        """Take from who has more waiting than this client would. Raises ``Busy`` when nobody has."""
        queue, limit = self._queue, self.options.queue
        self._purge()
        while queue.rows and (queue.rows + work.n > limit.max_rows or queue.size_bytes + work.size_bytes > limit.max_bytes):
            stolen = queue.steal(work.client, work.n)
            if stolen is None:
                raise self._busy("the queue is full", "queue-full")
            if not stolen.future.done():
                stolen.future.set_exception(self._busy("the queue is full, and most of it is this client's", "fair-share"))

    def _busy(self, why: str, reason: str) -> Busy:
        backlog_s = self.backlog_s()
        wait_s = max(1, math.ceil(backlog_s))
        return Busy(
            why,
            next_step=f"try again in {wait_s} s",
            reason=reason,
            retry_after_s=wait_s,
            predicted_wait_s=round(backlog_s, 3),
            queued_rows=self._queue.rows,
        )

    def _purge(self) -> bool:
        """Forget requests that nobody waits for, which is worth a look now and then; whether one was had."""
        now_s = self._now()
        if now_s - self._purged_s < SWEEP_S:
            return False
        self._purged_s = now_s
        self._queue.purge()
        return True

    def _sweep_before(self, deadline_s: float) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep_at_s = deadline_s
        self._sweeper = self._loop.call_later(max(SWEEP_S, deadline_s - self._now()), self._sweep)

    def _sweep(self) -> None:
        """Tell those whose deadline has passed, whether their rows wait or are being run."""
        now_s = self._now()
        next_s = math.inf
        there: list[Iterable[Work]] = [self._queue, *(batch for _, _, batch in self._running.values())]
        for batch in there:
            for work in batch:
                if work.deadline_s <= now_s:
                    expire(work, now_s)
                elif not work.future.done() and work.deadline_s < next_s:
                    next_s = work.deadline_s
        self._queue.purge()
        self._sweeper, self._sweep_at_s = None, math.inf
        if next_s < math.inf and self._active:
            self._sweep_before(next_s)

    # --- waiting for more

    def _arrived(self, at_s: float) -> None:
        gap_s = min(at_s - self._last_s, 4 * self._max_wait_s)  # one pause does not outweigh a crowd
        self._last_s = at_s
        self._gap_s = gap_s if math.isinf(self._gap_s) else 0.9 * self._gap_s + 0.1 * gap_s

    def _hold_s(self) -> float:
        """How long to wait for more rows before a batch: 0 unless another request is to be expected meanwhile, and would ride free."""
        queue, cost = self._queue, self.cost
        if not self._max_wait_s or not queue or queue.rows >= self._max_rows or self._gap_s > self._max_wait_s:
            return 0.0
        if not cost.known or cost.a <= MUCH * cost.b * queue.rows:
            return 0.0
        return max(0.0, queue.head().started_s + self._max_wait_s - self._now())

    # --- running

    def _take(self, most_rows: int) -> list[Work]:
        taken: list[Work] = []
        rows = size_bytes = 0
        queue, cost, now_s = self._queue, self.cost, self._now()
        while queue:
            if taken:
                head = queue.head()
                if rows + head.n > most_rows or size_bytes + head.size_bytes > self._max_bytes:
                    break
            work = queue.pop()
            if work.future.done():  # whoever asked has gone
                continue
            if work.deadline_s <= (now_s + LONGER * (cost.a + cost.b * (rows + work.n)) if work.behind else now_s):
                expire(work, now_s)
                continue
            work.taken_s = now_s
            taken.append(work)
            rows += work.n
            size_bytes += work.size_bytes
        return taken

    def _next(self, free: int) -> list[Work]:
        """The next batch; cut so that ``free`` slots share what waits, where rows are what costs."""
        most = self._max_rows
        if free > 1 and self.cost.b * self._queue.rows > self.cost.a:
            most = min(most, -(-self._queue.rows // free))
        return self._take(most)

    def _flush(self) -> None:
        """Run what is queued: inline while that is cheap, else in tasks."""
        self._flushing = False
        hold_s = self._hold_s()
        if hold_s:
            self._flushing = True
            self._loop.call_later(hold_s, self._flush)
            return
        give_way_at = self._now() + INLINE_BUDGET_S
        while (free := self._runner.slots - self._active) > 0 and (batch := self._next(free)):
            n = sum(work.n for work in batch)
            if not self._runner.cheap(n):
                self._spawn(batch)
                continue
            self._run_inline(batch, n)
            if self._queue and self._now() > give_way_at:
                self._flushing = True
                self._loop.call_soon(self._flush)
                return

    def _spawn(self, batch: list[Work]) -> None:
        self._active += 1
        self._slots_seen = self._runner.slots
        task = self._loop.create_task(self._drain(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _run_inline(self, batch: list[Work], n: int) -> None:
        started_s = self._now()
        try:
            inputs = self._merge(batch)
            merged_s = self._now()
            outputs = self._runner.run_now(inputs, n)
            ran_s = self._now()
            self._finish(batch, inputs, outputs)
            self._count(batch, n, started_s, merged_s, ran_s)
        except Exception as error:  # noqa: BLE001  # a defect here must reach the requests, or they would wait for ever
            if len(batch) == 1:
                fail(batch, error)
                return
            for half in _halves(batch):
                self._run_inline(half, sum(work.n for work in half))

    async def _drain(self, batch: list[Work]) -> None:
        try:
            while batch:
                await self._run(batch)
                if self._hold_s():
                    break
                batch = self._next(self._runner.slots - self._active + 1)
        finally:
            self._active -= 1
        if self._queue and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    async def _run(self, batch: list[Work]) -> None:
        batch = [work for work in batch if not work.future.done()]  # a second try may come late
        if not batch:
            return
        try:
            await self._try(batch)
        except RunnerDied as death:
            for work in batch:
                if not work.future.done():
                    await self._again(work, death)
        except Exception as error:  # noqa: BLE001  # as above
            if len(batch) == 1:
                fail(batch, error)
                return
            for half in _halves(batch):
                await self._run(half)

    async def _try(self, batch: list[Work]) -> None:
        n = sum(work.n for work in batch)
        started_s = self._now()
        self._running[id(batch)] = (self._now(), n, batch)
        deadline_s = min(work.deadline_s for work in batch)
        if deadline_s < self._sweep_at_s:
            self._sweep_before(deadline_s)
        try:
            inputs = self._merge(batch)
            merged_s = self._now()
            outputs = await self._runner.run(inputs, n)
            ran_s = self._now()
            self._finish(batch, inputs, outputs)
            self._count(batch, n, started_s, merged_s, ran_s)
        finally:
            del self._running[id(batch)]

    async def _again(self, work: Work, death: RunnerDied) -> None:
        try:
            await self._try([work])
        except RunnerDied:
            fail([work], ModelFailed("this request ended the process that runs the release, twice", first=death.message))
        except Exception as error:  # noqa: BLE001  # as above
            fail([work], error)

    def _count(self, batch: Sequence[Work], n: int, started_s: float, merged_s: float, ran_s: float) -> None:
        ended_s = self._now()
        cost = self.cost
        cost.learn(n, ended_s - started_s)
        room_s = HEADROOM * CALM_S - cost.a
        self._calm_rows = min(self._max_rows, self.options.queue.max_rows, int(room_s / (cost.b + 1e-9))) if room_s > 0 else 0
        queued_ns = int((len(batch) * started_s - sum([work.started_s for work in batch])) * 1e9)
        input_ns, infer_ns, output_ns = int((merged_s - started_s) * 1e9), int((ran_s - merged_s) * 1e9), int((ended_s - ran_s) * 1e9)
        self.statistics.executed(len(batch), n, max(0, queued_ns), input_ns, infer_ns, output_ns)


def _halves(batch: list[Work]) -> tuple[list[Work], list[Work]]:
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]


def expire(work: Work, now_s: float) -> None:
    """Tell a request that its deadline has passed."""
    if not work.future.done():
        work.future.set_exception(DeadlineExceeded(waited_ms=round((now_s - work.started_s) * 1e3, 1)))


def fail(batch: Sequence[Work], error: BaseException) -> None:
    """Give every request of ``batch`` that still waits the same error."""
    known = error if isinstance(error, AndonError) else ModelFailed(f"the answer could not be made: {type(error).__name__}: {error}"[:1500])
    for work in batch:
        if not work.future.done():
            work.future.set_exception(known)
