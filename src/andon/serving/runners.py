"""Runners execute one release's batches: in the front's own process for code-free models, else in a child process.

A runner takes and returns *columns*: ``dict[str, numpy.ndarray]``, each with one entry for each of ``n`` rows (a second dimension is a
vector per row). Errors: ``ModelFailed`` when the model or the release's code raised, ``RunnerDied`` when the process that ran it ended.

A request's error goes to a stranger: it has the exception's type and the last line of its message, no traceback and no folder of this
machine. The whole traceback is in the replica's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from andon.core.errors import LoadFailed, ModelFailed, Unavailable
from andon.serving import child
from andon.serving.environments import tail

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

log = logging.getLogger("andon.serving")
INLINE_S = 0.000_5
"""A batch that is expected to take no longer runs on the event loop itself: a thread would cost more than it frees."""
RESTART_DELAYS_S = (0.0, 0.2, 1.0, 5.0, 15.0)
LOG_TAIL_BYTES = 4_000
_FOLDERS = re.compile(r"(?<![\w.:/])(?:/|[A-Za-z]:\\)(?:[^\s'\"/\\:,;()<>]+[/\\])+")


class RunnerDied(Unavailable):
    """The process that runs this release ended in the middle of a batch."""

    code = "runner-died"


class Runner(Protocol):
    """Executes batches of one loaded release."""

    @property
    def healthy(self) -> bool:
        """Whether a batch would run now."""
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


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What ``child.load_model`` needs, as it crosses to the child."""

    format: str
    path: str
    entry: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    flags: tuple[str, ...] = ()


class InProcessRunner:
    """A code-free model (ONNX) in this process, one thread per session.

    How long a batch takes is learnt as a + b n from the runs themselves; cheap batches run inline, the others on one thread of its own.
    """

    def __init__(self, spec: ModelSpec) -> None:
        try:
            self._predict = child.load_model(msgspec.to_builtins(spec))
        except Exception as error:
            # Whatever the library raises on a file it cannot read; the caller keeps the old release.
            raise LoadFailed(f"the model could not be loaded: {type(error).__name__}: {error}"[:1500]) from error
        self._cost = _Cost()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="andon-model")

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
            log.warning("the model failed", exc_info=error)
            raise ModelFailed(f"the model failed: {said_in_public(f'{type(error).__name__}: {error}')}") from error
        self._cost.learn(n, time.perf_counter() - started)
        return outputs

    async def run(self, columns: Columns, n: int) -> Columns:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.run_now, columns, n)

    async def close(self) -> None:
        self._thread.shutdown(wait=False)


class _Cost:
    """Seconds per batch as a + b n: exponentially forgotten least squares. Unknown counts as dear."""

    __slots__ = ("_n", "_nn", "_nt", "_t", "_w")

    def __init__(self) -> None:
        self._w = self._n = self._nn = self._t = self._nt = 0.0

    def learn(self, n: int, seconds: float) -> None:
        keep = 0.98
        self._w = self._w * keep + 1.0
        self._n = self._n * keep + n
        self._nn = self._nn * keep + n * n
        self._t = self._t * keep + seconds
        self._nt = self._nt * keep + n * seconds

    def predict_s(self, n: int) -> float:
        if not self._w:
            return float("inf")
        mean_n, mean_t = self._n / self._w, self._t / self._w
        variance = self._nn / self._w - mean_n * mean_n
        if variance <= 1e-9 * max(1.0, mean_n * mean_n):  # only one size seen: as if all the time were per row, when asked for more
            return mean_t * max(1.0, n / max(mean_n, 1.0))
        slope = max(0.0, (self._nt / self._w - mean_n * mean_t) / variance)
        return max(0.0, mean_t + slope * (n - mean_n))


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How to start a child and what it loads."""

    python: str
    model: ModelSpec
    log: str
    """File that takes the child's stdout and stderr."""
    code: str | None = None
    transform: str | None = None
    pins: dict[str, str] = {}
    load_timeout_s: float = 60.0
    batch_timeout_s: float = 30.0
    restart_wait_s: float = 5.0
    """How long a request waits for a process that is being started again."""


