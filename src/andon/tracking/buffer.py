"""Points on their way to the ledger: gathered in memory, sent in batches, acknowledged by ``flush``."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from andon.core.errors import Busy, Unavailable
from andon.tracking.records import Point

BATCH = 1_000
MAX_IN_FLIGHT = 8
MAX_WAITING = 200_000
Send = Callable[[list[Point]], "Future[None]"]


class PointBuffer:
    """Batches of at most ``BATCH`` points, at most ``MAX_IN_FLIGHT`` of them unacknowledged: then ``add`` waits for the oldest.

    A batch that the ledger could not take (``Unavailable``) is kept and sent again by the next ``flush``; the error is raised by the next
    call either way. Writing a point twice changes nothing, so sending again is safe when the first try did commit.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = threading.RLock()
        self._waiting: list[Point] = []
        self._in_flight: deque[tuple[list[Point], Future[None]]] = deque()
        self._error: Exception | None = None

    def add(self, points: list[Point]) -> None:
        """Take points; returns at once unless too many are unacknowledged. Raises what an earlier batch met."""
        with self._lock:
            if len(self._waiting) + len(points) > MAX_WAITING:
                raise Busy("too many points wait for a ledger that does not answer", waiting=len(self._waiting))
            self._waiting += points
            if len(self._waiting) >= BATCH:
                self._submit()
                while len(self._in_flight) > MAX_IN_FLIGHT:
                    self._settle_oldest()
            self._raise()

    def push(self) -> None:
        """Send what waits, without waiting for it; errors are kept for the next ``add`` or ``flush``. Called by the run's own thread."""
        with self._lock:
            while self._in_flight and self._in_flight[0][1].done():
                self._settle_oldest()
            if self._error is None:
                self._submit()

    def flush(self) -> None:
        """Send everything and wait: on return every point given so far is durable. Raises the first error met; nothing is dropped."""
        with self._lock:
            self._error = None
            self._submit()
            while self._in_flight:
                self._settle_oldest()
            self._raise()

    def _submit(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                self._in_flight.append((batch, self._send(batch)))
            except Unavailable as error:
                self._keep(batch, error)
                return

    def _settle_oldest(self) -> None:
        batch, future = self._in_flight.popleft()
        try:
            future.result()
        except Unavailable as error:
            self._keep(batch, error)
        except Exception as error:  # noqa: BLE001 - raised to the caller by `_raise`; this batch can never be written (a deleted run)
            self._error = self._error or error

    def _keep(self, batch: list[Point], error: Exception) -> None:
        self._waiting = batch + self._waiting
        self._error = self._error or error

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
