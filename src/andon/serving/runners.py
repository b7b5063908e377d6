"""Runners execute one release's batches: in the front's own process for code-free models, else in child processes.

A runner takes and returns *columns*: ``dict[str, numpy.ndarray]``, each with one entry for each of ``n`` rows (further dimensions are a
vector or a tensor per row). Errors: ``ModelFailed`` when the model or the release's code raised, ``RunnerDied`` when the process that ran
it ended.

A request's error goes to a stranger: it has the exception's type and the last line of its message, no traceback and no folder of this
machine. The whole traceback is in the replica's log.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from andon.core.errors import LoadFailed, ModelFailed, Unavailable
from andon.serving import child, processes
from andon.serving.costing import Cost
from andon.serving.environments import in_use
from andon.serving.limits import END_AT, HOLD_AT, MB, memory_bytes
from andon.serving.processes import Child, ChildSpec, ModelSpec, RunnerDied, log_tail, said

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

__all__ = ["ChildRunner", "ChildSpec", "InProcessRunner", "ModelSpec", "Runner", "RunnerDied", "said_in_public"]
log = logging.getLogger("andon.serving")
INLINE_S = 0.000_5
"""A batch that is expected to take no longer runs on the event loop itself: a thread would cost more than it frees."""
RESTART_DELAYS_S = (0.0, 0.2, 1.0, 5.0, 15.0)
REPLACE_AGAIN_S = 5.0
"""After a fresh process could not be started in the place of a leaking one, how long until the next try."""
WATCH_S = 0.2
LOG_EVERY_S = 5.0
PATIENCE_S = 0.5
"""A release whose process keeps dying is started again after pauses; requests wait for a pause of this length, not for a longer one."""
_FOLDERS = re.compile(r"(?<![\w.:/])(?:/|[A-Za-z]:\\)(?:[^\s'\"/\\:,;()<>]+[/\\])+")


class Runner(Protocol):
    """Executes batches of one loaded release."""

    @property
    def healthy(self) -> bool:
        """Whether a batch would run now."""
        ...

    @property
    def slots(self) -> int:
        """How many batches it runs at the same time; ``run`` may be called that often before the first call has returned."""
        ...

    def cheap(self, n: int) -> bool:
        """Whether ``run_now`` may be called for ``n`` rows."""
        ...

    def run_now(self, columns: Columns, n: int) -> Columns:
        """Run on the caller's thread. Raises ``ModelFailed``."""
        ...

    async def run(self, columns: Columns, n: int) -> Columns:
        """Run without blocking the event loop. Raises ``ModelFailed`` or ``RunnerDied``."""
        ...

    async def close(self) -> None:
        """Let go of the model or end the process."""
        ...


