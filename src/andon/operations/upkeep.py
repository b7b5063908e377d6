"""Keeping house: is everything that must hold still true, and which bytes does nobody need any more?"""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from andon.core.errors import AndonError
from andon.operations.moving import seconds
from andon.store import Store
from andon.store.ports import Collected
from andon.store.schema import artifacts, blob_refs


class Problem(msgspec.Struct, frozen=True):
    """Something that does not hold, and what to do about it."""

    subject: str
    problem: str
    next_step: str


def doctor(store: Store, *, deep: bool = False) -> list[Problem]:
    """Check the ledger's records, the bytes they need, and the tables. ``deep`` also reads every stored byte."""
    from andon.registry.check import check_registry

    found = [Problem(problem.subject, problem.problem, problem.next_step) for problem in check_registry(store)]
    needed = needed_blobs(store)
    missing = [digest for digest in sorted(needed) if not store.blobs.has(digest)]
    found += [Problem(digest, "these bytes are needed and not there", "restore the artifact store from a backup") for digest in missing]
    return found + _tables(store) + (_bytes(store) if deep else [])


def gc(store: Store, *, older_than: str = "24h", dry_run: bool = False) -> Collected:
    """Free the bytes that no version and no run needs and nobody wrote for ``older_than`` (such as ``24h``)."""
    collected = store.blobs.gc(lambda: needed_blobs(store), older_than_us=int(seconds(older_than) * 1e6), dry_run=dry_run)
    if not dry_run:
        store.tables.purge(older_than_us=int(seconds(older_than) * 1e6))
    return collected


def needed_blobs(store: Store) -> set[str]:
    """The digests that versions and runs need: the roots of gc."""
    with store.ledger.read() as connection:
        refs = set(connection.execute(select(blob_refs.c.digest)).scalars())
        return refs | set(connection.execute(select(artifacts.c.digest)).scalars())


def _tables(store: Store) -> list[Problem]:
    from andon.store.tables.files import FileTables

    if not isinstance(store.tables, FileTables):
        return []
    from andon.store.tables.check import check_tables

    root, inbox = store.settings.path(store.settings.tables), store.settings.path(store.settings.inbox)
    serious = [finding for finding in check_tables(store.ledger, root, inbox) if finding.is_error]
    return [Problem(f.what, f"{f.kind}: {f.detail}", "restore it from a backup; the other rows can still be read") for f in serious]


def _bytes(store: Store) -> list[Problem]:
    problems = []
    for digest in store.blobs.digests():
        try:
            store.blobs.get(digest)
        except AndonError as error:
            problems.append(Problem(digest, error.message, "restore it from a backup, or register it again from its source"))
    return problems