class ChildRunner:
    """A model, and the release's own code, in a process of the release's own Python.

    The process is started again, with growing delays, when it ends. A batch that it dies on raises ``RunnerDied``; the caller decides
    about a second try. A batch over ``batch_timeout_s`` ends the process and raises ``ModelFailed``.
    """

    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: _Wire | None = None
        self._turn = asyncio.Lock()  # one batch at a time
        self._deaths = 0
        self._not_before = 0.0
        self._restart: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def healthy(self) -> bool:
        return self._wire is not None and not self._wire.lost.done()

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._process.pid if self._process is not None else None

    def cheap(self, n: int) -> bool:  # noqa: ARG002  # a process is never this thread
        return False

    def run_now(self, columns: Columns, n: int) -> Columns:
        raise NotImplementedError("a child never runs on the caller's thread")

    async def start(self) -> None:
        """Start the process and load the release. Raises ``LoadFailed`` with the traceback's or the log's tail."""
        spec = self._spec
        wire = await self._connect()
        header = {
            "op": "load",
            "model": msgspec.to_builtins(spec.model),
            "code": spec.code,
            "transform": spec.transform,
            "pins": spec.pins,
        }
        try:
            reply, _ = await wire.ask(header, (), spec.load_timeout_s)
        except asyncio.CancelledError:  # nobody wants this release any more
            wire.close()  # which ends the process, too
            raise
        except (RunnerDied, TimeoutError) as error:
            await self._end(wire)
            why = (
                f"loading took longer than {spec.load_timeout_s:g} s"
                if isinstance(error, TimeoutError)
                else "its process ended while loading"
            )
            raise LoadFailed(f"the release could not be loaded: {why}", log=self.log_tail()) from None
        if not reply["ok"]:
            await self._end(wire)
            raise LoadFailed(f"the release could not be loaded: {reply['error']}", traceback=reply["traceback"])
        self._wire = wire
        wire.lost.add_done_callback(self._on_lost)

    async def _connect(self) -> _Wire:
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.to_thread(_spawn, self._spec, theirs)
            ours.setblocking(False)
            _, wire = await asyncio.get_running_loop().create_unix_connection(_Wire, sock=ours)
        except BaseException as error:
            ours.close()  # the child ends when nobody is at the other end
            if isinstance(error, OSError):
                raise LoadFailed(f"the release's Python did not start: {error}", python=self._spec.python) from error
            raise
        finally:
            theirs.close()
        return wire

    async def run(self, columns: Columns, n: int) -> Columns:
        async with self._turn:
            wire = await self._ready()
            specs, buffers = child.pack(columns)
            try:
                reply, body = await wire.ask({"op": "run", "n": n, "columns": specs}, buffers, self._spec.batch_timeout_s)
            except TimeoutError:
                await self._end(wire)
                raise ModelFailed(f"a batch of {n} rows took longer than {self._spec.batch_timeout_s:g} s; its process was ended") from None
            if not reply["ok"]:
                log.warning("the release's code failed (all of it in %s)\n%s", self._spec.log, reply["traceback"])
                raise ModelFailed(f"the release's code failed: {said_in_public(reply['error'])}")
            self._deaths = 0
            return child.unpack(reply["columns"], body)

    async def close(self) -> None:
        self._closed = True
        if self._restart is not None:
            self._restart.cancel()
        if self._wire is not None:
            await self._end(self._wire)

    def log_tail(self) -> str:
        """The end of what the child printed."""
        try:
            with Path(self._spec.log).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                return tail(file.read().decode(errors="replace"))
        except OSError:
            return ""

    async def _ready(self) -> _Wire:
        if self._wire is None or self._wire.lost.done():
            if self._restart is None:
                self._begin_restart()
            restart = self._restart
            assert restart is not None
            done, _ = await asyncio.wait((restart,), timeout=self._spec.restart_wait_s)
            if not done or self._wire is None or self._wire.lost.done():
                log.warning("the process that runs this release has not come back yet (%s)\n%s", self._spec.log, self.log_tail())
                raise Unavailable("the process that runs this release ended and has not come back yet")
        return self._wire

    def _on_lost(self, _: object) -> None:
        if not self._closed:
            self._begin_restart()

    def _begin_restart(self) -> None:
        if self._restart is not None or self._closed:
            return
        delay = RESTART_DELAYS_S[min(self._deaths, len(RESTART_DELAYS_S) - 1)]
        self._deaths += 1
        self._restart = asyncio.get_running_loop().create_task(self._start_again(delay))

    async def _start_again(self, delay_s: float) -> None:
        try:
            await asyncio.sleep(delay_s)
            old, self._wire = self._wire, None
            if old is not None:
                await self._end(old)
            await self.start()
        except LoadFailed as error:
            _note(self._spec.log, f"andon: the restart failed: {error}\n")
        finally:
            self._restart = None

    async def _end(self, wire: _Wire) -> None:
        process, self._process = self._process, None
        wire.close()
        if process is not None:
            await asyncio.to_thread(_kill, process)


class _Wire(asyncio.Protocol):
    """The front's end of a child's socket: one question at a time."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._transport: Any = None
        self._data = bytearray()
        self._answer: asyncio.Future[tuple[dict[str, Any], bytearray]] | None = None

    async def ask(self, header: dict[str, Any], buffers: Sequence[Any], timeout_s: float) -> tuple[dict[str, Any], bytearray]:
        """Send one frame and wait for its answer. Raises ``RunnerDied`` or ``TimeoutError``."""
        if self.lost.done():
            raise RunnerDied
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(child.frame(header, buffers))
        async with asyncio.timeout(timeout_s):
            return await self._answer

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) < child.FRAME.size:
            return
        head_size, body_size = child.FRAME.unpack_from(self._data)
        if len(self._data) < child.FRAME.size + head_size + body_size or self._answer is None or self._answer.done():
            return
        split = child.FRAME.size + head_size
        header = msgspec.json.decode(self._data[child.FRAME.size : split])
        body = self._data[split:]
        self._data = bytearray()
        self._answer.set_result((header, body))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # why does not matter: the process is gone
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RunnerDied())
        if not self.lost.done():
            self.lost.set_result(None)


def said_in_public(error: str) -> str:
    """``Type: message`` for whoever sent the request: the message's last line, with the folders of paths left out.

    >>> said_in_public("ValueError: Traceback …\\n  no such file: '/srv/home/model.bin'")
    "ValueError: no such file: '…/model.bin'"
    """
    kind, _, message = error.partition(": ")
    lines = message.strip().splitlines()
    return f"{kind}: {_FOLDERS.sub('…/', lines[-1].strip())}"[:1500] if lines else kind.strip()[:1500]


def _spawn(spec: ChildSpec, theirs: socket.socket) -> subprocess.Popen[bytes]:
    Path(spec.log).parent.mkdir(parents=True, exist_ok=True)
    environment = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        **os.environ,
    }  # boosters of two releases on two cores crawl otherwise
    with Path(spec.log).open("ab") as log:
        return subprocess.Popen(
            [spec.python, "-I", "-u", child.__file__, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()  # it holds nothing that would need an orderly end
    process.wait()


def _note(path: str, text: str) -> None:
    with contextlib.suppress(OSError), Path(path).open("a", encoding="utf-8") as log:
        log.write(text)
