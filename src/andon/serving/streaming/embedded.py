"""The embedded log: topics in the ledger, so a stream needs no broker, and a commit is one transaction.

**Exactly once.** A group's position and what was produced of its messages are kept in the same transaction, under a compare-and-swap of the
position. After a kill at any moment both are there or neither; a consumer that was thought dead and wakes up loses the comparison. One
consumer of a group is active at a time (a lease); the others stand by and take over when it ends or goes silent.

**Deliveries.** Who takes a group over says so at its position: the message there has come once more. Progress starts the count anew, and
who ends in order takes its own back, so it counts the consumers that fell there.

Records stay until ``trim``. The same id in the same topic is kept once, for as long as the first is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from sqlalchemy import select

from andon.core.clocks import SECOND_US
from andon.core.errors import AndonError, Conflict, LeaseHeld, Unavailable
from andon.serving.streaming.records import Capabilities, Message, Produced, Record
from andon.store import Store
from andon.store.leases import Cursor, move_cursor, read_cursor, release_lease, take_lease
from andon.store.schema import cursors
from andon.store.statements import places, rows_of, run_sql
from andon.tracking.liveness import holder, is_alive

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")
POLL_S = 0.01
LEASE_US = 15 * SECOND_US
RENEW_S = 4.0
IN_ONE = 500


class EmbeddedLog:
    """Topics in a store's ledger."""

    capabilities = Capabilities(transactional=True, deduplicates=True, fenced=True)

    def __init__(self, store: Store) -> None:
        self._store = store
        self._holder = f"{store.ids.new()}|{holder()}"
        self._renewed_s: dict[str, float] = {}
        self._committed: dict[str, Cursor] = {}  # of groups whose lease is ours: nobody else moves these
        self._ahead: dict[str, int] = {}  # the last position fetched here

    async def open(self) -> None:
        """See ``StreamLog.open``. The store is open already."""

    async def close(self) -> None:
        """See ``StreamLog.close``."""
        for name in list(self._renewed_s):
            del self._renewed_s[name]
            self._ahead.pop(name, None)
            with contextlib.suppress(AndonError):  # the ledger is gone: the lease runs out by itself
                await self._write(lambda c, name=name: self._leave(c, name))  # type: ignore[misc]
            self._committed.pop(name, None)

    async def put(self, topic: str, records: Sequence[Record]) -> None:
        """See ``StreamLog.put``."""
        now_us = self._store.clock.now_us()
        await self._write(lambda c: add_in(c, [(topic, record) for record in records], now_us=now_us))

    async def fetch(self, topic: str, group: str, most: int, wait_s: float) -> list[Message]:
        """See ``StreamLog.fetch``. None while another consumer of the group is active."""
        until = time.monotonic() + wait_s
        name = cursor_name(topic, group)
        seen: int | None = None
        while True:
            if await self._is_mine(name):
                changes = self._store.ledger.changes()
                if changes != seen:
                    seen = changes
                    messages = await asyncio.to_thread(self._next, topic, name, most)
                    if messages:
                        self._ahead[name] = int(messages[-1].position)
                        return messages
            left = until - time.monotonic()
            if left <= 0:
                return []
            await asyncio.sleep(min(left, POLL_S))

    async def commit(self, topic: str, group: str, messages: Sequence[Message], produced: Produced = ()) -> None:
        """See ``StreamLog.commit``. Raises ``Conflict`` when another consumer of the group has moved on meanwhile."""
        if not messages:
            return
        name = cursor_name(topic, group)
        positions = [int(message.position) for message in messages]
        committed = self._committed.get(name)
        if committed is None or min(positions) > _position(committed) + 1:
            raise Conflict("what comes before these messages is not finished", topic=topic, group=group)
        last = max(positions)
        now_us = self._store.clock.now_us()

        def work(connection: Connection) -> None:
            move_cursor(connection, name, {"n": last}, expected=committed.revision, now_us=now_us)
            add_in(connection, produced, now_us=now_us)

        try:
            await self._write(work)
        except Conflict:
            self._forget(name)
            raise
        self._committed[name] = Cursor(committed.revision + 1, {"n": last})

    async def lag(self, topic: str, group: str) -> int:
        """See ``StreamLog.lag``."""
        name = cursor_name(topic, group)
        return await asyncio.to_thread(self._behind, topic, name)

    def _behind(self, topic: str, name: str) -> int:
        with _reached(), self._store.ledger.read() as connection:
            after = _position(read_cursor(connection, name))
            return int(rows_of(connection, "select count(*) from stream_records where topic = ? and n > ?", (topic, after))[0][0])

    def _next(self, topic: str, name: str, most: int) -> list[Message]:
        with _reached(), self._store.ledger.read() as connection:
            if name not in self._committed:
                self._committed[name] = read_cursor(connection, name)
            cursor = self._committed[name]
            after = max(_position(cursor), self._ahead.get(name, 0))
            found = _messages(connection, topic, after, most)
        if found and after == _position(cursor) and _starts(cursor) > 1:  # the first is what the others may have fallen at
            found[0] = msgspec.structs.replace(found[0], deliveries=_starts(cursor))
        return found

    def _take(self, connection: Connection, name: str, now_us: int, alive: Callable[[str], bool]) -> Cursor | None:
        """Take or renew a group's lease; the group's new state when it was not ours before."""
        take_lease(connection, name, self._holder, now_us=now_us, for_us=LEASE_US, alive=alive)
        if name in self._renewed_s:
            return None
        cursor = read_cursor(connection, name)
        state = {"n": _position(cursor), "starts": _starts(cursor) + 1}
        move_cursor(connection, name, state, expected=cursor.revision, now_us=now_us)
        return Cursor(cursor.revision + 1, state)

    def _leave(self, connection: Connection, name: str) -> None:
        """Let go of a group in order: this start is not one that fell."""
        cursor = self._committed.get(name)
        release_lease(connection, name, self._holder)
        if cursor is not None and _starts(cursor) and read_cursor(connection, name).revision == cursor.revision:
            state = {"n": _position(cursor), "starts": _starts(cursor) - 1}
            move_cursor(connection, name, state, expected=cursor.revision, now_us=self._store.clock.now_us())

    def _forget(self, name: str) -> None:
        """Begin again where the group is, whoever moved it."""
        self._committed.pop(name, None)
        self._ahead.pop(name, None)

    async def _is_mine(self, name: str) -> bool:
        """Take or renew the group's lease, every few seconds."""
        if time.monotonic() - self._renewed_s.get(name, -RENEW_S) < RENEW_S:
            return True
        now_us = self._store.clock.now_us()
        alive: Callable[[str], bool] = lambda held: is_alive(held.partition("|")[2], now_us + 1, now_us=now_us)  # noqa: E731
        try:
            taken = await self._write(lambda c: self._take(c, name, now_us, alive))
        except LeaseHeld:
            self._renewed_s.pop(name, None)
            self._forget(name)
            await asyncio.sleep(POLL_S * 10)
            return False
        self._renewed_s[name] = time.monotonic()
        if taken is not None:
            self._forget(name)
            self._committed[name] = taken
        return True

    async def _write(self, work: Callable[[Connection], T]) -> T:
        try:
            return await asyncio.wrap_future(self._store.ledger.submit(work))
        except AndonError as error:
            if isinstance(error, Conflict | Unavailable):
                raise
            raise Unavailable(f"the embedded log cannot be written: {error.message}", **error.fields) from error


