"""Blobs: bytes by digest. Knows nothing of names, versions or releases; ``gc`` is told by its caller what is still needed."""

from __future__ import annotations

from pathlib import Path

from andon.core.clocks import Clock
from andon.core.errors import InvalidSettings
from andon.store.ports import Blobs

__all__ = ["open_blobs"]


def open_blobs(url: str, home: Path, clock: Clock) -> Blobs:
    """Open the store that ``url`` names: ``file://PATH`` (relative to ``home``) or ``memory:``.

    Raises ``InvalidSettings`` for any other scheme. Nothing is made on disk before the first ``put``.
    """
    if url == "memory:":
        from andon.store.blobs.memory import MemoryBlobs

        return MemoryBlobs(clock)
    if not url.startswith("file://"):
        raise InvalidSettings("blobs are at file://PATH or memory:", field="blobs", got=url.split("@")[-1][:80])
    from andon.store.blobs.local import LocalBlobs

    return LocalBlobs(Path(home, url.removeprefix("file://")).absolute(), clock)
