"""The data plane over HTTP, as bare ASGI: no framework between the socket and the model.

``GET /health``, ``POST /predict``, ``POST /labels``, ``GET /metrics``, the Open Inference Protocol v2 under ``/v2``, and ``/invocations``
and its like as MLflow's scoring server has them. Every error is the one envelope of ``andon.core.errors`` (with the foreign protocols,
their own). Bodies are bounded whatever the headers say; hosts and origins
that are not allowed are refused, so that a web page cannot talk to a server on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec

from andon.api import compression
from andon.api.exchange import Exchange
from andon.core.actors import Actor
from andon.core.clocks import to_us
from andon.core.errors import AndonError, Forbidden, InvalidInput, NotFound, TooLarge, Unavailable
from andon.core.settings import Settings
from andon.logs.labels import Label, record_labels
from andon.serving.callers import Caller
from andon.serving.exposition import OPENMETRICS_TYPE, TEXT_TYPE, wants_openmetrics
from andon.serving.front import Front
from andon.serving.loading import Loaded
from andon.serving.tracing import PREDICT
from andon.serving.validation import check_request_id, parse_json
from andon.wire import mlflow_scoring
from andon.wire import openinference as oip

if TYPE_CHECKING:
    from andon.api.serving_server import GuardedProtocol

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


log = logging.getLogger("andon.serving")
JSON = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")
DISCARD_S = 5.0
"""How long the rest of a body that is too large is read away, so that its sender gets to read the answer."""
MAX_LABELS = 100_000
MAX_TIMEOUT_MS = 3_600_000
MAX_NAME = 200
"""Characters of a header that names a client; the rest is not looked at."""
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


class Facts:
    """What a request's headers say that matters here."""

    __slots__ = (
        "accept",
        "accepts",
        "caller",
        "client",
        "content_type",
        "encoding",
        "header_length",
        "key",
        "length",
        "request_id",
        "timeout_ms",
        "traceparent",
    )

    def __init__(self) -> None:
        self.length = 0
        self.request_id: bytes | None = None
        self.encoding: bytes | None = None
        self.accepts: bytes | None = None
        self.accept = b""
        self.content_type = b""
        self.header_length: bytes | None = None
        self.key: bytes | None = None
        self.client: bytes | None = None
        self.timeout_ms: bytes | None = None
        self.traceparent: bytes | None = None
        self.caller: Caller | None = None

    def id(self) -> str | None:
        """The caller's ``x-request-id``. Raises ``InvalidInput`` when it cannot be one."""
        return None if self.request_id is None else check_request_id(self.request_id.decode("latin-1"))

    def key_text(self) -> str | None:
        """The user or session that the caller names."""
        if self.key is None:
            return None
        try:
            return self.key.decode()  # as the same name in a request's field
        except UnicodeDecodeError:
            return self.key.decode("latin-1")

    def client_text(self) -> str | None:
        """Whom the queue is shared out between, if the caller says so."""
        return None if self.client is None else self.client[:MAX_NAME].decode("latin-1")

    def deadline_s(self) -> float | None:
        """When ``x-request-timeout-ms`` is over, on the event loop's clock. Raises ``InvalidInput`` when it is no time."""
        if self.timeout_ms is None:
            return None
        if not self.timeout_ms.isdigit() or len(self.timeout_ms) > 12 or not 0 < int(self.timeout_ms) <= MAX_TIMEOUT_MS:
            got = self.timeout_ms.decode("latin-1")[:40]
            raise InvalidInput(f"this is a whole number of milliseconds from 1 to {MAX_TIMEOUT_MS}", field="x-request-timeout-ms", got=got)
        return asyncio.get_running_loop().time() + int(self.timeout_ms) / 1e3


_HEADERS_READ = {
    b"host": "host",
    b"origin": "host",
    b"content-length": "length",
    b"content-encoding": "encoding",
    b"x-request-id": "request_id",
    b"inference-header-content-length": "header_length",
    b"accept-encoding": "accepts",
    b"content-type": "content_type",
    b"x-andon-key": "key",
    b"x-andon-client": "client",
    b"x-request-timeout-ms": "timeout_ms",
    b"traceparent": "traceparent",
}


class Disconnected(Exception):
    """The client went away before its body was whole; nobody is there to answer."""


