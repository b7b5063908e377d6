"""Files in and out of requests, piece by piece: what is being hashed and written, or read, is a step away from what the network does."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import unicodedata
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote

from andon.core.errors import AndonError
from andon.store import Store
from andon.store.ports import Incoming
from andon.tracking import Artifact
from andon.tracking.artifacts import media_type_of
from andon.wire.mlflow.errors import WireError

log = logging.getLogger("andon.wire")
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
S = TypeVar("S", bound=Incoming)
BATCH_BYTES = 1 << 20
SMALL_BYTES = 64 << 10
"""A file up to this size is read on the event loop, in less time than a thread takes to wake."""
IDLE_S = 120.0
LET_FINISH_S = 5.0
SANDBOX = b"sandbox; default-src 'none'; frame-ancestors 'none'"
_TEXT = frozenset(
    "txt log err cfg conf cnf cf ini properties prop hocon toml yaml yml xml json js py py3 csv tsv md rst ipynb MLmodel MLproject".split()  # noqa: SIM905
)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Gone(Exception):
    """The client left in the middle."""


async def take(receive: Receive, open_sink: Callable[[], S], limit: int) -> S:
    """Read a body into a sink, which is dropped when that fails. Raises ``Gone``, ``WireError``, and what the sink raises."""
    loop = asyncio.get_running_loop()
    sink = await loop.run_in_executor(None, open_sink)
    writing: asyncio.Future[None] | None = None
    batch: list[bytes] = []
    waiting, left, more = 0, limit, True
    try:
        async with asyncio.timeout(IDLE_S) as idle:
            while more:
                piece, more = await next_piece(receive)
                idle.reschedule(loop.time() + IDLE_S)
                batch.append(piece)
                waiting += len(piece)
                left -= len(piece)
                if left < 0:
                    await let_finish(receive)
                    raise too_large(limit)
                if waiting >= BATCH_BYTES or not more:
                    if writing is not None:
                        await writing
                    writing = loop.run_in_executor(None, sink.write, batch)
                    batch, waiting = [], 0
        if writing is not None:
            await writing
    except BaseException as error:  # whatever ends it, nothing is left behind; then it goes on its way
        if writing is not None:
            await asyncio.wait([writing])
            writing.cancelled() or writing.exception()
        await loop.run_in_executor(None, sink.drop)
        if isinstance(error, TimeoutError):
            raise WireError("BAD_REQUEST", f"nothing of the body came for {IDLE_S:.0f} s", 408) from None
        raise
    return sink


async def next_piece(receive: Receive) -> tuple[bytes, bool]:
    """What came of a body, and whether there is more. Raises ``Gone``."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Gone
    return message.get("body", b""), message.get("more_body", False)


async def let_finish(receive: Receive) -> None:
    """Read on for a while and keep nothing, so that the client is not still sending when the answer comes."""
    with suppress(TimeoutError, Gone):
        async with asyncio.timeout(LET_FINISH_S):
            while (await next_piece(receive))[1]:
                pass


def too_large(limit: int) -> WireError:
    """A body beyond the limit."""
    return WireError("INVALID_PARAMETER_VALUE", f"a file has at most {limit} bytes here (the setting max_artifact_bytes)", 413)


