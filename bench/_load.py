"""A load generator: many kept-alive HTTP connections in one uvloop, one request at a time on each (a closed loop)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """Sends the next request as soon as an answer is whole; ``answered`` gets the head, the body and the seconds it took."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._data = b""
        self._sent_s = 0.0
        self._waiting = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        request = self._load.request()
        if request is None:
            self._transport.close()
            return
        self._waiting = True
        self._sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        split = self._data.find(b"\r\n\r\n")
        if split < 0:
            return
        found = _LENGTH.search(self._data, 0, split)
        end = split + 4 + (int(found[1]) if found else 0)
        if len(self._data) < end:
            return
        self._waiting = False
        self._load.answered(self._data[:split], self._data[split + 4 : end], self._sent_s, time.perf_counter())
        self._data = self._data[end:]
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._waiting:
            self._load.dropped += 1
        if not self.done.done():
            self.done.set_result(None)


class Load:
    """``make`` gives the next request's bytes (None: no more); ``see``, if given, looks at each answer (head, body, sent, received)."""

    def __init__(self, make: Callable[[], bytes | None], see: Callable[[bytes, bytes, float, float], None] | None = None) -> None:
        self._make = make
        self._see = see
        self.stopped = False
        self.dropped = 0
        self.failed = 0
        self.latencies_s: list[float] = []

    def request(self) -> bytes | None:
        return None if self.stopped else self._make()

    def answered(self, head: bytes, body: bytes, sent_s: float, received_s: float) -> None:
        if head[9:12] != b"200":
            self.failed += 1
            return
        self.latencies_s.append(received_s - sent_s)
        if self._see is not None:
            self._see(head, body, sent_s, received_s)

    async def run(self, port: int, connections: int, seconds: float) -> None:
        """Drive ``connections`` for ``seconds``, then wait for the last answers."""
        loop = asyncio.get_running_loop()
        opened = [(await loop.create_connection(lambda: Connection(self), "127.0.0.1", port))[1] for _ in range(connections)]
        await asyncio.sleep(seconds)
        self.stopped = True
        await asyncio.wait([connection.done for connection in opened], timeout=10)


def post(path: str, body: bytes) -> bytes:
    """A request as bytes."""
    return b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        path.encode(),
        len(body),
        body,
    )


def quantile(values: list[float], share: float) -> float:
    """The value that ``share`` of ``values`` do not exceed; NaN when there are none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
