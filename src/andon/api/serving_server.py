"""``andon serve SERVICE``: one front behind uvicorn (uvloop, httptools), with the limits that uvicorn leaves open, and an orderly end.

On SIGTERM the replica says so (``/health`` answers 503, every answer closes its connection) and goes on answering for ``LAME_DUCK_S``, so
that clients on kept-alive connections leave after an answer and not before one; then it stops listening and finishes what is in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from andon.api.exchange import Exchange
from andon.api.handover import Handover, start_stand_in, take_signals, write_note
from andon.api.listening import DRAIN_S, LAME_DUCK_S, announce_grpc, inherit, listen, open_listener, terminal_gone, url_of
from andon.api.serving_app import ServingApp
from andon.api.starting import serve
from andon.core.settings import Settings
from andon.serving.callers import Caller
from andon.serving.environments import abandon
from andon.serving.front import Front
from andon.store import Store

__all__ = [
    "DrainingServer",
    "GuardedProtocol",
    "inherit",
    "listen",
    "open_listener",
    "serve",
    "serve_alone",
    "serve_front",
    "terminal_gone",
    "url_of",
]
log = logging.getLogger("andon.serving")
CHECK = "import andon.cli.serving, andon.api.serving_server, andon.api.zygote, andon.store.ledger, andon.store.tables"
"""What a program that is to replace this one must be able to import."""
SETTLED_S = 1.0
"""A front that is not loading anything after this time has another reason not to be ready."""
LOADING = "is being loaded"
READY_S = 180.0
"""How long the new program has to load what this one holds."""
GRPC_DRAIN_S = 5.0
"""How long calls that run may go on at the end; a stream that is open and idle ends then, too."""
KEEP_ALIVE_S = 75
READ_TIMEOUT_S = 20.0
"""A request that has not arrived whole by then (a slow-loris, or a body shorter than it said) is refused with 408."""
MAX_HEAD_BYTES = 64 * 1024


def serve_alone(
    store: Store, service: str, listener: socket.socket, say: Callable[[str], None], *, before: Handover | None, grpc_port: int | None
) -> Handover | None:
    """Serve in this process. Where the end is that of this program only, returns what the next one is to find."""
    kept = os.dup(listener.fileno())  # the server closes the one it has
    generation = before.generation if before is not None else 0
    if before is None or before.stands_in is None:
        write_note(store.settings, service, listener, generation=generation)
    else:
        grpc_port = None  # its port is the other's

    def server_of(config: uvicorn.Config, front: Front) -> DrainingServer:
        if before is not None and before.stands_in is not None:
            return StandIn(config, front, socket.socket(fileno=before.stands_in))
        server = DrainingServer(config, front, listener)
        server.stand_in = None if before is None else before.stand_in
        server.tell_problem = lambda why: write_note(store.settings, service, listener, generation=generation, problem=why)
        return server

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        front = Front(store, service)
        server = runner.run(serve_front(front, store.settings, listener, say, server_of, grpc_port=grpc_port, again=before is not None))
    return Handover(listener=kept, generation=generation + 1, stand_in=server.stand_in) if server.again else None


async def serve_front(
    front: Front,
    settings: Settings,
    listener: socket.socket,
    ready: Callable[[str], None],
    server_of: Callable[[uvicorn.Config, Front], DrainingServer],
    *,
    grpc_port: int | None = None,
    again: bool = False,
) -> DrainingServer:
    """Serve one front to its end. ``again``: connections wait already, and are taken once there is something to answer them with."""
    url = url_of(listener)
    await front.start(url)
    if again:
        await _loaded(front)
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
    server = server_of(config, front)
    if grpc_port is not None and server.others_answer:
        await _loaded(front)  # its port is shared: a call that came here would be refused, which another replica could answer
    grpc = None if grpc_port is None else await _start_grpc(front, settings, listener, grpc_port, shared=server.others_answer)
    sweeper = asyncio.get_running_loop().create_task(_sweep(server))
    follower = asyncio.get_running_loop().create_task(_tidy_up(front))
    try:
        ready(url)
        if grpc is not None and not server.others_answer:
            announce_grpc(front.service, grpc.port)
        await server.take_over()
        await server.serve(sockets=[listener])
    finally:
        for task in (sweeper, follower):
            task.cancel()
        if grpc is not None:
            await grpc.stop(GRPC_DRAIN_S)
        abandon()  # or the end of this process would wait for pip
        await front.close()
    return server


async def _loaded(front: Front) -> None:
    """Wait until the release is loaded, or there is a reason why it is not."""
    loop = asyncio.get_running_loop()
    least_s = loop.time() + SETTLED_S
    while (why := front.not_ready()) is not None and (why.endswith(LOADING) or loop.time() < least_s):
        await asyncio.sleep(0.005)


async def _start_grpc(front: Front, settings: Settings, listener: socket.socket, port: int, *, shared: bool) -> Any:
    """The gRPC server beside ``listener``. Its library takes 15 MB, so it is imported only here."""
    from andon.wire.openinference import grpc_server

    host = listener.getsockname()[0]
    return await grpc_server.start(front, host=host, port=port, max_bytes=settings.max_body_bytes, reuse_port=shared)


class DrainingServer(uvicorn.Server):
    """uvicorn's server, with a lame-duck phase between the signal and the end, and a way to begin again as a newer program."""

    others_answer = False
    """Whether other processes take connections from the same socket."""
    leaves_queue = False
    """Whether, in its end, it leaves new connections to them."""

    def __init__(self, config: uvicorn.Config, front: Front, listener: socket.socket | None = None) -> None:
        super().__init__(config)
        self._front = front
        self._own_listener = listener
        self.stand_in: tuple[int, int] | None = None
        """Process id and channel of who answers in this process's place."""
        self._ending: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.again = False
        """Whether the end is that of this program only."""
        self._checking: asyncio.Task[None] | None = None
        self._reaping: asyncio.Task[None] | None = None
        self.tell_problem: Callable[[str], None] = lambda _: None
        with contextlib.suppress(AttributeError, ValueError, RuntimeError):  # not on Windows, and not outside of the main thread
            self._loop.add_signal_handler(signal.SIGHUP, self._hung_up)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        # Not kept in `_captured_signals`: an orderly end is exit code 0, so the signal is not raised again.
        if self._front.draining and sig == signal.SIGINT:
            self.force_exit = self.should_exit = True
            return
        self._loop.call_soon_threadsafe(self.begin_end)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn, and then take the signals that came while this program replaced another."""
        with super().capture_signals():
            take_signals()
            yield

    def _hung_up(self) -> None:
        if self.others_answer:
            return  # its supervisor replaces it
        if terminal_gone():
            self.begin_end()
        elif self._checking is None or self._checking.done():
            self._checking = self._loop.create_task(self._replace())

    async def _replace(self) -> None:
        """See that the program as it is now installed can start; then end, for it to take over. Connections wait meanwhile."""
        check = await asyncio.create_subprocess_exec(sys.executable, "-c", CHECK, stderr=asyncio.subprocess.PIPE)
        _, said = await check.communicate()
        if check.returncode:
            why = said.decode(errors="replace").strip()[-800:]
            log.error("the program is not replaced, the new one does not start: %s", why)
            self.tell_problem(f"the new program does not start: {why}")
            return
        if self._front.not_ready() is None and not await self._make_stand_in():
            return
        self.again = True
        self.begin_end()

    async def _make_stand_in(self) -> bool:
        """Have the new program answer from another process, with all that is loaded here; whether it can. It takes over by and by, and what
        comes while this process is replaced is its business.
        """
        assert self._own_listener is not None
        pid, channel = start_stand_in(self._own_listener, 0)
        channel.setblocking(False)
        try:
            async with asyncio.timeout(READY_S):
                line = await self._loop.sock_recv(channel, 4096)
            why = "it ended" if not line else line.decode(errors="replace").strip()
        except TimeoutError:
            why = f"it was not ready in {READY_S:g} s"
        except OSError as error:
            why = str(error)
        if why:
            channel.close()
            self._reaping = self._loop.create_task(reap(pid))
            log.error("the program is not replaced, the new one cannot answer: %s", why)
            self.tell_problem(f"the new program cannot answer: {why}")
            return False
        self.stand_in = pid, channel.detach()
        return True

    async def take_over(self) -> None:
        """From who stands in: once this process can answer, or nobody else does."""
        if self.stand_in is None:
            return
        pid, number = self.stand_in
        self.stand_in = None
        with socket.socket(fileno=number) as channel:
            channel.setblocking(False)
            until_s = self._loop.time() + READY_S  # signals wait meanwhile
            while self._front.not_ready() is not None and self._loop.time() < until_s:
                with contextlib.suppress(BlockingIOError):
                    if not channel.recv(4096):
                        break
                await asyncio.sleep(0.01)
        self._reaping = self._loop.create_task(reap(pid))

    def begin_end(self) -> None:
        """Say that this is the end, and end a little later."""
        if self._ending is None:
            self._front.draining = True
            if self.again or self.leaves_queue:
                for server in self.servers:
                    server.close()  # the socket itself stays: who comes now waits there for the next program
            self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        until_s = self._loop.time() + LAME_DUCK_S
        if self.others_answer or self.again:  # nobody is turned away, so there is nothing to wait for but who is here
            while self.server_state.connections and self._loop.time() < until_s:
                await asyncio.sleep(0.01)
        else:
            await asyncio.sleep(LAME_DUCK_S)
        self.should_exit = True


class StandIn(DrainingServer):
    """Answers for a process that is being replaced, until that has closed the channel."""

    others_answer = True
    leaves_queue = True

    def __init__(self, config: uvicorn.Config, front: Front, channel: socket.socket) -> None:
        super().__init__(config, front)
        self._channel = channel

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer, if that is possible, and say so."""
        why = self._front.not_ready()
        if why is not None:
            self.should_exit = True
        else:
            await super().startup(sockets)
        self._channel.setblocking(False)
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._channel, " ".join((why or "").split()).encode()[:4000] + b"\n")
        self._watching = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        with contextlib.suppress(OSError):
            while await self._loop.sock_recv(self._channel, 4096):
                pass
        self.begin_end()


async def reap(pid: int) -> None:
    """Wait for the end of a process that another program started here."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            await asyncio.sleep(0.1)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a bound on the head of a request and a mark of when it began to arrive."""

    reading_since: float | None = None
    _head_bytes = 0
    _in_head = True
    _headed: object = None
    _head = b""
    caller: Caller | None = None
    idle_since: float | None = None
    """Since when nothing has been asked after an exchange; uvicorn has a timer of its own after its cycles."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Corked(transport))  # type: ignore[arg-type]  # what uvicorn uses of a transport, it has
        self.reading_since = self.loop.time()
        self.caller = Caller(self.client[0] if self.client else "")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.caller is not None:
            self.caller.leave()  # what it waits for is not run for nobody

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
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._head_bytes = 0
        self.idle_since = None
        self.reading_since = self.loop.time()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if (exchange := self._exchange()) is not None:
            self.cycle = exchange  # type: ignore[assignment]  # what uvicorn asks of a cycle, it has
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        self.scope["andon.caller"] = self.caller  # type: ignore[typeddict-unknown-key]
        try:
            super().on_headers_complete()
        except httptools.HttpParserInvalidURLError:
            self.refuse(400, b"the path of this request cannot be read")

    def _exchange(self) -> Exchange | None:
        """The short way for this request, if it fits."""
        cycle, parser = self.cycle, self.parser
        if (cycle is not None and not cycle.response_complete) or self.expect_100_continue:
            return None
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1" or parser.should_upgrade():
            return None
        app: ServingApp = self.app
        return app.exchange(self, self.url, self.headers, self.caller)

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if type(cycle) is Exchange:
            cycle.parts.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.reading_since = None
        cycle: Any = self.cycle
        if type(cycle) is Exchange:
            cycle.keep_alive = self.parser.should_keep_alive()
            cycle.run()
        else:
            super().on_message_complete()

    def answered(self) -> None:
        """An exchange has been answered: go on with what came behind it, or be idle."""
        if self.pipeline:
            self.on_response_complete()
        else:
            self.idle_since = self.loop.time()

    def default_head(self) -> bytes:
        """The headers that every answer has, such as the date."""
        headers = self.server_state.default_headers  # another list every second
        if headers is not self._headed:
            self._headed, self._head = headers, b"".join([b"%s: %s\r\n" % header for header in headers])
        return self._head

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
            idle = getattr(connection, "idle_since", None)
            if idle is not None and now - idle > KEEP_ALIVE_S:
                connection.transport.close()


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


def loop_factory() -> Any:
    """uvloop's, where there is one."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        log.warning("uvloop is not here; serving is slower without it")
        return None
    return uvloop.new_event_loop
