"""The process that replicas are forked from: it has imported what a replica needs, and done nothing else.

Imports are most of a cold start. A fork has them at once, and shares their memory until it writes there. What would not survive a fork
is not here: no ledger is open, no event loop exists, and no thread runs, which is checked and said. NumPy's BLAS and Arrow's jemalloc would
start threads as they are imported and are told not to; ONNX Runtime cannot be told, takes 25 ms, and is left to the replica.

Started as ``python -m andon.api.zygote FD``: its supervisor's socket pair, where its plan comes first (settings may hold a password, so
they are no argument), then orders, each with a replica's channel as a file descriptor. Answers are lines of JSON. It ends when its
supervisor closes the channel; the replicas go on.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import msgspec

from andon.api.starting import spare
from andon.core.settings import Settings

QUIET = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Keeps libraries from starting threads while they are imported; taken back before the first fork."""
WANTED = "ANDON_ZYGOTE_ENVIRONMENT"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a zygote is told when it starts. Numbers of file descriptors."""

    settings: Settings
    service: str
    listener: int
    board: int
    grpc_port: int | None = None
    command: tuple[str, ...] = ()
    """How the supervisor was started."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Fork one replica."""

    number: int
    slot: int


class Word(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a zygote says: that it is ready, that a replica lives, or that one could not be forked, or has ended."""

    ready: bool = False
    threads: int = 1
    number: int | None = None
    pid: int | None = None
    problem: str = ""
    ended: int | None = None
    """A process id."""
    status: int = 0
    """Its exit code, negative for a signal."""


def start_zygote(plan: Plan, ours: socket.socket, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """A zygote in a session of its own, so that a Ctrl-C in the terminal reaches replicas only by way of their supervisor, in order."""
    kept = {name: os.environ.get(name) for name in QUIET}
    environment = os.environ | QUIET | {WANTED: msgspec.json.encode(kept).decode()}
    ours.send(msgspec.json.encode(plan))
    command = [sys.executable, "-m", "andon.api.zygote", str(theirs.fileno())]
    descriptors = (plan.listener, plan.board, theirs.fileno())
    return subprocess.Popen(command, pass_fds=descriptors, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)


def preload() -> None:
    """Import what every replica needs."""
    import numpy as np  # noqa: F401
    import pyarrow as pa  # noqa: F401
    import sqlalchemy.dialects.sqlite  # noqa: F401
    import uvicorn.lifespan.off  # noqa: F401
    import uvloop  # noqa: F401

    import andon.api.replica
    import andon.api.supervising  # what an upgrade goes on with: if it cannot be imported, that must show now
    import andon.logs.exposures
    import andon.logs.predictions
    import andon.store.blobs.local
    import andon.store.ledger.opening
    import andon.store.ledger.sqlite
    import andon.store.tables.files  # noqa: F401


def main(text: str) -> None:
    """Import, say so, then fork when told to."""
    channel = socket.socket(fileno=int(text))
    channel.setblocking(True)
    plan = msgspec.json.decode(channel.recv(1 << 20), type=Plan)
    for descriptor in (plan.listener, plan.board, channel.fileno()):
        os.set_inheritable(descriptor, False)  # a replica's own children get none of these
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its end is that of the channel
    logging.captureWarnings(False)
    spare()
    preload()
    _restore_environment()
    gc.collect()
    gc.freeze()  # what is here stays: a collection in a replica would only copy the pages it looks at
    _say(channel, Word(ready=True, threads=_threads()))
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    with selectors.DefaultSelector() as waiting:
        waiting.register(channel, selectors.EVENT_READ)
        waiting.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is channel:
                    if not _obey(plan, channel, (woken, wake)):
                        return
                else:
                    os.read(woken, 4096)
                    _reap(channel)


def _obey(plan: Plan, channel: socket.socket, pipe: tuple[int, int]) -> bool:
    try:
        data, descriptors, _, _ = socket.recv_fds(channel, 65_536, 1)
    except ConnectionError:
        return False
    if not data:
        return False
    order = msgspec.json.decode(data, type=Order)
    (descriptor,) = descriptors
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        pid = os.fork()
    except OSError as error:  # no memory, or too many processes
        _say(channel, Word(number=order.number, problem=str(error)))
        os.close(descriptor)
        return True
    if pid == 0:
        _become(plan, order, descriptor, (channel.detach(), *pipe))
    os.close(descriptor)
    _say(channel, Word(number=order.number, pid=pid))
    return True


def _become(plan: Plan, order: Order, descriptor: int, unwanted: tuple[int, ...]) -> NoReturn:
    """In the child: be a replica. Never returns to the code of the zygote."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for end in unwanted:
            os.close(end)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        import numpy as np

        from andon.api.accepting import Board
        from andon.api.replica import Place, run_replica

        np.random.seed()  # or every replica's legacy generator gives the same numbers
        os.set_inheritable(descriptor, False)
        place = Place(
            settings=plan.settings,
            service=plan.service,
            number=order.number,
            slot=order.slot,
            grpc_port=plan.grpc_port,
            command=plan.command,
        )
        with socket.socket(fileno=plan.listener) as listener, socket.socket(fileno=descriptor) as channel:
            listener.setblocking(False)
            run_replica(place, listener, channel, Board(plan.board))
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  # whatever it was, this process must not run the zygote's code
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _reap(channel: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(channel, Word(ended=pid, status=os.waitstatus_to_exitcode(status)))


def _say(channel: socket.socket, word: Word) -> None:
    with contextlib.suppress(OSError):  # the supervisor has gone; the next look at the channel ends this
        channel.sendall(msgspec.json.encode(word) + b"\n")


def _restore_environment() -> None:
    kept = msgspec.json.decode(os.environ.pop(WANTED, "{}"), type=dict[str, str | None])
    for name, value in kept.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _threads() -> int:
    folder = Path("/proc/self/task")
    return len(list(folder.iterdir())) if folder.is_dir() else 1


if __name__ == "__main__":
    main(sys.argv[1])
