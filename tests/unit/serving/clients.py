"""A small keep-alive HTTP client that counts what a user would notice, and a server process to point it at."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

SERVE = """
import sys
from andon.api import serving_server
from andon.core.settings import load
options = eval(sys.argv[3])
vars(serving_server).update(options.pop("constants"))
serving_server.serve(load(sys.argv[1], **options), sys.argv[2])
"""


class Reply(msgspec.Struct):
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Dropped(Exception):
    """The connection ended after a request was sent and before its answer was whole."""


_open: set[Client] = set()


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``, and every client that ``main`` left open is closed at its end; those of loops in other threads are not."""

    async def whole() -> T:
        try:
            return await main
        finally:
            for client in [client for client in _open if client.loop is asyncio.get_running_loop()]:
                await client.close()
            await asyncio.sleep(0)

    return asyncio.run(whole())


class Client:
    """One keep-alive connection to ``127.0.0.1:port``."""

    def __init__(self, port: int) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        self.loop = asyncio.get_running_loop()
        _open.add(self)
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**24)

    async def close(self) -> None:
        _open.discard(self)
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None

    async def send(self, data: bytes) -> None:
        """Bytes as they are."""
        if self._writer is None:
            await self.connect()
        assert self._writer is not None
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> Reply:
        """The next answer. Raises ``Dropped``."""
        assert self._reader is not None
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            await self.close()
            raise Dropped(str(error)) from error
        if headers.get("connection") == "close":
            await self.close()
        return Reply(int(lines[0].split(" ")[1]), headers, body)

    async def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        """One request and its answer."""
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
        try:
            await self.send(head.encode("latin-1") + body)
        except ConnectionError as error:
            await self.close()
            raise Dropped(str(error)) from error
        return await self.receive()

    async def post(self, path: str, value: Any, headers: dict[str, str] | None = None) -> Reply:
        return await self.ask("POST", path, json.dumps(value).encode(), headers)

    async def get(self, path: str) -> Reply:
        return await self.ask("GET", path)


class Server:
    """``andon serve`` in a process of its own."""

    def __init__(
        self,
        home: Path,
        service: str = "bikes",
        *,
        constants: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1", **(environ or {})}
        self.started_s = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(home), service, repr(settings | {"constants": constants or {}})],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        if " on http://" not in self.line:
            raise RuntimeError(f"the server did not start: {self.line}{self.process.communicate()[1]}")
        self.url = self.line.split(" on ")[1].strip()
        self.port = int(self.url.rpartition(":")[2])

    async def wait_ready(self, timeout_s: float = 20.0) -> Reply:
        """Ask ``/health`` until it says 200."""
        until = time.monotonic() + timeout_s
        client = Client(self.port)
        while True:
            reply = await client.get("/health")
            if reply.status == 200 or time.monotonic() > until:
                await client.close()
                assert reply.status == 200, reply.body
                return reply
            await asyncio.sleep(0.01)

    async def wait_release(self, release: str, timeout_s: float = 20.0) -> None:
        """Wait until ``/health`` names ``release``."""
        until = time.monotonic() + timeout_s
        while (reply := await self.wait_ready()).json["release"] != release:
            assert time.monotonic() < until, reply.body
            await asyncio.sleep(0.01)

    def children(self) -> list[int]:
        """The process ids of its runners."""
        found = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for path in found for pid in path.read_text().split()]

    def terminate(self, timeout_s: float = 20.0) -> tuple[int, str]:
        """SIGTERM, then the exit code and what it said on stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, errors

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
