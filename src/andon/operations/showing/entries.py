"""The registry as pages: names, their versions, aliases, tags and lineage."""

from __future__ import annotations

from typing import Any

from andon.core.addresses import VERSIONED_KINDS, Address
from andon.core.errors import AndonError, InvalidAddress
from andon.operations.showing.records import EntryRow, EntryView, LineageView, VersionRow
from andon.registry import Change, Entry, Version, diff_values, entries, entry_in, get, lineage, moves, tag_history, tags_of, versions
from andon.registry.lineage import Direction
from andon.store import Store


def entry_rows(store: Store, kind: str | None = None, *, prefix: str = "", limit: int = 1000) -> tuple[EntryRow, ...]:
    """Names in the registry. Raises ``InvalidAddress`` for a kind that has no versions."""
    if kind is not None and kind not in VERSIONED_KINDS:
        known = ", ".join(sorted(VERSIONED_KINDS))
        raise InvalidAddress(f"there is no kind {kind[:40]!r} with versions; they are {known}", field="kind", got=kind[:80])
    return tuple(_row(entry) for entry in entries(store, kind, prefix=prefix, limit=limit))


def _row(entry: Entry) -> EntryRow:
    return EntryRow(
        address=f"{entry.kind}:{entry.name}",
        kind=entry.kind,
        name=entry.name,
        head=entry.head,
        changed_us=entry.changed_us,
        aliases=entry.aliases,
        title=entry.title if entry.title is not None and entry.title != entry.name else "",
        description=entry.description,
    )


def entry_view(store: Store, address: str | Address, *, limit: int = 100) -> EntryView:
    """One name, whole, looking at the version that ``address`` means (the newest, without one). Raises ``NotFound``."""
    at = Address.parse(address)
    found = versions(store, at, limit=limit)
    with store.ledger.read() as connection:
        entry = entry_in(connection, at)
    aliases = entry.aliases
    rows = tuple(_version_row(version, aliases) for version in found)
    shown = _shown(store, at, found)
    before = _before(shown, found)
    return EntryView(
        entry=_row(entry),
        versions=rows,
        shown=None if shown is None else _version_row(shown, aliases),
        manifest=None if shown is None else shown.manifest,
        moves=tuple(moves(store, at.entry, limit=200)),
        tags=_tags(store, at.entry, shown),
        tag_history=tuple(tag_history(store, at.entry)) + (tuple(tag_history(store, shown.address)) if shown is not None else ()),
        lineage=LineageView(root=str(at.entry), nodes=(), edges=(), depth={}, truncated=False)
        if shown is None
        else lineage_view(store, shown.address),
        changes=_changes(before, shown),
    )


def _shown(store: Store, at: Address, found: list[Version]) -> Version | None:
    if at.version is not None or at.alias is not None:
        return get(store, at)
    return next((version for version in found if version.deleted_us is None), None)


def _before(shown: Version | None, found: list[Version]) -> Version | None:
    """The newest living version older than the one shown."""
    if shown is None or shown.address.version is None:
        return None
    older = (version for version in found if (version.address.version or 0) < (shown.address.version or 0))
    return next((version for version in older if version.manifest is not None), None)


def _changes(before: Version | None, shown: Version | None) -> tuple[Change, ...]:
    return () if before is None or shown is None else tuple(diff_values(before.manifest, shown.manifest))


def _tags(store: Store, entry: Address, shown: Version | None) -> dict[str, str]:
    return tags_of(store, entry) | ({} if shown is None else tags_of(store, shown.address))


def _version_row(version: Version, aliases: dict[str, str]) -> VersionRow:
    address = str(version.address)
    return VersionRow(
        address=address,
        version=version.address.version or 0,
        digest=version.digest,
        created_us=version.created_us,
        actor=version.actor,
        reason=version.reason,
        aliases=tuple(alias for alias, target in aliases.items() if target == address),
        deleted_us=version.deleted_us,
        deleted_by=version.deleted_by,
        deleted_why=version.deleted_why,
    )


def lineage_view(store: Store, address: str | Address, direction: Direction = "both", *, limit: int = 60) -> LineageView:
    """The lineage around an address, with how many steps each node is away: below 0 what it was made from, above 0 what came of it."""
    graph = lineage(store, address, direction, limit=limit)
    depth = {graph.root: 0}
    for step, near, far in ((-1, "child", "parent"), (1, "parent", "child")):
        away, frontier, level = dict[str, int](), {graph.root}, 0
        while frontier and abs(level) < len(graph.nodes):  # the longest way from the root, so that every link points one way
            level += step
            frontier = {getattr(edge, far) for edge in graph.edges if getattr(edge, near) in frontier}
            away |= dict.fromkeys(sorted(frontier), level)
        depth |= {name: at for name, at in away.items() if name not in depth}
    return LineageView(root=graph.root, nodes=graph.nodes, edges=graph.edges, depth=depth, truncated=graph.truncated)


def manifest_or_none(store: Store, address: str) -> Any:
    """A version's manifest, or None when there is nothing to read there."""
    try:
        return get(store, address).manifest
    except AndonError:
        return None
