"""Does the ledger still say what it must? Read by ``andon doctor`` and by the fault tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from andon.core.addresses import VERSIONED_KINDS, Address
from andon.core.digests import digest_bytes
from andon.core.errors import CorruptBytes, InvalidAddress
from andon.store import Store
from andon.store import schema as s
from andon.store.ledger.integrity import damage

RESTORE = "restore the ledger from a backup taken before this; what else it holds can still be read"
REGISTER_AGAIN = "register it again: the new version will be whole"
MOVE_AGAIN = "move the alias again to the version you want: `andon alias ALIAS ADDRESS`"
HARMLESS = "nothing is lost; please report it with the ledger's recent history"
ROWS_AT_ONCE = 500


class Problem(msgspec.Struct, frozen=True):
    """Something that does not hold, and what to do about it."""

    subject: str
    problem: str
    next_step: str


def check_registry(store: Store) -> list[Problem]:
    """Everything that must hold of versions, aliases, tags, lineage, blob references and event streams, in one snapshot.

    Reads every manifest. A ledger that is whole gives an empty list.
    """
    try:
        with store.ledger.read() as connection:
            return check_registry_in(connection)
    except CorruptBytes as error:  # damaged so much that it cannot even be checked
        return [Problem("ledger", error.message, error.next_step or RESTORE)]


def check_registry_in(connection: Connection) -> list[Problem]:
    """``check_registry`` on a connection."""
    broken = [Problem("ledger", f"its file is damaged: {text}", RESTORE) for text in damage(connection)]
    if broken:
        return broken
    checks = (_numbers, _manifests, _aliases, _tags, _edges, _blob_refs, _streams)
    return [problem for check in checks for problem in check(connection)]


def _numbers(connection: Connection) -> Iterator[Problem]:
    """Versions are 1, 2, 3, … up to the entry's head, which is 0 when there are none yet."""
    v = s.versions.c
    counted = {
        (row.kind, row.name): row
        for row in connection.execute(
            select(v.kind, v.name, func.count().label("n"), func.min(v.version).label("low"), func.max(v.version).label("high")).group_by(
                v.kind, v.name
            )
        )
    }
    for row in connection.execute(select(s.entries)):
        found, named = counted.pop((row.kind, row.name), None), f"{row.kind}:{row.name}"
        if found is None:
            if row.head:
                yield Problem(named, f"its head is {row.head}, and it has no version", RESTORE)
        elif (found.low, found.high, found.n) != (1, row.head, row.head):
            yield Problem(named, f"its versions are not 1 to {row.head}: there are {found.n}, from {found.low} to {found.high}", RESTORE)
    for kind, name in counted:
        yield Problem(f"{kind}:{name}", "it has versions and no entry", RESTORE)


def _manifests(connection: Connection) -> Iterator[Problem]:
    """A living version's manifest hashes to its digest; a tombstone has none."""
    for row in connection.execute(select(s.versions).execution_options(yield_per=ROWS_AT_ONCE)):
        named = f"{row.kind}:{row.name}@{row.version}"
        if row.deleted_us is not None:
            if row.manifest is not None:
                yield Problem(named, "it was deleted, and its manifest is still there", "delete it again")
        elif row.manifest is None:
            yield Problem(named, "its manifest is gone, and nobody deleted it", REGISTER_AGAIN)
        elif digest_bytes(row.manifest) != row.digest:
            yield Problem(named, f"its manifest does not hash to {row.digest}", REGISTER_AGAIN)


