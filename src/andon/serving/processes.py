"""One process that runs a release's batches: started, asked one batch at a time, ended with everything that it started.

The process leads a group of its own, in an empty private folder, with few environment variables. It ends when this
process ends, however that happens: the kernel is asked to (``PR_SET_PDEATHSIG``), and it watches its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.errors import LoadFailed, Unavailable
from andon.serving import child
from andon.serving.environments import tail
from andon.serving.limits import RunnerLimits, environment_of, for_child

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

FOLDER = "andon-run-"
DAY_S = 86_400.0
LOG_TAIL_BYTES = 4_000
MAX_LOG_BYTES = 10_000_000
KEPT_LOG_BYTES = 100_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class RunnerDied(Unavailable):
    """The process that runs this release ended in the middle of a batch."""

    code = "runner-died"


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What ``child.load_model`` needs, as it crosses to the child."""

    format: str
    path: str
    entry: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    flags: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    """The outputs that have a shape; ``[n, 1]`` means ``[n]`` for the others."""


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How to start a child and what it loads."""

    python: str
    model: ModelSpec
    log: str
    """File that takes the child's stdout and stderr; over 10 MB its older part is cut off."""
    code: str | None = None
    transform: str | None = None
    pins: dict[str, str] = {}
    limits: RunnerLimits = RunnerLimits()
    restart_wait_s: float = 5.0
    """How long a request waits for a process that is being started again."""
    uses: tuple[str, ...] = ()
    """Folders (environment, files) that are marked as in use while the runner lives."""


