"""Debian's Chromium against a real server on loopback: one browser a session, one page a test, and no request that leaves the machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from andon.api.app import create_app
from andon.api.server import Server
from andon.api.serving_server import listen, url_of
from andon.api.watching import Watcher
from andon.board import routes
from andon.board.rendering import error_page
from andon.core.clocks import ManualClock
from andon.store import Store, memory_store
from tests.browser.seeding import seed

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LOOPBACK = frozenset({"127.0.0.1", "localhost"})


@pytest.fixture(scope="module")  # not longer: Playwright's event loop would still run under the tests of other files
def browser() -> Iterator[Browser]:
    """Chromium, or a skip that says why there is none (in CI: a failure)."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have Chromium: .ci/run installs it")
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    with api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        yield made
        made.close()


class Served:
    """A server over a store in this process: a test may write to the store and watch the page follow."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._listener = listen("127.0.0.1", 0)
        self.url = url_of(self._listener)
        watcher = Watcher(store)
        app = create_app(store, store.settings, extra_routes=routes(), error_page=error_page, watcher=watcher)
        ready = threading.Event()
        self._server = Server(app, watcher, ready.set)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert ready.wait(20)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener]))

    def close(self) -> None:
        """Stop, in order."""
        self._server.should_exit = True
        self._thread.join(20)
        self._listener.close()


def _served(filled: bool) -> Iterator[Served]:
    clock = ManualClock(time.time_ns() // 1000)
    with memory_store(clock) as store:
        if filled:
            seed(store, clock, wall_us=clock.now_us())
        served = Served(store)
        yield served
        served.close()


@pytest.fixture(scope="module")
def line() -> Iterator[Served]:
    """A seeded line, for tests that only read."""
    yield from _served(filled=True)


@pytest.fixture
def fresh() -> Iterator[Served]:
    """A seeded line of a test's own."""
    yield from _served(filled=True)


@pytest.fixture
def nothing() -> Iterator[Served]:
    """A server over an empty store."""
    yield from _served(filled=False)


OpenPage = Callable[..., "Page"]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages; afterwards fails the test for any console error, page error, or request off loopback."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_(
        served: Served, path: str = "/", *, dark: bool = False, width: int = 1280, height: int = 860, expect_error: bool = False
    ) -> Page:
        context = browser.new_context(color_scheme="dark" if dark else "light", viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: _note_request(wrong, request.url))
        if not expect_error:
            page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"page error: {error}"))
        page.goto(served.url + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong, wrong


def _note_request(wrong: list[str], url: str) -> None:
    if urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).hostname not in LOOPBACK:
        wrong.append(f"left loopback: {url}")