class _Sparing:
    """Warnings of one runner, at most one in ``LOG_EVERY_S``: whoever reads the log is not to hold the front up."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._left_out = 0

    def warn(self, message: str, *values: object, error: BaseException | None = None) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._left_out += 1
            return
        more = f" (and {self._left_out} more times since it was last said)" if self._left_out else ""
        self._next_s, self._left_out = now_s + LOG_EVERY_S, 0
        log.warning(message + "%s", *values, more, exc_info=error)


class InProcessRunner:
    """A code-free model (ONNX) in this process.

    How long a batch takes is learnt as a + b n from the runs themselves; cheap batches run inline, the others on ``slots`` threads of its
    own (the runtime lets go of the interpreter while it computes, so two threads use two cores).
    """

    def __init__(self, spec: ModelSpec, *, slots: int = 1) -> None:
        self.slots = slots
        self._sparing = _Sparing()
        try:
            self._predict = child.load_model(msgspec.to_builtins(spec))
        except Exception as error:
            # Whatever the library raises on a file it cannot read; the caller keeps the old release.
            raise LoadFailed(f"the model could not be loaded: {type(error).__name__}: {error}"[:1500]) from error
        self._cost = Cost()
        self._thread = ThreadPoolExecutor(slots, thread_name_prefix="andon-model")

    @property
    def healthy(self) -> bool:
        return True

    def cheap(self, n: int) -> bool:
        return self._cost.predict_s(n) <= INLINE_S

    def run_now(self, columns: Columns, n: int) -> Columns:
        started = time.perf_counter()
        try:
            outputs = self._predict(columns, n)
        except Exception as error:  # whatever the model raised is this request's error, never the front's
            self._sparing.warn("the model failed", error=error)
            raise ModelFailed(f"the model failed: {said_in_public(f'{type(error).__name__}: {error}')}") from error
        self._cost.learn(n, time.perf_counter() - started)
        return outputs

    async def run(self, columns: Columns, n: int) -> Columns:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.run_now, columns, n)

    async def close(self) -> None:
        self._thread.shutdown(wait=False)


class _Slot:
    """A place for one process of a release."""

    __slots__ = ("busy", "child", "deaths", "due_s", "replace_not_before_s", "task")

    def __init__(self) -> None:
        self.child: Child | None = None
        self.busy = False
        self.deaths = 0
        self.due_s = 0.0
        self.replace_not_before_s = 0.0
        self.task: asyncio.Task[None] | None = None  # starts a process for this place


class ChildRunner:
    """A model, and the release's own code, in processes of the release's own Python: ``limits.replicas`` of them.

    A batch goes to a process that is idle. A process is started again, with growing delays, when it ends. A batch that it dies on raises
    ``RunnerDied``; the caller decides about a second try. A batch over ``batch_timeout_s`` or twice ``memory_mb`` ends the process and
    raises ``ModelFailed``. A process that is over ``memory_mb`` after a batch is replaced by a fresh one, and no batch is lost.
    """

    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._memory_bytes = memory_bytes(spec.limits)
        self._slots = [_Slot() for _ in range(spec.limits.replicas)]
        self._freed = asyncio.Event()
        self._first: tuple[Columns, int] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[Any]] = set()
        self._uses = in_use(spec.uses)
        self._closed = False
        self._sparing = _Sparing()
        self.replaced = 0
        """Processes that a fresh one has taken the place of, since they had grown too large."""

    @property
    def healthy(self) -> bool:
        return any(slot.child is not None and slot.child.alive for slot in self._slots)

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def pids(self) -> list[int]:
        """The process ids, of those that are there."""
        found = [slot.child.pid for slot in self._slots if slot.child is not None]
        return [pid for pid in found if pid is not None]

    @property
    def pid(self) -> int | None:
        """The first process id, while there is one."""
        return next(iter(self.pids), None)

    def cheap(self, n: int) -> bool:  # noqa: ARG002  # a process is never this thread
        return False

    def run_now(self, columns: Columns, n: int) -> Columns:
        raise NotImplementedError("a child never runs on the caller's thread")

    async def start(self) -> None:
        """Start the processes and load the release. Raises ``LoadFailed`` with the traceback's or the log's tail."""
        opening = [asyncio.get_running_loop().create_task(self._open()) for _ in self._slots]
        self._ending.update(opening)  # a start that is cancelled is cleared up behind before the runner is closed
        started = await asyncio.gather(*opening, return_exceptions=True)
        self._ending.difference_update(opening)
        for slot, outcome in zip(self._slots, started, strict=True):
            if isinstance(outcome, Child):
                self._put(slot, outcome)
        wrong = next((outcome for outcome in started if isinstance(outcome, BaseException)), None)
        if wrong is not None:
            await self.close()
            raise wrong
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    def warm_with(self, columns: Columns, n: int) -> None:
        """An example batch that every process started later runs before it takes traffic."""
        self._first = (columns, n)

    async def run(self, columns: Columns, n: int) -> Columns:
        slot = await self._take()
        held = slot.child
        assert held is not None
        held.in_batch = True
        try:
            outputs = await self._run_on(held, columns, n)
        finally:
            held.in_batch = slot.busy = False
            self._freed.set()
            if held is not slot.child:
                self._let_go(held)  # a fresh process has taken its place meanwhile
            elif held.rss_bytes > self._memory_bytes:
                self._replace(slot)
        slot.deaths = 0
        return outputs

    async def close(self) -> None:
        self._closed = True
        tasks = [slot.task for slot in self._slots if slot.task is not None] + ([self._watcher] if self._watcher else [])
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, *self._ending, return_exceptions=True)
        for late in ended:
            if isinstance(late, Child):
                await late.end()
        for slot in self._slots:
            if slot.child is not None:
                await slot.child.end()
        self._uses.close()

    def log_tail(self) -> str:
        """The end of what the processes printed."""
        return log_tail(self._spec.log)

    # --- one batch

    async def _take(self) -> _Slot:
        """An idle process's place; waits while all are busy, or for one that is being started again. Raises ``Unavailable``."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._spec.restart_wait_s
        while True:
            alive = False
            for slot in self._slots:
                if slot.child is None or not slot.child.alive:
                    if slot.task is None and not self._closed:
                        self._start_again(slot)
                    continue
                alive = True
                if not slot.busy and not self._is_held(slot):
                    slot.busy = True
                    return slot
            wait_s = None if alive else until_s - loop.time()
            pause_s = min(slot.due_s for slot in self._slots) - loop.time()  # before a process is even started
            if self._closed or (wait_s is not None and (wait_s <= 0 or pause_s > PATIENCE_S)):
                self._sparing.warn("the process that runs this release has not come back yet (%s)", self._spec.log)
                raise Unavailable("the process that runs this release ended and has not come back yet")
            self._freed.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._freed.wait()
            except TimeoutError:
                continue

    def _is_held(self, slot: _Slot) -> bool:
        assert slot.child is not None
        return slot.child.rss_bytes > HOLD_AT * self._memory_bytes and slot.task is not None

    async def _run_on(self, held: Child, columns: Columns, n: int) -> Columns:
        specs, buffers = child.pack(columns)
        timeout_s = self._spec.limits.batch_timeout_s
        try:
            reply, body = await held.ask({"op": "run", "n": n, "columns": specs}, buffers, timeout_s)
        except TimeoutError:
            held.kill("it hung")
            raise ModelFailed(f"a batch of {n} rows took longer than {timeout_s:g} s; its process was ended") from None
        except RunnerDied:
            if held.ended_for is not None:
                raise ModelFailed(f"a batch of {n} rows was not finished: {held.ended_for}; its process was ended") from None
            raise
        if not reply["ok"]:
            self._sparing.warn("the release's code failed (all of it in %s)\n%s", self._spec.log, reply["traceback"])
            told = said_in_public(said(reply))
            raise ModelFailed(told if reply.get("stage") else f"the release's code failed: {told}")
        return child.unpack(reply["columns"], body)

    # --- processes that come and go

    async def _open(self) -> Child:
        opened = await processes.open_child(self._spec)
        try:
            if self._first is not None:
                try:
                    await self._run_on(opened, *self._first)
                except ModelFailed as error:
                    processes.note(self._spec.log, f"andon: the new process fails on the example: {error}\n")
                except RunnerDied as error:
                    raise LoadFailed("the release could not be loaded: its process ended on the example") from error
            if opened.ended_for is not None:
                raise LoadFailed(f"the release could not be loaded: on the example {opened.ended_for}")
            if opened.rss_bytes > self._memory_bytes:
                has, most = opened.rss_bytes // MB, self._memory_bytes // MB
                raise LoadFailed(f"the release takes {has} MB once it is loaded, over its memory_mb of {most}", next_step="raise memory_mb")
        except BaseException:  # also when cancelled, the process must not outlive its start
            await asyncio.shield(opened.end())
            raise
        return opened

    def _put(self, slot: _Slot, opened: Child) -> None:
        slot.child = opened
        opened.lost.add_done_callback(lambda _: self._on_lost(slot, opened))
        self._freed.set()

    def _on_lost(self, slot: _Slot, lost: Child) -> None:
        if not self._closed and slot.child is lost and slot.task is None:
            self._start_again(slot)

    def _start_again(self, slot: _Slot) -> None:
        slot.due_s = asyncio.get_running_loop().time() + RESTART_DELAYS_S[min(slot.deaths, len(RESTART_DELAYS_S) - 1)]
        slot.deaths += 1
        slot.task = asyncio.get_running_loop().create_task(self._restart(slot))

    async def _restart(self, slot: _Slot) -> None:
        loop = asyncio.get_running_loop()
        old, slot.child = slot.child, None
        if old is not None:
            await old.end()
        while True:
            await asyncio.sleep(slot.due_s - loop.time())
            try:
                opened = await self._open()
            except LoadFailed as error:
                processes.note(self._spec.log, f"andon: the restart failed: {error}\n")
                slot.due_s = loop.time() + RESTART_DELAYS_S[min(slot.deaths, len(RESTART_DELAYS_S) - 1)]
                slot.deaths += 1
                self._freed.set()  # who waits looks again whether that is worth it
                continue
            slot.task = None
            self._put(slot, opened)
            return

    def _replace(self, slot: _Slot) -> None:
        """Start a fresh process for a place whose process has grown too large."""
        now_s = asyncio.get_running_loop().time()
        if slot.task is None and not self._closed and now_s >= slot.replace_not_before_s:
            slot.task = asyncio.get_running_loop().create_task(self._swap(slot))

    async def _swap(self, slot: _Slot) -> None:
        try:
            opened = await self._open()
        except LoadFailed as error:
            processes.note(self._spec.log, f"andon: no fresh process: {error}\n")
            slot.replace_not_before_s = asyncio.get_running_loop().time() + REPLACE_AGAIN_S
            slot.task = None
            self._freed.set()
            if slot.child is None or not slot.child.alive:
                self._start_again(slot)
            return
        old, slot.task = slot.child, None
        self.replaced += 1
        self._put(slot, opened)
        if old is not None and not old.in_batch:
            self._let_go(old)
        if old is not None:
            log.info("a process of %s had grown to %d MB and was replaced", self._spec.log, old.rss_bytes // MB)

    def _let_go(self, old: Child) -> None:
        task = asyncio.get_running_loop().create_task(old.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _watch(self) -> None:
        """End a process that passes twice its memory in the middle of a batch, and keep the log short."""
        while True:
            await asyncio.sleep(WATCH_S)
            for slot in self._slots:
                held = slot.child
                if held is not None and held.in_batch and held.alive and held.resident_bytes() > END_AT * self._memory_bytes:
                    held.kill(f"it took more than {int(END_AT * self._memory_bytes) // MB} MB")
            processes.cut_log(self._spec.log)


def said_in_public(error: str) -> str:
    """``Type: message`` for whoever sent the request: the message's last line, with the folders of paths left out.

    >>> said_in_public("ValueError: Traceback …\\n  no such file: '/srv/home/model.bin'")
    "ValueError: no such file: '…/model.bin'"
    """
    kind, _, message = error.partition(": ")
    lines = message.strip().splitlines()
    return f"{kind}: {_FOLDERS.sub('…/', lines[-1].strip())}"[:1500] if lines else kind.strip()[:1500]
