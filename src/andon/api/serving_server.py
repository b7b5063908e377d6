"""``andon serve SERVICE``: one front behind uvicorn (uvloop, httptools), with the limits that uvicorn leaves open, and an orderly end.

On SIGTERM the replica says so (``/health`` answers 503, every answer closes its connection) and goes on answering for ``LAME_DUCK_S``, so
that clients on kept-alive connections leave after an answer and not before one; then it stops listening and finishes what is in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from andon.api.serving_app import ServingApp
from andon.core.errors import PortTaken, Unavailable
from andon.core.settings import Settings
from andon.serving.environments import abandon
from andon.serving.front import Front

LAME_DUCK_S = 0.5
DRAIN_S = 30.0
KEEP_ALIVE_S = 75
READ_TIMEOUT_S = 20.0
"""A request that has not arrived whole by then (a slow-loris, or a body shorter than it said) is refused with 408."""
MAX_HEAD_BYTES = 64 * 1024


def serve(settings: Settings, service: str, *, host: str | None = None, port: int = 0, ready: Callable[[str], None] | None = None) -> None:
    """Serve ``service`` until SIGTERM or SIGINT. ``ready`` is called with the URL once it listens (default: print one line).

    Raises ``PortTaken``, and what ``open_store`` raises. A service whose channel points nowhere, or to a release that cannot be loaded,
    is served all the same: ``/health`` says why it is not ready, and the next move of the channel is followed.
    """
    from andon.store import open_store

    listener = listen(settings.host if host is None else host, port)
    with open_store(settings) as store:
        runner = asyncio.Runner(loop_factory=_loop_factory())
        with runner, contextlib.closing(listener):
            runner.run(_serve(Front(store, service), settings, listener, ready or announce(service)))


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises ``PortTaken``, or ``Unavailable`` for an address that is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"another process listens on port {port}", host=host, port=port) from None
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror or error}", host=host, port=port) from None
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a listening socket is reached."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # what to call, not what to bind
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def announce(service: str) -> Callable[[str], None]:
    """Print the one line that scripts wait for."""

    def say(url: str) -> None:
        sys.stdout.write(f"andon: service:{service} on {url}\n")
        sys.stdout.flush()

    return say


async def _serve(front: Front, settings: Settings, listener: socket.socket, ready: Callable[[str], None]) -> None:
    url = url_of(listener)
    await front.start(url)
    config = uvicorn.Config(
        ServingApp(front, settings),
        http=GuardedProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here looks at the client's address
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(DRAIN_S),
    )
    server = DrainingServer(config, front)
    sweeper = asyncio.get_running_loop().create_task(_sweep(server))
    follower = asyncio.get_running_loop().create_task(_tidy_up(front))
    try:
        ready(url)
        await server.serve(sockets=[listener])
    finally:
        for task in (sweeper, follower):
            task.cancel()
        abandon()  # or the end of this process would wait for pip
        await front.close()


class DrainingServer(uvicorn.Server):
    """uvicorn's server, with a lame-duck phase between the signal and the end."""

    def __init__(self, config: uvicorn.Config, front: Front) -> None:
        super().__init__(config)
        self._front = front
        self._ending: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        # Not kept in `_captured_signals`: an orderly end is exit code 0, so the signal is not raised again.
        if self._front.draining and sig == signal.SIGINT:
            self.force_exit = self.should_exit = True
            return
        self._loop.call_soon_threadsafe(self._begin_end)

    def _begin_end(self) -> None:
        if self._ending is None:
            self._front.draining = True
            self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        await asyncio.sleep(LAME_DUCK_S)
        self.should_exit = True


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a bound on the head of a request and a mark of when it began to arrive."""

    reading_since: float | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Corked(transport))  # type: ignore[arg-type]  # what uvicorn uses of a transport, it has
        self.reading_since = self.loop.time()

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]  # an answer to HEAD has no body to go out with
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.refuse(431, b"the head of this request is too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self.reading_since = self.loop.time()

    def on_headers_complete(self) -> None:
        self._in_head = False
        try:
            super().on_headers_complete()
        except httptools.HttpParserInvalidURLError:
            self.refuse(400, b"the path of this request cannot be read")

    def on_message_complete(self) -> None:
        self.reading_since = None
        super().on_message_complete()

    def refuse(self, status: int, why: bytes) -> None:
        """Answer without the application, if nothing was answered yet, and close."""
        if self.cycle is None or not self.cycle.response_started:
            body = b'{"error":{"code":"%s","message":"%s","next_step":null,"fields":{}}}' % (_CODES[status], why)
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


class _Corked:
    """A transport that sends the head of an answer together with its body: one system call and one packet instead of two."""

    __slots__ = ("_head", "_transport", "get_extra_info", "is_closing", "pause_reading", "resume_reading")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_FINAL) and data.endswith(b"\r\n\r\n"):
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        self.flush()
        self._transport.close()


_FINAL = (b"HTTP/1.1 2", b"HTTP/1.1 4", b"HTTP/1.1 5")  # not 1xx, which goes out at once
_CODES = {400: b"invalid-input", 408: b"timeout", 431: b"too-large"}


async def _sweep(server: uvicorn.Server) -> None:
    """Refuse requests that do not finish arriving: one look a second at all connections, and no timer for each."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(1.0)
        now = loop.time()
        for connection in list(server.server_state.connections):
            since = getattr(connection, "reading_since", None)
            if since is not None and now - since > READ_TIMEOUT_S and isinstance(connection, GuardedProtocol):
                connection.refuse(408, b"the request did not arrive in time")


async def _tidy_up(front: Front) -> None:
    """Once the first release is loaded, take what exists out of the garbage collector's view: its pauses would be requests' latency.

    What loading left free goes back to the system (glibc keeps about 8 MB otherwise).
    """
    while front.not_ready() is not None:
        await asyncio.sleep(0.1)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # a batch of requests makes some thousands of short-lived objects and no cycles
    with contextlib.suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # not on Windows
        logging.getLogger("andon.serving").warning("uvloop is not here; serving is slower without it")
        return None
    return uvloop.new_event_loop
