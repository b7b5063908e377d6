"""Aliases: the only things that move. Every move is a compare-and-swap and is kept."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, insert, select, update

from andon.core.actors import Actor
from andon.core.addresses import Address, check_alias
from andon.core.errors import AliasMoved, InvalidAddress, NotFound
from andon.core.texts import check_reason
from andon.registry.finding import get_in
from andon.registry.records import Move
from andon.store import Store
from andon.store import schema as s

ANY: Final = object()
"""For ``expected``: move it wherever it points."""

TARGET_KINDS = {"service": "release"}
"""Kinds whose aliases point to another kind: a service's channels point to releases."""


def move_alias(store: Store, address: str | Address, to: str | Address, *, actor: Actor, reason: str = "", expected: Any = ANY) -> Move:
    """Point ``kind:name@alias`` to a version. ``expected`` is the versioned address it must point to now (None: to nothing).

    Raises ``AliasMoved`` when it points elsewhere, ``NotFound`` or ``Gone`` when the target does not live. Moving it to where it already
    points records nothing and returns the last move.
    """
    now_us = store.clock.now_us()
    return store.ledger.write(lambda c: move_alias_in(c, address, to, now_us=now_us, actor=actor, reason=reason, expected=expected))


def move_alias_in(
    connection: Connection,
    address: str | Address,
    to: str | Address,
    *,
    now_us: int,
    actor: Actor,
    reason: str = "",
    expected: Any = ANY,
) -> Move:
    """``move_alias`` inside the caller's transaction."""
    alias = _parse_alias(address)
    target = Address.parse(to)
    kind = TARGET_KINDS.get(alias.kind, alias.kind)
    if target.kind != kind or target.name != alias.name:
        raise InvalidAddress(f"{alias} points to a version of {kind}:{alias.name}", field="to", got=str(target))
    return _move(connection, alias, str(get_in(connection, target).address), now_us, actor, reason, expected)


def remove_alias(store: Store, address: str | Address, *, actor: Actor, reason: str = "", expected: Any = ANY) -> Move:
    """Make an alias point to nothing; its history stays. Raises ``NotFound`` when it points to nothing already."""
    now_us = store.clock.now_us()
    return store.ledger.write(lambda c: remove_alias_in(c, address, now_us=now_us, actor=actor, reason=reason, expected=expected))


def remove_alias_in(
    connection: Connection, address: str | Address, *, now_us: int, actor: Actor, reason: str = "", expected: Any = ANY
) -> Move:
    """``remove_alias`` inside the caller's transaction."""
    alias = _parse_alias(address)
    if read_alias_in(connection, alias) is None:
        raise NotFound(address=str(alias))
    return _move(connection, alias, None, now_us, actor, reason, expected)


def _move(connection: Connection, alias: Address, target: str | None, now_us: int, actor: Actor, reason: str, expected: Any) -> Move:
    check_reason(reason)
    key = (s.aliases.c.kind == alias.kind) & (s.aliases.c.name == alias.name) & (s.aliases.c.alias == alias.alias)
    row = connection.execute(select(s.aliases).where(key)).first()
    source = None if row is None else row.target
    if expected is not ANY and (wanted := _versioned(expected)) != source:
        raise AliasMoved(alias=str(alias), expected=wanted, found=source)
    if row is not None and source == target:
        return _last_move(connection, alias)
    revision = 1 if row is None else row.revision + 1
    move = Move(address=str(alias), revision=revision, source=source, target=target, at_us=now_us, actor=str(actor), reason=reason)
    values = {"target": target, "revision": revision, "moved_us": now_us}
    if row is None:
        connection.execute(insert(s.aliases).values(kind=alias.kind, name=alias.name, alias=alias.alias, **values))
    else:
        connection.execute(update(s.aliases).where(key).values(**values))
    connection.execute(
        insert(s.alias_moves).values(
            kind=alias.kind,
            name=alias.name,
            alias=alias.alias,
            revision=revision,
            source=source,
            target=target,
            at_us=now_us,
            actor=str(actor),
            reason=reason,
        )
    )
    return move


def _versioned(expected: str | Address | None) -> str | None:
    if expected is None:
        return None
    address = Address.parse(expected)
    if address.version is None:
        raise InvalidAddress("what an alias is expected to point to is a version: kind:name@3", field="expected", got=str(address))
    return str(address)


def _last_move(connection: Connection, alias: Address) -> Move:
    moved = s.alias_moves.c
    query = select(s.alias_moves).where(moved.kind == alias.kind, moved.name == alias.name, moved.alias == alias.alias)
    return _record(connection.execute(query.order_by(moved.revision.desc()).limit(1)).one())


def read_alias_in(connection: Connection, address: str | Address) -> str | None:
    """Where an alias points (a versioned address), or None."""
    alias = _parse_alias(address)
    return connection.execute(
        select(s.aliases.c.target).where(s.aliases.c.kind == alias.kind, s.aliases.c.name == alias.name, s.aliases.c.alias == alias.alias)
    ).scalar()


def alias_revision(store: Store, address: str | Address) -> int:
    """How many times an alias has moved."""
    alias = _parse_alias(address)
    query = select(s.aliases.c.revision).where(
        s.aliases.c.kind == alias.kind, s.aliases.c.name == alias.name, s.aliases.c.alias == alias.alias
    )
    with store.ledger.read() as connection:
        return connection.execute(query).scalar() or 0


def aliases_of(store: Store, entry: str | Address) -> dict[str, str]:
    """Alias -> versioned address, of one name."""
    with store.ledger.read() as connection:
        return aliases_of_in(connection, entry)


def aliases_of_in(connection: Connection, entry: str | Address) -> dict[str, str]:
    """``aliases_of`` inside the caller's transaction."""
    at = Address.parse(entry).entry
    query = select(s.aliases).where(s.aliases.c.kind == at.kind, s.aliases.c.name == at.name, s.aliases.c.target.is_not(None))
    return {row.alias: row.target for row in connection.execute(query.order_by(s.aliases.c.alias))}


def moves(store: Store, address: str | Address, *, limit: int = 1000) -> list[Move]:
    """The newest ``limit`` moves of one alias, or of all aliases of a name, oldest first."""
    at = Address.parse(address)
    query = select(s.alias_moves).where(s.alias_moves.c.kind == at.kind, s.alias_moves.c.name == at.name)
    if at.alias is not None:
        query = query.where(s.alias_moves.c.alias == at.alias)
    with store.ledger.read() as connection:
        rows = connection.execute(query.order_by(s.alias_moves.c.seq.desc()).limit(limit)).all()
    return [_record(row) for row in reversed(rows)]


def _record(row: Any) -> Move:
    return Move(
        address=f"{row.kind}:{row.name}@{row.alias}",
        revision=row.revision,
        source=row.source,
        target=row.target,
        at_us=row.at_us,
        actor=row.actor,
        reason=row.reason,
    )


def _parse_alias(address: str | Address) -> Address:
    alias = Address.parse(address)
    if alias.alias is None:
        raise InvalidAddress("this takes an alias: kind:name@alias", got=str(alias))
    check_alias(alias.alias)
    return alias
