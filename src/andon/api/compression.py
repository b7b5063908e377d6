"""Compressed bodies, in both directions, in bounded memory: a small body that unpacks to more than the cap is refused, not unpacked."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Literal

from andon.core.errors import InvalidInput, TooLarge

Encoding = Literal["gzip", "deflate"]
MIN_BYTES = 1024
"""Smaller answers go out as they are: they would hardly shrink."""
INLINE_BYTES = 128 * 1024
"""Larger bodies are worked on by a thread, beside the event loop."""
MAX_MEMBERS = 16
"""Each costs a copy of what follows it, so a body made of millions of empty ones would never end."""
_SMALL_PACKED = 1024
"""A compressed body this small unpacks to about 1 MB at the most (deflate shrinks at most 1032 times): a millisecond."""
_LEVEL = 1
_WINDOW: dict[Encoding, int] = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def encoding_of(value: bytes) -> Encoding | None:
    """What a ``Content-Encoding`` header says; None for none. Raises ``InvalidInput`` for another."""
    name = value.strip().lower()
    if name in (b"", b"identity"):
        return None
    if name in (b"gzip", b"x-gzip"):
        return "gzip"
    if name == b"deflate":
        return "deflate"
    raise InvalidInput(
        "a body is compressed with gzip or deflate, or not at all", field="content-encoding", got=value.decode("latin-1")[:40]
    )


def accepted(value: bytes) -> Encoding | None:
    """The best of what an ``Accept-Encoding`` header takes: gzip before deflate; None for neither (RFC 9110, section 12.5.3)."""
    takes: dict[bytes, bool] = {}
    for item in value.lower().split(b","):
        name, _, weight = item.partition(b";")
        takes[name.strip()] = weight.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    if takes.get(b"gzip", takes.get(b"*", False)):
        return "gzip"
    return "deflate" if takes.get(b"deflate", False) else None


async def unpack(body: bytes, encoding: Encoding, cap: int) -> bytes:
    """A compressed body as it was. Raises ``TooLarge`` past ``cap`` bytes, and ``InvalidInput`` when it is damaged or cut short."""
    if len(body) < _SMALL_PACKED:
        return inflate(body, encoding, cap)
    return await asyncio.to_thread(inflate, body, encoding, cap)


def inflate(body: bytes, encoding: Encoding, cap: int) -> bytes:
    """See ``unpack``."""
    made: list[bytes] = []
    size = 0
    for _ in range(MAX_MEMBERS):
        stream = zlib.decompressobj(_WINDOW[encoding])
        try:
            part = stream.decompress(body, cap + 1 - size)
        except zlib.error as error:
            raise InvalidInput(f"the body is not {encoding}: {error}", field="content-encoding") from None
        size += len(part)
        made.append(part)
        if size > cap:
            raise TooLarge(f"a body has at most {cap} bytes once it is unpacked", next_step="send it in parts, or raise `max_body_bytes`")
        if not stream.eof:
            raise InvalidInput(f"the body is {encoding} and ends too early", field="content-encoding")
        body = stream.unused_data
        if not body:
            return made[0] if len(made) == 1 else b"".join(made)
        if encoding == "deflate":
            raise InvalidInput("bytes follow the end of the deflate stream", field="content-encoding")
    raise InvalidInput(f"a gzip body has at most {MAX_MEMBERS} members", field="content-encoding")


async def pack(body: bytes, encoding: Encoding) -> bytes:
    """A body, compressed."""
    if len(body) < INLINE_BYTES:
        return deflate(body, encoding)
    return await asyncio.to_thread(deflate, body, encoding)


def deflate(body: bytes, encoding: Encoding) -> bytes:
    """See ``pack``."""
    return gzip.compress(body, _LEVEL, mtime=0) if encoding == "gzip" else zlib.compress(body, _LEVEL)
