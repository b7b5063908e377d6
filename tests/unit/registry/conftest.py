"""Stores on each engine, and short ways to fill them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from andon.core.clocks import ManualClock
from andon.registry import Version, register
from andon.store import Store, open_store
from tests.conftest import ANA

Add = Callable[..., Version]


@pytest.fixture
def add(store: Store) -> Add:
    """``add("model", "bikes", {"n": 1})`` registers in the memory store, a second later each time."""

    def adding(kind: str, name: str, manifest: Any = None, **options: Any) -> Version:
        if isinstance(store.clock, ManualClock):
            store.clock.advance(1_000_000)
        return register(store, kind, name, manifest or {}, actor=ANA, **options)

    return adding


@pytest.fixture(params=["sqlite", "postgres"])
def shared_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store that other processes can open too, by its settings."""
    ledger = "sqlite:///ledger.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with open_store(tmp_path, ledger=ledger) as opened:
        yield opened
