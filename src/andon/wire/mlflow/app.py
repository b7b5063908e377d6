"""The ASGI application: finds the handler, reads the body, answers, and says errors in the protocol's words."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import msgspec

from andon.core.actors import Actor, current_actor
from andon.core.errors import AndonError
from andon.core.settings import Settings
from andon.store import Store
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, translated
from andon.wire.mlflow.routes import ROUTES

log = logging.getLogger("andon.wire")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
PREFIXES = ("/api/2.0/mlflow", "/api/3.0/mlflow", "/ajax-api/", "/get-artifact", "/model-versions/get-artifact", "/version", "/v1/traces")
"""Every path that begins so is ours (``/api/2.0/mlflow-artifacts`` too)."""
PLAIN = "andon.plain"
"""What tells the guard around us that an answer is JSON for a program."""
_JSON = (b"content-type", b"application/json")
_READERS = 8


class Mlflow:
    """The protocol over an open store, which it does not own."""

    def __init__(self, store: Store, settings: Settings) -> None:
        here = current_actor()
        self._store, self._settings = store, settings
        self._actor = here if here.kind in ("person", "token") else Actor("person", here.name)
        self._exact: dict[tuple[str, str], Route] = {}
        self._shaped: list[tuple[str, re.Pattern[str], Route]] = []
        for route in ROUTES:
            if "{" in route.template:
                self._shaped.append((route.method, _pattern(route.template), route))
            else:
                self._exact[route.method, route.template] = route
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="andon-mlflow")

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            route, places = self._find(scope)
            call = Call(
                self._store,
                self._settings,
                self._actor,
                scope["method"],
                places,
                scope["query_string"],
                dict(scope["headers"]),
                scope=scope,  # type: ignore[arg-type]
            )
            if route.mode == "stream":
                await route.handler(call, receive, send)
                return
            call.body = await _body(receive)
            if route.mode == "inline":
                answer = await route.handler(call)
            else:
                answer = await asyncio.get_running_loop().run_in_executor(self._threads, route.handler, call)
            await _answer(
                scope, send, 200, b"{}" if answer is None else answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
            )
        except WireError as error:
            await _answer(scope, send, error.status, error.body())
        except AndonError as error:
            said = translated(error)
            await _answer(scope, send, said.status, said.body())
        except _Left:
            return
        except Exception:  # whatever broke, the client gets an answer in its protocol, and the log the trace
            log.exception("%s %s failed", scope["method"], scope["path"])
            await _answer(scope, send, 500, WireError("INTERNAL_ERROR", "the server failed; its log has the trace").body())

    def _find(self, scope: Scope) -> tuple[Route, dict[str, str]]:
        method, path = scope["method"], scope["path"]
        rest = _below(path)
        route = self._exact.get((method, rest))
        if route is not None:
            return route, {}
        # Places are found in the path as it was sent and decoded once: a slash or a percent sign inside a name stays there.
        sent = _below(scope["raw_path"].partition(b"?")[0].decode("utf-8", "surrogateescape"))
        for wanted, pattern, shaped in self._shaped:
            if wanted == method and (found := pattern.fullmatch(sent)):
                return shaped, {name: unquote(value) for name, value in found.groupdict().items()}
        known = any(template == rest for _, template in self._exact) or any(pattern.fullmatch(sent) for _, pattern, _ in self._shaped)
        raise WireError("ENDPOINT_NOT_FOUND", f"No such endpoint here: {method} {path[:200]}", 405 if known else None)


def _below(path: str) -> str:
    return path[5:] if path.startswith("/api/") else path[10:] if path.startswith("/ajax-api/") else path


class _Left(Exception):
    """The client is gone."""


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{[a-z_.]+(?::path)?\})", template)
    made = ""
    for part in parts:
        if part.startswith("{"):
            name, _, kind = part[1:-1].partition(":")
            made += f"(?P<{name.replace('.', '_')}>{'.*' if kind == 'path' else '[^/]+'})"
        else:
            made += re.escape(part)
    return re.compile(made, re.DOTALL)


async def _body(receive: Receive) -> bytes:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _Left
    if not message.get("more_body"):
        return bytes(message.get("body", b""))
    parts = [message.get("body", b"")]
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Left
        parts.append(message.get("body", b""))
    return b"".join(parts)


async def _answer(scope: Scope, send: Send, status: int, body: bytes) -> None:
    scope[PLAIN] = True
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
