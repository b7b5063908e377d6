"""Streams, as every face offers them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

import msgspec

from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.core.errors import InvalidInput
from andon.operations.session import current_store
from andon.store import Store

if TYPE_CHECKING:
    from andon.serving.jobs import Job
    from andon.serving.streaming import Message, Record, Streamer

IN_ONE = 1_000
MAX_VALUE_BYTES = 8 << 20


def stream(
    service: str,
    source: str,
    target: str,
    *,
    group: str | None = None,
    dead: str | None = None,
    key: str | None = None,
    most: int = 512,
    retries: int = 2,
    metrics_port: int | None = None,
    ready: Callable[[Streamer, str], None] | None = None,
    store: Store | None = None,
    actor: Actor | None = None,
) -> Job:
    """Answer the messages of ``source`` with what holds ``service``'s channels, into ``target``, until SIGTERM, SIGINT or the streamer's
    ``stop``.

    URLs are ``log:TOPIC``, ``redis://HOST:PORT/STREAM`` or ``nats://HOST:PORT/SUBJECT``. A message holds what a request's body does: a row,
    a list of rows, or ``{"rows": […], "request_id"?, "event_time"?}``. Messages that cannot be answered go to ``dead`` (default: the
    source's topic with ``.dead``) with their original bytes. ``group`` (default: ``andon-SERVICE``) is whose position it is.
    Raises ``InvalidInput``.
    """
    from andon.serving.streaming import StreamOptions, parse
    from andon.serving.streaming.running import stream as run

    store, actor = store or current_store(), actor or current_actor()
    name = Address.parse(service, kind="service").name
    options = StreamOptions(group=group or f"andon-{name}", most=most, retries=retries, key=key)
    work = run(
        store,
        name,
        parse(source),
        parse(target),
        options,
        actor=actor,
        dead=None if dead is None else parse(dead),
        metrics_port=metrics_port,
        ready=ready or (lambda *_: None),
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def stream_put(topic: str, messages: Iterable[Any], *, id_field: str | None = None, store: Store | None = None) -> int:
    """Add messages (rows, or bytes as they are) to a topic, in order; how many. Durable on return.

    ``topic`` is a stream's URL, or a bare name of the embedded log. ``id_field`` names the field of a row that is the message's id, and is
    not part of what is sent; without it each message gets a new id, so the same put again adds the messages again.
    """
    from andon.serving.streaming import open_log

    store = store or current_store()
    endpoint = _endpoint(topic)

    async def put() -> int:
        log, count = open_log(store, endpoint, consumer=store.ids.new()), 0
        await log.open()
        try:
            batch: list[Record] = []
            for at, message in enumerate(messages):
                batch.append(_record(message, at, id_field, store))
                if len(batch) == IN_ONE:
                    await log.put(endpoint.topic, batch)
                    count, batch = count + len(batch), []
            await log.put(endpoint.topic, batch)
            return count + len(batch)
        finally:
            await log.close()

    return asyncio.run(put())


def stream_put_lines(topic: str, lines: IO[bytes], *, id_field: str | None = None, store: Store | None = None) -> int:
    """Add each line of a JSON-lines file as a message; empty lines are left out. What is not JSON ends as a dead letter."""
    messages: Iterable[Any] = (line for line in (raw.strip() for raw in lines) if line)
    if id_field is not None:
        messages = (_parsed(line, at) for at, line in enumerate(messages, start=1))
    return stream_put(topic, messages, id_field=id_field, store=store)


def stream_read(
    topic: str, *, group: str | None = None, most: int = 1_000, wait_s: float = 0.2, store: Store | None = None
) -> list[Message]:
    """The oldest messages of a topic; or with a ``group`` the next ones of that group, whose position moves past them."""
    from andon.serving.streaming import open_log

    store = store or current_store()
    endpoint = _endpoint(topic)
    if group is None:
        if endpoint.engine != "log":
            raise InvalidInput("reading a broker's topic needs a group, whose position the broker keeps", field="group")
        from andon.serving.streaming.embedded import records

        return records(store, endpoint.topic, most=most)

    async def read() -> list[Message]:
        log = open_log(store, endpoint, consumer=store.ids.new())
        await log.open()
        try:
            found = await log.fetch(endpoint.topic, group, most, wait_s)
            await log.commit(endpoint.topic, group, found)
            return found
        finally:
            await log.close()

    return asyncio.run(read())


def _endpoint(topic: str) -> Any:
    from andon.serving.streaming import parse

    return parse(topic if "://" in topic or topic.startswith("log:") else f"log:{topic}")


def _record(message: Any, at: int, id_field: str | None, store: Store) -> Record:
    from andon.serving.streaming import Record

    id_ = store.ids.new()
    if isinstance(message, Mapping) and id_field is not None:
        if not message.get(id_field) and message.get(id_field) != 0:
            raise InvalidInput("this message has no such field to be its id", field=id_field, line=at)
        id_ = str(message[id_field])
        message = {name: value for name, value in message.items() if name != id_field}
    value = bytes(message) if isinstance(message, bytes | bytearray | memoryview) else msgspec.json.encode(message)
    if len(value) > MAX_VALUE_BYTES:
        raise InvalidInput("this message is too large for a stream", field="message", line=at, got=len(value), limit=MAX_VALUE_BYTES)
    return Record(id=id_, value=value)


def _parsed(line: bytes, at: int) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"line {at} is not JSON: {error}", field="file", line=at) from None


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop
