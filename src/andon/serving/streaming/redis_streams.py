"""Redis Streams as a ``StreamLog``.

Connecting and producing go through FastStream's broker: any FastStream subscriber can read what we produce, and we what its publishers
produce. Consuming does not: FastStream acknowledges message by message and has no call for taking over what a dead consumer left, so
groups, acknowledgements and claims are commands of the client that the broker opened.

What is produced and the acknowledgement of its messages are one ``MULTI``: Redis runs both or neither. Redis forgets ids, so a message that
is delivered twice (its first consumer went silent for ``claim_s`` and came back) is answered twice, under the same id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from faststream.redis import RedisBroker
from faststream.redis.parser import BinaryMessageFormatV1
from redis.exceptions import RedisError, ResponseError

from andon.core.errors import InvalidInput, Unavailable
from andon.serving.streaming.records import Capabilities, Message, Produced, Record

TIMEOUT_S = 10.0
ID, KEY = "andon-id", "andon-key"
_OWN = {"correlation_id", "content-type", "reply_to", ID, KEY}
COUNTED = 100_000


class RedisLog:
    """Streams of one Redis server."""

    capabilities = Capabilities(transactional=True, deduplicates=False, fenced=False)

    def __init__(self, url: str, *, consumer: str, claim_s: float) -> None:
        self._url = url
        self._consumer = consumer
        self._claim_ms = int(claim_s * 1000)
        self._broker: RedisBroker | None = None
        self._client: Any = None
        self._groups: set[tuple[str, str]] = set()
        self._claimed_s: dict[str, float] = {}
        self._held: set[tuple[str, str]] = set()  # fetched here and not committed: not to be claimed from ourselves
        self._kinds: set[str] = set()  # keys that are known to be streams

    async def open(self) -> None:
        """See ``StreamLog.open``."""
        if self._client is None:
            options: dict[str, Any] = {"logger": None, "socket_connect_timeout": TIMEOUT_S}
            broker = RedisBroker(self._url, **options)
            async with _reached():
                client: Any = await broker.connect()
            self._broker, self._client = broker, client

    async def close(self) -> None:
        """See ``StreamLog.close``. A consumer that leaves nothing behind is forgotten by its groups."""
        broker, client = self._broker, self._client
        self._broker = self._client = None
        if client is None or broker is None:
            return
        try:
            async with asyncio.timeout(TIMEOUT_S):
                for topic, group in self._groups:
                    left = await client.xpending_range(topic, group, "-", "+", 1, self._consumer)
                    if not left:
                        await client.xgroup_delconsumer(topic, group, self._consumer)
        except (RedisError, OSError, TimeoutError):  # the server is gone: there is nobody to tell
            pass
        finally:
            await broker.stop()

    async def put(self, topic: str, records: Sequence[Record]) -> None:
        """See ``StreamLog.put``."""
        async with self._connected() as client, client.pipeline(transaction=True) as pipe:
            await self._produce(pipe, [(topic, record) for record in records])
            await pipe.execute()

    async def fetch(self, topic: str, group: str, most: int, wait_s: float) -> list[Message]:
        """See ``StreamLog.fetch``. What a silent consumer left comes before what is new."""
        async with self._connected() as client:
            await self._join(client, topic, group)
            try:
                claimed = await self._claim(client, topic, group, most)
                if claimed:
                    return claimed
                block = max(1, int(wait_s * 1000))
                found = await client.xreadgroup(group, self._consumer, {topic: ">"}, count=most, block=block)
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                self._groups.discard((topic, group))  # the stream was deleted, or the server came back without it
                return []
        entries = _entries(found)
        self._held.update((topic, position) for position, _ in entries)
        return [_message(topic, position, fields, 1) for position, fields in entries]

    async def commit(self, topic: str, group: str, messages: Sequence[Message], produced: Produced = ()) -> None:
        """See ``StreamLog.commit``."""
        if not messages:
            return
        async with self._connected() as client, client.pipeline(transaction=True) as pipe:
            await self._produce(pipe, produced)
            pipe.xack(topic, group, *(message.position for message in messages))
            await pipe.execute()
        self._held.difference_update((topic, message.position) for message in messages)

    async def lag(self, topic: str, group: str) -> int:
        """See ``StreamLog.lag``."""
        async with self._connected() as client:
            try:
                groups = await client.xinfo_groups(topic)
            except ResponseError:
                return 0  # no such stream yet
            found = next((one for one in groups if _text(one["name"]) == group), None)
            if found is None:
                return int(await client.xlen(topic))
            unread = found.get("lag")
            if unread is None:  # Redis has lost count after deletions
                unread = len(await client.xrange(topic, f"({_text(found['last-delivered-id'])}", "+", count=COUNTED))
            return int(unread) + int(found["pending"])

    async def _join(self, client: Any, topic: str, group: str) -> None:
        if (topic, group) in self._groups:
            return
        try:
            await client.xgroup_create(topic, group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._groups.add((topic, group))

    async def _claim(self, client: Any, topic: str, group: str, most: int) -> list[Message]:
        """Messages that their consumer has had for ``claim_s`` without finishing; looked for now and then, and as long as there are any."""
        now_s = time.monotonic()
        if now_s - self._claimed_s.get(topic, float("-inf")) < self._claim_ms / 2000:
            return []
        reply = await client.xautoclaim(topic, group, self._consumer, self._claim_ms, start_id="0-0", count=most)
        entries = [(_text(position), fields) for position, fields in reply[1] if fields]
        entries = [(position, fields) for position, fields in entries if (topic, position) not in self._held]
        if not entries:
            self._claimed_s[topic] = now_s
            return []
        self._held.update((topic, position) for position, _ in entries)
        counts = {}
        for one in await client.xpending_range(topic, group, entries[0][0], entries[-1][0], most, self._consumer):
            counts[_text(one["message_id"])] = int(one["times_delivered"])
        return [_message(topic, position, fields, counts.get(position, 2)) for position, fields in entries]

    async def _produce(self, pipe: Any, produced: Produced) -> None:
        assert self._broker is not None
        for topic in {topic for topic, _ in produced} - self._kinds:
            # Within MULTI a command that fails does not stop the next: an acknowledgement must not follow an answer that could not be kept.
            kind = _text(await self._client.type(topic))
            if kind not in ("none", "stream"):
                raise InvalidInput(f"this key of the Redis server holds a {kind}, not a stream", field="to", got=topic)
            self._kinds.add(topic)
        for topic, record in produced:
            headers = {"content-type": "application/json", **record.headers, ID: record.id}
            if record.key is not None:
                headers[KEY] = record.key
            await self._broker.publish(record.value, stream=topic, headers=headers, correlation_id=record.id, pipeline=pipe)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        await self.open()
        async with _reached():
            yield self._client


@asynccontextmanager
async def _reached() -> AsyncIterator[None]:
    """Turns a server that cannot be reached into ``Unavailable``."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable(f"Redis does not answer as it should: {type(error).__name__}: {error}"[:500]) from error


