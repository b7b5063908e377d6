"""The loop: fetch, answer, commit, until told to stop.

A batch is fetched only when the one before it is committed or being committed, so what is in flight is bounded whatever the lag. A log that
cannot be reached is tried again for ever, with growing pauses. After ``stop`` nothing more is fetched; what is in flight is finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from andon.core import faults
from andon.core.actors import Actor
from andon.core.clocks import DAY_US
from andon.core.errors import AndonError, Conflict, Unavailable
from andon.serving import jobs
from andon.serving.front import Front
from andon.serving.jobs import Job
from andon.serving.streaming.answering import Answerer, Outcome
from andon.serving.streaming.counting import StreamMetrics
from andon.serving.streaming.embedded import trim
from andon.serving.streaming.endpoints import Endpoint
from andon.serving.streaming.records import Message, Record, StreamLog
from andon.serving.streaming.suspects import Suspects
from andon.store import Store
from andon.tracking import liveness

T = TypeVar("T")
FETCH_S = 0.5
PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)
TELL_S = 1.0
TRIM_S = 600.0
SUSPECT = 3
"""After so many deliveries, messages are finished one at a time: one that ends the process must not take others into the dead letters."""


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a stream runs."""

    group: str
    most: int = 512
    """Messages in flight at most."""
    retries: int = 2
    """Times that a message is tried again when the model fails on it."""
    max_deliveries: int = 10
    """A message that came more often than this, and that a consumer fell at, is a dead letter."""
    key: str | None = None
    """The field of a row that is its key; it is not sent to the model."""
    trim_days: float = 7.0
    """Finished records of the embedded log are removed after that."""


