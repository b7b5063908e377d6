"""What a run prints, while it runs and after: from the spool of ``andon run -- CMD``, then from the kept logs."""

from __future__ import annotations

import os
import re
from typing import IO, Literal

from sqlalchemy import select

from andon.core.addresses import Address
from andon.core.errors import InvalidInput, NotFound
from andon.operations.showing.run_records import LogPart
from andon.operations.showing.runs import read_rows
from andon.store import Store
from andon.store import schema as s
from andon.tracking.command import spool_of

Stream = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, ...] = ("stdout", "stderr")
CHUNK_BYTES = 256 * 1024
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CUT_ESCAPE = re.compile(rb"\x1b[^\n]{0,24}\Z")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def run_log(store: Store, run: str | Address, stream: Stream, *, offset: int | None = None, limit: int = CHUNK_BYTES) -> LogPart:
    """What a run printed from byte ``offset`` (default: near the end), at most ``limit`` bytes, without terminal escapes.

    A running command's output is read from its home, so it is only known to a server on the same machine; another client's run has none.
    Raises ``NotFound`` for the run.
    """
    at = Address.parse(run, kind="run")
    if offset is not None and offset < 0:
        raise InvalidInput("an offset is 0 or more bytes", field="offset", got=offset)
    with store.ledger.read() as connection:
        found = read_rows(connection, [at.name], now_us=store.clock.now_us(), values=False)
    if not found:
        raise NotFound(address=str(at))
    ended = found[0].status not in ("running", "scheduled")
    for attempt in (0, 1):  # the command may end, and its log move from the spool to the kept files, between two looks
        spooled = spool_of(store, at.name) / f"{stream}.log"
        try:
            descriptor = os.open(spooled, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            pass
        else:
            with os.fdopen(descriptor, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                return _part(file, stream, size, offset, limit, ended=ended)
        kept = _kept(store, at, stream)
        if kept is not None:
            digest, size = kept
            with store.blobs.open(digest) as file:
                return _part(file, stream, size, offset, limit, ended=True)
        if attempt == 1:
            break
    return LogPart(stream=stream, text="", next_offset=0, size_bytes=0, known=False, done=ended)


def _kept(store: Store, at: Address, stream: str) -> tuple[str, int] | None:
    a = s.artifacts.c
    query = select(a.digest, a.size_bytes).where(a.owner == str(at), a.path == f"logs/{stream}.log")
    with store.ledger.read() as connection:
        row = connection.execute(query).first()
    return None if row is None else (row.digest, row.size_bytes)


def _part(file: IO[bytes], stream: str, size: int, offset: int | None, limit: int, *, ended: bool) -> LogPart:
    start = max(0, size - limit) if offset is None else min(offset, size)
    file.seek(start)
    data = file.read(min(limit, size - start))
    if offset is None and start > 0:  # begin with a whole line
        cut = data.find(b"\n") + 1
        start, data = start + cut, data[cut:]
    last = start + len(data) >= size
    if not (ended and last):
        data = _whole(data)
    text = _CONTROLS.sub("", _ESCAPES.sub("", data.decode(errors="replace")))
    end = start + len(data)
    return LogPart(stream=stream, text=text, next_offset=end, size_bytes=size, known=True, done=ended and end >= size)


def _whole(data: bytes) -> bytes:
    """Without a character or a terminal escape that is cut at the end: it comes whole next time."""
    cut = _CUT_ESCAPE.search(data)
    if cut is not None and _ESCAPES.match(cut.group().decode("latin-1")) is None:
        data = data[: cut.start()]
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return data[:-back] if needed > back else data
    return data
