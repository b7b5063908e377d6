"""The front of one service: it holds the loaded releases, follows the channels, and answers.

Requests never wait for the ledger. A thread polls it; when a channel moves, the new release is built, loaded and warmed up beside the old
one, and traffic moves between two turns of the event loop. The release that was left stays warm, so going back is instant; older ones
are closed when their last answer is out. A release that cannot be loaded changes nothing but the note in this replica's row.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from andon.core.errors import AndonError, Unavailable
from andon.serving.batching import Batcher, Work
from andon.serving.following import POLL_S, Follower
from andon.serving.loading import Loaded, Loader
from andon.serving.metrics import Metrics
from andon.serving.presence import Presence, State, Status
from andon.serving.recording import Recorder
from andon.serving.source import ReleaseSource, StoreSource, Target
from andon.serving.validation import check_request_id, output_lists
from andon.store import Store

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

log = logging.getLogger("andon.serving")

RETRY_DELAYS_S = (10.0, 30.0, 60.0, 300.0)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a release answered: its address and digest, and its output columns as lists of JSON values, one for each row."""

    request_id: str
    release: str
    digest: str
    outputs: dict[str, list[Any]]


class Choice(NamedTuple):
    """Which release answers a request, and as what."""

    loaded: Loaded
    channel: str
    unit: str | None = None
    """The user, session or request that a split assigned; None when there is no split."""


class _Channel:
    __slots__ = ("current", "previous", "wanted")

    def __init__(self) -> None:
        self.wanted: Target | None = None
        self.current: Loaded | None = None
        self.previous: Loaded | None = None


class _Failure(msgspec.Struct, frozen=True):
    reason: str
    detail: str
    attempts: int
    retry_at_s: float


