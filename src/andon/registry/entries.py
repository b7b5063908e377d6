"""Names before and beside their versions: made empty, titled, described, deleted whole.

A name here is an address and never changes, because releases pin it. A client of another registry may call the same thing by a freer
name, its *title*: unique within a kind, and what moves when the client renames it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, and_, insert, select, update
from sqlalchemy import delete as sql_delete

from andon.core.actors import Actor
from andon.core.addresses import VERSIONED_KINDS, Address, check_name
from andon.core.errors import Conflict, InvalidAddress
from andon.core.texts import check_text
from andon.registry.aliases import aliases_of_in, remove_alias_in
from andon.registry.finding import not_found
from andon.registry.records import Entry
from andon.registry.tags import set_tag_in
from andon.registry.versions import delete_in
from andon.store import schema as s
from andon.store.statements import places, rows_of

MAX_TITLE_BYTES = 4_000
MAX_DESCRIPTION_BYTES = 400_000
SLUG_CHARACTERS = 60
_UNFIT = re.compile(r"[^a-z0-9._]+")
_COLUMNS = "kind, name, head, created_us, changed_us, title, description, deleted_us"


class _Row(NamedTuple):
    kind: str
    name: str
    head: int
    created_us: int
    changed_us: int
    title: str | None
    description: str | None
    deleted_us: int | None


def create_entry_in(
    connection: Connection,
    kind: str,
    title: str,
    *,
    now_us: int,
    actor: Actor,  # noqa: ARG001 - every write takes an actor
    description: str | None = None,
) -> Entry:
    """Make a name with no version yet, from a title of any characters; ``entry.name`` is what its address holds.

    A title that is a valid name is that name, unless something else has it. A deleted name is made again where it was, and its numbers
    go on. Raises ``Conflict`` when a living entry of this kind has the title.
    """
    if kind not in VERSIONED_KINDS:
        raise InvalidAddress(f"{kind!r} has no versions", field="kind")
    check_text(title, "title", at_least=1, at_most=MAX_TITLE_BYTES)
    check_text(description or "", "description", at_most=MAX_DESCRIPTION_BYTES)
    known = _rows_titled(connection, (kind,), title, deleted=True)
    if any(row.deleted_us is None for row in known):
        raise Conflict("this name is taken", title=title[:80], address=f"{kind}:{known[0].name}")
    values = {"title": title, "description": description, "created_us": now_us, "changed_us": now_us, "deleted_us": None}
    if known:
        name = str(known[0].name)
        connection.execute(update(s.entries).where(_key(kind, name)).values(**values))
        head = int(known[0].head)
    else:
        name, head = _free_name(connection, kind, title), 0
        connection.execute(insert(s.entries).values(kind=kind, name=name, head=0, **values))
    return Entry(kind=kind, name=name, head=head, created_us=now_us, changed_us=now_us, title=title, description=description or "")


def name_for(title: str, *, digits: int = 8) -> str:
    """The name that a title gets where it cannot be one itself: what fits of it, and the start of its SHA-256.

    >>> name_for("My Model")
    'my-model-e84ac3f6'
    """
    fit = _UNFIT.sub("-", title.lower()).strip("-._")[:SLUG_CHARACTERS].rstrip("-._")
    return f"{fit or 'x'}-{hashlib.sha256(title.encode()).hexdigest()[:digits]}"


def entry_titled_in(connection: Connection, kinds: Sequence[str], title: str) -> Entry | None:
    """The living entry of one of ``kinds`` that a client calls ``title``: by its title, or by its name where it has none."""
    if not title.isprintable() and ("\0" in title or any("\ud800" <= sign <= "\udfff" for sign in title)):
        return None  # not every engine can even be asked
    rows = _rows_titled(connection, kinds, title, deleted=False)
    return _entry(rows[0]) if rows else None


def entry_in(connection: Connection, address: str | Address) -> Entry:
    """One entry, with its aliases. Raises ``NotFound``."""
    at = Address.parse(address).entry
    row = connection.execute(select(s.entries).where(_key(at.kind, at.name))).first()
    if row is None:
        raise not_found(connection, at)
    return msgspec.structs.replace(_entry(row), aliases=aliases_of_in(connection, at))


def retitle_in(connection: Connection, address: str | Address, title: str, *, now_us: int) -> None:
    """Let clients call an entry by another title; its address stays. Raises ``Conflict`` when the title is taken."""
    at = Address.parse(address).entry
    check_text(title, "title", at_least=1, at_most=MAX_TITLE_BYTES)
    for row in _rows_titled(connection, (at.kind,), title, deleted=True):
        if row.name == at.name:
            continue
        if row.deleted_us is None:
            raise Conflict("this name is taken", title=title[:80], address=f"{row.kind}:{row.name}")
        connection.execute(update(s.entries).where(_key(row.kind, row.name)).values(title=None))
    connection.execute(update(s.entries).where(_key(at.kind, at.name)).values(title=title, changed_us=now_us))


def describe_entry_in(connection: Connection, address: str | Address, description: str | None, *, now_us: int) -> None:
    """Set what an entry says of itself."""
    at = Address.parse(address).entry
    check_text(description or "", "description", at_most=MAX_DESCRIPTION_BYTES)
    connection.execute(update(s.entries).where(_key(at.kind, at.name)).values(description=description, changed_us=now_us))


def touch_entry_in(connection: Connection, address: str | Address, *, now_us: int) -> None:
    """Say that something of an entry changed now."""
    at = Address.parse(address).entry
    connection.execute(update(s.entries).where(_key(at.kind, at.name)).values(changed_us=now_us))


def delete_entry_in(connection: Connection, address: str | Address, *, now_us: int, actor: Actor, reason: str) -> None:
    """Delete a name: its aliases, its tags and every version that still lives. An entry that never had a version leaves nothing.

    Raises ``Pinned`` when a living release needs one of its versions; nothing is deleted then.
    """
    at = Address.parse(address).entry
    for alias in aliases_of_in(connection, at):
        remove_alias_in(connection, Address(at.kind, at.name, None, alias), now_us=now_us, actor=actor, reason=reason)
    v = s.versions.c
    living = select(v.version).where(v.kind == at.kind, v.name == at.name, v.deleted_us.is_(None)).order_by(v.version)
    for version in connection.execute(living).scalars().all():
        _untag_in(connection, at.at(version), now_us, actor, reason)
        delete_in(connection, at.at(version), now_us=now_us, actor=actor, reason=reason)
    _untag_in(connection, at, now_us, actor, reason)
    if entry_in(connection, at).head == 0:
        connection.execute(sql_delete(s.entries).where(_key(at.kind, at.name)))
    else:
        connection.execute(update(s.entries).where(_key(at.kind, at.name)).values(deleted_us=now_us, changed_us=now_us, description=None))


def _untag_in(connection: Connection, at: Address, now_us: int, actor: Actor, reason: str) -> None:
    for key in connection.execute(select(s.tags.c.key).where(s.tags.c.subject == str(at))).scalars().all():
        set_tag_in(connection, at, key, None, now_us=now_us, actor=actor, reason=reason)


def _free_name(connection: Connection, kind: str, title: str) -> str:
    try:
        wanted = [check_name(title)]
    except InvalidAddress:
        wanted = []
    for name in [*wanted, *(name_for(title, digits=digits) for digits in (8, 16, 64))]:
        if connection.execute(select(s.entries.c.name).where(_key(kind, name))).first() is None:
            return name
    raise Conflict("this name is taken", title=title[:80])


def _rows_titled(connection: Connection, kinds: Sequence[str], title: str, *, deleted: bool) -> list[_Row]:
    """By title first. Two index look-ups a kind; said as text, because it is what every read of a client begins with."""
    alive = "" if deleted else " and deleted_us is null"
    which = places(len(kinds))
    query = (
        f"select {_COLUMNS} from entries where kind in ({which}) and title = ?{alive} union all "
        f"select {_COLUMNS} from entries where kind in ({which}) and name = ? and title is null{alive}"
    )
    return [_Row(*row) for row in rows_of(connection, query, (*kinds, title, *kinds, title))]


def _key(kind: str, name: str) -> Any:
    return and_(s.entries.c.kind == kind, s.entries.c.name == name)


def _entry(row: Any) -> Entry:
    return Entry(
        kind=row.kind,
        name=row.name,
        head=row.head,
        created_us=row.created_us,
        changed_us=row.changed_us,
        title=row.title,
        description=row.description or "",
    )
