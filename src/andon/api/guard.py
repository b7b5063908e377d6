"""What every request passes before any handler sees it: Host and Origin, size, and the headers that every answer carries."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from andon.core.errors import AndonError, Forbidden, InvalidInput, InvalidSettings, TooLarge
from andon.core.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

LET_FINISH_S = 5.0
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SANDBOX_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
"""For bytes that people or models made: nothing in them runs, even when a browser opens them."""
# `same-origin`, not `no-referrer`: under the latter a browser sends `Origin: null` with our own forms, and we refuse that.
HEADERS = {
    b"content-security-policy": CONTENT_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
    b"cache-control": b"no-store",
}


def check_binding(host: str) -> None:
    """Raise ``InvalidSettings`` unless ``host`` is a loopback address: without tokens, whoever reaches this server may roll back."""
    if host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise InvalidSettings(
            "this server has no tokens yet, so it only binds loopback: anybody who can reach it may deploy and roll back",
            field="host",
            got=host[:80],
            next_step="keep --host 127.0.0.1 and come in through `ssh -L 4700:127.0.0.1:4700 THIS-MACHINE`",
        )


class Guard:
    """ASGI middleware around everything, also around what no route answers."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._max_body_bytes = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # nothing here speaks WebSocket
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        sending = _with_headers(send)
        try:
            self._check(scope)
        except AndonError as error:
            if isinstance(error, TooLarge):
                await _let_finish(receive)
            await _refuse(error, sending)
            return
        raw: bytes = scope.get("raw_path") or b""
        if b"%2f" in raw.lower():  # a slash inside a name stays inside its path segment; handlers read it with `name_in`
            scope["path"] = unquote(raw.decode("ascii", "replace").split("?")[0].replace("%2F", "%252F").replace("%2f", "%252F"))
        await self._app(scope, receive, sending)

    def _check(self, scope: Scope) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if _bare_host(host) not in self._hosts:
            raise Forbidden(
                "this server does not answer to that Host",
                field="host",
                got=host[:80],
                next_step="use 127.0.0.1 or localhost, or add the name to allowed_hosts in andon.toml",
            )
        if scope["method"] not in SAFE_METHODS:
            _check_origin(headers, host)
        length = headers.get(b"content-length", "0")
        if not length.isdigit():
            raise InvalidInput("the Content-Length is not a number", field="content-length", got=length[:40])
        if int(length) > self._max_body_bytes:
            raise TooLarge("the body is larger than this server accepts", field="body", got=int(length), limit=self._max_body_bytes)


def _check_origin(headers: dict[bytes, str], host: str) -> None:
    """A browser says where a write comes from; another site's page may not write here. Programs send neither header."""
    origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise Forbidden("another site's page may not write here", field="origin", got=origin[:80])
    if site is not None and site not in ("same-origin", "none"):
        raise Forbidden("another site's page may not write here", field="sec-fetch-site", got=site[:40])


def _bare_host(host: str) -> str:
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if ":" in host else host


def name_in(segment: str) -> str:
    """The name in a path segment, its slashes restored."""
    return segment.replace("%2F", "/")


async def _let_finish(receive: Receive) -> None:
    """Read on and keep nothing: whoever is still sending when we hang up sees a reset connection and never our answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LET_FINISH_S):
            while (await receive()).get("more_body"):
                pass


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *((name, value) for name, value in HEADERS.items() if name not in present)]
        await send(message)

    return sending


async def _refuse(error: AndonError, send: Send) -> None:
    body = msgspec.json.encode(error.envelope())
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
