"""One message through the front: its answer as a record for the target, or the reason why there is none as a dead letter.

What is wrong with the message itself (it cannot be read, a field is wrong) is dead at once; a model that fails is tried again, a bounded
number of times; a front that is full or has no release is waited for, since that says nothing about the message.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import msgspec

from andon.core.errors import AndonError, Busy, DeadlineExceeded, InvalidInput, ModelFailed, TooLarge, Unavailable
from andon.serving.asking import Query
from andon.serving.front import Front
from andon.serving.streaming.counting import StreamMetrics
from andon.serving.streaming.records import Message, Record
from andon.serving.validation import Request, check_request_id

WAIT_S = 0.05
MAX_REASON = 2_000
PATIENCE_S = 86_400.0
"""Nobody waits for an answer of a stream; a model that hangs is ended by the release's ``batch_timeout_s``."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be kept for a message. Exactly one of ``answer`` and ``dead``."""

    answer: Record | None = None
    dead: Record | None = None
    rows: int = 0


class Answerer:
    """Answers messages with what holds the service's channels."""

    def __init__(self, front: Front, metrics: StreamMetrics, *, retries: int, max_deliveries: int, key: str | None) -> None:
        self._front = front
        self._metrics = metrics
        self._retries = retries
        self._max_deliveries = max_deliveries
        self._key = key

    async def answer(self, message: Message, stopping: asyncio.Event, *, fell: bool = False) -> Outcome | None:
        """The outcome; None when we are told to stop before there is one. ``fell``: a consumer ended while it was at this message."""
        if fell and message.deliveries > self._max_deliveries:
            why = f"it came {message.deliveries} times, and its consumer ended each time"
            return Outcome(dead=dead_letter(message, "too-many-deliveries", why))
        request_id = _request_id(message.record.id)
        tries = 0
        while True:
            try:
                return await self._once(message, request_id)
            except (InvalidInput, TooLarge) as error:
                return Outcome(dead=dead_letter(message, error.code, str(error)))
            except (Busy, Unavailable):
                if stopping.is_set():
                    return None
                await asyncio.sleep(WAIT_S)
            except (ModelFailed, DeadlineExceeded) as error:
                tries += 1
                if tries > self._retries:
                    return Outcome(dead=dead_letter(message, error.code, str(error)))
                self._metrics.retries += 1
            except AndonError as error:
                return Outcome(dead=dead_letter(message, error.code, str(error)))

    async def _once(self, message: Message, request_id: str) -> Outcome:
        record = message.record
        codec = self._front.loaded().codec
        body, key = (record.value, record.key) if self._key is None else _without_key(record.value, self._key)
        request: Request = codec.decode(body)
        name = request.request_id or request_id
        key = record.key if key is None else key
        choice = self._front.choose(name, key, rows=request.rows)
        n = len(request.rows)
        until_s = time.perf_counter() + PATIENCE_S
        query = Query(choice=choice, n=n, request_id=name, rows=request.rows, event_us=request.event_us, deadline_s=until_s)
        query.size_bytes = len(body)
        outputs = await self._front.answer(query)
        said = {"id": record.id, "key": key, "request_id": name, "release": choice.loaded.address, "outputs": outputs}
        headers = {"andon-release": choice.loaded.address, "andon-source": f"{message.topic}@{message.position}"}
        return Outcome(answer=Record(id=record.id, key=key, value=msgspec.json.encode(said), headers=headers), rows=n)


def dead_letter(message: Message, code: str, reason: str) -> Record:
    """The original bytes, and in the headers what was wrong and where it came from."""
    headers = {
        **message.record.headers,
        "andon-error": code,
        "andon-reason": " ".join(reason.split())[:MAX_REASON].encode("ascii", "replace").decode(),  # headers of brokers are ASCII
        "andon-source": f"{message.topic}@{message.position}",
        "andon-deliveries": str(message.deliveries),
    }
    return Record(id=message.record.id, key=message.record.key, value=message.record.value, headers=headers)


def _request_id(given: str) -> str:
    """A message's id as a request id: itself, where that is one."""
    try:
        return check_request_id(given)
    except InvalidInput:
        return f"m-{hashlib.sha256(given.encode(errors='replace')).hexdigest()[:40]}"


def _without_key(body: bytes, field: str) -> tuple[bytes, str | None]:
    """A body without the key field of its row, and the key. Bodies that are no single row are left to the codec to judge."""
    try:
        row: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body, None
    if not isinstance(row, dict) or field not in row:
        return body, None
    key = row.pop(field)
    return msgspec.json.encode(row), key if isinstance(key, str) else msgspec.json.encode(key).decode()