class Front:
    """Serves one service. All methods but ``__init__`` belong to the event loop it was started on."""

    def __init__(
        self,
        store: Store,
        service: str,
        *,
        channels: Sequence[str] = ("production",),
        source: ReleaseSource | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self.service = service
        self.metrics = Metrics(service)
        self.draining = False
        self._store = store
        self._source = source or StoreSource(store)
        root = store.settings.path(store.settings.environments)
        self._loader = Loader(self._source, store.blobs, root, Path(store.settings.home, "logs"))
        self._channels = {name: _Channel() for name in channels}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, _Failure] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._ledger_problem: str | None = None
        self._id_prefix = store.ids.new()
        self._id_numbers = itertools.count(1)
        self._url = ""
        self._recorder = Recorder(store.tables, service, self.metrics)
        self._follower = Follower(self._source, service, tuple(channels), Presence(store, service), self._heard, self._state, poll_s)
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- life

    async def start(self, url: str = "") -> None:
        """Begin to follow the channels. Returns at once; ``wait_ready`` waits for the first release."""
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._follower.start()

    async def wait_ready(self, timeout_s: float) -> bool:
        """Whether every channel that points somewhere is loaded, at the latest after ``timeout_s``."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self.not_ready() is None:
                return True
            await asyncio.sleep(0.01)
        return False

    async def close(self) -> None:
        """Stop following, close every runner and mark the replica's row gone."""
        self.draining = True
        self._follower.stop()
        for task in self._loads.values():
            task.cancel()
        await asyncio.gather(*self._loads.values(), *self._retiring, return_exceptions=True)
        for loaded in self._held():
            await loaded.runner.close()
        await asyncio.to_thread(self._follower.join, 4.0)

    # --- what the faces ask

    def not_ready(self) -> str | None:
        """Why this front should get no traffic, or None."""
        if self.draining:
            return "this replica is shutting down"
        for name, channel in self._channels.items():
            if channel.current is None:
                return self._why_empty(name, channel)
            if not channel.current.runner.healthy:
                return f"the process that runs {channel.current.address} ended and is being started again"
        return None

    def loaded(self, channel: str = "production") -> Loaded:
        """The release that answers a channel now. Raises ``Unavailable`` with the reason when there is none."""
        held = self._channels.get(channel)
        if held is None or held.current is None:
            raise Unavailable(self._why_empty(channel, held) if held else f"this replica does not serve the channel {channel!r}")
        return held.current

    def version(self, version: str) -> Loaded | None:
        """A release that is loaded here, by its version number."""
        return next((loaded for loaded in self._held() if loaded.version == version), None)

    def choose(self, request_id: str, key: str | None = None, *, channel: str = "production") -> Choice:  # noqa: ARG002
        """The release that answers a request. ``key`` names its user or session. Raises ``Unavailable`` when there is none."""
        return Choice(self.loaded(channel), channel)

    async def answer(
        self,
        choice: Choice,
        n: int,
        *,
        rows: Sequence[tuple[Any, ...]] | None = None,
        columns: Columns | None = None,
        request_id: str,
        event_us: Sequence[int] | None = None,
        deadline_s: float | None = None,  # noqa: ARG002
        raw: bool = False,
    ) -> dict[str, Any]:
        """Run ``n`` checked rows (or columns) through the chosen release: its output columns as lists, or with ``raw`` as arrays.

        ``deadline_s`` is when the caller stops waiting, on the event loop's clock. Raises ``Busy``, ``ModelFailed``, …. Call ``choose``
        and this without an ``await`` in between, so that the release cannot be retired meanwhile.
        """
        assert self._loop is not None
        loaded, channel, _ = choice
        now_us = self._store.clock.now_us()
        future: asyncio.Future[Any] = self._loop.create_future()
        work = Work(n, rows, columns, request_id, [now_us] * n if event_us is None else event_us, now_us, channel, future)
        work.raw = raw
        loaded.in_flight += 1
        try:
            loaded.batcher.submit(work)
            outputs = await future
        except AndonError as error:
            self.metrics.refused(loaded.address, error.code)
            raise
        finally:
            loaded.in_flight -= 1
            if not loaded.in_flight:
                loaded.idle.set()
        self.metrics.answered(loaded.address, n, time.perf_counter() - work.started_s)
        return outputs  # type: ignore[no-any-return]

    async def predict(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        request_id: str | None = None,
        event_us: Sequence[int] | None = None,
        channel: str = "production",
    ) -> Answer:
        """Rows of JSON values in, an answer out. Raises ``InvalidInput`` (row and field), ``Busy``, ``ModelFailed``, ``Unavailable``."""
        loaded = self.loaded(channel)
        checked = loaded.codec.check_rows(rows)
        name = check_request_id(request_id) if request_id is not None else self.new_id()
        choice = Choice(loaded, channel)
        outputs = await self.answer(choice, len(checked), rows=checked, request_id=name, event_us=event_us)
        return Answer(request_id=name, release=loaded.address, digest=loaded.digest, outputs=outputs)

    def new_id(self) -> str:
        """A request id for a caller that gave none: this process's own prefix and a number, which is 20 times cheaper than a fresh id."""
        return f"{self._id_prefix}-{next(self._id_numbers):x}"

    @property
    def store(self) -> Store:
        """The stores that labels go to."""
        return self._store

    def metrics_text(self) -> str:
        """Prometheus text."""
        held = list(self._held())
        gauges = [
            ("andon_queued_rows", "Rows that wait for a runner.", float(sum(loaded.batcher.queued_rows for loaded in held))),
            ("andon_in_flight_requests", "Requests that are not answered yet.", float(sum(loaded.in_flight for loaded in held))),
            ("andon_releases_loaded", "Releases that are loaded here.", float(len(held))),
            ("andon_ready", "1 when this replica takes traffic.", float(self.not_ready() is None)),
            ("andon_ledger_reachable", "1 when the ledger answered last time.", float(self._ledger_problem is None)),
        ]
        return self.metrics.text(gauges)

    # --- following the channels

    def _heard(self, targets: Mapping[str, Target | None], problem: str | None) -> None:
        """From the follower's thread."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._want, targets, problem)

    def _want(self, targets: Mapping[str, Target | None], problem: str | None) -> None:
        if problem is not None and self._ledger_problem is None:
            log.warning("the ledger cannot be read; %s goes on with what it has: %s", self.service, problem)
        self._ledger_problem = problem
        for name, target in targets.items():
            channel = self._channels[name]
            if target != channel.wanted:
                channel.wanted = target
                self._failures.clear()  # somebody moved a channel: what failed before is tried again
            if target is not None and not self.draining:
                self._reconcile(channel, target)

    def _reconcile(self, channel: _Channel, target: Target) -> None:
        if channel.current is not None and channel.current.address == target.address:
            return
        warm = next((loaded for loaded in self._held() if loaded.address == target.address), None)
        if warm is not None:
            self._switch(channel, warm)
            return
        failure = self._failures.get(target.address)
        if target.address in self._loads or (failure is not None and time.monotonic() < failure.retry_at_s):
            return
        self._loads[target.address] = asyncio.get_running_loop().create_task(self._load(target))

    async def _load(self, target: Target) -> None:
        try:
            loaded = await self._loader.load(target)
        except Exception as error:  # noqa: BLE001  # whatever a release does while loading, the one that runs goes on
            self._loading_failed(target, error)
            return
        finally:
            del self._loads[target.address]
        self._failures.pop(target.address, None)
        loaded.batcher = Batcher(loaded.runner, loaded.merge, lambda batch, inputs, outputs: self._finish(loaded, batch, inputs, outputs))
        waiting = [channel for channel in self._channels.values() if channel.wanted == target]
        for channel in waiting:
            self._switch(channel, loaded)
        if not waiting:  # the channel has moved on meanwhile
            await loaded.runner.close()

    def _loading_failed(self, target: Target, error: Exception) -> None:
        attempts = self._failures[target.address].attempts + 1 if target.address in self._failures else 1
        delay = RETRY_DELAYS_S[min(attempts, len(RETRY_DELAYS_S)) - 1]
        self._failures[target.address] = _Failure(
            reason=f"{target.address} could not be loaded: {getattr(error, 'message', error)}",
            detail=f"{target.address} could not be loaded: {error}",
            attempts=attempts,
            retry_at_s=time.monotonic() + delay,
        )
        self.metrics.load_failures += 1
        log.error("%s could not be loaded (attempt %d): %s", target.address, attempts, error)
        self._follower.wake()

    def _switch(self, channel: _Channel, loaded: Loaded) -> None:
        before = set(self._held())
        if channel.current is not None:
            channel.previous = channel.current
        channel.current = loaded
        self.metrics.swaps += 1
        log.info("%s now answers with %s", self.service, loaded.address)
        for left in before - set(self._held()):
            task = asyncio.get_running_loop().create_task(self._retire(left))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        self._follower.wake()

    async def _retire(self, loaded: Loaded) -> None:
        while loaded.in_flight:
            loaded.idle.clear()
            await loaded.idle.wait()
        await loaded.runner.close()

    def _held(self) -> list[Loaded]:
        held = [loaded for channel in self._channels.values() for loaded in (channel.current, channel.previous) if loaded is not None]
        return list(dict.fromkeys(held))

    def _state(self) -> State:
        first = next(iter(self._channels.values())).current
        notes = [failure.detail for failure in list(self._failures.values())]
        if self._recorder.problem is not None:
            notes.append(f"the prediction log cannot be written: {self._recorder.problem}")
        status: Status = "draining" if self.draining else "starting" if first is None else "ready"
        return State(url=self._url, status=status, release=first.address if first else None, note="\n".join(notes))

    def _why_empty(self, name: str, channel: _Channel) -> str:
        if self._failures:
            return next(iter(self._failures.values())).reason
        if self._ledger_problem is not None and channel.wanted is None:
            return f"the ledger cannot be read: {self._ledger_problem}"
        if channel.wanted is None:
            return f"service:{self.service}@{name} points to no release yet"
        return f"{channel.wanted.address} is being loaded"

    # --- answers

    def _finish(self, loaded: Loaded, batch: Sequence[Work], inputs: Columns, outputs: Columns) -> None:
        try:
            lists = output_lists(outputs, loaded.signature)
        except AndonError:
            if len(batch) == 1:
                raise
            self._finish_apart(loaded, batch, inputs, outputs)
            return
        if len(self._channels) > 1 and len({work.channel for work in batch}) > 1:
            self._finish_apart(loaded, batch, inputs, outputs)  # a log entry is of one channel
            return
        self._recorder.record(loaded, batch, inputs, {name: outputs[name] for name in lists})
        if len(batch) == 1 and not batch[0].raw:
            if not batch[0].future.done():
                batch[0].future.set_result(lists)
            return
        at = 0
        for work in batch:
            if not work.future.done():
                given = {name: outputs[name] for name in lists} if work.raw else lists
                work.future.set_result({name: values[at : at + work.n] for name, values in given.items()})
            at += work.n

    def _finish_apart(self, loaded: Loaded, batch: Sequence[Work], inputs: Columns, outputs: Columns) -> None:
        """Each request of a batch with its own outcome and its own entry in the log."""
        at = 0
        for work in batch:
            part = slice(at, at + work.n)
            at += work.n
            try:
                self._finish(loaded, [work], {k: v[part] for k, v in inputs.items()}, {k: v[part] for k, v in outputs.items()})
            except AndonError as error:
                if not work.future.done():
                    work.future.set_exception(error)
