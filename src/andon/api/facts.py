"""What a request's headers say that matters to a front: read in one pass, checked when it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from andon.core.errors import Forbidden, InvalidInput
from andon.serving.callers import Caller
from andon.serving.validation import check_request_id

Headers = list[tuple[bytes, bytes]]
MAX_TIMEOUT_MS = 3_600_000
MAX_NAME = 200
"""Characters of a header that names a client; the rest is not looked at."""
MAX_HOSTS = 256


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


_READ = {
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


class Reader:
    """Reads headers, and refuses hosts and origins that are not allowed, so that a web page cannot talk to a server on loopback."""

    def __init__(self, allowed_hosts: Sequence[str]) -> None:
        self._any = "*" in allowed_hosts
        self._allowed = {host.lower() for host in allowed_hosts}
        self._seen: set[bytes] = set()

    def read(self, headers: Headers, caller: Caller | None) -> Facts:
        """What the headers say. Raises ``Forbidden`` for a host or origin that is not allowed."""
        facts = Facts()
        facts.caller = caller
        for name, value in headers:
            fact = _READ.get(name)
            if fact is None:
                continue
            if fact == "host":
                if not self._any and value not in self._seen:
                    self._check(name, value)
            elif fact == "length":
                facts.length = int(value)  # the parser lets digits through only
            else:
                setattr(facts, fact, value)
        return facts

    def _check(self, name: bytes, value: bytes) -> None:
        if _host(value) not in self._allowed:
            raise Forbidden(
                f"this server does not answer to that {name.decode()}",
                next_step="add the name to `allowed_hosts` in andon.toml",
                got=value.decode("latin-1")[:80],
            )
        if len(self._seen) < MAX_HOSTS:  # clients choose these: no unbounded memory for them
            self._seen.add(value)


def _host(value: bytes) -> str:
    """The host's name in a ``Host`` or ``Origin`` header, without scheme and port."""
    text = value.decode("latin-1").lower()
    _, scheme, rest = text.rpartition("://")
    text = rest if scheme else text
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]
