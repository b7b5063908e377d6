"""Tags and notes: outside the digest, and every change is journaled."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from andon.core.actors import Actor
from andon.core.addresses import VERSIONED_KINDS, Address
from andon.core.errors import InvalidInput, NotFound
from andon.core.texts import check_reason, check_text
from andon.registry.finding import require_entry_in, require_in, resolve_in
from andon.registry.records import TagChange
from andon.store import Store
from andon.store import schema as s
from andon.store.statements import IN_ONE, places, rows_of, run_sql

MAX_KEY_CHARACTERS = 250
MAX_VALUE_BYTES = 400_000
"""A hundred thousand characters of any script."""


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
    if value is None:
        remove_tag_in(connection, named, key, now_us=now_us, actor=actor, reason=reason)
    else:
        set_tags_in(connection, named, {key: value}, now_us=now_us, actor=actor, reason=reason)


def check_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    """Return ``tags`` if they can be kept. Raises ``InvalidInput``."""
    for key, value in tags.items():
        check_text(key, "key", at_least=1, at_most=4 * MAX_KEY_CHARACTERS)
        if len(key) > MAX_KEY_CHARACTERS:
            raise InvalidInput(f"a tag's key has at most {MAX_KEY_CHARACTERS} characters", field="key", got=key[:80])
        check_text(value, "value", at_most=MAX_VALUE_BYTES)
    return tags


def set_tags_in(
    connection: Connection, subject: str, tags: Mapping[str, str], *, now_us: int, actor: Actor, reason: str = "", fresh: bool = False
) -> None:
    """Set several tags of ``subject``, an address that the caller knows to be there; ``fresh``: it was made in this transaction."""
    check_tags(tags)
    check_reason(reason)
    known: dict[str, str] = {}
    keys = [] if fresh else list(tags)
    for start in range(0, len(keys), IN_ONE):
        part = keys[start : start + IN_ONE]
        query = f"select key, value from tags where subject = ? and key in ({places(len(part))})"
        known |= dict(rows_of(connection, query, (subject, *part)))
    changed = [(subject, key, value) for key, value in tags.items() if known.get(key) != value]
    if changed:
        run_sql(connection, _SET, changed)
        run_sql(connection, _JOURNAL, [(*row, now_us, str(actor), reason) for row in changed])


_SET = "insert into tags (subject, key, value) values (?, ?, ?) on conflict (subject, key) do update set value = excluded.value"
_JOURNAL = "insert into tag_changes (subject, key, value, at_us, actor, reason) values (?, ?, ?, ?, ?, ?)"


def remove_tag_in(connection: Connection, subject: str, key: str, *, now_us: int, actor: Actor, reason: str = "") -> None:
    """Remove a tag of ``subject``, the text of an address. Raises ``NotFound`` when there is none."""
    check_reason(reason)
    if not run_sql(connection, "delete from tags where subject = ? and key = ?", (subject, key)):
        raise NotFound("there is no such tag", subject=subject, key=key)
    run_sql(connection, _JOURNAL, (subject, key, None, now_us, str(actor), reason))


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
