"""Where a front learns which release it should run: a small port over the registry, so that the front is tested without one."""

from __future__ import annotations

from typing import Protocol

import msgspec

from andon.core.errors import Incompatible, NotFound
from andon.models.records import ModelManifest
from andon.releases.records import ReleaseManifest
from andon.store import Store


class Target(msgspec.Struct, frozen=True):
    """What a channel points to: a release's address and digest."""

    address: str
    digest: str


class ReleaseSource(Protocol):
    """What a front asks of the registry. Every call may block or raise; the front calls it from threads only."""

    def changes(self) -> int:
        """As ``Ledger.changes``: differs from the last one seen on this thread if anything may have been committed."""
        ...

    def target(self, service: str, channel: str) -> Target | None:
        """Where a channel points now; None when it points nowhere."""
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

    def target(self, service: str, channel: str) -> Target | None:
        from andon.registry import get_in

        with self._store.ledger.read() as connection:
            try:
                version = get_in(connection, f"service:{service}@{channel}")
            except NotFound:
                return None
        return Target(str(version.address), version.digest)

    def release(self, address: str) -> ReleaseManifest:
        from andon.registry import get, manifest_of

        return manifest_of(get(self._store, address), ReleaseManifest)

    def model(self, release: ReleaseManifest) -> ModelManifest:
        from andon.registry import get, manifest_of

        version = get(self._store, release.model.address)
        if version.digest != release.model.digest:
            raise Incompatible("the model is not what the release pinned", model=release.model.address, pinned=release.model.digest)
        return manifest_of(version, ModelManifest)
