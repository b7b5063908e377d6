"""Several processes that take connections from one listening socket, evenly.

They share the socket itself and not only its port (``SO_REUSEPORT``): a connection that nobody has taken yet belongs to no process, so none
is lost when a process ends, and it waits in the kernel while there is no process at all. Left alone the sharing is poor: libuv takes all
that wait once it is woken (measured, two processes and 4 connections: 5 to 0 and half the throughput; 64 connections: 65 to 0). So each
takes one at a time, and lets the others go first for ``YIELD_S`` while it holds more than the least of them (64 connections: 33 to 32).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import os
import socket
import tempfile
from collections.abc import Callable

log = logging.getLogger("andon.serving")
YIELD_S = 0.002
FULL_S = 0.5
"""How long to leave connections waiting when this process may open no more files."""
SLOTS = 512
ABSENT = -1
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Board:
    """A page of memory that processes share: how many connections each holds, by slot; ``ABSENT`` where none takes any."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, SLOTS * 8)
        self._counts = memoryview(self._map).cast("q")

    @staticmethod
    def create() -> Board:
        """A new one, all absent."""
        with tempfile.TemporaryFile() as file:
            file.write((ABSENT).to_bytes(8, "little", signed=True) * SLOTS)
            file.flush()
            return Board(os.dup(file.fileno()))

    def put(self, slot: int, count: int) -> None:
        """Say how many connections a slot holds."""
        self._counts[slot] = count

    def least(self) -> int:
        """The fewest that any process holds which takes connections; 0 when there is none."""
        return min((count for count in self._counts if count != ABSENT), default=0)

    def close(self) -> None:
        """Let go of it."""
        self._counts.release()
        self._map.close()
        os.close(self.fd)


class Acceptor:
    """Takes connections, once started, until closed. ``held`` says how many this process holds, ``make`` makes a connection's protocol."""

    def __init__(
        self, listener: socket.socket, make: Callable[[], asyncio.Protocol], board: Board, slot: int, held: Callable[[], int]
    ) -> None:
        self._listener = listener
        self._make = make
        self._board = board
        self._slot = slot
        self._held = held
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None
        self._open = False

    @property
    def open(self) -> bool:
        """Whether it takes connections."""
        return self._open

    def start(self) -> None:
        """Begin."""
        if not self._open:
            self._open = True
            self.tell()
            self._loop.add_reader(self._listener.fileno(), self._ready)

    def close(self) -> None:
        """Take no more. What was taken stays; what waits is left to the others."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener.fileno())
            if self._later is not None:
                self._later.cancel()
            self._board.put(self._slot, ABSENT)

    async def wait_closed(self) -> None:
        """Until every connection that was taken has its protocol."""
        if self._arriving:
            await asyncio.wait(self._arriving)

    def tell(self) -> None:
        """Put this process's number on the board."""
        if self._open:
            self._board.put(self._slot, self._mine())

    def _mine(self) -> int:
        return self._held() + len(self._arriving)

    def _ready(self) -> None:
        if self._mine() > self._board.least():
            self._pause(YIELD_S)
        else:
            self._take()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._later = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._later = None
        self._loop.add_reader(self._listener.fileno(), self._ready)
        self._take()  # the others had their chance: whoever is busy or stuck must not keep a client waiting

    def _take(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _FULL:
                raise
            log.warning("no connection can be taken: %s", error)
            self._pause(FULL_S)
            return
        connection.setblocking(False)
        task: asyncio.Task[object] = self._loop.create_task(self._loop.connect_accepted_socket(self._make, connection))
        self._arriving.add(task)
        task.add_done_callback(self._arrived)
        self.tell()

    def _arrived(self, task: asyncio.Task[object]) -> None:
        self._arriving.discard(task)
        if not task.cancelled() and task.exception() is not None:  # the client has gone already
            log.debug("a connection was lost as it came: %s", task.exception())
