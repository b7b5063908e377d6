"""The data plane over HTTP, as bare ASGI: no framework between the socket and the model.

``GET /health``, ``POST /predict``, ``POST /labels``, ``GET /metrics``, the Open Inference Protocol v2 under ``/v2``, and ``/invocations``
and its like as MLflow's scoring server has them. Every error is the one envelope of ``andon.core.errors`` (with the foreign protocols,
their own). Bodies are bounded whatever the headers say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from andon.api import compression
from andon.api.endpoints import JSON, Endpoint, Infer, Invocations, Predict, pairs, retry
from andon.api.exchange import Exchange
from andon.api.facts import Facts, Headers, Reader
from andon.core.actors import Actor
from andon.core.clocks import to_us
from andon.core.errors import AndonError, NotFound, TooLarge, Unavailable
from andon.core.settings import Settings
from andon.logs.labels import Label, record_labels
from andon.serving.callers import Caller
from andon.serving.exposition import OPENMETRICS_TYPE, TEXT_TYPE, wants_openmetrics
from andon.serving.front import Front
from andon.serving.validation import parse_json
from andon.wire import mlflow_scoring
from andon.wire import openinference as oip

if TYPE_CHECKING:
    from andon.api.serving_server import GuardedProtocol

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger("andon.serving")
CLOSE = (b"connection", b"close")
DISCARD_S = 5.0
"""How long the rest of a body that is too large is read away, so that its sender gets to read the answer."""
MAX_LABELS = 100_000
MAX_PATHS = 64
"""Paths whose endpoint is kept; clients choose them."""
_encode = msgspec.json.Encoder().encode


class _WrongMethod(Exception):  # the error of this name lives beside Litestar, which a replica does not load
    """This path does not take that method."""

    def __init__(self, path: str, allowed: str) -> None:
        super().__init__(f"{path[:200]} takes {allowed}")
        self.allowed = allowed


class LabelRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One label as it is sent."""

    request_id: str
    label: float | int | bool | str
    row: int = 0
    event_time: str | int | float | None = None
    name: str | None = None


class LabelBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /labels``."""

    labels: list[LabelRow]


class Disconnected(Exception):
    """The client went away before its body was whole; nobody is there to answer."""


class ServingApp:
    """The ASGI application of one front."""

    def __init__(self, front: Front, settings: Settings) -> None:
        self._front = front
        self._cap = settings.max_body_bytes
        self._reader = Reader(settings.allowed_hosts)
        self._oip = oip.Rest(front)
        self._endpoints: dict[bytes, Endpoint] = {b"/predict": Predict(front), b"/invocations": Invocations(front)}
        self._label_decoder = msgspec.json.Decoder(LabelBody)
        self._routes: dict[str, tuple[str, Callable[[Facts, Receive, Send], Awaitable[None]]]] = {
            "/predict": ("POST", partial(self._ask, self._endpoints[b"/predict"])),
            "/labels": ("POST", self._labels),
            "/health": ("GET", self._health),
            "/metrics": ("GET", self._metrics),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        try:
            facts = self._reader.read(scope["headers"], scope.get("andon.caller"))
            route = self._routes.get(path)
            if route is None and (path == "/v2" or path.startswith("/v2/")):
                await self._openinference(scope, facts, receive, send)
                return
            if route is None and path in mlflow_scoring.PATHS:
                await self._scoring(scope, facts, receive, send)
                return
            if route is None:
                raise NotFound(f"there is nothing at {path[:200]}", next_step=f"the paths are {', '.join(self._routes)} and /v2")
            _check_method(scope, route[0])
            if path == "/metrics":  # nothing else asks what its client accepts
                facts.accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
            await route[1](facts, receive, send)
        except Disconnected:
            return
        except _WrongMethod as error:
            code = "method-not-allowed"
            self._front.metrics.refused("", code)
            body = {"error": {"code": code, "message": str(error), "next_step": None, "fields": {"allow": error.allowed}}}
            await self._send(send, 405, _encode(body), [JSON, (b"allow", error.allowed.encode())])
        except AndonError as error:
            await self._refuse(send, error, body=_foreign_body(path, error))
        except Exception as error:  # a defect becomes a 500 in our envelope, and its traceback goes to the log
            log.exception("a defect while answering %s", path)
            defect = AndonError(f"this is a defect of Andon's: {type(error).__name__}")
            await self._refuse(send, defect, body=_foreign_body(path, defect))

    # --- own endpoints

    async def _ask(self, endpoint: Endpoint, facts: Facts, receive: Receive, send: Send) -> None:
        """The long way through an endpoint."""
        query = None
        try:
            endpoint.check(facts)
            body = await self._counted_body(facts, receive)
            query = endpoint.read(body, facts)
            outputs = await self._front.answer(query)
            head, reply = endpoint.answered(query, outputs)
        except AndonError as error:  # counted where it came up
            head, reply = endpoint.refused(error, query)
            headers = pairs(head)
            if isinstance(error, TooLarge) or error.status == 500:
                headers.append(CLOSE)
            await self._send(send, error.status, reply, headers)
            return
        headers = pairs(head)
        if endpoint.packs and facts.accepts is not None and len(reply) >= compression.MIN_BYTES:
            encoding = compression.accepted(facts.accepts)
            if encoding is not None:
                reply = await compression.pack(reply, encoding)
                headers += [(b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding")]
        await self._send(send, 200, reply, headers)

    def exchange(self, protocol: GuardedProtocol, url: bytes, headers: Headers, caller: Caller | None) -> Exchange | None:
        """The short way for a POST to ``url``; None for one that must take the long way."""
        endpoint = self._endpoints.get(url)
        if endpoint is None:
            return None
        try:
            facts = self._reader.read(headers, caller)
        except AndonError:  # said on the long way
            return None
        if facts.encoding is not None or not 0 < facts.length <= self._cap:
            return None
        return Exchange(protocol, self._front, endpoint, facts)

    async def _labels(self, facts: Facts, receive: Receive, send: Send) -> None:
        body = await self._body(facts, receive)
        rows = parse_json(body, self._label_decoder).labels
        if len(rows) > MAX_LABELS:
            raise TooLarge(f"a request has at most {MAX_LABELS} labels", field="labels", got=len(rows))
        labels = [
            Label(
                request_id=row.request_id,
                label=row.label,
                row=row.row,
                event_us=None if row.event_time is None else to_us(row.event_time, field=f"labels[{at}].event_time"),
                name=row.name,
            )
            for at, row in enumerate(rows)
        ]
        front = self._front
        actor = Actor("process", f"serve-{front.service}"[:200])
        kept = await asyncio.to_thread(record_labels, front.store, front.service, labels, actor=actor)
        front.metrics.labels += kept
        await self._reply(send, 200, _encode({"kept": kept}))

    async def _health(self, facts: Facts, receive: Receive, send: Send) -> None:  # noqa: ARG002
        reason = self._front.not_ready()
        if reason is not None:
            raise Unavailable(reason)
        loaded = self._front.loaded()
        answer = {"status": "ready", "service": self._front.service, "release": loaded.address, "release_digest": loaded.digest}
        await self._reply(send, 200, _encode(answer), [(b"cache-control", b"no-store")])

    async def _metrics(self, facts: Facts, receive: Receive, send: Send) -> None:  # noqa: ARG002
        openmetrics = wants_openmetrics(facts.accept.decode("latin-1")[:2000])
        body = (await self._front.exposition(openmetrics=openmetrics)).encode()
        headers = [(b"content-type", OPENMETRICS_TYPE if openmetrics else TEXT_TYPE), (b"vary", b"accept"), (b"cache-control", b"no-store")]
        await self._send(send, 200, body, headers)

    # --- foreign protocols

    async def _openinference(self, scope: Scope, facts: Facts, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        meant = self._oip.infer_of(path)
        if meant is not None and method == "POST":
            endpoint = Infer(self._oip, *meant)
            if meant[0] == self._front.service and path.isascii() and len(self._endpoints) < MAX_PATHS:
                self._endpoints[path.encode()] = endpoint  # the next one takes the short way
            await self._ask(endpoint, facts, receive, send)
            return
        try:
            reply = await self._oip.answer(oip.Asked(method, path, lambda: self._body(facts, receive)))
        except AndonError as error:  # counted where it came up
            await self._send_refusal(send, error, oip.error_body(error), [])
            return
        await self._send(send, reply.status, reply.body, reply.headers)

    async def _scoring(self, scope: Scope, facts: Facts, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if (method, path) == ("POST", "/invocations"):
            await self._ask(self._endpoints[b"/invocations"], facts, receive, send)
            return
        reply = mlflow_scoring.describe(self._front, method, path)
        await self._send(send, reply.status, reply.body, reply.headers)

    # --- HTTP

    async def _body(self, facts: Facts, receive: Receive) -> bytes:
        """The whole body, unpacked. Raises ``TooLarge`` when it is, whatever its headers say."""
        if facts.encoding is not None:
            encoding = compression.encoding_of(facts.encoding)
            facts.encoding = None
            if encoding is not None:
                return await compression.unpack(await self._body(facts, receive), encoding, self._cap)
        if facts.length > self._cap:
            await self._discard(receive)
            raise self._too_large(facts.length)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body: bytes = message["body"]
        if not message["more_body"] and len(body) <= self._cap:
            return body
        chunks, size = [body], len(body)
        while message["more_body"] and size <= self._cap:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunks.append(message["body"])
            size += len(message["body"])
        if size > self._cap:
            chunks.clear()
            if message["more_body"]:
                await self._discard(receive)
            raise self._too_large(size)
        return b"".join(chunks)

    async def _counted_body(self, facts: Facts, receive: Receive) -> bytes:
        try:
            return await self._body(facts, receive)
        except AndonError as error:
            self._front.metrics.refused("", error.code)
            raise

    async def _discard(self, receive: Receive) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                while (message := await receive())["type"] != "http.disconnect":
                    if not message["more_body"]:
                        return
                raise Disconnected

    def _too_large(self, size: int) -> TooLarge:
        return TooLarge(f"a body has at most {self._cap} bytes", got=size, next_step="send it in parts, or raise `max_body_bytes`")

    async def _refuse(self, send: Send, error: AndonError, *, body: bytes | None = None) -> None:
        self._front.metrics.refused("", error.code)
        await self._send_refusal(send, error, _encode(error.envelope()) if body is None else body, [])

    async def _send_refusal(self, send: Send, error: AndonError, body: bytes, headers: Headers) -> None:
        headers = [JSON, *retry(error), *headers]
        if isinstance(error, TooLarge) or error.status == 500:
            headers.append(CLOSE)
        await self._send(send, error.status, body, headers)

    async def _reply(self, send: Send, status: int, body: bytes, more: Headers | None = None) -> None:
        await self._send(send, status, body, [JSON, *more] if more else [JSON])

    async def _send(self, send: Send, status: int, body: bytes, headers: Headers) -> None:
        headers = [(b"content-length", b"%d" % len(body)), *headers]
        if self._front.draining:
            headers.append(CLOSE)  # the next request goes elsewhere
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _foreign_body(path: str, error: AndonError) -> bytes | None:
    """An error as a foreign protocol says it; None on our own paths."""
    if path == "/v2" or path.startswith("/v2/"):
        return oip.error_body(error)
    return mlflow_scoring.refused(error)[1] if path in mlflow_scoring.PATHS else None


def _check_method(scope: Scope, allowed: str) -> None:
    method = scope["method"]
    if method != allowed and not (method == "HEAD" and allowed == "GET"):
        raise _WrongMethod(scope["path"], allowed)
