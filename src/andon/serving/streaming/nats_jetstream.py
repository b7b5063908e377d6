"""NATS JetStream as a ``StreamLog``.

Connecting and producing go through FastStream's broker. Consuming is a JetStream pull consumer of the client that the broker opened:
FastStream's own pull subscribers call a handler a message and leave no way to say when a batch is finished.

The server drops a record whose id it has had within the stream's duplicate window (two minutes unless the stream says otherwise). What is
produced is confirmed by the server before its messages are acknowledged; a crash in between makes them come again, under the same ids.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from faststream.nats import NatsBroker
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, BadRequestError, NotFoundError

from andon.core.errors import Unavailable
from andon.serving.streaming.records import Capabilities, Message, Produced, Record

TIMEOUT_S = 10.0
CONNECT_S = 3.0
ID, KEY = "Nats-Msg-Id", "andon-key"
_OWN = {"content-type", "correlation_id", "reply_to", ID, KEY}
AT_ONCE = 256
"""Records on their way to the server without an answer yet."""
MAX_PENDING = 65_536


class NatsLog:
    """Subjects of one NATS server, each kept by a JetStream stream (made when there is none)."""

    capabilities = Capabilities(transactional=False, deduplicates=True, fenced=False)

    def __init__(self, url: str, *, claim_s: float) -> None:
        self._url = url
        self._claim_s = claim_s
        self._broker: NatsBroker | None = None
        self._client: Any = None
        self._js: Any = None
        self._streams: dict[str, str] = {}
        self._pulls: dict[tuple[str, str], Any] = {}

    async def open(self) -> None:
        """See ``StreamLog.open``."""
        if self._client is not None:
            return
        where = urlsplit(self._url)
        async with _reached(CONNECT_S):  # the client itself, told to connect again for ever, does so the first time too
            _, probe = await asyncio.open_connection(where.hostname, where.port or 4222)
            probe.close()
        broker = NatsBroker(self._url, logger=None, max_reconnect_attempts=-1, reconnect_time_wait=1, connect_timeout=2, error_cb=_quiet)
        async with _reached(CONNECT_S):
            self._client = await broker.connect()
        self._broker = broker
        self._js = self._client.jetstream(timeout=TIMEOUT_S)

    async def close(self) -> None:
        """See ``StreamLog.close``."""
        client = self._client
        self._broker = self._client = self._js = None
        self._pulls.clear()
        if client is None:
            return
        with suppress(NatsError, OSError, TimeoutError):  # the server is gone: there is nobody to tell
            if client.is_connected:
                await client.flush(timeout=int(TIMEOUT_S))
            await client.close()  # the broker's own end would wait five seconds for an idle pull

    async def put(self, topic: str, records: Sequence[Record]) -> None:
        """See ``StreamLog.put``."""
        async with self._connected():
            await self._produce([(topic, record) for record in records])

    async def fetch(self, topic: str, group: str, most: int, wait_s: float) -> list[Message]:
        """See ``StreamLog.fetch``."""
        async with self._connected():
            pull = await self._join(topic, group)
            try:
                found = await pull.fetch(most, timeout=wait_s)
            except TimeoutError:
                found = []
            except NotFoundError:  # the consumer or the stream was deleted
                self._pulls.pop((topic, group), None)
                self._streams.pop(topic, None)
                found = []
        return [_message(topic, one) for one in found]

    async def commit(self, topic: str, group: str, messages: Sequence[Message], produced: Produced = ()) -> None:  # noqa: ARG002
        """See ``StreamLog.commit``."""
        if not messages:
            return
        async with self._connected():
            await self._produce(produced)
            for message in messages:
                await message.handle.ack()
            await self._client.flush(timeout=int(TIMEOUT_S))

    async def lag(self, topic: str, group: str) -> int:
        """See ``StreamLog.lag``."""
        async with self._connected():
            try:
                stream = await self._stream(topic)
                info = await self._js.consumer_info(stream, _durable(topic, group))
            except NotFoundError:
                state = (await self._js.stream_info(await self._stream(topic))).state
                return int(state.messages)
            return int(info.num_pending or 0) + int(info.num_ack_pending or 0)

    async def _stream(self, topic: str) -> str:
        """The name of the stream that keeps a subject."""
        if topic not in self._streams:
            try:
                self._streams[topic] = await self._js.find_stream_name_by_subject(topic)
            except NotFoundError:
                name = re.sub(r"[^A-Za-z0-9_-]", "_", topic)
                try:
                    await self._js.add_stream(name=name, subjects=[topic])
                except BadRequestError:  # another process was first
                    name = await self._js.find_stream_name_by_subject(topic)
                self._streams[topic] = name
        return self._streams[topic]

    async def _join(self, topic: str, group: str) -> Any:
        if (topic, group) not in self._pulls:
            config = ConsumerConfig(
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self._claim_s,
                deliver_policy=DeliverPolicy.ALL,
                max_ack_pending=MAX_PENDING,
                max_deliver=-1,
            )
            stream, durable = await self._stream(topic), _durable(topic, group)
            self._pulls[topic, group] = await self._js.pull_subscribe(topic, durable=durable, stream=stream, config=config)
        return self._pulls[topic, group]

    async def _produce(self, produced: Produced) -> None:
        for start in range(0, len(produced), AT_ONCE):
            await asyncio.gather(*(self._publish(topic, record) for topic, record in produced[start : start + AT_ONCE]))

    async def _publish(self, topic: str, record: Record) -> None:
        assert self._broker is not None
        headers = {"content-type": "application/json", **record.headers, ID: record.id}
        if record.key is not None:
            headers[KEY] = record.key
        stream = await self._stream(topic)
        await self._broker.publish(record.value, topic, headers=headers, correlation_id=record.id, stream=stream, timeout=TIMEOUT_S)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        await self.open()
        if not self._client.is_connected:  # it is connecting again by itself; what is asked now would only wait
            await asyncio.sleep(0.05)
            if not self._client.is_connected:
                raise Unavailable("NATS cannot be reached; it is being connected again")
        async with _reached():
            yield


@asynccontextmanager
async def _reached(within_s: float = 3 * TIMEOUT_S) -> AsyncIterator[None]:
    """Turns a server that cannot be reached into ``Unavailable``."""
    try:
        async with asyncio.timeout(within_s):
            yield
    except (NatsError, APIError, OSError, TimeoutError) as error:
        raise Unavailable(f"NATS does not answer as it should: {type(error).__name__}: {error}"[:500]) from error


async def _quiet(_: Exception) -> None:
    """The client's own reports of a lost connection; every call says it, too."""


def _durable(topic: str, group: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{group}-{topic}")


def _message(topic: str, given: Any) -> Message:
    metadata = given.metadata
    position = str(metadata.sequence.stream)
    headers = {str(name): str(text) for name, text in (given.headers or {}).items()}
    record = Record(
        id=headers.get(ID) or f"{topic}-{position}",
        key=headers.get(KEY),
        value=given.data,
        headers={name: text for name, text in headers.items() if name not in _OWN and not name.startswith("Nats-")},
    )
    return Message(topic=topic, position=position, record=record, deliveries=int(metadata.num_delivered), handle=given)
