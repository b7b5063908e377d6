"""A front's row in ``replicas``: where it listens, what it runs, and why a deploy could not load. Writing it never delays a request."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Literal

import msgspec
from sqlalchemy import Connection, insert, update

from andon.store import Store
from andon.store.schema import replicas

Status = Literal["starting", "ready", "draining", "asleep", "gone"]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica holds and how much work it has: the JSON of the column ``load``."""

    holds: tuple[str, ...] = ()
    """The releases that are loaded here and well."""
    failing: dict[str, str] = {}
    """Releases that should be here and cannot answer, with the reason."""
    split_revision: int = 0
    """Which split this replica follows; 0 when there is none."""
    fallback: bool = False
    """Whether the split's lease has run out here, and production answers everything."""
    queued_rows: int = 0
    queued_s: float = 0.0
    """Predicted seconds until what waits and what runs is done."""
    in_flight: int = 0
    """Requests that are not answered yet."""
    rows_s: float = 0.0
    """Rows answered a second, since the last heartbeat."""
    rss_mb: float = 0.0


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What the row should say."""

    url: str = ""
    status: Status = "starting"
    release: str | None = None
    note: str = ""
    load: Load = Load()

    def urgent(self) -> tuple[object, ...]:
        """What is written as soon as it changes; the rest goes with the heartbeat."""
        load = self.load
        return self.url, self.status, self.release, self.note, load.holds, load.failing, load.split_revision, load.fallback


class Presence:
    """Keeps the row. At most one write is on its way; a ledger that stalls or refuses only makes the row old."""

    def __init__(self, store: Store, service: str) -> None:
        self.id = store.ids.new()
        self._store = store
        self._service = service
        self._started_us = store.clock.now_us()
        self._pending: Future[None] | None = None
        self.error: str | None = None
        """Why the last write failed, while it did."""

    def write(self, state: State) -> bool:
        """Send the row on its way; False when an earlier write has not come back yet. Never raises."""
        if self._pending is not None and not self._pending.done():
            return False
        if self._pending is not None:
            problem = self._pending.exception()
            self.error = None if problem is None else str(problem)
        now_us = self._store.clock.now_us()
        values = {"url": state.url, "release": state.release, "status": state.status, "note": state.note[:4000], "seen_us": now_us}
        values["load"] = msgspec.json.encode(state.load).decode()

        def work(connection: Connection) -> None:
            done = connection.execute(update(replicas).where(replicas.c.id == self.id).values(**values))
            if not done.rowcount:
                fixed = {"id": self.id, "service": self._service, "pid": os.getpid(), "started_us": self._started_us}
                connection.execute(insert(replicas).values(**fixed, **values))

        try:
            self._pending = self._store.ledger.submit(work)
        except Exception as error:  # noqa: BLE001  # a front goes on without its ledger, whatever that raises
            self._pending = None
            self.error = str(error)
        return True

    def settle(self, timeout_s: float) -> None:
        """Wait a moment for the last write."""
        if self._pending is not None:
            try:
                self._pending.exception(timeout_s)
            except TimeoutError:
                self.error = "the ledger did not answer"
