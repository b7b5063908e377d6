"""Floor 1: where things are kept. ``open_store`` brings the engines named by the settings together behind their ports."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from andon.core.clocks import Clock, SystemClock
from andon.core.ids import Ids
from andon.core.settings import Settings, load
from andon.store.ports import Blobs, Ledger, Tables

__all__ = ["Store", "memory_store", "open_store"]


@dataclass(frozen=True, slots=True)
class Store:
    """The stores of one Andon, and where its time and ids come from. Every verb takes one."""

    settings: Settings
    ledger: Ledger
    blobs: Blobs
    tables: Tables
    clock: Clock
    ids: Ids

    def close(self) -> None:
        """Flush and let go of everything."""
        self.tables.close()
        self.ledger.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(settings: Settings | str | os.PathLike[str] | None = None, *, clock: Clock | None = None, **overrides: Any) -> Store:
    """Open (and on first use make) the stores of a home folder. Raises ``ReadOnly``, ``InvalidSettings`` or ``Unavailable``."""
    from andon.store.blobs import open_blobs
    from andon.store.ledger import open_ledger
    from andon.store.tables import open_tables

    if not isinstance(settings, Settings):
        settings = load(settings, **overrides)
    clock = clock or SystemClock()
    ids = Ids(clock)
    ledger = open_ledger(settings)
    home = Path(settings.home)
    blobs = open_blobs(settings.blobs, home, clock)
    tables = open_tables(ledger, settings.tables, settings.inbox, home, clock, ids)
    return Store(settings, ledger, blobs, tables, clock, ids)


def memory_store(clock: Clock | None = None) -> Store:
    """A store that keeps everything in this process's memory: for tests and trials."""
    return open_store(Settings(home="/nonexistent", ledger="memory:", blobs="memory:", tables="memory:", inbox="memory:"), clock=clock)
