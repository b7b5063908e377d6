"""Keeping house: is everything that must hold still true, and which bytes does nobody need any more?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import select

from andon.core.errors import AndonError, NotFound
from andon.operations.moving import seconds
from andon.store import Store
from andon.store.ports import Collected
from andon.store.schema import aliases, artifacts, blob_refs

if TYPE_CHECKING:
    from andon.serving.environments import Swept


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


def sweep_environments(store: Store, *, older_than: str = "24h", dry_run: bool = False) -> Swept:
    """Remove this machine's built environments and laid-out files that no channel's release needs, no runner uses and nobody asked for
    within ``older_than``. They are built again when a release asks for them."""
    from andon.serving.environments import collect

    root = store.settings.path(store.settings.environments)
    return collect(root, _served(store), older_than_s=seconds(older_than), now_s=time.time(), dry_run=dry_run)


def _served(store: Store) -> set[str]:
    """Digests of the locks and trees that the releases on any channel need."""
    from andon.core.digests import digest_json
    from andon.models.records import ModelManifest
    from andon.registry import get, manifest_of
    from andon.releases.records import ReleaseManifest

    needed: set[str] = set()
    with store.ledger.read() as connection:
        held = set(connection.execute(select(aliases.c.target).where(aliases.c.kind == "service", aliases.c.target.is_not(None))).scalars())
    for address in sorted(held):
        try:
            release = manifest_of(get(store, address), ReleaseManifest)
            model = manifest_of(get(store, release.model.address), ModelManifest)
        except NotFound:
            continue
        needed |= {digest_json(release.environment), *(digest for digest in (release.code.tree, model.files) if digest)}
    return needed


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
