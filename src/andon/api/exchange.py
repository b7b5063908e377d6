"""The short way for ``POST /predict``: from the parser to the batcher and back without a scope, a task or a coroutine.

An ASGI request costs a dictionary, a task, an event and four coroutine steps, which is more than a small model does. A request that fits
(HTTP/1.1, a content length within bounds, no compression, nothing before it on its connection that is still being answered) is held by an
``Exchange`` instead. To uvicorn's protocol it looks like the cycle it would have made: keep-alive, pipelining, graceful shutdown and
disconnects go on as they do for every other request. All that does not fit takes the long way, through ``ServingApp.__call__``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from andon.core.errors import AndonError

if TYPE_CHECKING:
    from andon.api.serving_app import Facts, ServingApp
    from andon.api.serving_server import GuardedProtocol
    from andon.serving.front import Asked, Front
    from andon.serving.loading import Loaded

log = logging.getLogger("andon.serving")
HOT = b"/predict"


class Exchange:
    """One request, its answer, and what uvicorn's protocol wants to know of the two."""

    __slots__ = (
        "app",
        "asked",
        "body",
        "disconnected",
        "facts",
        "front",
        "keep_alive",
        "loaded",
        "n",
        "protocol",
        "request_id",
        "response_complete",
        "response_started",
    )

    def __init__(self, protocol: GuardedProtocol, app: ServingApp, front: Front, facts: Facts) -> None:
        self.protocol = protocol
        self.app = app
        self.front = front
        self.facts = facts
        self.body = b""
        self.keep_alive = True
        self.disconnected = self.response_started = self.response_complete = False
        self.loaded: Loaded | None = None
        self.asked: Asked | None = None
        self.request_id: str | None = None
        self.n = 0

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

    def set_result(self, lists: dict[str, list[Any]]) -> None:
        """Answer. Never raises: others are in the same batch."""
        self.response_started = True
        asked, loaded = self.asked, self.loaded
        assert asked is not None
        assert loaded is not None
        self.front.end(asked, None)
        try:
            assert self.request_id is not None
            status, headers, body = 200, *self.app.answered(loaded, self.request_id, lists, self.n)
        except Exception as error:  # a defect becomes this request's 500, and its traceback goes to the log
            log.exception("a defect while answering")
            defect = AndonError(f"this is a defect of Andon's: {type(error).__name__}")
            status, headers, body = self.app.refused(defect, loaded, self.request_id)
        self._write(status, headers, body)

    def set_exception(self, error: BaseException) -> None:
        """Say what went wrong."""
        known = error if isinstance(error, AndonError) else AndonError(f"this is a defect of Andon's: {type(error).__name__}")
        self.response_started = True
        if self.asked is not None:
            self.front.end(self.asked, known)
        self._refuse(known)

    # --- its own life

    def run(self) -> None:
        """The request is whole: hand it to the batcher."""
        front, facts = self.front, self.facts
        try:
            loaded = self.loaded = front.loaded()
            request = loaded.codec.decode(self.body)
            request_id = self.request_id = request.request_id or facts.id() or front.new_id()
            rows = request.rows
            choice = front.choose(request_id, facts.key_text(), rows=rows)
            self.loaded = choice.loaded
            self.n = len(rows)
            deadline_s = facts.deadline_s()
        except AndonError as error:
            front.metrics.refused(self.loaded.address if self.loaded is not None else "", error.code)
            self._refuse(error)
            return
        except Exception as error:  # noqa: BLE001 - likewise a defect, before anything is under way
            self._defect(error)
            return
        try:
            self.asked = front.begin(
                choice,
                self.n,
                self,
                rows=rows,
                request_id=request_id,
                event_us=request.event_us,
                deadline_s=deadline_s,
                caller=facts.caller,
                client=facts.client_text(),
                size_bytes=len(self.body),
                traceparent=facts.traceparent,
            )
        except AndonError as error:  # the front has counted it
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - a defect becomes a 500 in our envelope, and its traceback goes to the log
            self._defect(error)

    def _defect(self, error: Exception) -> None:
        log.exception("a defect while answering %s", HOT.decode())
        self._refuse(AndonError(f"this is a defect of Andon's: {type(error).__name__}"))

    def _refuse(self, error: AndonError) -> None:
        self.response_started = True
        status, headers, body = self.app.refused(error, self.loaded, self.request_id)
        if error.status == 500:
            self.keep_alive = False
        self._write(status, headers, body)

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
