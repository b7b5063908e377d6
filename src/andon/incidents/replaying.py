"""The default replay port: the serving runtime's, bound to whichever store asks first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from andon.core.errors import Unavailable
from andon.monitoring.records import Array
from andon.releases import ReleaseManifest
from andon.store import Store

if TYPE_CHECKING:
    from andon.serving.replaying import Replayer


class LateReplay:
    """Starts runners only when something is replayed, so that a control plane with nothing to judge stays small."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._replayer: Replayer | None = None

    def bind(self, store: Store) -> None:
        """Replay with what ``store`` holds."""
        if self._store is not store:
            self.close()
            self._store = store

    def __call__(self, manifest: ReleaseManifest, columns: Mapping[str, Array]) -> Array:
        if self._store is None:
            raise Unavailable("there is no store to replay from")
        if self._replayer is None:
            from andon.serving.replaying import Replayer

            self._replayer = Replayer(self._store)
        return self._replayer(manifest, columns)

    def close(self) -> None:
        """End the runners."""
        if self._replayer is not None:
            self._replayer.close()
            self._replayer = None
