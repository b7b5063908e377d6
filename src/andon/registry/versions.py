"""Names and their immutable versions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, and_, insert, select, update
from sqlalchemy import delete as sql_delete

from andon.core.actors import Actor
from andon.core.addresses import VERSIONED_KINDS, Address, check_name
from andon.core.digests import canonical_json, check_digest, digest_bytes
from andon.core.errors import Conflict, InvalidAddress, InvalidInput, Pinned
from andon.core.texts import check_reason, check_text
from andon.registry.finding import get_in, require_entry_in, require_in, version_of
from andon.registry.lineage import link_in
from andon.registry.records import Entry, Parent, Version
from andon.store import Store
from andon.store import schema as s

T = TypeVar("T")
MAX_KEY_BYTES = 500
MAX_MANIFEST_BYTES = 4 * 1024 * 1024


def register(
    store: Store,
    kind: str,
    name: str,
    manifest: Any,
    *,
    actor: Actor,
    reason: str = "",
    parents: Iterable[Parent] = (),
    blobs: Iterable[str] = (),
    idempotency_key: str | None = None,
) -> Version:
    """Append an immutable version and return it.

    Registering what the head already holds (same digest) returns the head; an older version with the same digest does not stop a new one
    (going back is a step forward). With an ``idempotency_key``, a second call returns the first call's version, and raises ``Conflict``
    if its manifest was another. ``blobs`` are the digests this version needs; gc keeps them while the version lives.
    """
    parents, blobs = tuple(parents), tuple(blobs)
    return store.ledger.write(
        lambda connection: register_in(
            connection,
            kind,
            name,
            manifest,
            now_us=store.clock.now_us(),
            actor=actor,
            reason=reason,
            parents=parents,
            blobs=blobs,
            idempotency_key=idempotency_key,
        )
    )


def register_in(
    connection: Connection,
    kind: str,
    name: str,
    manifest: Any,
    *,
    now_us: int,
    actor: Actor,
    reason: str = "",
    parents: Sequence[Parent] = (),
    blobs: Sequence[str] = (),
    idempotency_key: str | None = None,
    again: bool = False,
) -> Version:
    """``register`` inside the caller's transaction. With ``again``, what the head already holds becomes a new version too."""
    if kind not in VERSIONED_KINDS:
        raise InvalidAddress(f"{kind!r} has no versions", field="kind")
    check_name(name)
    check_reason(reason)
    if idempotency_key is not None:
        check_text(idempotency_key, "idempotency_key", at_least=1, at_most=MAX_KEY_BYTES)
    body = canonical_json(manifest)
    if len(body) > MAX_MANIFEST_BYTES:
        raise InvalidInput(
            f"a manifest has at most {MAX_MANIFEST_BYTES} bytes; put large things in the artifact store", field="manifest", got=len(body)
        )
    digest = digest_bytes(body)
    known = None if again and idempotency_key is None else _known(connection, kind, name, digest, idempotency_key)
    if known is not None:
        return known
    version = _next_version(connection, kind, name, now_us)
    connection.execute(
        insert(s.versions).values(
            kind=kind,
            name=name,
            version=version,
            digest=digest,
            manifest=body,
            idempotency_key=idempotency_key,
            created_us=now_us,
            actor=str(actor),
            reason=reason,
        )
    )
    address = Address(kind, name, version)
    for parent in parents:
        link_in(connection, str(address), _pinned(connection, parent.address), parent.role, now_us=now_us)
    owned = sorted({check_digest(blob) for blob in blobs})
    if owned:
        connection.execute(insert(s.blob_refs), [{"owner": str(address), "digest": blob} for blob in owned])
    return Version(address=address, digest=digest, manifest=msgspec.json.decode(body), created_us=now_us, actor=str(actor), reason=reason)


def _known(connection: Connection, kind: str, name: str, digest: str, key: str | None) -> Version | None:
    named = and_(s.versions.c.kind == kind, s.versions.c.name == name)
    if key is not None:
        row = connection.execute(select(s.versions).where(named, s.versions.c.idempotency_key == key)).first()
        if row is None:
            return None
        if row.digest != digest:
            raise Conflict("this idempotency key was used for another manifest", field="idempotency_key", got=key[:80])
        return version_of(row)
    head = connection.execute(select(s.versions).where(named).order_by(s.versions.c.version.desc()).limit(1)).first()
    return version_of(head) if head is not None and head.digest == digest and head.deleted_us is None else None


def _next_version(connection: Connection, kind: str, name: str, now_us: int) -> int:
    named = and_(s.entries.c.kind == kind, s.entries.c.name == name)
    head = connection.execute(select(s.entries.c.head).where(named)).scalar()
    if head is None:
        connection.execute(insert(s.entries).values(kind=kind, name=name, head=1, created_us=now_us, changed_us=now_us))
        return 1
    connection.execute(update(s.entries).where(named).values(head=head + 1, changed_us=now_us, deleted_us=None))
    return int(head) + 1


