"""The data plane over HTTP, as bare ASGI: no framework between the socket and the model.

``GET /health``, ``POST /predict``, ``POST /labels``, ``GET /metrics``, and the Open Inference Protocol v2 under ``/v2``. Every error is the
one envelope of ``andon.core.errors`` (on ``/v2``, the protocol's own). Bodies are bounded whatever the headers say; hosts and origins
that are not allowed are refused, so that a web page cannot talk to a server on loopback.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from andon.core.actors import Actor
from andon.core.clocks import to_us
from andon.core.errors import AndonError, Forbidden, InvalidInput, NotFound, TooLarge, Unavailable
from andon.core.settings import Settings
from andon.logs.labels import Label, record_labels
from andon.serving.front import Choice, Front
from andon.serving.loading import Loaded
from andon.serving.validation import check_request_id, parse_json
from andon.wire import openinference as oip

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


class LabelBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /labels``."""

    labels: list[LabelRow]


class _Facts:
    """What a request's headers say that matters here."""

    __slots__ = ("binary", "encoding", "length", "request_id")

    def __init__(self) -> None:
        self.length = 0
        self.request_id: bytes | None = None
        self.encoding: bytes | None = None
        self.binary = False

    def id(self) -> str | None:
        """The caller's ``x-request-id``. Raises ``InvalidInput`` when it cannot be one."""
        return None if self.request_id is None else check_request_id(self.request_id.decode("latin-1"))


