"""The callers: requests and labels over HTTP, one keep-alive connection, every answer checked."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from andon.core.errors import Unavailable

TIMEOUT_S = 30.0


class Caller:
    """Sends requests to one service's data plane."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._connection: http.client.HTTPConnection | None = None
        self.answered = 0

    def predict(self, row: dict[str, float], request_id: str, event_time: str) -> dict[str, Any]:
        """One row; returns the decoded answer."""
        answer = self._post("/predict", {"rows": [row], "request_id": request_id, "event_time": event_time})
        self.answered += 1
        return answer

    def label(self, labels: list[dict[str, Any]]) -> None:
        """Labels; they are on the server's disk when this returns."""
        if labels:
            self._post("/labels", {"labels": labels})

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, path: str, body: Any) -> dict[str, Any]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(str(self._address.hostname), self._address.port, timeout=TIMEOUT_S)
        self._connection.request("POST", path, msgspec.json.encode(body), {"content-type": "application/json"})
        response = self._connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise Unavailable(f"the service answered {response.status} to {path}: {data[:300].decode(errors='replace')}")
        decoded: dict[str, Any] = msgspec.json.decode(data)
        return decoded


def wait_until(true: Callable[[], Any], what: str, timeout_s: float = 60.0, every_s: float = 0.01) -> Any:
    """Wait until ``true()`` is; returns what it gave. Raises ``Unavailable`` naming what never came."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            found = true()
            if found:
                return found
        time.sleep(every_s)
    raise Unavailable(f"waited {timeout_s:.0f} s for {what}")