async def give(store: Store, file: Artifact, headers: dict[bytes, bytes], receive: Receive, send: Send, *, head: bool = False) -> None:
    """Answer with a file, or the one range of it that was asked for. Raises ``NotFound`` or ``CorruptBytes`` while nothing is sent yet.

    Damage that shows later ends the connection before the last piece, so that no client takes what it has for the whole.
    """
    etag = f'"{file.digest.removeprefix("b3:")}"'.encode()
    said = [
        (b"content-type", wire_type(file.path).encode()),
        (b"content-disposition", disposition(file.path).encode()),
        (b"content-security-policy", SANDBOX),
        (b"cache-control", b"no-cache"),
        (b"accept-ranges", b"bytes"),
        (b"etag", etag),
    ]
    if headers.get(b"if-none-match") == etag:
        await _start(send, 304, said)
        await send({"type": "http.response.body", "body": b""})
        return
    size, span = file.size_bytes, None
    if b"range" in headers and headers.get(b"if-range", etag) == etag:
        span = one_range(headers[b"range"].decode("latin-1"), size)
    if span == ():
        await _start(send, 416, [(b"content-range", b"bytes */%d" % size), (b"content-length", b"0")])
        await send({"type": "http.response.body", "body": b""})
        return
    start, stop = span or (0, size)
    if span:
        said.append((b"content-range", b"bytes %d-%d/%d" % (start, stop - 1, size)))
    said.append((b"content-length", b"%d" % (stop - start)))
    if head:
        await _start(send, 206 if span else 200, said)
        await send({"type": "http.response.body", "body": b""})
    elif size <= SMALL_BYTES:
        data = store.blobs.get(file.digest)
        await _start(send, 206 if span else 200, said)
        await send({"type": "http.response.body", "body": data[start:stop]})
    else:
        await _give_pieces(store, file, (start, stop) if span else (0, None), stop - start, receive, send, said)


async def _give_pieces(
    store: Store, file: Artifact, span: tuple[int, int | None], size: int, receive: Receive, send: Send, said: list[tuple[bytes, bytes]]
) -> None:
    loop = asyncio.get_running_loop()
    pieces: Iterator[bytes] = await loop.run_in_executor(None, store.blobs.pieces, file.digest, *span)
    leaving = asyncio.ensure_future(_left(receive))
    reading: asyncio.Future[bytes | None] = loop.run_in_executor(None, next, pieces, None)
    try:
        piece = await reading
        await _start(send, 206 if (span[1] is not None) else 200, said)
        while piece is not None and not leaving.done():
            reading = loop.run_in_executor(None, next, pieces, None)
            size -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": size > 0})
            try:
                piece = await reading
            except AndonError:
                log.exception(
                    "a download of %s broke off", file.digest
                )  # the headers are out: to end in the middle is all that can be said
                return
    finally:
        leaving.cancel()
        await asyncio.wait([reading])
        reading.cancelled() or reading.exception()
        with suppress(AttributeError):  # memory's pieces are a plain iterator
            pieces.close()  # type: ignore[attr-defined]


async def _left(receive: Receive) -> None:
    with suppress(Gone):
        while True:
            await next_piece(receive)


async def _start(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


def one_range(text: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """Start and stop of a ``Range`` header; empty: there is no such part; None: all of it, as for what is no single range of bytes.

    >>> one_range("bytes=2-4", 11), one_range("bytes=-3", 11), one_range("bytes=50-", 11), one_range("lines=1-2", 11)
    ((2, 5), (8, 11), (), None)
    """
    found = _RANGE.fullmatch(text.strip())
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    return (start, stop) if start < stop else ()


def wire_type(path: str) -> str:
    """The media type that the protocol gives a name: what people read is plain text."""
    name = os.path.basename(path)  # noqa: PTH119 - a name, not a path on this machine
    extension = os.path.splitext(name)[1].replace(".", "") or name  # noqa: PTH122
    return "text/plain" if extension in _TEXT else media_type_of(name)


def disposition(path: str) -> str:
    """``Content-Disposition``: an attachment, named in ASCII and, where that loses something, in UTF-8 too (RFC 6266).

    >>> disposition("plots/loss.png"), disposition("é b.bin")
    ('attachment; filename="loss.png"', 'attachment; filename="e b.bin"; filename*=UTF-8\\'\\'%C3%A9%20b.bin')
    """
    name = path.rpartition("/")[2]
    simple = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().replace("\\", "_").replace('"', '\\"') or "download"
    return f'attachment; filename="{simple}"' + ("" if name.isascii() else f"; filename*=UTF-8''{quote(name, safe='')}")
