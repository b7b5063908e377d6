"""The releases that a front holds loaded: where its channels point, the one that each channel left, and what a split wants besides.

Loading is beside what runs and never touches it. When a channel moves, the new release is built, loaded and warmed up, and traffic moves
between two turns of the event loop; the one that was left stays warm, so going back is instant. What nothing wants any more is closed when
its last answer is out. A release that cannot be loaded changes nothing but what ``failing`` says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

import msgspec

from andon.serving.loading import Loaded, Loader
from andon.serving.metrics import Metrics
from andon.serving.source import Target

log = logging.getLogger("andon.serving")

RETRY_DELAYS_S = (10.0, 30.0, 60.0, 300.0)
LET_GO_S = 120.0
"""A release that nothing wants any more is closed at the latest after so long, also under a request that does not end."""


class Channel:
    """One channel: what it points to, what answers it, and what answered it before."""

    __slots__ = ("current", "previous", "wanted")

    def __init__(self) -> None:
        self.wanted: Target | None = None
        self.current: Loaded | None = None
        self.previous: Loaded | None = None


class Failure(msgspec.Struct, frozen=True):
    """Why a release could not be loaded."""

    reason: str
    detail: str
    attempts: int
    retry_at_s: float


class Holder:
    """Holds the releases of one service. ``ready`` is called with each that was loaded, ``changed`` when something moved or failed."""

    def __init__(
        self,
        service: str,
        channels: tuple[str, ...],
        loader: Loader,
        metrics: Metrics,
        ready: Callable[[Loaded], None],
        changed: Callable[[], None],
    ) -> None:
        self.service = service
        self.channels = {name: Channel() for name in channels}
        self.extras: dict[str, Target] = {}
        """What is held besides the channels', by address."""
        self.loaded: dict[str, Loaded] = {}
        self.loads: dict[str, asyncio.Task[None]] = {}
        self.failures: dict[str, Failure] = {}
        self._loader = loader
        self._metrics = metrics
        self._ready = ready
        self._changed = changed
        self._retiring: set[asyncio.Task[None]] = set()

    def want(self, targets: Mapping[str, Target | None], extras: Mapping[str, Target]) -> None:
        """Hold this from here on. Channels that are not named stay where they are."""
        for name, target in targets.items():
            channel = self.channels[name]
            if target != channel.wanted:
                channel.wanted = target
                self.failures.clear()  # somebody moved a channel: what failed before is tried again
        if extras != self.extras:
            for address in extras.keys() - self.extras.keys():
                self.failures.pop(address, None)
            self.extras = dict(extras)
        for name in targets:
            self._reconcile(self.channels[name])
        for target in self.extras.values():
            self._load_soon(target)
        self._let_go()
        wanted = self._wanted()
        for address in [address for address in self.failures if address not in wanted]:
            del self.failures[address]

    def failing(self) -> dict[str, str]:
        """Releases that should be here and cannot answer, with the reason. Any thread may ask."""
        found = {address: failure.reason for address, failure in list(self.failures.items())}
        for address, loaded in list(self.loaded.items()):
            if not loaded.runner.healthy:
                found[address] = f"the process that runs {address} ended and is being started again"
        return found

    def loading(self, address: str) -> bool:
        """Whether a release is being loaded and has not failed before."""
        return address in self.loads and address not in self.failures

    async def close(self) -> None:
        """Close every runner."""
        for task in self.loads.values():
            task.cancel()
        await asyncio.gather(*self.loads.values(), *self._retiring, return_exceptions=True)
        for loaded in self.loaded.values():
            await loaded.runner.close()

    def _wanted(self) -> set[str]:
        return {channel.wanted.address for channel in self.channels.values() if channel.wanted is not None} | self.extras.keys()

    def _reconcile(self, channel: Channel) -> None:
        target = channel.wanted
        if target is None or (channel.current is not None and channel.current.address == target.address):
            return
        warm = self.loaded.get(target.address)
        if warm is not None:
            self._switch(channel, warm)
        else:
            self._load_soon(target)

    def _load_soon(self, target: Target) -> None:
        failure = self.failures.get(target.address)
        if target.address in self.loaded or target.address in self.loads or (failure is not None and time.monotonic() < failure.retry_at_s):
            return
        self.loads[target.address] = asyncio.get_running_loop().create_task(self._load(target))

    async def _load(self, target: Target) -> None:
        try:
            loaded = await self._loader.load(target)
        except Exception as error:  # noqa: BLE001  # whatever a release does while loading, the one that runs goes on
            self._failed(target, error)
            return
        finally:
            del self.loads[target.address]
        self.failures.pop(target.address, None)
        self._ready(loaded)
        waiting = [channel for channel in self.channels.values() if channel.wanted == target]
        if not waiting and self.extras.get(target.address) != target:  # it is not wanted any more
            await loaded.runner.close()
            return
        self.loaded[target.address] = loaded
        for channel in waiting:
            self._switch(channel, loaded)
        self._changed()

    def _failed(self, target: Target, error: Exception) -> None:
        attempts = self.failures[target.address].attempts + 1 if target.address in self.failures else 1
        delay = RETRY_DELAYS_S[min(attempts, len(RETRY_DELAYS_S)) - 1]
        self.failures[target.address] = Failure(
            reason=f"{target.address} could not be loaded: {getattr(error, 'message', error)}",
            detail=f"{target.address} could not be loaded: {error}",
            attempts=attempts,
            retry_at_s=time.monotonic() + delay,
        )
        self._metrics.load_failures += 1
        log.error("%s could not be loaded (attempt %d): %s", target.address, attempts, error)
        self._changed()

    def _switch(self, channel: Channel, loaded: Loaded) -> None:
        if channel.current is not None:
            channel.previous = channel.current
        channel.current = loaded
        self._metrics.swaps += 1
        log.info("%s now answers with %s", self.service, loaded.address)
        self._let_go()
        self._changed()

    def _let_go(self) -> None:
        """Close what nothing wants."""
        kept = {id(loaded) for channel in self.channels.values() for loaded in (channel.current, channel.previous) if loaded is not None}
        for address, loaded in list(self.loaded.items()):
            if id(loaded) not in kept and address not in self.extras:
                del self.loaded[address]
                task = asyncio.get_running_loop().create_task(self._retire(loaded))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
                self._changed()

    async def _retire(self, loaded: Loaded) -> None:
        end_s = time.monotonic() + LET_GO_S
        while loaded.in_flight and time.monotonic() < end_s:
            loaded.idle.clear()
            try:
                await asyncio.wait_for(loaded.idle.wait(), end_s - time.monotonic())
            except TimeoutError:
                break
        await loaded.runner.close()