class Child:
    """A started process that has loaded its release. Make it with ``open_child``."""

    def __init__(self, spec: ChildSpec, process: subprocess.Popen[bytes], wire: _Wire, folder: str) -> None:
        self.spec = spec
        self.rss_bytes = 0
        """Resident memory as of the last answer."""
        self.in_batch = False
        self.ended_for: str | None = None
        """Why this process was ended from here."""
        self._process: subprocess.Popen[bytes] | None = process
        self._wire = wire
        self._folder = folder
        self._pidfd = _watch_process(process.pid, wire)

    @property
    def pid(self) -> int | None:
        """The process id, until it was ended."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        return not self._wire.lost.done()

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the process is gone."""
        return self._wire.lost

    async def ask(self, header: dict[str, Any], buffers: Sequence[Any], timeout_s: float) -> tuple[dict[str, Any], bytearray]:
        """One question and its answer. Raises ``RunnerDied`` or ``TimeoutError``."""
        reply, body = await self._wire.ask(header, buffers, timeout_s)
        self.rss_bytes = reply.get("rss", 0)
        return reply, body

    def resident_bytes(self) -> int:
        """Resident memory now, of the process itself; 0 where that cannot be told."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_bytes().split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            return 0

    def kill(self, why: str) -> None:
        """End the process at once; the batch that it is at raises ``RunnerDied``, and ``ended_for`` says why."""
        self.ended_for = why
        if self._process is not None:
            child.end_all_of(self._process.pid)
        self._wire.lose()

    async def end(self) -> None:
        """End the process and all that it started, and clear up behind it."""
        process, self._process = self._process, None
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if process is not None:
            await asyncio.get_running_loop().run_in_executor(None, _end, process, self._folder)
        self._wire.close()


async def open_child(spec: ChildSpec) -> Child:
    """Start a process and load the release in it. Raises ``LoadFailed`` with the traceback's or the log's tail."""
    opened = await _connect(spec)
    try:
        header = {
            "op": "load",
            "model": msgspec.to_builtins(spec.model),
            "code": spec.code,
            "transform": spec.transform,
            "pins": spec.pins,
            "limits": for_child(spec.limits),
        }
        reply, _ = await opened.ask(header, (), spec.limits.load_timeout_s)
    except (RunnerDied, TimeoutError) as error:
        await opened.end()
        why = "its process ended while loading"
        if isinstance(error, TimeoutError):
            why = f"loading took longer than {spec.limits.load_timeout_s:g} s"
        raise LoadFailed(f"the release could not be loaded: {why}", log=log_tail(spec.log)) from None
    except BaseException:  # nobody wants this release any more
        await asyncio.shield(opened.end())
        raise
    if not reply["ok"]:
        await opened.end()
        raise LoadFailed(f"the release could not be loaded: {said(reply)}", traceback=reply["traceback"])
    return opened


def said(reply: dict[str, Any]) -> str:
    """What a reply says went wrong: the stage, where it is known, and the error."""
    stage = reply.get("stage")
    return f"{stage} failed: {reply['error']}" if stage else str(reply["error"])


async def _connect(spec: ChildSpec) -> Child:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    folder = tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-")
    process = None
    try:
        process = await loop.run_in_executor(_spawner(), _spawn, spec, theirs, folder)
        ours.setblocking(False)
        _, wire = await loop.create_unix_connection(_Wire, sock=ours)
    except BaseException as error:
        ours.close()  # the child ends when nobody is at the other end
        if process is None:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise LoadFailed(f"the release's Python did not start: {error}", python=spec.python) from error
        raise
    finally:
        theirs.close()
    return Child(spec, process, wire, folder)


@lru_cache(maxsize=1)
def _spawner() -> ThreadPoolExecutor:
    """The one thread that starts processes: the kernel ends them with the *thread* that started them, so it must live as long as this."""
    sweep(Path(tempfile.gettempdir()), time.time())
    return ThreadPoolExecutor(1, thread_name_prefix="andon-spawn")


def sweep(root: Path, now_s: float) -> None:
    """Remove the private folders of processes whose front was killed: a day old, and nobody has the number in their name any more."""
    for folder in root.glob(f"{FOLDER}*-*"):
        owner = folder.name.removeprefix(FOLDER).partition("-")[0]
        with contextlib.suppress(OSError):
            if not Path("/proc", owner).exists() and now_s - folder.stat().st_mtime > DAY_S:
                shutil.rmtree(folder, ignore_errors=True)


def _spawn(spec: ChildSpec, theirs: socket.socket, folder: str) -> subprocess.Popen[bytes]:
    Path(spec.log).parent.mkdir(parents=True, exist_ok=True)
    with Path(spec.log).open("ab") as log:
        return subprocess.Popen(
            [spec.python, "-I", "-u", child.__file__, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment_of(spec.limits, folder, os.environ),
            process_group=0,  # a signal to its group reaches what it starts; a session would also be scheduled as a group of its own
        )


def _watch_process(pid: int, wire: _Wire) -> int | None:
    """Notice the end of the process itself: what it started may hold its end of the socket open. None where the kernel cannot say."""
    try:
        pidfd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(pidfd)
        wire.lose()

    loop.add_reader(pidfd, ended)
    return pidfd


def _end(process: subprocess.Popen[bytes], folder: str) -> None:
    child.end_all_of(process.pid)  # it holds nothing that would need an orderly end
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


class _Wire(asyncio.Protocol):
    """The front's end of a child's socket: one question at a time."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: Any = None
        self._data = bytearray()
        self._numbers = itertools.count(1)
        self._asked = 0
        self._answer: asyncio.Future[tuple[dict[str, Any], bytearray]] | None = None

    async def ask(self, header: dict[str, Any], buffers: Sequence[Any], timeout_s: float) -> tuple[dict[str, Any], bytearray]:
        """Send one frame and wait for its answer. Raises ``RunnerDied`` or ``TimeoutError``."""
        if self.lost.done():
            raise RunnerDied
        self._answer = asyncio.get_running_loop().create_future()
        self._asked = header["id"] = next(self._numbers)
        self._transport.write(child.frame(header, buffers))
        async with asyncio.timeout(timeout_s):
            return await self._answer

    def close(self) -> None:
        self._transport.close()
        self.lose()

    def lose(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RunnerDied())
        if not self.lost.done():
            self.lost.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= child.FRAME.size:
            head_size, body_size = child.FRAME.unpack_from(self._data)
            split = child.FRAME.size + head_size
            if len(self._data) < split + body_size:
                return
            header = msgspec.json.decode(memoryview(self._data)[child.FRAME.size : split])
            body = self._data[split : split + body_size]
            del self._data[: split + body_size]
            # An answer to a question whose asker was cancelled meanwhile is nobody's.
            if header.get("id") == self._asked and self._answer is not None and not self._answer.done():
                self._answer.set_result((header, body))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # why does not matter: the process is gone
        self.lose()


def log_tail(path: str) -> str:
    """The end of what a child printed."""
    try:
        with Path(path).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return tail(file.read().decode(errors="replace"))
    except OSError:
        return ""


def cut_log(path: str) -> None:
    """Keep a log short: over ``MAX_LOG_BYTES`` only the end of it stays. The child goes on writing behind that."""
    with contextlib.suppress(OSError):
        if Path(path).stat().st_size <= MAX_LOG_BYTES:
            return
        with Path(path).open("rb+") as file:
            file.seek(-KEPT_LOG_BYTES, os.SEEK_END)
            kept = file.read(KEPT_LOG_BYTES)
            file.truncate(0)
        note(path, f"andon: what was printed before this was cut off, since it was over {MAX_LOG_BYTES} bytes\n")
        with Path(path).open("ab") as file:
            file.write(kept)


def note(path: str, text: str) -> None:
    """Add Andon's own line to a child's log."""
    with contextlib.suppress(OSError), Path(path).open("a", encoding="utf-8") as log:
        log.write(text)
