"""Where a front learns which release it should run: a small port over the registry, so that the front is tested without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from sqlalchemy import Connection

from andon.core.errors import Incompatible, NotFound
from andon.logs.policies import PREFIX, LoggingPolicy
from andon.models.records import ModelManifest
from andon.releases.records import ReleaseManifest
from andon.releases.splits import Live, Split, live_split_in
from andon.store import Store


class Target(msgspec.Struct, frozen=True):
    """What a channel points to: a release's address and digest."""

    address: str
    digest: str


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger says of a service at one instant."""

    targets: dict[str, Target | None]
    """Where each channel points; None when it points nowhere."""
    live: Live | None = None
    """The split, while there is one."""
    logging: LoggingPolicy = LoggingPolicy()
    """What may be written down of its requests."""
    releases: dict[str, Target] = {}
    """The split's releases that exist, by address: its arms, mirrors and what it keeps warm."""


class ReleaseSource(Protocol):
    """What a front asks of the registry. Every call may block or raise; the front calls it from threads only."""

    def changes(self) -> int:
        """As ``Ledger.changes``: differs from the last one seen on this thread if anything may have been committed."""
        ...

    def look(self, service: str, channels: Sequence[str]) -> View:
        """Where the channels point and how the requests are split now, of one snapshot."""
        ...

    def release(self, address: str) -> ReleaseManifest:
        """A release's manifest. Raises ``NotFound``."""
        ...

    def model(self, release: ReleaseManifest) -> ModelManifest:
        """The manifest of the model that a release pins. Raises ``NotFound``, or ``Incompatible`` when it is not what was pinned."""
        ...


class StoreSource:
    """The registry of a store as a ``ReleaseSource``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def changes(self) -> int:
        return self._store.ledger.changes()

    def look(self, service: str, channels: Sequence[str]) -> View:
        with self._store.ledger.read() as connection:
            targets = {channel: _target(connection, f"service:{service}@{channel}") for channel in channels}
            live = live_split_in(connection, service)
            named = () if live is None else releases_of(live.split)
            found = [_target(connection, address) for address in named]
            logging = _logging(connection, service)
        return View(
            targets=targets, live=live, logging=logging, releases={target.address: target for target in found if target is not None}
        )

    def release(self, address: str) -> ReleaseManifest:
        from andon.registry import get, manifest_of

        return manifest_of(get(self._store, address), ReleaseManifest)

    def model(self, release: ReleaseManifest) -> ModelManifest:
        from andon.registry import get, manifest_of

        version = get(self._store, release.model.address)
        if version.digest != release.model.digest:
            raise Incompatible("the model is not what the release pinned", model=release.model.address, pinned=release.model.digest)
        return manifest_of(version, ModelManifest)


def releases_of(split: Split) -> tuple[str, ...]:
    """The addresses that a split wants loaded, each once, what answers first."""
    named = [arm.release for arm in split.arms] + [mirror.release for mirror in split.mirrors] + list(split.warm)
    return tuple(dict.fromkeys(named))


def _target(connection: Connection, address: str) -> Target | None:
    from andon.registry import get_in

    try:
        version = get_in(connection, address)
    except NotFound:
        return None
    return Target(str(version.address), version.digest)


def _logging(connection: Connection, service: str) -> LoggingPolicy:
    from andon.registry import get_in, manifest_of

    try:
        return manifest_of(get_in(connection, f"policy:{PREFIX}{service}"), LoggingPolicy)
    except NotFound:
        return LoggingPolicy()
