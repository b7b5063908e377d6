"""Answering examples with any release outside of traffic: what a gate scores with, and what triage replays an earlier release with.

The release runs exactly as it would in production: its own environment, transform and model, through the same loader and runner. Nothing is
logged as a prediction.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from andon.core.digests import digest_json
from andon.core.errors import Incompatible, ModelFailed
from andon.models.records import ModelManifest
from andon.releases.records import ReleaseManifest
from andon.serving.loading import Loaded, Loader
from andon.serving.source import StoreSource, Target, View
from andon.store import Store

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
BATCH_ROWS = 4096
KEPT = 3
"""Releases that stay loaded between calls: the live one, the last good one and a candidate."""


class Replayer:
    """Runs releases on columns. Calls may come from any thread; they take turns."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._source = _Unregistered(store)
        root = store.settings.path(store.settings.environments)
        self._loader = Loader(self._source, store.blobs, root, Path(store.settings.home, "logs"))
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="andon-replay", daemon=True)
        self._thread.start()

    def __call__(self, manifest: ReleaseManifest, columns: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """Predictions, float64 (n,), of the release's first output for request columns of length n.

        Raises ``BuildFailed``, ``LoadFailed``, ``ModelFailed``, ``InvalidInput``, or ``Incompatible`` when that output is a tensor.
        """
        import numpy as np

        n = len(next(iter(columns.values()))) if columns else 0
        if n == 0:
            return np.empty(0)
        first = manifest.signature.outputs[0]
        if first.shape:
            raise Incompatible(
                "a gate judges the release's first output, which is one number for each row",
                output=first.name,
                shape=str(list(first.shape)),
                next_step="make a number the first output, or release it without evaluation examples, under a waiver",
            )
        with self._lock:
            outputs = self._wait(self._run(manifest, columns, n))
        name = first.name
        if name not in outputs:
            raise ModelFailed(f"the release gave no output {name!r}; it gave {', '.join(outputs)}")
        return np.asarray(outputs[name], dtype=float).reshape(n)

    def close(self) -> None:
        """End every runner."""
        with self._lock:
            while self._loaded:
                self._wait(self._loaded.popitem()[1].runner.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    def __enter__(self) -> Replayer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _run(self, manifest: ReleaseManifest, columns: Mapping[str, Any], n: int) -> dict[str, np.ndarray[Any, Any]]:
        import numpy as np

        loaded = await self._load(manifest)
        typed = loaded.codec.from_columns(columns, n)
        parts = []
        for start in range(0, n, BATCH_ROWS):
            batch = {name: values[start : start + BATCH_ROWS] for name, values in typed.items()}
            parts.append(await loaded.runner.run(batch, min(BATCH_ROWS, n - start)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    async def _load(self, manifest: ReleaseManifest) -> Loaded:
        digest = digest_json(manifest)
        if digest in self._loaded:
            self._loaded.move_to_end(digest)
            return self._loaded[digest]
        self._source.manifests[digest] = manifest
        loaded = await self._loader.load(Target(digest, digest))
        self._loaded[digest] = loaded
        while len(self._loaded) > KEPT:
            await self._loaded.popitem(last=False)[1].runner.close()
        return loaded


class _Unregistered:
    """A source of releases by the digest of their manifest, registered or not."""

    def __init__(self, store: Store) -> None:
        self._registered = StoreSource(store)
        self.manifests: dict[str, ReleaseManifest] = {}

    def changes(self) -> int:
        return self._registered.changes()

    def look(self, service: str, channels: Sequence[str]) -> View:
        return self._registered.look(service, channels)

    def release(self, address: str) -> ReleaseManifest:
        return self.manifests[address]

    def model(self, release: ReleaseManifest) -> ModelManifest:
        return self._registered.model(release)
