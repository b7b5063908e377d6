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
FILES = ("/api/2.0/mlflow-artifacts/", "/ajax-api/2.0/mlflow-artifacts/")
"""Where files are PUT."""
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

PLAIN = "andon.plain"
"""A handler sets this in the scope of an answer that is a program's JSON: nothing in it can be shown or run, so few headers do."""
PLAIN_HEADERS = [(name, HEADERS[name]) for name in (b"x-content-type-options", b"cache-control")]
KNOWN_HOSTS = 64


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
        self._known: set[bytes] = set()  # Host headers that were found right
        self._max_body_bytes = settings.max_body_bytes
        self._max_artifact_bytes = settings.max_artifact_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # nothing here speaks WebSocket
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        sending = _with_headers(scope, send)
        try:
            chunked = self._check(scope)
        except AndonError as error:
            if isinstance(error, TooLarge):
                await _let_finish(receive)
            await _refuse(error, sending)
            return
        raw: bytes = scope.get("raw_path") or b""
        if b"%2" in raw and b"%2f" in raw.lower():  # a slash inside a name stays inside its path segment; handlers read it with `name_in`
            scope["path"] = unquote(raw.decode("ascii", "replace").split("?")[0].replace("%2F", "%252F").replace("%2f", "%252F"))
        if chunked and not _is_file(scope):  # a body of unsaid length; whoever takes a file counts it there
            receive = _counted(receive, self._max_body_bytes)
        await self._app(scope, receive, sending)

    def _check(self, scope: Scope) -> bool:
        """Whether the body's length is unsaid. One pass over the headers: this is in the way of every request."""
        host = length = b""
        origin = site = None
        chunked = False
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"content-length":
                length = value
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"transfer-encoding":
                chunked = True
        if host not in self._known:
            self._check_host(host.decode("latin-1"))
            if len(self._known) < KNOWN_HOSTS:
                self._known.add(host)
        if (origin is not None or site is not None) and scope["method"] not in SAFE_METHODS:
            _check_origin(origin, site, host.decode("latin-1"))
        if length:
            if not length.isdigit():
                raise InvalidInput("the Content-Length is not a number", field="content-length", got=length[:40].decode("latin-1"))
            limit = self._max_artifact_bytes if _is_file(scope) else self._max_body_bytes
            if int(length) > limit:
                raise TooLarge("the body is larger than this server accepts", field="body", got=int(length), limit=limit)
        return chunked

    def _check_host(self, host: str) -> None:
        if _bare_host(host) not in self._hosts:
            raise Forbidden(
                "this server does not answer to that Host",
                field="host",
                got=host[:80],
                next_step="use 127.0.0.1 or localhost, or add the name to allowed_hosts in andon.toml",
            )


def _is_file(scope: Scope) -> bool:
    """Whether the body is a file on its way to the disk, piece by piece: it has a limit of its own."""
    return bool(scope["method"] == "PUT" and scope["path"].startswith(FILES))


def _counted(receive: Receive, limit: int) -> Receive:
    left = limit

    async def receiving() -> Any:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise TooLarge("the body is larger than this server accepts", field="body", limit=limit)
        return message

    return receiving


def _check_origin(origin: bytes | None, site: bytes | None, host: str) -> None:
    """A browser says where a write comes from; another site's page may not write here. Programs send neither header."""
    if origin is not None and urlsplit(origin.decode("latin-1")).netloc.lower() != host.lower():
        raise Forbidden("another site's page may not write here", field="origin", got=origin[:80].decode("latin-1"))
    if site is not None and site not in (b"same-origin", b"none"):
        raise Forbidden("another site's page may not write here", field="sec-fetch-site", got=site[:40].decode("latin-1"))


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


def _with_headers(scope: Scope, send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            if scope.get(PLAIN):
                message["headers"].extend(PLAIN_HEADERS)
            else:
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *((name, value) for name, value in HEADERS.items() if name not in present)]
        await send(message)

    return sending


async def _refuse(error: AndonError, send: Send) -> None:
    body = msgspec.json.encode(error.envelope())
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
