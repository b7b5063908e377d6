"""Raw requests to the protocol's application in this process: no socket, no client, one answer a call."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import unquote

from andon.store import Store
from andon.wire.mlflow.app import Mlflow


class Asking:
    """The application over ``store``."""

    def __init__(self, store: Store) -> None:
        self._app = Mlflow(store, store.settings)

    def close(self) -> None:
        """Let its threads go."""
        self._app.close()

    def done(self, method: str, path: str, body: Any = None) -> Any:
        """What it answers to a request that succeeds. ``body`` is sent as JSON, unless it is bytes."""
        status, said = self.ask(method, path, body)
        assert status == 200, (status, said)
        return said

    def refused(self, method: str, path: str, body: Any = None, *, status: int, code: str, message: str = "") -> None:
        """The request fails so; ``message`` is part of what is said."""
        got, said = self.ask(method, path, body)
        assert (got, said.get("error_code")) == (status, code), (got, said)
        assert message in said["message"], said["message"]

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer."""
        plain, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": unquote(plain),
            "raw_path": plain.encode(),
            "query_string": query.encode(),
            "headers": [(b"content-type", b"application/json")],
        }
        sent: list[Any] = []
        given = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()

        async def receive() -> Any:
            return {"type": "http.request", "body": given, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self._app(scope, receive, send))
        return sent[0]["status"], json.loads(b"".join(part["body"] for part in sent[1:]))