class ServingApp:
    """The ASGI application of one front."""

    def __init__(self, front: Front, settings: Settings) -> None:
        self._front = front
        self._cap = settings.max_body_bytes
        self._any_host = "*" in settings.allowed_hosts
        self._hosts = {host.lower() for host in settings.allowed_hosts}
        self._hosts_seen: dict[bytes, bool] = {}
        self._oip = oip.Rest(front)
        self._said: WeakKeyDictionary[Loaded, tuple[bytes, bytes]] = WeakKeyDictionary()
        self._label_decoder = msgspec.json.Decoder(LabelBody)
        self._routes: dict[str, tuple[str, Callable[[Facts, Receive, Send], Awaitable[None]]]] = {
            "/predict": ("POST", self._predict),
            "/labels": ("POST", self._labels),
            "/health": ("GET", self._health),
            "/metrics": ("GET", self._metrics),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        try:
            facts = self._facts(scope)
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

    async def _predict(self, facts: Facts, receive: Receive, send: Send) -> None:
        body = await self._body(facts, receive)
        front = self._front
        loaded = front.loaded()  # from here to `answer` there is no await: the release cannot be retired in between
        request_id: str | None = None
        try:
            request = loaded.codec.decode(body)
            request_id = request.request_id or facts.id() or front.new_id()
            rows = request.rows
            choice = front.choose(request_id, facts.key_text(), rows=rows)
            loaded = choice.loaded
            lists: Any = await front.answer(
                choice,
                len(rows),
                rows=rows,
                request_id=request_id,
                event_us=request.event_us,
                deadline_s=facts.deadline_s(),
                caller=facts.caller,
                client=facts.client_text(),
                size_bytes=len(body),
                traceparent=facts.traceparent,
                face=PREDICT,
            )
        except AndonError as error:
            await self._refuse(send, error, loaded, request_id)
            return
        _, reply = self.answered(loaded, request_id, lists, len(rows))
        headers = [JSON, (b"content-length", b"%d" % len(reply)), loaded.header, (b"x-request-id", request_id.encode())]
        if front.draining:
            headers.append(CLOSE)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    def exchange(self, protocol: GuardedProtocol, headers: Headers, caller: Caller | None) -> Exchange | None:
        """The short way for a request to ``/predict`` that fits it; None for one that must take the long way."""
        try:
            facts = self._facts({"headers": headers, "andon.caller": caller})
        except AndonError:  # said on the long way
            return None
        if facts.encoding is not None or not 0 < facts.length <= self._cap:
            return None
        return Exchange(protocol, self, self._front, facts)

    def answered(self, loaded: Loaded, request_id: str, lists: dict[str, list[Any]], n: int) -> tuple[bytes, bytes]:
        """The headers (as they go out) and the body of a good answer."""
        said = self._said.get(loaded)
        if said is None:
            body = b'","release":%s,"release_digest":%s,"outputs":' % (_encode(loaded.address), _encode(loaded.digest))
            said = self._said[loaded] = (
                b"content-type: application/json\r\nx-andon-release: " + loaded.header[1] + b"\r\nx-request-id: ",
                body,
            )
        name = request_id.encode()
        # Neither holds a character that JSON escapes, but for quotes and backslashes, which a request id may.
        quoted = name if b'"' not in name and b"\\" not in name else _encode(request_id)[1:-1]
        body = b"".join((b'{"request_id":"', quoted, said[1], _encode(_rows(lists, n)), b"}"))
        return said[0] + name + b"\r\n", body

    def refused(self, error: AndonError, loaded: Loaded | None, request_id: str | None) -> tuple[int, bytes, bytes]:
        """The status, the headers (as they go out) and the body of a refusal."""
        headers = [JSON, *_retry(error), *(_said_by(loaded, request_id) if loaded is not None else [])]
        return error.status, b"".join(b"%s: %s\r\n" % header for header in headers), _encode(error.envelope())

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

    # --- Open Inference Protocol

    async def _openinference(self, scope: Scope, facts: Facts, receive: Receive, send: Send) -> None:
        try:
            asker = oip.Asker(
                facts.id(), facts.key_text(), facts.deadline_s(), facts.caller, facts.client_text(), facts.length, facts.traceparent
            )
            asked = oip.Asked(scope["method"], scope["path"], lambda: self._body(facts, receive), facts.header_length, asker)
            reply = await self._oip.answer(asked)
        except AndonError as error:  # counted where it came up
            await self._send_refusal(send, error, oip.error_body(error), [])
            return
        await self._send_packed(send, facts, reply)

    # --- MLflow's scoring protocol

    async def _scoring(self, scope: Scope, facts: Facts, receive: Receive, send: Send) -> None:
        try:
            asked = mlflow_scoring.Asked(
                scope["method"],
                scope["path"],
                lambda: self._body(facts, receive),
                facts.content_type,
                facts.id(),
                facts.key_text(),
                facts.deadline_s(),
                facts.caller,
                facts.client_text(),
                facts.traceparent,
            )
            reply = await mlflow_scoring.answer(self._front, asked)
        except AndonError as error:  # counted where it came up
            await self._send_refusal(send, error, mlflow_scoring.error_body(error), [])
            return
        await self._send_packed(send, facts, reply)

    async def _send_packed(self, send: Send, facts: Facts, reply: oip.Reply | mlflow_scoring.Reply) -> None:
        """An answer, compressed where its client takes that and it is worth it."""
        body, headers = reply.body, reply.headers
        if reply.packs and facts.accepts is not None and len(body) >= compression.MIN_BYTES:
            encoding = compression.accepted(facts.accepts)
            if encoding is not None:
                body = await compression.pack(body, encoding)
                headers = [*headers, (b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding")]
        headers = [(b"content-length", b"%d" % len(body)), *headers]
        if self._front.draining:
            headers.append(CLOSE)
        # What `_send` does, without one more coroutine: this is the hot path, too.
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    # --- HTTP

    def _facts(self, scope: Scope) -> Facts:
        """What the headers say, in one pass. Raises ``Forbidden`` for a host or origin that is not allowed."""
        facts = Facts()
        facts.caller = scope.get("andon.caller")
        for name, value in scope["headers"]:
            fact = _HEADERS_READ.get(name)
            if fact is None:
                continue
            if fact == "host":
                if not self._any_host and not self._hosts_seen.get(value):
                    self._check_host(name, value)
            elif fact == "length":
                facts.length = int(value)  # the parser lets digits through only
            else:
                setattr(facts, fact, value)
        return facts

    def _check_host(self, name: bytes, value: bytes) -> None:
        if _host(value) not in self._hosts:
            raise Forbidden(
                f"this server does not answer to that {name.decode()}",
                next_step="add the name to `allowed_hosts` in andon.toml",
                got=value.decode("latin-1")[:80],
            )
        if len(self._hosts_seen) < 256:  # clients choose these: no unbounded memory for them
            self._hosts_seen[value] = True

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

    async def _discard(self, receive: Receive) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                while (message := await receive())["type"] != "http.disconnect":
                    if not message["more_body"]:
                        return
                raise Disconnected

    def _too_large(self, size: int) -> TooLarge:
        return TooLarge(f"a body has at most {self._cap} bytes", got=size, next_step="send it in parts, or raise `max_body_bytes`")

    async def _refuse(
        self, send: Send, error: AndonError, loaded: Loaded | None = None, request_id: str | None = None, *, body: bytes | None = None
    ) -> None:
        if loaded is None or error.status == 400:  # what a release refused has been counted by the front
            self._front.metrics.refused(loaded.address if loaded else "", error.code)
        headers = [] if loaded is None else _said_by(loaded, request_id)
        await self._send_refusal(send, error, _encode(error.envelope()) if body is None else body, headers)

    async def _send_refusal(self, send: Send, error: AndonError, body: bytes, headers: Headers) -> None:
        headers = [JSON, *_retry(error), *headers]
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
    return mlflow_scoring.error_body(error) if path in mlflow_scoring.PATHS else None


def _rows(lists: dict[str, list[Any]], n: int) -> list[dict[str, Any]]:
    if n == 1:
        return [{name: values[0] for name, values in lists.items()}]
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _said_by(loaded: Loaded, request_id: str | None) -> Headers:
    headers = [loaded.header]
    if request_id is not None:
        headers.append((b"x-request-id", request_id.encode()))
    return headers


def _retry(error: AndonError) -> Headers:
    return [(b"retry-after", b"%d" % error.fields.get("retry_after_s", 1))] if error.status in (429, 503) else []


def _check_method(scope: Scope, allowed: str) -> None:
    method = scope["method"]
    if method != allowed and not (method == "HEAD" and allowed == "GET"):
        raise _WrongMethod(scope["path"], allowed)


def _host(value: bytes) -> str:
    """The host's name in a ``Host`` or ``Origin`` header, without scheme and port."""
    text = value.decode("latin-1").lower()
    _, scheme, rest = text.rpartition("://")
    text = rest if scheme else text
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]
