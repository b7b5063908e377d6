"""The control plane as one process: API, whatever faces are handed in, controllers in a thread, serving as children."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import uvicorn

from andon.api.app import create_app
from andon.api.children import Children, Command
from andon.api.controlling import Controllers
from andon.api.envelopes import ErrorPage
from andon.api.guard import check_binding
from andon.api.handover import Handover, handed_over, replace_program, take_signals
from andon.api.serving_server import inherit, listen, terminal_gone, url_of
from andon.api.watching import Watcher
from andon.core.settings import Settings
from andon.operations.controllers import Controller
from andon.store import open_store

KEEP_ALIVE_S = 30
GRACE_S = 5


def up(
    settings: Settings,
    *,
    controllers: Sequence[Controller] = (),
    extra_routes: Sequence[Any] = (),
    error_page: ErrorPage | None = None,
    serve: bool = True,
    serve_command: Command | None = None,
    keep_serving: bool = False,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run until SIGINT or SIGTERM; on SIGHUP, begin again as the program that is installed now, and leave serving alone meanwhile.
    With ``keep_serving`` the children go on when this ends. ``on_ready`` is called with the URL once it answers (default: print one line).

    Raises ``PortTaken``, ``InvalidSettings`` (a host beyond loopback), and what ``open_store`` raises; nothing runs then.
    """
    check_binding(settings.host)
    before = handed_over()
    listener = listen(settings.host, settings.port) if before is None else inherit(before.listener)
    with contextlib.closing(listener), open_store(settings) as store:
        watcher = Watcher(store)
        app = create_app(store, settings, extra_routes=extra_routes, error_page=error_page, watcher=watcher)
        background = Controllers(store, controllers)
        children = Children(store, settings, serve_command, again=before is not None) if serve else None
        url = url_of(listener)
        kept = os.dup(listener.fileno())  # the server closes the one it has

        def ready() -> None:
            # What is here now stays: without this each full collection looks at all of it again, which takes longer than a request.
            gc.collect()
            gc.freeze()
            background.start()
            if children is not None:
                children.start()
            if before is None:
                (on_ready or announce)(url)

        server = Server(app, watcher, ready)
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(server.serve(sockets=[listener]))
        finally:
            background.stop()
            if children is not None:
                children.stop(keep=keep_serving or server.again)
    if server.again:
        replace_program(Handover(listener=kept, generation=before.generation + 1 if before is not None else 1))


def announce(url: str) -> None:
    """Print the one line that scripts wait for."""
    sys.stdout.write(f"andon: {url}\n")
    sys.stdout.flush()


class Server(uvicorn.Server):
    """uvicorn's server, which says when it answers, and ends open event streams before it waits for connections."""

    def __init__(self, app: Any, watcher: Watcher, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._watcher = watcher
        self._ready = ready
        self.again = False
        """Whether the end is that of this program only."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """End in order. The signal is not raised again afterwards, as uvicorn would: the children are still to be stopped then."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn, and then take the signals that came while this program replaced another."""
        with super().capture_signals():
            take_signals()
            yield

    def _hung_up(self) -> None:
        self.again = not terminal_gone()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, then tell whoever waits."""
        await super().startup(sockets=sockets)
        with contextlib.suppress(AttributeError, ValueError, RuntimeError):  # not on Windows, and not outside of the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hung_up)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, without waiting for pages that listen for ever."""
        self._watcher.stop()
        await super().shutdown(sockets=sockets)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop
