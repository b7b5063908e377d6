"""Sends a case to a server and keeps what it answered."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from tests.wire.mlflow.differential.cases import Case, filled, found_at

LIMIT_S = 60.0
TICK_S = 0.0012
"""Before each write, so that no two fall into one millisecond: the order of what was made at one time is nobody's business."""
KEPT_HEADERS = ("content-type", "content-disposition", "x-content-type-options", "content-range")


class Answer(msgspec.Struct, frozen=True):
    """``body`` is what the JSON said, or else ``{"bytes": size, "digest": …}`` or ``{"page": type}`` for HTML."""

    status: int
    kind: str
    body: Any
    headers: dict[str, str] = {}


class Played(msgspec.Struct, frozen=True):
    """A case as one server answered it: one answer a step, what was bound, and when (ms since 1970)."""

    case: Case
    url: str
    answers: list[Answer]
    bound: dict[str, str]
    began_ms: int
    ended_ms: int


class Player:
    """One kept connection to a server."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=LIMIT_S)
        self.requests = 0

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()

    def play(self, case: Case) -> Played:
        """Send each step of a case in turn."""
        bound = {"case": case.name.replace("/", "-")}
        answers = []
        began = _now_ms()
        for step in case.steps:
            path = quote(filled(step.path, bound), safe="/%:;,@&=+$!*'()~.?#[]\\\"<>{}|^`")
            if step.query:
                path += "?" + urlencode([(name, filled(value, bound)) for name, value in step.query])
            body, kind = step.body(bound)
            headers = {} if kind is None else {"Content-Type": kind}
            headers |= {name: filled(value, bound) for name, value in step.headers.items()}
            if step.method != "GET":
                time.sleep(TICK_S)
            answer = self._send(step.method, path, body, {name: value for name, value in headers.items() if value})
            answers.append(answer)
            for name, place in step.bind.items():
                value = found_at(answer.body, place)
                if value is not None:
                    bound[name] = value
        return Played(case, self.url, answers, bound, began, _now_ms())

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        self.requests += 1
        for last in (False, True):
            try:
                self._connection.request(method, path, body=body, headers=headers)
                answer = self._connection.getresponse()
                content = answer.read()
                break
            except (http.client.HTTPException, OSError):  # a connection closed between two requests is no answer: once more, on a new one
                self._connection.close()
                if last:
                    raise
        kept = {name: value for name, value in answer.getheaders() if name.lower() in KEPT_HEADERS}
        return _answer(answer.status, kept, content)


def _answer(status: int, headers: dict[str, str], content: bytes) -> Answer:
    lower = {name.lower(): value for name, value in headers.items()}
    kind = lower.get("content-type", "").partition(";")[0]
    if "json" in kind or content[:1] == b"{":
        try:
            return Answer(status, "json", json.loads(content), lower)
        except ValueError:
            pass
    if "html" in kind and status >= 400:
        return Answer(status, "page", {"page": "html"}, lower)
    if len(content) <= 200 and content.isascii():
        return Answer(status, kind, {"text": content.decode()}, lower)
    from blake3 import blake3

    return Answer(status, kind, {"bytes": len(content), "digest": blake3(content).hexdigest()}, lower)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
