"""From an address to what it means: versions, tombstones, and the closest names when there is nothing."""

from __future__ import annotations

import difflib
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from andon.core.addresses import LATEST, VERSIONED_KINDS, Address
from andon.core.errors import Gone, InvalidAddress, NotFound
from andon.registry.records import Version
from andon.store import Store
from andon.store import schema as s

MAX_SUGGESTIONS = 3
NAMES_COMPARED = 5_000


def resolve(store: Store, address: str | Address) -> Address:
    """The versioned address that ``address`` means now. Raises ``NotFound`` with the closest names.

    A number is taken at its word: ``get`` says whether there is such a version.
    """
    with store.ledger.read() as connection:
        return resolve_in(connection, address)


def resolve_in(connection: Connection, address: str | Address) -> Address:
    """``resolve`` inside the caller's transaction. A service's alias resolves to the release it points to."""
    address = Address.parse(address)
    if address.kind not in VERSIONED_KINDS:
        raise InvalidAddress(f"a {address.kind} has no versions", got=str(address))
    if address.version is not None:
        return address
    if address.alias is None or address.alias == LATEST:
        newest = connection.execute(
            select(func.max(s.versions.c.version)).where(
                s.versions.c.kind == address.kind, s.versions.c.name == address.name, s.versions.c.deleted_us.is_(None)
            )
        ).scalar()
        if newest is None:
            raise not_found(connection, address)
        return address.at(newest)
    target = connection.execute(
        select(s.aliases.c.target).where(
            s.aliases.c.kind == address.kind, s.aliases.c.name == address.name, s.aliases.c.alias == address.alias
        )
    ).scalar()
    if target is None:
        raise not_found(connection, address)
    return Address.parse(target)


def get(store: Store, address: str | Address) -> Version:
    """The version at ``address``. Raises ``NotFound``, or ``Gone`` with the tombstone's facts when it was deleted."""
    with store.ledger.read() as connection:
        return get_in(connection, address)


def get_in(connection: Connection, address: str | Address) -> Version:
    """``get`` inside the caller's transaction."""
    found = require_in(connection, address)
    if found.deleted_us is not None:
        raise Gone(address=str(found.address), deleted_us=found.deleted_us, by=found.deleted_by, why=found.deleted_why)
    return found


def require_in(connection: Connection, address: str | Address) -> Version:
    """The version or the tombstone at ``address``. Raises ``NotFound`` when there never was one."""
    address = Address.parse(address)
    at = resolve_in(connection, address)
    row = connection.execute(
        select(s.versions).where(s.versions.c.kind == at.kind, s.versions.c.name == at.name, s.versions.c.version == at.version)
    ).first()
    if row is None:
        raise not_found(connection, address)
    return version_of(row)


def require_entry_in(connection: Connection, address: Address) -> None:
    """Raise ``NotFound`` unless this name is known, with or without a version."""
    if _head(connection, address) is None:
        raise not_found(connection, address)


def version_of(row: Any) -> Version:
    """The record of a row of ``versions``."""
    return Version(
        address=Address(row.kind, row.name, row.version),
        digest=row.digest,
        manifest=None if row.manifest is None else msgspec.json.decode(row.manifest),
        created_us=row.created_us,
        actor=row.actor,
        reason=row.reason,
        deleted_us=row.deleted_us,
        deleted_by=row.deleted_by,
        deleted_why=row.deleted_why,
    )


def not_found(connection: Connection, address: Address) -> NotFound:
    """The error for an address with nothing there: what the name does have, or the names closest to it."""
    head = _head(connection, address)
    aliases = _aliases(connection, address)
    if head is None and not aliases:
        return NotFound(address=str(address), next_step=_suggestion(connection, address))
    named = ", ".join("@" + alias for alias in aliases) or "none"
    if head is None:
        return NotFound(f"{address.entry} has no alias like that: aliases {named}", address=str(address))
    if address.version is None and address.alias in (None, LATEST):
        said = f"every version of {address.entry} was deleted" if head else f"{address.entry} has no version yet"
        return NotFound(said, address=str(address))
    what = "version" if address.version is not None else "alias"
    has = f"versions 1 to {head}" if head else "no version yet"
    return NotFound(f"{address.entry} has no {what} like that: {has}, aliases {named}", address=str(address))


def _suggestion(connection: Connection, address: Address) -> str:
    kinds = connection.execute(select(s.entries.c.kind).where(s.entries.c.name == address.name).order_by(s.entries.c.kind)).scalars()
    close = [f"{kind}:{address.name}" for kind in kinds]
    table = s.aliases if address.kind == "service" else s.entries  # a service may have nothing but channels
    names = connection.execute(select(table.c.name).where(table.c.kind == address.kind).distinct().limit(NAMES_COMPARED)).scalars()
    close += [f"{address.kind}:{name}" for name in difflib.get_close_matches(address.name, names, n=MAX_SUGGESTIONS)]
    return f"did you mean {', '.join(close)}?" if close else f"run `andon ls {address.kind}`"


def _head(connection: Connection, address: Address) -> int | None:
    return connection.execute(select(s.entries.c.head).where(s.entries.c.kind == address.kind, s.entries.c.name == address.name)).scalar()


def _aliases(connection: Connection, address: Address) -> list[str]:
    query = select(s.aliases.c.alias).where(
        s.aliases.c.kind == address.kind, s.aliases.c.name == address.name, s.aliases.c.target.is_not(None)
    )
    return list(connection.execute(query.order_by(s.aliases.c.alias)).scalars())
