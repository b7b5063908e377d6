"""What changed lately, read from the ledger: moves of the service's channels with what differs, and moves of its datasets' aliases."""

from __future__ import annotations

from andon import registry, releases
from andon.core.addresses import Address
from andon.core.errors import NotFound
from andon.incidents.records import Change
from andon.releases import COMPONENTS, ReleaseManifest, Turn
from andon.store import Store


def changes_of(store: Store, service: str) -> tuple[Change, ...]:
    """Dated changes that could explain what a service does, oldest first, in event time where the ledger knows it."""
    found = [_release_change(store, turn) for turn in releases.turns(store, service) if turn.channel == releases.PRODUCTION]
    current = releases.service_state(store, service).current()
    if current is not None:
        manifest = registry.manifest_of(registry.get(store, current), ReleaseManifest)
        for pin in manifest.data:
            entry = Address.parse(pin.address).entry
            found += [
                Change(
                    at_us=move.at_us,
                    kind="data",
                    subject=move.address,
                    before=move.source or "",
                    after=move.target or "",
                    components=("data",),
                    actor=move.actor,
                )
                for move in registry.moves(store, entry)
            ]
    return tuple(sorted(found, key=lambda change: (change.at_us, change.subject)))


def _release_change(store: Store, turn: Turn) -> Change:
    return Change(
        at_us=turn.at_us if turn.event_us is None else turn.event_us,
        kind="release",
        subject=f"{Address.parse(turn.release).name}@{turn.channel}",
        before=turn.previous or "",
        after=turn.release,
        components=_differing(store, turn.previous, turn.release),
        actor=turn.actor,
    )


def _differing(store: Store, before: str | None, after: str) -> tuple[str, ...]:
    if before is None:
        return COMPONENTS
    try:
        old = registry.manifest_of(registry.get(store, before), ReleaseManifest)
        new = registry.manifest_of(registry.get(store, after), ReleaseManifest)
    except NotFound:
        return ()  # one of them has been deleted: what differed cannot be said any more
    return tuple(name for name in COMPONENTS if getattr(old, name) != getattr(new, name))
