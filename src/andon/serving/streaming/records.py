"""What flows, and the port of the logs it flows through. The same contract tests run over every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Something to be kept in a topic. ``id`` tells it from all others of the topic: producing it again under the same id is harmless."""

    id: str
    value: bytes
    key: str | None = None
    headers: Mapping[str, str] = {}


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A record as a consumer got it. ``position`` is the engine's name for its place; ``deliveries`` counts this one."""

    topic: str
    position: str
    record: Record
    deliveries: int = 1
    handle: Any = None
    """What the engine needs to acknowledge it."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine promises beyond at-least-once."""

    transactional: bool
    """``commit`` keeps what was produced and moves the position as one: both are seen, or neither."""
    deduplicates: bool
    """A record whose id the topic has already is not kept again (the engine says for how long it remembers)."""
    fenced: bool
    """Of two consumers that hold the same message, only one can commit it: the other's ``commit`` raises ``Conflict``."""


Produced = Sequence[tuple[str, Record]]
"""(topic, record)."""


class StreamLog(Protocol):
    """Topics of records, with a committed position for each group of consumers. At-least-once: what is not committed comes again.

    One consumer, one event loop. Every method raises ``Unavailable`` while the engine cannot be reached; the next call tries again.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this engine promises."""
        ...

    async def open(self) -> None:
        """Connect; again is nothing."""
        ...

    async def close(self) -> None:
        """Let go. What was fetched and not committed goes to the group's other consumers."""
        ...

    async def put(self, topic: str, records: Sequence[Record]) -> None:
        """Add records, in order; as durable as the engine makes them on return."""
        ...

    async def fetch(self, topic: str, group: str, most: int, wait_s: float) -> list[Message]:
        """The next messages of the group, at most ``most``; after ``wait_s`` without any, none. A new group begins at the oldest."""
        ...

    async def commit(self, topic: str, group: str, messages: Sequence[Message], produced: Produced = ()) -> None:
        """Keep ``produced`` (of this engine's topics), then finish ``messages``: a group does not see them again.

        Where the engine is not ``transactional``, a crash in between leaves ``produced`` kept and ``messages`` to come again.
        """
        ...

    async def lag(self, topic: str, group: str) -> int:
        """Messages of the topic that the group has not finished."""
        ...
