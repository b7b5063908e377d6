"""Tags and notes: outside the digest, and every change is journaled."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.errors import InvalidInput, NotFound
from andon.registry.records import TagChange
from andon.store import Store
from andon.store import schema as s

MAX_KEY_BYTES = 250
MAX_VALUE_BYTES = 8_000


def set_tag(store: Store, subject: str | Address, key: str, value: str | None, *, actor: Actor, reason: str = "") -> None:
    """Set a tag (``None`` removes it) on anything that has an address. Raises ``InvalidInput`` for keys or values that are too long."""
    now_us = store.clock.now_us()
    store.ledger.write(lambda c: set_tag_in(c, subject, key, value, now_us=now_us, actor=actor, reason=reason))


def set_tag_in(
    connection: Connection, subject: str | Address, key: str, value: str | None, *, now_us: int, actor: Actor, reason: str = ""
) -> None:
    """``set_tag`` inside the caller's transaction."""
    named = str(Address.parse(subject))
    if not key or len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidInput(f"a tag's key has 1 to {MAX_KEY_BYTES} bytes", field="key", got=key[:40])
    if value is not None and len(value.encode()) > MAX_VALUE_BYTES:
        raise InvalidInput(f"a tag's value has at most {MAX_VALUE_BYTES} bytes", field="value", got=len(value.encode()))
    at = (s.tags.c.subject == named) & (s.tags.c.key == key)
    before = connection.execute(select(s.tags.c.value).where(at)).scalar()
    if before == value:
        if value is None:
            raise NotFound("there is no such tag", subject=named, key=key)
        return
    if value is None:
        connection.execute(delete(s.tags).where(at))
    elif before is None:
        connection.execute(insert(s.tags).values(subject=named, key=key, value=value))
    else:
        connection.execute(update(s.tags).where(at).values(value=value))
    change = {"subject": named, "key": key, "value": value, "at_us": now_us, "actor": str(actor), "reason": reason}
    connection.execute(insert(s.tag_changes).values(**change))


def tags_of(store: Store, subject: str | Address) -> dict[str, str]:
    """The tags of one subject, by key."""
    query = select(s.tags.c.key, s.tags.c.value).where(s.tags.c.subject == str(Address.parse(subject))).order_by(s.tags.c.key)
    with store.ledger.read() as connection:
        return {row.key: row.value for row in connection.execute(query)}


def tag_history(store: Store, subject: str | Address) -> list[TagChange]:
    """Every change of a subject's tags, oldest first."""
    query = select(s.tag_changes).where(s.tag_changes.c.subject == str(Address.parse(subject))).order_by(s.tag_changes.c.seq)
    with store.ledger.read() as connection:
        return [
            TagChange(subject=row.subject, key=row.key, value=row.value, at_us=row.at_us, actor=row.actor, reason=row.reason)
            for row in connection.execute(query)
        ]
