"""The short way to a prediction: from the parser to the batcher and back without a scope, a task or a coroutine.

An ASGI request costs a dictionary, a task, an event and four coroutine steps, which is more than a small model does. A request that fits
(a POST to an endpoint, HTTP/1.1, a content length within bounds, no compression, nothing before it on its connection that is still being
answered) is held by an ``Exchange`` instead. To uvicorn's protocol it looks like the cycle it would have made: keep-alive, pipelining,
graceful shutdown and disconnects go on as they do for every other request. All that does not fit takes the long way, through
``ServingApp.__call__``.
"""

from __future__ import annotations

import logging
from asyncio import Future
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from andon.api import compression
from andon.core.errors import AndonError

if TYPE_CHECKING:
    from andon.api.endpoints import Endpoint
    from andon.api.facts import Facts
    from andon.api.serving_server import GuardedProtocol
    from andon.serving.asking import Asked, Query
    from andon.serving.front import Front

log = logging.getLogger("andon.serving")


class Exchange:
    """One request, its answer, and what uvicorn's protocol wants to know of the two."""

    __slots__ = (
        "asked",
        "disconnected",
        "endpoint",
        "facts",
        "front",
        "keep_alive",
        "parts",
        "protocol",
        "query",
        "response_complete",
        "response_started",
    )

    def __init__(self, protocol: GuardedProtocol, front: Front, endpoint: Endpoint, facts: Facts) -> None:
        self.protocol = protocol
        self.front = front
        self.endpoint = endpoint
        self.facts = facts
        self.parts: list[bytes] = []
        self.keep_alive = True
        self.disconnected = self.response_started = self.response_complete = False
        self.query: Query | None = None
        self.asked: Asked | None = None

    # --- as uvicorn's cycle

    @property
    def message_event(self) -> Exchange:
        """What uvicorn sets when the connection is lost."""
        return self

    def set(self) -> None:
        """Nobody waits for it: ``Caller.leave`` has told us."""

    # --- as the batcher's reply

    def done(self) -> bool:
        """Whether it was answered; a connection that ends has it failed (``Caller.leave``)."""
        return self.response_started

    def set_result(self, outputs: dict[str, Any]) -> None:
        """Answer. Never raises: others are in the same batch."""
        self.response_started = True
        asked, query = self.asked, self.query
        assert asked is not None
        assert query is not None
        self.asked = None  # it leads back here: without this every request would be a cycle, left to the garbage collector and its pauses
        try:
            head, body = self.endpoint.answered(query, outputs)
        except AndonError as error:
            self.front.end(asked, error)
            self._refuse(error)
            return
        except Exception as error:  # noqa: BLE001  # a defect becomes this request's 500
            self.front.end(asked, AndonError(type(error).__name__))
            self._defect(error)
            return
        if self.endpoint.packs and self.facts.accepts is not None and len(body) >= compression.MIN_BYTES:
            self._pack(head, body, self.facts.accepts)
        else:
            self._write(200, head, body)
        self.front.end(asked, None)  # what it took is until here: making and sending the answer is part of it

    def set_exception(self, error: BaseException) -> None:
        """Say what went wrong."""
        known = error if isinstance(error, AndonError) else AndonError(f"this is a defect of Andon's: {type(error).__name__}")
        self.response_started = True
        asked, self.asked = self.asked, None
        if asked is not None:
            self.front.end(asked, known)
        self._refuse(known)

    # --- its own life

    def run(self) -> None:
        """The request is whole: hand it to the batcher."""
        try:
            parts = self.parts
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            self.parts = []
            query = self.query = self.endpoint.read(body, self.facts)
            self.asked = self.front.begin(query, self)
        except AndonError as error:  # counted where it came up
            self._refuse(error)
        except Exception as error:  # noqa: BLE001  # a defect becomes a 500 in our envelope, and its traceback goes to the log
            self._defect(error)

    def _defect(self, error: Exception) -> None:
        log.error("a defect while answering", exc_info=error)
        self._refuse(AndonError(f"this is a defect of Andon's: {type(error).__name__}"))

    def _refuse(self, error: AndonError) -> None:
        self.response_started = True
        head, body = self.endpoint.refused(error, self.query)
        if error.status == 500:
            self.keep_alive = False
        self._write(error.status, head, body)

    def _pack(self, head: bytes, body: bytes, accepts: bytes) -> None:
        """Answer with the body compressed, where its client takes that."""
        encoding = compression.accepted(accepts)
        if encoding is None:
            self._write(200, head, body)
            return
        packed = head + b"content-encoding: %s\r\nvary: accept-encoding\r\n" % encoding.encode()
        if len(body) < compression.INLINE_BYTES:
            self._write(200, packed, compression.deflate(body, encoding))
            return

        def write(done: Future[bytes]) -> None:
            if done.exception() is None:
                self._write(200, packed, done.result())
            else:  # no memory for it, or no thread: the answer is there all the same
                self._write(200, head, body)

        self.protocol.loop.run_in_executor(None, compression.deflate, body, encoding).add_done_callback(write)

    def _write(self, status: int, headers: bytes, body: bytes) -> None:
        protocol = self.protocol
        self.response_complete = True
        protocol.server_state.total_requests += 1
        transport = protocol.transport
        if self.disconnected or transport.is_closing():
            return
        closing = not self.keep_alive or self.front.draining
        last = b"connection: close\r\n\r\n" if closing else b"\r\n"
        length = b"content-length: %d\r\n" % len(body)
        transport.write(b"".join((STATUS_LINE[status], protocol.default_head(), headers, length, last, body)))
        if closing:
            transport.close()
        else:
            protocol.answered()
