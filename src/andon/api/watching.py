"""Small notices of change for open pages: one thread polls the ledger while anybody listens. They say what moved, never what to."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, func, select

from andon.core.clocks import SECOND_US
from andon.core.errors import AndonError, Busy
from andon.store import Store
from andon.store import schema as s

log = logging.getLogger("andon.api")
POLL_S = 0.25
BEAT_S = 10.0
MAX_LISTENERS = 100
MAX_NAMED = 50
OTHER = "other"
SLACK_US = 10 * SECOND_US
"""Events of other processes may become visible a little after later ones."""


class Notice(msgspec.Struct, frozen=True):
    """What may have changed: addresses of streams and subjects, and the sorts ``aliases``, ``other``, ``registry``, ``replicas``,
    ``runs``, ``tags`` and ``verdicts``."""

    seq: int
    changed: tuple[str, ...]


class Watcher:
    """Tells listeners of changes. ``start`` inside the event loop that serves; ``stop`` ends every stream, cleanly, from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: set[asyncio.Queue[Notice | None]] = set()
        self._welcomed: set[asyncio.Queue[Notice | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._seq = 0

    def start(self) -> None:
        """Begin to watch. The thread sleeps while nobody listens."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._watch, name="andon-watcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the streams of all who listen, then the thread. May be called twice."""
        self._stopping = True
        self._wake.set()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(2.0)

    async def listen(self, *, beat_s: float = BEAT_S) -> AsyncIterator[Notice | None]:
        """Notices as they come; None is a heartbeat. The first names nothing: whatever is written after it will be told.

        Raises ``Busy`` when too many listen. Ends when the server stops.
        """
        if len(self._listeners) >= MAX_LISTENERS:
            raise Busy("too many pages listen already", limit=MAX_LISTENERS)
        queue: asyncio.Queue[Notice | None] = asyncio.Queue(maxsize=64)
        self._listeners.add(queue)
        self._wake.set()
        try:
            while not self._stopping:
                try:
                    notice = await asyncio.wait_for(queue.get(), beat_s)
                except TimeoutError:
                    yield None
                    continue
                if notice is None:
                    return
                yield notice
        finally:
            self._listeners.discard(queue)
            self._welcomed.discard(queue)

    def _welcome(self, queues: set[asyncio.Queue[Notice | None]]) -> None:
        fresh = (queues & self._listeners) - self._welcomed
        self._welcomed |= fresh
        for queue in fresh:
            self._put(queue, Notice(self._seq, ()))

    def _tell(self, notice: Notice | None) -> None:
        for queue in list(self._listeners):
            self._put(queue, notice)

    @staticmethod
    def _put(queue: asyncio.Queue[Notice | None], notice: Notice | None) -> None:
        if queue.full():  # a page that reads too slowly loses the oldest: each notice only says "look again"
            queue.get_nowait()
        queue.put_nowait(notice)

    def _watch(self) -> None:
        seen: int | None = None
        marks = _Marks()
        while not self._stopping:
            if not self._listeners:
                self._wake.wait()
                self._wake.clear()
                seen = None
                continue
            new = self._listeners.copy() - self._welcomed  # taken before the look: what moves after it is theirs to be told
            try:
                now = self._store.ledger.changes()
                if now != seen:
                    changed = marks.advance(self._store)
                    if seen is not None and changed is not None and self._loop is not None and not self._stopping:
                        self._seq += 1
                        self._loop.call_soon_threadsafe(self._tell, Notice(self._seq, changed))
                    seen = now
                if new and self._loop is not None and not self._stopping:
                    self._loop.call_soon_threadsafe(self._welcome, new)
            except AndonError as error:  # a ledger that is away comes back; until then there is nothing to tell
                log.warning("the ledger cannot be watched: %s", error)
                seen = None
                self._wake.wait(2.0)
            except Exception:  # whatever broke must not silence every page for good: say so, and look again
                if self._loop is None or self._loop.is_closed():
                    return
                log.exception("watching the ledger failed")
                seen = None
                self._wake.wait(2.0)
            self._wake.wait(POLL_S)
            self._wake.clear()


def _newest(connection: Connection, column: ColumnElement[int]) -> tuple[int, int] | None:
    """The newest time in an indexed column and how many rows have it: two may fall into one microsecond."""
    newest: int | None = connection.execute(select(func.max(column))).scalar()
    if newest is None:
        return None
    return newest, connection.execute(select(func.count()).where(column == newest)).scalar_one()


class _Marks:
    """How far each journal had come when last looked at."""

    def __init__(self) -> None:
        self._marks: dict[str, Any] = {}
        self._events: set[tuple[str, int]] = set()
        self._since_us = 0

    def advance(self, store: Store) -> tuple[str, ...] | None:
        """What moved since the last call; ``other`` for what is not journaled (points of a run, heartbeats); None the first time."""
        first = not self._marks
        now_us = store.clock.now_us()
        with store.ledger.read() as c:
            e, r = s.events, s.replicas
            # Not when they were last seen: that moves all the time, and says nothing new.
            alive = select(r.c.id, r.c.status, r.c.release, r.c.note).where(r.c.status != "gone")
            recent = c.execute(
                select(e.c.stream, e.c.n).where(e.c.at_us >= self._since_us if not first else e.c.at_us >= now_us - SLACK_US)
            ).all()
            found = {(row.stream, row.n) for row in recent}
            named = {stream for stream, _ in found - self._events}
            marks = {
                "aliases": c.execute(select(func.max(s.alias_moves.c.seq))).scalar(),
                "tags": c.execute(select(func.max(s.tag_changes.c.seq))).scalar(),
                "verdicts": c.execute(select(func.max(s.verdicts.c.id))).scalar(),
                "registry": _newest(c, s.versions.c.created_us),
                "runs": (_newest(c, s.runs.c.started_us), c.execute(select(func.max(s.series.c.id))).scalar()),
                "replicas": [tuple(row) for row in c.execute(alive)],
            }
        moved = {key for key, value in marks.items() if value != self._marks.get(key)}
        self._marks, self._events = marks, found
        self._since_us = max(now_us - SLACK_US, 0)
        return None if first else tuple(sorted(named | moved))[:MAX_NAMED] or (OTHER,)