_HEADERS_READ = frozenset((b"host", b"origin", b"content-length", b"content-encoding", b"x-request-id", b"inference-header-content-length"))


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
        self._label_decoder = msgspec.json.Decoder(LabelBody)
        self._routes: dict[str, tuple[str, Callable[[_Facts, Receive, Send], Awaitable[None]]]] = {
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
            if route is None:
                raise NotFound(f"there is nothing at {path[:200]}", next_step=f"the paths are {', '.join(self._routes)} and /v2")
            _check_method(scope, route[0])
            await route[1](facts, receive, send)
        except Disconnected:
            return
        except _WrongMethod as error:
            code = "method-not-allowed"
            self._front.metrics.refused("", code)
            body: Any = {"error": {"code": code, "message": str(error), "next_step": None, "fields": {"allow": error.allowed}}}
            if path.startswith("/v2"):
                body = {"error": str(error)}
            await self._send(send, 405, _encode(body), [JSON, (b"allow", error.allowed.encode())])
        except AndonError as error:
            await self._refuse(send, error)
        except Exception as error:  # a defect becomes a 500 in our envelope, and its traceback goes to the log
            log.exception("a defect while answering %s", path)
            await self._refuse(send, AndonError(f"this is a defect of Andon's: {type(error).__name__}"))

    # --- own endpoints

    async def _predict(self, facts: _Facts, receive: Receive, send: Send) -> None:
        body = await self._body(facts, receive)
        front = self._front
        loaded = front.loaded()  # from here to `answer` there is no await: the release cannot be retired in between
        request_id: str | None = None
        try:
            request = loaded.codec.decode(body)
            request_id = request.request_id or facts.id() or front.new_id()
            rows = request.rows
            choice = front.choose(request_id)
            lists: Any = await front.answer(choice, len(rows), rows=rows, request_id=request_id, event_us=request.event_us)
        except AndonError as error:
            await self._refuse(send, error, loaded, request_id)
            return
        answer = {
            "request_id": request_id,
            "release": loaded.address,
            "release_digest": loaded.digest,
            "outputs": _rows(lists, len(rows)),
        }
        reply = _encode(answer)
        headers = [JSON, (b"content-length", b"%d" % len(reply)), loaded.header, (b"x-request-id", request_id.encode())]
        if front.draining:
            headers.append(CLOSE)
        # What `_send` does, without two more coroutines: this is the hot path.
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    async def _labels(self, facts: _Facts, receive: Receive, send: Send) -> None:
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
            )
            for at, row in enumerate(rows)
        ]
        front = self._front
        actor = Actor("process", f"serve-{front.service}"[:200])
        kept = await asyncio.to_thread(record_labels, front.store, front.service, labels, actor=actor)
        front.metrics.labels += kept
        await self._reply(send, 200, _encode({"kept": kept}))

    async def _health(self, facts: _Facts, receive: Receive, send: Send) -> None:  # noqa: ARG002
        reason = self._front.not_ready()
        if reason is not None:
            raise Unavailable(reason)
        loaded = self._front.loaded()
        answer = {"status": "ready", "service": self._front.service, "release": loaded.address, "release_digest": loaded.digest}
        await self._reply(send, 200, _encode(answer), [(b"cache-control", b"no-store")])

    async def _metrics(self, facts: _Facts, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await self._send(send, 200, self._front.metrics_text().encode(), [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")])

    # --- Open Inference Protocol

    async def _openinference(self, scope: Scope, facts: _Facts, receive: Receive, send: Send) -> None:
        try:
            parts = scope["path"].strip("/").split("/")[1:]
            if parts and parts[-1] == "infer" and len(parts) in (3, 5):
                _check_method(scope, "POST")
                await self._infer(parts[:-1], facts, receive, send)
                return
            _check_method(scope, "GET")
            await self._reply(send, 200, _encode(self._described(parts)))
        except AndonError as error:
            self._front.metrics.refused("", error.code)
            await self._send(send, error.status, _encode(oip.error_body(error)), [JSON, *_retry(error)])

    def _described(self, parts: list[str]) -> dict[str, Any]:
        from importlib.metadata import version

        if not parts:
            return oip.server_metadata(version("andon"))
        if parts == ["health", "live"]:
            return {"live": True}
        if parts == ["health", "ready"]:
            reason = self._front.not_ready()
            if reason is not None:
                raise Unavailable(reason)
            return {"ready": True}
        if parts[-1] == "ready" and len(parts) in (3, 5):
            loaded = self._model(parts[:-1])
            if not loaded.runner.healthy or self._front.draining:
                raise Unavailable(f"{loaded.address} is not ready")
            return {"name": self._front.service, "ready": True}
        loaded = self._model(parts)
        return oip.model_metadata(self._front.service, [loaded.version], loaded.signature)

    def _model(self, parts: list[str]) -> Loaded:
        """``models/NAME`` or ``models/NAME/versions/V``."""
        shaped = len(parts) in (2, 4) and parts[0] == "models" and (len(parts) == 2 or parts[2] == "versions")
        if not shaped:
            raise NotFound("there is no such path in the Open Inference Protocol", next_step="see GET /v2")
        if parts[1] != self._front.service:
            raise NotFound(f"this replica serves the model {self._front.service!r}", next_step=f"GET /v2/models/{self._front.service}")
        if len(parts) == 2:
            return self._front.loaded()
        found = self._front.version(parts[3])
        if found is None:
            raise NotFound(f"version {parts[3][:40]} is not loaded here", next_step=f"GET /v2/models/{self._front.service}")
        return found

    async def _infer(self, parts: list[str], facts: _Facts, receive: Receive, send: Send) -> None:
        self._model(parts)  # a wrong name needs no body
        if facts.binary:
            raise InvalidInput("the binary tensor extension is not spoken here yet", next_step="send `data` as JSON")
        body = await self._body(facts, receive)
        loaded = self._model(parts)  # again: the body may have taken its time
        infer = oip.parse_infer(body, loaded.codec)
        request_id = infer.id or facts.id() or self._front.new_id()
        choice = Choice(loaded, "production")
        lists: Any = await self._front.answer(choice, infer.n, columns=infer.columns, request_id=request_id)
        parameters = {"release": loaded.address, "release_digest": loaded.digest}
        answer = oip.infer_response(self._front.service, loaded.version, request_id, lists, loaded.signature, infer, parameters)
        await self._reply(send, 200, _encode(answer), _said_by(loaded, request_id))

    # --- HTTP

    def _facts(self, scope: Scope) -> _Facts:
        """What the headers say, in one pass. Raises ``Forbidden`` for a host or origin that is not allowed."""
        facts = _Facts()
        for name, value in scope["headers"]:
            if name not in _HEADERS_READ:
                continue
            if name == b"host" or name == b"origin":
                if not self._any_host and not self._hosts_seen.get(value):
                    self._check_host(name, value)
            elif name == b"content-length":
                facts.length = int(value)  # the parser lets digits through only
            elif name == b"x-request-id":
                facts.request_id = value
            elif name == b"inference-header-content-length":
                facts.binary = True
            elif value.lower() not in (b"", b"identity"):
                facts.encoding = value
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

    async def _body(self, facts: _Facts, receive: Receive) -> bytes:
        """The whole body. Raises ``TooLarge`` when it is, whatever its headers say."""
        if facts.encoding is not None:
            raise InvalidInput("compressed bodies are not taken", field="content-encoding", got=facts.encoding.decode("latin-1")[:40])
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
        until = time.monotonic() + DISCARD_S
        while time.monotonic() < until:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            if not message["more_body"]:
                return

    def _too_large(self, size: int) -> TooLarge:
        return TooLarge(f"a body has at most {self._cap} bytes", got=size, next_step="send it in parts, or raise `max_body_bytes`")

    async def _refuse(self, send: Send, error: AndonError, loaded: Loaded | None = None, request_id: str | None = None) -> None:
        if loaded is None or error.status == 400:  # what a release refused has been counted by the front
            self._front.metrics.refused(loaded.address if loaded else "", error.code)
        headers = [JSON, *_retry(error)]
        if loaded is not None:
            headers += _said_by(loaded, request_id)
        if isinstance(error, TooLarge) or error.status == 500:
            headers.append(CLOSE)
        await self._send(send, error.status, _encode(error.envelope()), headers)

    async def _reply(self, send: Send, status: int, body: bytes, more: Headers | None = None) -> None:
        await self._send(send, status, body, [JSON, *more] if more else [JSON])

    async def _send(self, send: Send, status: int, body: bytes, headers: Headers) -> None:
        headers = [(b"content-length", b"%d" % len(body)), *headers]
        if self._front.draining:
            headers.append(CLOSE)  # the next request goes elsewhere
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


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
    return [(b"retry-after", b"1")] if error.status in (429, 503) else []


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
