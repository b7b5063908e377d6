"""Mirrors: copies of requests for releases that never answer.

A copy is taken when its request has been answered, and goes to a queue and a runner of the mirror's own: it never runs on the event loop,
what may wait is small, rows above ``most_rows_s`` are dropped and counted, and a mirror that hangs, raises or dies is only seen in its
own exposures. Copies share no array with the request. Latencies count from when a copy was sent to its runner.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from andon.core.errors import AndonError, Busy
from andon.releases.splits import Mirror, Split, place
from andon.serving.batching import Batcher, Work
from andon.serving.loading import Loaded
from andon.serving.metrics import Metrics
from andon.serving.options import MIB, BatchOptions, Options, QueueOptions
from andon.serving.routing import LOADING_HERE, UNAVAILABLE_HERE, adaptation

if TYPE_CHECKING:
    import numpy as np

    from andon.serving.holding import Holder

    Columns = dict[str, np.ndarray[Any, Any]]

CHANNEL = "shadow"
PACE_S = 0.01
"""Copies are gathered so long and sent together: what a batch costs beside the model is paid once for them."""
OPTIONS = Options(batch=BatchOptions(max_rows=512), queue=QueueOptions(max_rows=2048, max_bytes=32 * MIB), timeout_s=10.0)

Expose = Callable[[Split, Work, str, str, str], None]
"""(split, work, unit, release, status)"""


class _Aside:
    """A runner as a mirror uses it: never on the event loop, one batch at a time."""

    slots = 1

    def __init__(self, loaded: Loaded) -> None:
        self._runner = loaded.runner

    @property
    def healthy(self) -> bool:
        return self._runner.healthy

    def cheap(self, n: int) -> bool:  # noqa: ARG002
        return False

    def run_now(self, columns: Columns, n: int) -> Columns:
        raise NotImplementedError("a mirror never runs on the event loop")

    async def run(self, columns: Columns, n: int) -> Columns:
        return await self._runner.run(columns, n)

    async def close(self) -> None:
        """Nothing: the runner is the release's."""


class _Copy(NamedTuple):
    """One request's copy, until it is sent."""

    work: Work
    split: Split
    unit: str
    source: Loaded  # whose signature its rows are in


class _Glass:
    """One mirror."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.waiting: list[_Copy] = []
        self.waiting_rows = 0
        self.loaded: Loaded | None = None  # what its batcher is for
        self.batcher: Batcher | None = None
        self.tokens = mirror.most_rows_s
        self.filled_s = time.monotonic()

    def may(self, n: int) -> bool:
        """Whether ``n`` rows are within the rate and the room."""
        now_s = time.monotonic()
        most = self.mirror.most_rows_s
        self.tokens = min(most, self.tokens + (now_s - self.filled_s) * most)
        self.filled_s = now_s
        if n > self.tokens or self.waiting_rows + n > OPTIONS.queue.max_rows:
            return False
        self.tokens -= n
        return True


class Shadows:
    """The mirrors of one front. All methods belong to its event loop."""

    def __init__(self, holder: Holder, metrics: Metrics, finish: Callable[..., None], expose: Expose) -> None:
        self._holder = holder
        self._metrics = metrics
        self._finish = finish
        self._expose = expose
        self._glasses: dict[str, _Glass] = {}
        self._timer: asyncio.TimerHandle | None = None

    def wants(self, split: Split, unit: str) -> bool:
        """Whether any mirror is to see this unit's requests."""
        at = place(split.salt + "/mirror", unit)
        return any(at < mirror.share for mirror in split.mirrors)

    def keep(self, mirrors: Sequence[Mirror]) -> None:
        """Forget the mirrors that are not among these."""
        wanted = {mirror.release for mirror in mirrors}
        self._glasses = {release: glass for release, glass in self._glasses.items() if release in wanted}

    def offer(self, split: Split, unit: str, source: Loaded, work: Work) -> None:
        """A copy of a request that ``source`` has answered; its arrays are its own."""
        at = place(split.salt + "/mirror", unit)
        for mirror in split.mirrors:
            if at >= mirror.share:
                continue
            glass = self._glasses.get(mirror.release)
            if glass is None or glass.mirror != mirror:
                glass = self._glasses[mirror.release] = _Glass(mirror)
            if not glass.may(work.n):
                self._metrics.shadow_dropped(mirror.release, work.n)
                continue
            columns = None if work.columns is None else dict(work.columns)
            copy = Work(work.n, work.rows, columns, work.request_id, work.event_us, work.arrival_us, CHANNEL, work.future)
            copy.size_bytes = work.size_bytes
            glass.waiting.append(_Copy(copy, split, unit, source))
            glass.waiting_rows += work.n
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PACE_S, self._send)

    def _send(self) -> None:
        self._timer = None
        for glass in list(self._glasses.values()):
            copies, glass.waiting, glass.waiting_rows = glass.waiting, [], 0
            loaded = self._holder.loaded.get(glass.mirror.release)
            if loaded is not None and loaded is not glass.loaded:
                glass.loaded, glass.batcher = loaded, self._batcher(loaded)
            for copy in copies:
                self._ask(glass, loaded, copy)

    def _batcher(self, loaded: Loaded) -> Batcher:
        return Batcher(_Aside(loaded), loaded.merge, lambda batch, i, o: self._finish(loaded, batch, i, o), options=OPTIONS)

    def _ask(self, glass: _Glass, loaded: Loaded | None, copy: _Copy) -> None:
        work, split, unit, source = copy
        release = glass.mirror.release
        if loaded is None or not loaded.runner.healthy or glass.batcher is None:
            self._expose(split, work, unit, release, LOADING_HERE if self._holder.loading(release) else UNAVAILABLE_HERE)
            return
        work.future = asyncio.get_running_loop().create_future()
        work.started_s = time.monotonic()
        work.deadline_s = work.started_s + OPTIONS.timeout_s
        try:
            made = adaptation(source, loaded)
            if made is not None and work.rows is not None:
                work.rows = made.rows(work.rows)
            elif made is not None and work.columns is not None:
                work.columns = made.columns(work.columns, work.n)
            glass.batcher.submit(work)
        except Busy:
            self._metrics.shadow_dropped(release, work.n)
        except (AndonError, ValueError):  # it does not take what production takes
            self._expose(split, work, unit, release, UNAVAILABLE_HERE)
        else:
            loaded.in_flight += 1
            work.future.add_done_callback(lambda future: self._answered(loaded, copy, future))

    def _answered(self, loaded: Loaded, copy: _Copy, future: asyncio.Future[Any]) -> None:
        loaded.in_flight -= 1
        if not loaded.in_flight:
            loaded.idle.set()
        if future.cancelled():
            return
        error = future.exception()
        status = "ok" if error is None else getattr(error, "code", "internal")
        if status == Busy.code:
            self._metrics.shadow_dropped(loaded.address, copy.work.n)
        else:
            self._expose(copy.split, copy.work, copy.unit, loaded.address, status)
