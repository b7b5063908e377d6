"""The steps' cache: what a call returned, by the digests of its code and arguments. Small states in the ledger; large values are blobs."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from andon.core.digests import canonical_json
from andon.core.errors import NotFound
from andon.registry import resolve_in
from andon.store import Store
from andon.store import schema as s
from andon.tracking.records import ReadInput

PREFETCH = 2_000
MAX_INLINE_BYTES = 256 * 1024


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """A remembered call: the form of what it returned, the datasets that it read, and the run that did it."""

    outputs: Any
    reads: tuple[ReadInput, ...] = ()
    run: str = ""


class StepCache:
    """The cache of one pipeline. The newest entries are read at once when a run begins; a lookup is then a dictionary's."""

    def __init__(self, store: Store, pipeline: str) -> None:
        self._store = store
        self._prefix = f"step-cache/{pipeline}/"
        with store.ledger.read() as connection:
            query = select(s.cursors.c.name, s.cursors.c.state).where(
                s.cursors.c.name >= self._prefix, s.cursors.c.name < self._prefix[:-1] + "0"
            )
            rows = connection.execute(query.order_by(s.cursors.c.moved_us.desc()).limit(PREFETCH)).all()
        self._newest = {row.name: row.state for row in rows}
        self._whole = len(rows) < PREFETCH

    def find(self, key: str) -> Cached | None:
        """The remembered call, unless a dataset that it read by alias means another version now."""
        name = self._prefix + key
        state = self._newest.get(name)
        if state is None:
            if self._whole:
                return None
            with self._store.ledger.read() as connection:
                state = connection.execute(select(s.cursors.c.state).where(s.cursors.c.name == name)).scalar()
            if state is None:
                return None
        found = msgspec.json.decode(state, type=Cached)
        if found.reads:
            with self._store.ledger.read() as connection:
                if not all(_means_the_same(connection, item) for item in found.reads):
                    return None
        return found

    def put_in(self, connection: Connection, key: str, value: Cached, *, now_us: int) -> None:
        """Remember a call, inside the caller's transaction."""
        name = self._prefix + key
        values = {"state": canonical_json(value), "moved_us": now_us}
        revision = connection.execute(select(s.cursors.c.revision).where(s.cursors.c.name == name)).scalar()
        if revision is None:
            connection.execute(insert(s.cursors).values(name=name, revision=1, **values))
        else:
            connection.execute(update(s.cursors).where(s.cursors.c.name == name).values(revision=revision + 1, **values))


def forget(store: Store, pipeline: str) -> int:
    """Empty a pipeline's cache; returns how many calls were remembered."""
    prefix = f"step-cache/{pipeline}/"

    def work(connection: Connection) -> int:
        made = connection.execute(delete(s.cursors).where(s.cursors.c.name >= prefix, s.cursors.c.name < prefix[:-1] + "0"))
        return int(made.rowcount)

    return store.ledger.write(work)


def _means_the_same(connection: Connection, item: ReadInput) -> bool:
    try:
        return str(resolve_in(connection, item.asked)) == item.address
    except NotFound:
        return False
