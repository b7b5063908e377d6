"""A seeded line in memory, behind the application, with no socket."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from andon.api.app import create_app
from andon.board import routes
from andon.board.rendering import error_page
from andon.core.clocks import ManualClock
from andon.store import Store, memory_store
from tests.browser.seeding import seed

Client = TestClient[Litestar]


@pytest.fixture
def empty() -> Iterator[Store]:
    with memory_store(ManualClock(time.time_ns() // 1000)) as opened:
        yield opened


@pytest.fixture
def seeded(empty: Store) -> Store:
    clock = empty.clock
    assert isinstance(clock, ManualClock)
    seed(empty, clock, wall_us=clock.now_us())
    return empty


@pytest.fixture
def client(seeded: Store) -> Iterator[Client]:
    with _client(seeded) as opened:
        yield opened


@pytest.fixture
def empty_client(empty: Store) -> Iterator[Client]:
    with _client(empty) as opened:
        yield opened


def _client(store: Store) -> Client:
    app = create_app(store, store.settings, extra_routes=routes(), error_page=error_page)
    return TestClient(app, base_url="http://127.0.0.1:4700", raise_server_exceptions=False)