def _pinned(connection: Connection, text: str) -> str:
    address = Address.parse(text)  # a tombstone may be a parent: what was made from it remains made from it
    return str(require_in(connection, address).address) if address.kind in VERSIONED_KINDS else str(address)


def manifest_of(version: Version, kind: type[T]) -> T:
    """A version's manifest as the record ``kind``. Raises ``InvalidInput`` when it was written to another schema."""
    try:
        return msgspec.convert(version.manifest, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"this manifest is not a {kind.__name__}: {error}", address=str(version.address)) from None


def versions(store: Store, entry: str | Address, *, limit: int = 100, before: int | None = None) -> list[Version]:
    """Versions of a name, newest first, tombstones included. Raises ``NotFound`` when there is no such name; one may have none yet."""
    address = Address.parse(entry).entry
    query = select(s.versions).where(s.versions.c.kind == address.kind, s.versions.c.name == address.name)
    if before is not None:
        query = query.where(s.versions.c.version < before)
    with store.ledger.read() as connection:
        rows = connection.execute(query.order_by(s.versions.c.version.desc()).limit(limit)).all()
        if not rows and before is None:
            require_entry_in(connection, address)
        return [version_of(row) for row in rows]


def entries(store: Store, kind: str | None = None, *, prefix: str = "", limit: int = 1000) -> list[Entry]:
    """Names with their heads and aliases, by kind and name; deleted names are left out."""
    query = select(s.entries).where(s.entries.c.deleted_us.is_(None))
    if kind is not None:
        query = query.where(s.entries.c.kind == kind)
    if prefix:
        query = query.where(s.entries.c.name.startswith(prefix, autoescape=True))
    with store.ledger.read() as connection:
        rows = connection.execute(query.order_by(s.entries.c.kind, s.entries.c.name).limit(limit)).all()
        named: dict[tuple[str, str], dict[str, str]] = {}
        wanted = select(s.aliases).where(s.aliases.c.target.is_not(None))
        for row in connection.execute(wanted if kind is None else wanted.where(s.aliases.c.kind == kind)):
            named.setdefault((row.kind, row.name), {})[row.alias] = row.target
    return [
        Entry(
            kind=row.kind,
            name=row.name,
            head=row.head,
            created_us=row.created_us,
            changed_us=row.changed_us,
            aliases=named.get((row.kind, row.name), {}),
            title=row.title,
            description=row.description or "",
        )
        for row in rows
    ]


def delete(store: Store, address: str | Address, *, actor: Actor, reason: str) -> Version:
    """Delete a version's manifest and let go of its bytes; a tombstone stays. Returns the tombstone.

    Raises ``Pinned`` while an alias points to it, or a release that still lives was made from it.
    """
    now_us = store.clock.now_us()
    return store.ledger.write(lambda connection: delete_in(connection, address, now_us=now_us, actor=actor, reason=reason))


def delete_in(connection: Connection, address: str | Address, *, now_us: int, actor: Actor, reason: str) -> Version:
    """``delete`` inside the caller's transaction."""
    check_reason(reason)
    found = get_in(connection, address)
    at = found.address
    _refuse_if_needed(connection, at)
    key = and_(s.versions.c.kind == at.kind, s.versions.c.name == at.name, s.versions.c.version == at.version)
    gone = {"deleted_us": now_us, "deleted_by": str(actor), "deleted_why": reason}
    connection.execute(update(s.versions).where(key).values(manifest=None, idempotency_key=None, **gone))
    connection.execute(sql_delete(s.blob_refs).where(s.blob_refs.c.owner == str(at)))
    told = s.version_sources.c
    connection.execute(sql_delete(s.version_sources).where(told.kind == at.kind, told.name == at.name, told.version == at.version))
    return msgspec.structs.replace(found, manifest=None, **gone)


def _refuse_if_needed(connection: Connection, at: Address) -> None:
    pointing = connection.execute(select(s.aliases).where(s.aliases.c.target == str(at))).first()
    if pointing is not None:
        alias = f"{pointing.kind}:{pointing.name}@{pointing.alias}"
        raise Pinned(
            "an alias points to this version", address=str(at), alias=alias, next_step=f"move it first: andon alias {alias} ADDRESS"
        )
    for child in connection.execute(select(s.edges.c.child).where(s.edges.c.parent == str(at), s.edges.c.child.startswith("release:"))):
        release = Address.parse(child.child)
        living = connection.execute(
            select(s.versions.c.version).where(
                s.versions.c.kind == release.kind,
                s.versions.c.name == release.name,
                s.versions.c.version == release.version,
                s.versions.c.deleted_us.is_(None),
            )
        ).first()
        if living is not None:
            raise Pinned(address=str(at), release=str(release), next_step=f"delete {release} first, if it will never be needed again")
