"""Tags and notes: outside the digest, and every change is journaled."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from andon.core.actors import Actor
from andon.core.addresses import VERSIONED_KINDS, Address
from andon.core.errors import NotFound
from andon.core.texts import check_reason, check_text
from andon.registry.finding import require_entry_in, require_in, resolve_in
from andon.registry.records import TagChange
from andon.store import Store
from andon.store import schema as s

MAX_KEY_BYTES = 250
MAX_VALUE_BYTES = 8_000


def set_tag(store: Store, subject: str | Address, key: str, value: str | None, *, actor: Actor, reason: str = "") -> None:
    """Set a tag (``None`` removes it) on anything that has an address. Raises ``InvalidInput`` for keys or values that are too long.

    ``model:bikes`` is the name itself, ``model:bikes@3`` a version, and ``model:bikes@champion`` the version it points to now. Raises
    ``NotFound`` when the registry knows nothing there.
    """
    now_us = store.clock.now_us()
    store.ledger.write(lambda c: set_tag_in(c, subject, key, value, now_us=now_us, actor=actor, reason=reason))


def set_tag_in(
    connection: Connection, subject: str | Address, key: str, value: str | None, *, now_us: int, actor: Actor, reason: str = ""
) -> None:
    """``set_tag`` inside the caller's transaction."""
    named = _subject(connection, subject)
    check_text(key, "key", at_least=1, at_most=MAX_KEY_BYTES)
    if value is not None:
        check_text(value, "value", at_most=MAX_VALUE_BYTES)
    check_reason(reason)
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
    with store.ledger.read() as connection:
        at = _meant(connection, Address.parse(subject))
        query = select(s.tags.c.key, s.tags.c.value).where(s.tags.c.subject == str(at)).order_by(s.tags.c.key)
        return {row.key: row.value for row in connection.execute(query)}


def tag_history(store: Store, subject: str | Address) -> list[TagChange]:
    """Every change of a subject's tags, oldest first."""
    with store.ledger.read() as connection:
        at = _meant(connection, Address.parse(subject))
        query = select(s.tag_changes).where(s.tag_changes.c.subject == str(at)).order_by(s.tag_changes.c.seq)
        return [
            TagChange(subject=row.subject, key=row.key, value=row.value, at_us=row.at_us, actor=row.actor, reason=row.reason)
            for row in connection.execute(query)
        ]


def _subject(connection: Connection, subject: str | Address) -> str:
    """What a tag is kept under. A service needs no entry: its name is known once a channel points to a release, or somebody tags it."""
    at = _meant(connection, Address.parse(subject))
    if at.version is not None:
        require_in(connection, at)
    elif at.kind in VERSIONED_KINDS and at.kind != "service":
        require_entry_in(connection, at)
    return str(at)


def _meant(connection: Connection, at: Address) -> Address:
    return at if at.alias is None else resolve_in(connection, at)