class Streamer:
    """Moves messages of one source through one service into a target and a dead-letter topic. The front belongs to the caller."""

    def __init__(
        self,
        store: Store,
        front: Front,
        options: StreamOptions,
        *,
        source: tuple[Endpoint, StreamLog],
        target: tuple[Endpoint, StreamLog],
        dead: tuple[Endpoint, StreamLog],
        actor: Actor,
    ) -> None:
        self._store = store
        self._front = front
        self._options = options
        self._source, self._from = source
        self._target, self._to = target
        self._dead, self._down = dead
        self._actor = actor
        self.stopping = asyncio.Event()
        self.metrics = StreamMetrics(front.service, self._source.shown, options.group)
        self._suspects = Suspects(store, self._source.shown, options.group)
        self._answerer = Answerer(front, self.metrics, retries=options.retries, max_deliveries=options.max_deliveries, key=options.key)
        now_us = store.clock.now_us()
        self.job = Job(
            id=store.ids.new(),
            kind="stream",
            service=front.service,
            release="",
            source=self._source.shown,
            target=self._target.shown,
            started_us=now_us,
            seen_us=now_us,
            holder=liveness.holder(),
        )

    def stop(self) -> None:
        """Finish what is in flight, and end."""
        self.stopping.set()

    async def run(self) -> Job:
        """Until ``stop``. Returns the job as it ended."""
        body = {"group": self._options.group, "dead": self._dead.shown, "source": self._source.shown, "target": self._target.shown}
        await self._reach(lambda: asyncio.to_thread(jobs.note, self._store, self.job, "started", body, actor=self._actor))
        telling = asyncio.create_task(self._tell())
        problem = ""
        try:
            await self._move()
        except Exception as error:  # whatever ends the stream is said in its record, and raised on
            problem = str(error)[:2000]
            raise
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await self._end(problem)
        return self.job

    async def _move(self) -> None:
        committing: asyncio.Task[bool] | None = None
        while not self.stopping.is_set():
            messages = await self._fetch()  # while the last batch is being committed
            if committing is not None:
                await committing
            committing = None
            if not messages or self.stopping.is_set():
                continue
            self.metrics.redelivered += sum(message.deliveries > 1 for message in messages)
            alone = any(message.deliveries > SUSPECT for message in messages)
            if alone:
                await self._one_by_one(messages)
                continue
            outcomes = await self._answer(messages)
            committing = asyncio.create_task(self._commit(messages, outcomes))
        if committing is not None:
            await committing

    async def _one_by_one(self, messages: Sequence[Message]) -> None:
        """Finish each before the next, and have it written down meanwhile which one it is."""
        for message in messages:
            name = message.record.id
            fell = await self._reach(lambda name=name: asyncio.to_thread(self._suspects.begin, name))  # type: ignore[misc]
            finished = not self.stopping.is_set() and await self._commit([message], await self._answer([message], fell=fell is True))
            await self._reach(lambda name=name: asyncio.to_thread(self._suspects.done, name))  # type: ignore[misc]
            if not finished:
                return  # what follows comes again

    async def _fetch(self) -> list[Message]:
        """The next batch; none when we are told to stop."""
        options = self._options
        found = await self._reach(lambda: self._from.fetch(self._source.topic, options.group, options.most, FETCH_S))
        return found or []

    async def _answer(self, messages: Sequence[Message], *, fell: bool = False) -> list[Outcome | None]:
        self.metrics.in_flight += len(messages)
        outcomes = await asyncio.gather(*(self._answerer.answer(message, self.stopping, fell=fell) for message in messages))
        faults.point("stream.answered")
        return list(outcomes)

    async def _commit(self, messages: Sequence[Message], outcomes: Sequence[Outcome | None]) -> bool:
        """Keep the outcomes and finish the messages; what has no outcome, and all that follows it, comes again."""
        known = next((at for at, outcome in enumerate(outcomes) if outcome is None), len(outcomes))
        done, kept = messages[:known], [outcome for outcome in outcomes[:known] if outcome is not None]
        try:
            if not done:
                return False
            answers = [outcome.answer for outcome in kept if outcome.answer is not None]
            dead = [outcome.dead for outcome in kept if outcome.dead is not None]
            if not await self._keep(done, answers, dead):
                return False
            self.metrics.committed("answered", len(answers), sum(outcome.rows for outcome in kept))
            self.metrics.committed("dead", len(dead))
            self.metrics.batches += 1
            faults.point("stream.committed")
        finally:
            self.metrics.in_flight -= len(messages)
        return True

    async def _keep(self, done: Sequence[Message], answers: Sequence[Record], dead: Sequence[Record]) -> bool:
        together: list[tuple[str, Record]] = []
        for endpoint, log, records in ((self._target, self._to, answers), (self._dead, self._down, dead)):
            if log is self._from:
                together += [(endpoint.topic, record) for record in records]
            elif records and not await self._insist(lambda log=log, topic=endpoint.topic, records=records: log.put(topic, records)):  # type: ignore[misc]
                return False
        faults.point("stream.produced")
        return await self._insist(lambda: self._from.commit(self._source.topic, self._options.group, done, together))

    async def _insist(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do it, however long the log is away; False when it is not ours to do any more, or we are stopping and it is still away."""

        async def done() -> bool:
            await work()
            return True

        try:
            return await self._reach(done) is True
        except Conflict:
            return False

    async def _reach(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """``work``'s value, tried again while its log is away; None when we are stopping and it still is."""
        attempt = 0
        while True:
            try:
                value = await work()
            except Unavailable as error:
                self.metrics.interruptions += 1
                self.metrics.problem = error.message
                if self.stopping.is_set() and attempt >= len(PAUSES_S):
                    return None
                await self._pause(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
                attempt += 1
            else:
                self.metrics.problem = ""
                return value

    async def _pause(self, seconds: float) -> None:
        if self.stopping.is_set():
            await asyncio.sleep(min(seconds, 0.2))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    # --- what is said of it

    async def _tell(self) -> None:
        """Keep the job's row and the lag fresh; whatever is away is asked again a second later."""
        trimmed_s = time.monotonic()
        while True:
            try:
                self.metrics.lag = await self._from.lag(self._source.topic, self._options.group)
            except AndonError as error:
                self.metrics.problem = self.metrics.problem or error.message
            with contextlib.suppress(AndonError):  # the ledger is away: the row gets old, which its readers see
                await asyncio.to_thread(self._write_down)
                if self._source.engine == "log" and time.monotonic() - trimmed_s > TRIM_S:
                    trimmed_s = time.monotonic()
                    before_us = self._store.clock.now_us() - int(self._options.trim_days * DAY_US)
                    await asyncio.to_thread(trim, self._store, self._source.topic, before_us=before_us)
            await asyncio.sleep(TELL_S)

    def _write_down(self) -> None:
        self.job = now = self._now()
        self._store.ledger.write(lambda c: jobs.tell_in(c, now, now_us=now.seen_us))

    def _now(self) -> Job:
        metrics = self.metrics
        try:
            release, why = self._front.loaded().address, metrics.problem
        except Unavailable as error:
            release, why = "", metrics.problem or error.message
        return msgspec.structs.replace(
            self.job,
            release=release,
            rows=metrics.rows,
            errors=metrics.messages["dead"],
            rows_s=metrics.rate_s(),
            lag=metrics.lag,
            parts=metrics.batches,
            problem=why,
            seen_us=self._store.clock.now_us(),
        )

    async def _end(self, problem: str) -> None:
        now = self._now()
        state: jobs.JobState = "failed" if problem else "stopped"
        self.job = msgspec.structs.replace(now, state=state, problem=problem or self.metrics.problem, ended_us=now.seen_us)
        body = {"rows": now.rows, "dead": now.errors, "lag": now.lag}
        with contextlib.suppress(AndonError):  # the ledger is away: the job is then shown as lost
            self.job = await asyncio.to_thread(jobs.note, self._store, self.job, state, body, actor=self._actor)
