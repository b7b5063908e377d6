"""Which store a call without one means: the one opened with ``use``, else the home folder's, opened once per process and home."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar

from andon.core.settings import load
from andon.store import Store, open_store

_chosen: ContextVar[Store | None] = ContextVar("andon_store", default=None)
_opened: dict[tuple[str, str], Store] = {}
_lock = threading.Lock()


def current_store() -> Store:
    """The store that calls without one use."""
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    settings = load()
    key = (settings.home, settings.ledger)
    with _lock:
        if key not in _opened:
            if not _opened:
                atexit.register(_close_all)
            _opened[key] = open_store(settings)
        return _opened[key]


@contextlib.contextmanager
def use(store: Store) -> Iterator[Store]:
    """Within the block, calls without a store use ``store``."""
    token = _chosen.set(store)
    try:
        yield store
    finally:
        _chosen.reset(token)


def _close_all() -> None:
    with _lock:
        while _opened:
            _opened.popitem()[1].close()