def _aliases(connection: Connection) -> Iterator[Problem]:
    """An alias points where its last move says, at a living version; its moves are numbered and each starts where the last one ended."""
    m = s.alias_moves.c
    last: dict[tuple[str, str, str], Any] = {}
    for row in connection.execute(select(s.alias_moves).order_by(m.kind, m.name, m.alias, m.revision)):
        key = (row.kind, row.name, row.alias)
        before = last.get(key)
        if row.revision != (before.revision + 1 if before else 1) or row.source != (before.target if before else None):
            yield Problem(_alias(key), f"its history has a gap before move {row.revision}", HARMLESS)
        last[key] = row
    living = _versions(connection, living=True)
    for row in connection.execute(select(s.aliases)):
        key = (row.kind, row.name, row.alias)
        move = last.pop(key, None)
        if move is None or (move.target, move.revision) != (row.target, row.revision):
            yield Problem(_alias(key), f"it points to {row.target}, and its last move to {move.target if move else None}", MOVE_AGAIN)
        if row.target is not None and row.target not in living:
            yield Problem(_alias(key), f"it points to {row.target}, which does not live", MOVE_AGAIN)
    for key in last:
        yield Problem(_alias(key), "it has a history and points nowhere", MOVE_AGAIN)


def _tags(connection: Connection) -> Iterator[Problem]:
    """Tags are what their journal says."""
    changes = s.tag_changes
    newest = select(func.max(changes.c.seq).label("seq")).group_by(changes.c.subject, changes.c.key).subquery()
    rows = connection.execute(select(changes).join(newest, newest.c.seq == changes.c.seq))
    journaled = {(row.subject, row.key): row.value for row in rows}
    for row in connection.execute(select(s.tags)):
        said = journaled.pop((row.subject, row.key), None)
        if said != row.value:
            yield Problem(row.subject, f"its tag {row.key!r} is not what its journal says", "set the tag again")
    for (subject, key), value in journaled.items():
        if value is not None:
            yield Problem(subject, f"its tag {key!r} is in the journal and nowhere else", "set the tag again")


def _edges(connection: Connection) -> Iterator[Problem]:
    """Both ends of an edge are known. Of ids, only runs and verdicts have tables of their own to look in."""
    known = {"run": _ids(connection, s.runs.c.id), "verdict": _ids(connection, s.verdicts.c.id)}
    versions = _versions(connection, living=False)
    for row in connection.execute(select(s.edges)):
        for end in (row.child, row.parent):
            kind, _, rest = end.partition(":")
            if (kind in VERSIONED_KINDS and end not in versions) or (kind in known and rest not in known[kind]) or not _is_address(end):
                yield Problem(end, f"the lineage {row.child} <- {row.parent} names it, and it is not known", HARMLESS)


def _blob_refs(connection: Connection) -> Iterator[Problem]:
    """Only what lives keeps bytes."""
    living, runs = _versions(connection, living=True), _ids(connection, s.runs.c.id)
    for owner in connection.execute(select(s.blob_refs.c.owner).distinct()).scalars():
        kind, _, rest = owner.partition(":")
        if (kind in VERSIONED_KINDS and owner not in living) or (kind == "run" and rest not in runs):
            yield Problem(owner, "it keeps bytes and does not live", HARMLESS)


def _streams(connection: Connection) -> Iterator[Problem]:
    """Events are numbered 1, 2, 3, … in each stream."""
    e = s.events.c
    counted = select(e.stream, func.count().label("n"), func.min(e.n).label("low"), func.max(e.n).label("high")).group_by(e.stream)
    for row in connection.execute(counted):
        if row.low != 1 or row.high != row.n:
            yield Problem(row.stream, f"its events are not 1 to {row.high}: there are {row.n}", RESTORE)


def _versions(connection: Connection, *, living: bool) -> set[str]:
    v = s.versions.c
    query = select(v.kind, v.name, v.version)
    if living:
        query = query.where(v.deleted_us.is_(None))
    return {f"{row.kind}:{row.name}@{row.version}" for row in connection.execute(query)}


def _ids(connection: Connection, column: Any) -> set[str]:
    return set(connection.execute(select(column)).scalars())


def _alias(key: tuple[str, str, str]) -> str:
    kind, name, alias = key
    return f"{kind}:{name}@{alias}"


def _is_address(text: str) -> bool:
    try:
        Address.parse(text)
    except InvalidAddress:
        return False
    return True
