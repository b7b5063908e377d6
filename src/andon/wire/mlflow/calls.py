"""One request as a handler sees it, and how a module says which requests are its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import parse_qs

from andon.core.actors import Actor
from andon.core.settings import Settings
from andon.store import Store
from andon.wire.mlflow import messages

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sqlalchemy import Connection

T = TypeVar("T")
Mode = Literal["inline", "thread", "stream"]


class Route(NamedTuple):
    """Which requests a handler answers.

    ``template`` is what follows ``/api/``, such as ``2.0/mlflow/runs/create``; ``{name}`` stands for one segment and ``{name:path}``, last,
    for the rest. Modes: ``inline`` is ``async handler(call)`` on the event loop, which must not block; ``thread`` is ``handler(call)`` on a
    worker thread; ``stream`` is ``async handler(call, receive, send)``, which reads the body and answers by itself. The first two return
    what to answer with 200: bytes of JSON, or anything that msgspec encodes (None: ``{}``).
    """

    method: str
    template: str
    handler: Callable[..., Any]
    mode: Mode = "thread"


@dataclass(slots=True)
class Call:
    """A request. ``path`` holds what the template's places stood for; ``body`` is empty for streams."""

    store: Store
    settings: Settings
    actor: Actor
    method: str
    path: dict[str, str]
    query_string: bytes
    headers: dict[bytes, bytes]
    body: bytes = b""
    scope: dict[str, Any] = field(default_factory=dict)

    def read(self, kind: type[T]) -> T:
        """The request's message as the record ``kind``: from the query of a GET, else from the JSON body. Raises ``WireError``."""
        if self.method == "GET" and self.query_string:
            return messages.from_query(self.query, kind)
        return messages.from_body(self.body, kind)

    @property
    def query(self) -> dict[str, list[str]]:
        """The query string's values, by name."""
        return parse_qs(self.query_string.decode("latin-1"), keep_blank_values=True)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in the next group commit; durable on return. The event loop is free meanwhile."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[T] = loop.create_future()

        def done(future: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(_pass_on, future, waiting)

        # What asyncio.wrap_future does, without the way back that would let a client who leaves undo a write.
        self.store.ledger.submit(work).add_done_callback(done)
        return await waiting

    async def look(self, work: Callable[[Connection], T]) -> T:
        """Run a small read. SQLite answers on the spot, in less time than a thread takes to wake; a shared ledger is across a network."""
        if self.store.ledger.capabilities.shared:
            return await asyncio.to_thread(self._look, work)
        return self._look(work)

    def _look(self, work: Callable[[Connection], T]) -> T:
        with self.store.ledger.read() as connection:
            return work(connection)


def _pass_on(future: Future[T], waiting: asyncio.Future[T]) -> None:
    if waiting.done() or future.cancelled():
        waiting.cancel()
        return
    error = future.exception()
    if error is None:
        waiting.set_result(future.result())
    else:
        waiting.set_exception(error)


Inline = Callable[[Call], Awaitable[Any]]
