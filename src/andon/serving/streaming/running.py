"""``andon stream SERVICE``: a front, the logs, the loop, and a small HTTP port with the metrics; ended by SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from andon.core.actors import Actor
from andon.core.errors import InvalidInput
from andon.serving.environments import abandon
from andon.serving.front import Front
from andon.serving.jobs import Job
from andon.serving.streaming.endpoints import Endpoint, open_log
from andon.serving.streaming.loop import Streamer, StreamOptions
from andon.serving.streaming.records import StreamLog
from andon.store import Store

MAX_HEAD_BYTES = 8_192
READ_S = 5.0

Ready = Callable[[Streamer, str], None]


async def stream(
    store: Store,
    service: str,
    source: Endpoint,
    target: Endpoint,
    options: StreamOptions,
    *,
    actor: Actor,
    dead: Endpoint | None = None,
    metrics_port: int | None = None,
    ready: Ready = lambda *_: None,
) -> Job:
    """Run until a signal. ``ready`` is called with the streamer and the metrics' URL (empty without a port) once it begins.

    ``dead`` is where messages go that cannot be answered (default: the source's topic with ``.dead``). Raises ``InvalidInput`` when two of
    the three are one topic.
    """
    dead = dead or source.beside(f"{source.topic}.dead")
    if len({(one.engine, one.server, one.topic) for one in (source, target, dead)}) < 3:
        raise InvalidInput("source, target and dead letters are three topics", field="to", got=target.shown)
    consumer = store.ids.new()
    opened: list[tuple[Endpoint, StreamLog]] = []
    for endpoint in (source, target, dead):
        same = next((log for other, log in opened if other.same_log(endpoint)), None)
        opened.append((endpoint, same or open_log(store, endpoint, consumer=consumer)))
    front = Front(store, service)
    await front.start()
    streamer = Streamer(store, front, options, source=opened[0], target=opened[1], dead=opened[2], actor=actor)
    loop = asyncio.get_running_loop()
    handled = [number for number in (signal.SIGTERM, signal.SIGINT) if _handle(loop, number, streamer.stop)]
    try:
        async with _metrics(front, streamer, metrics_port) as url:
            ready(streamer, url)
            return await streamer.run()
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
        for _, log in {id(log): (endpoint, log) for endpoint, log in opened}.values():
            await log.close()
        abandon()
        await front.close()


def _handle(loop: asyncio.AbstractEventLoop, number: int, stop: Callable[[], None]) -> bool:
    try:
        loop.add_signal_handler(number, stop)
    except (RuntimeError, ValueError, NotImplementedError):  # not the main thread: whoever runs us says when to stop
        return False
    return True


@contextlib.asynccontextmanager
async def _metrics(front: Front, streamer: Streamer, port: int | None):  # type: ignore[no-untyped-def]
    """``/metrics`` and ``/health`` on a loopback port; nothing when there is no port."""
    if port is None:
        yield ""
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            async with asyncio.timeout(READ_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_page(front, streamer, head.split(b" ")[1] if head.count(b" ") > 1 else b""))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, limit=MAX_HEAD_BYTES)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def _page(front: Front, streamer: Streamer, path: bytes) -> bytes:
    status, kind, body = b"404 Not Found", b"text/plain", b"there is /metrics and /health\n"
    if path == b"/metrics":
        status, kind = b"200 OK", b"text/plain; version=0.0.4"
        body = (streamer.metrics.text() + front.metrics_text()).encode()
    elif path == b"/health":
        why = front.not_ready() or streamer.metrics.problem
        status, body = (b"503 Service Unavailable", f"{why}\n".encode()) if why else (b"200 OK", b"ok\n")
    return b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (status, kind, len(body), body)