def _entries(found: Any) -> list[tuple[str, dict[Any, Any]]]:
    """What XREADGROUP answers in either protocol: a list of (stream, entries), or a mapping."""
    if not found:
        return []
    if isinstance(found, dict):
        batches = [batch for value in found.values() for batch in (value if value and isinstance(value[0], list) else [value])]
    else:
        batches = [batch for _, batch in found]
    return [(_text(position), fields) for batch in batches for position, fields in batch if fields]


def _message(topic: str, position: str, fields: Mapping[Any, Any], deliveries: int) -> Message:
    value, headers = _content({_text(name): bytes(given) for name, given in fields.items()})
    record = Record(
        id=headers.get(ID) or f"{topic}-{position}",
        key=headers.get(KEY),
        value=value,
        headers={name: text for name, text in headers.items() if name not in _OWN},
    )
    return Message(topic=topic, position=position, record=record, deliveries=deliveries)


def _content(fields: dict[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """FastStream's envelope, or a plain entry: ``data``, ``value`` or the only other field, with ``id`` and ``key`` beside it."""
    if "__data__" in fields:
        value, headers = BinaryMessageFormatV1.parse(fields["__data__"])
        return value, {str(name): str(text) for name, text in headers.items()}
    headers = {own: fields.pop(name).decode(errors="replace") for name, own in (("id", ID), ("key", KEY)) if name in fields}
    for name in ("data", "value", *fields):
        if name in fields:
            return fields[name], headers
    return b"", headers


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