class _reached:  # noqa: N801  # reads as the phrase it is
    """Turns whatever the ledger's driver raises while it is away into ``Unavailable``."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, AndonError):
            raise Unavailable(f"the embedded log cannot be read: {error}"[:500]) from error


_NEXT = "select n, id, key, value, headers from stream_records where topic = ? and n > ? order by n limit ?"
_ADD = "insert into stream_records (topic, n, id, key, value, headers, at_us) values (?, ?, ?, ?, ?, ?, ?)"


def records(store: Store, topic: str, *, after: int = 0, most: int = 1_000) -> list[Message]:
    """The records of a topic after position ``after``, whoever has finished them."""
    with _reached(), store.ledger.read() as connection:
        return _messages(connection, topic, after, most)


def _messages(connection: Connection, topic: str, after: int, most: int) -> list[Message]:
    return [
        Message(
            topic=topic,
            position=str(n),
            record=Record(id=id_, key=key, value=bytes(value), headers=msgspec.json.decode(headers) if headers else {}),
        )
        for n, id_, key, value, headers in rows_of(connection, _NEXT, (topic, after, most))
    ]


def cursor_name(topic: str, group: str) -> str:
    """Where a group's position in a topic is kept, and the lease of its active consumer."""
    return f"stream/{group}@{topic}"


def add_in(connection: Connection, produced: Produced, *, now_us: int) -> int:
    """Add records inside the caller's transaction; how many were new."""
    by_topic: dict[str, dict[str, Record]] = {}
    for topic, record in produced:
        by_topic.setdefault(topic, {}).setdefault(record.id, record)
    added = 0
    for topic, records in by_topic.items():
        ids = list(records)
        known: set[str] = set()
        for start in range(0, len(ids), IN_ONE):
            some = ids[start : start + IN_ONE]
            query = f"select id from stream_records where topic = ? and id in ({places(len(some))})"
            known |= {row[0] for row in rows_of(connection, query, (topic, *some))}
        at = int(rows_of(connection, "select max(n) from stream_records where topic = ?", (topic,))[0][0] or 0)
        fresh = [record for record in records.values() if record.id not in known]
        rows = [(topic, at + place, one.id, one.key, one.value, _headers(one.headers), now_us) for place, one in enumerate(fresh, start=1)]
        if rows:
            run_sql(connection, _ADD, rows)
        added += len(rows)
    return added


def trim(store: Store, topic: str, *, before_us: int) -> int:
    """Remove a topic's records that were added before ``before_us`` and that every group has finished; how many.

    The newest record stays, so that positions are never given twice.
    """

    def work(connection: Connection) -> int:
        names = select(cursors.c.name, cursors.c.state).where(cursors.c.name.startswith("stream/", autoescape=True))
        rows = [row for row in connection.execute(names) if row.name.partition("@")[2] == topic]
        if not rows:
            return 0
        done = min(int(msgspec.json.decode(row.state)["n"]) for row in rows)
        newest = int(rows_of(connection, "select max(n) from stream_records where topic = ?", (topic,))[0][0] or 0)
        sql = "delete from stream_records where topic = ? and n <= ? and at_us < ?"
        return run_sql(connection, sql, (topic, min(done, newest - 1), before_us))

    return store.ledger.write(work)


def _position(cursor: Cursor) -> int:
    return int(cursor.state["n"]) if cursor.state else 0


def _starts(cursor: Cursor) -> int:
    """How many consumers began at this position and have not moved on."""
    return int(cursor.state.get("starts", 0)) if cursor.state else 0


def _headers(headers: Mapping[str, str]) -> str | None:
    return msgspec.json.encode(dict(headers)).decode() if headers else None
