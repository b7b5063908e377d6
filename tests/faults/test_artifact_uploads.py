"""Files on their way up and down while the server, its disk or its client fails: whole and acknowledged, or not there at all."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from andon.core.actors import Actor
from andon.store import open_store
from andon.store.blobs.check import check_blobs, leftovers
from andon.store.blobs.local import LocalBlobs
from andon.tracking import artifacts_of, create_run, get_experiment

ROOT = "/api/2.0/mlflow-artifacts"
UP = "import sys; from andon.cli.main import main; main(['up', '--no-serve', '--home', sys.argv[1], '--port', sys.argv[2]])"
DATA = os.urandom(6 << 20)
HALF = len(DATA) // 2
BOUNDARIES = ("blobs.begin", "blobs.piece:3", "blobs.written", "blobs.fsynced", "blobs.named", "blobs.kept")


class Server:
    """The control plane over a home that has one run, maybe with a fault that waits in it."""

    process: subprocess.Popen[str] | None = None

    def __init__(self, home: Path, **settings: int) -> None:
        self.home, self.port = home, 0
        home.mkdir()
        (home / "andon.toml").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        with open_store(home) as store:
            made = create_run(store, actor=Actor("person", "ana"))
            self.run, self.experiment = made.id, get_experiment(store, made.experiment).id

    def start(self, fault: str | None = None) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANDON_")}
        environment |= {"ANDON_ACTOR": "person:ana", "OMP_NUM_THREADS": "1", **({"ANDON_FAULT": fault} if fault else {})}
        self.process = subprocess.Popen(
            [sys.executable, "-c", UP, str(self.home), str(self.port)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split()[-1].rpartition(":")[2])

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def path(self, name: str) -> str:
        return f"{ROOT}/artifacts/{self.experiment}/{self.run}/artifacts/{name}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def begin(self, method: str, path: str, length: int, sent: bytes) -> socket.socket:
        """A request whose body stays behind its length."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode())
        connection.sendall(sent)
        return connection

    def staged(self) -> int:
        """Bytes of files that are on their way."""
        size = 0
        for name in ("tmp", "uploads"):
            for folder, _, files in os.walk(self.home / "blobs" / name):
                for file in files:
                    if file not in (".lock", "facts"):
                        with contextlib.suppress(FileNotFoundError):
                            size += (Path(folder) / file).stat().st_size
        return size

    def names(self) -> list[str]:
        with open_store(self.home) as store:
            return [item.path for item in artifacts_of(store, self.run)]

    def judge(self) -> None:
        """What the ledger names is there, whole; and a gc clears what the dead have left."""
        with open_store(self.home) as store:
            assert isinstance(store.blobs, LocalBlobs)
            needed = {item.digest for item in artifacts_of(store, self.run)}
            assert check_blobs(store.blobs, needed) == []
            store.blobs.gc(lambda: needed, older_than_us=0)
            assert leftovers(store.blobs) == []
            assert set(store.blobs.digests()) == needed


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Not started yet."""
    made = Server(tmp_path / ".andon")
    yield made
    made.kill()


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for what another process does. Fails after 20 s."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def test_killed_in_mid_upload(server: Server) -> None:
    server.start()
    with server.begin("PUT", server.path("big"), len(DATA), DATA[:HALF]):
        until(lambda: server.staged() >= HALF - (1 << 20), "the half was not staged")
        server.kill()
        server.start()
    assert server.ask("GET", server.path("big"))[0] == 404
    assert server.names() == []
    server.kill()
    server.judge()
    assert server.staged() == 0
    server.start()
    assert server.ask("PUT", server.path("big"), DATA) == (200, b"")
    assert server.ask("GET", server.path("big")) == (200, DATA)


@pytest.mark.parametrize(("boundary", "large"), [*((name, True) for name in BOUNDARIES), ("blobs.written", False), ("blobs.kept", False)])
def test_killed_at_every_boundary(server: Server, boundary: str, large: bool) -> None:
    data = DATA if large else b"small"
    server.start(boundary)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        server.ask("PUT", server.path("a"), data)
    server.kill()
    server.judge()
    assert server.names() == []
    server.start()
    assert server.ask("PUT", server.path("a"), data)[0] == 200
    assert server.ask("GET", server.path("a")) == (200, data)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_full_disk_is_said_and_leaves_nothing(server: Server, boundary: str) -> None:
    server.start(f"{boundary}=ENOSPC")
    status, said = server.ask("PUT", server.path("a"), DATA)
    assert (status, json.loads(said)["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    assert server.names() == []
    assert server.staged() == 0
    assert server.ask("PUT", server.path("a"), DATA)[0] == 200  # there is space again
    assert server.ask("GET", server.path("a")) == (200, DATA)
    server.kill()
    server.judge()


def test_a_client_that_leaves_in_mid_upload(server: Server) -> None:
    server.start()
    multipart = json.loads(
        server.ask("POST", f"{ROOT}/mpu/create/{server.experiment}/{server.run}/artifacts", b'{"path": "b", "num_parts": 1}')[1]
    )
    part = multipart["credentials"][0]["url"].partition(str(server.port))[2]
    for path in (server.path("big"), part):
        connection = server.begin("PUT", path, len(DATA), DATA[:HALF])
        until(lambda: server.staged() >= HALF - (1 << 20), "the half was not staged")
        connection.close()
        until(lambda: server.staged() == 0, "what was staged is still there")
    assert server.names() == []
    assert server.ask("GET", server.path("big"))[0] == 404
    assert server.ask("PUT", server.path("big"), DATA)[0] == 200


def test_a_client_that_leaves_in_mid_download(server: Server) -> None:
    server.start()
    assert server.ask("PUT", server.path("big"), DATA)[0] == 200

    def open_blobs() -> int:
        found = 0
        for item in Path(f"/proc/{server.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found += "/loose/" in str(item.readlink())
        return found

    for _ in range(3):
        with server.begin("GET", server.path("big"), 0, b"") as connection:
            assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
    until(lambda: open_blobs() == 0, "a file stayed open")
    assert server.ask("GET", server.path("big")) == (200, DATA)


def test_damage_is_never_taken_for_the_whole(server: Server) -> None:
    server.start()
    assert server.ask("PUT", server.path("big"), DATA)[0] == 200
    with open_store(server.home) as store:
        blob = store.blobs.local_path(artifacts_of(store, server.run)[0].digest)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(HALF)
        file.write(bytes([DATA[HALF] ^ 1]))
    with pytest.raises(http.client.IncompleteRead) as caught:
        server.ask("GET", server.path("big"))
    assert len(caught.value.partial) < len(DATA)
    status, said = server.ask("GET", server.path("big"), Range="bytes=0-9")
    assert (status, json.loads(said)["error_code"]) == (500, "INTERNAL_ERROR")
    assert server.ask("PUT", server.path("other"), b"small")[0] == 200  # and it goes on


def test_an_upload_in_parts_outlives_the_server(server: Server) -> None:
    server.start()
    where = f"{ROOT}/mpu/{{}}/{server.experiment}/{server.run}/artifacts"
    made = json.loads(server.ask("POST", where.format("create"), b'{"path": "big", "num_parts": 2}')[1])
    urls = [credential["url"].partition(str(server.port))[2] for credential in made["credentials"]]
    etags = []
    for url, data in zip(urls, (DATA[:HALF], DATA[HALF:]), strict=True):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("PUT", url, data)
            answer = connection.getresponse()
            etags.append(answer.headers["ETag"])
            assert answer.read() == b""
        server.kill()
        server.start("blobs.fsynced" if len(etags) == 2 else None)
    asked = {"path": "big", "upload_id": made["upload_id"], "parts": [{"part_number": n + 1, "etag": etag} for n, etag in enumerate(etags)]}
    with contextlib.suppress(http.client.HTTPException, ConnectionError):
        server.ask("POST", where.format("complete"), json.dumps(asked).encode())
        pytest.fail("it should have been killed")
    server.kill()
    server.start()
    assert server.names() == []
    assert server.ask("POST", where.format("complete"), json.dumps(asked).encode()) == (200, b"{}")
    assert server.ask("GET", server.path("big")) == (200, DATA)
    assert list((server.home / "blobs" / "uploads").iterdir()) == []


def test_limits_hold_for_every_kind_of_body(tmp_path: Path) -> None:
    server = Server(tmp_path / ".andon", max_body_bytes=100_000, max_artifact_bytes=3_000_000)
    server.start()
    try:
        where = f"{ROOT}/mpu/{{}}/{server.experiment}/{server.run}/artifacts"
        made = json.loads(server.ask("POST", where.format("create"), b'{"path": "b", "num_parts": 2}')[1])
        part = [credential["url"].partition(str(server.port))[2] for credential in made["credentials"]]

        def pieces(size: int) -> Iterator[bytes]:
            for start in range(0, size, 50_000):
                yield DATA[start : min(size, start + 50_000)]

        assert server.ask("PUT", server.path("a"), DATA[:3_000_000])[0] == 200  # more than another body may have
        assert server.ask("PUT", server.path("b"), pieces(3_000_000))[0] == 200
        assert server.ask("GET", server.path("b")) == (200, DATA[:3_000_000])
        for body in (DATA[:3_000_001], pieces(3_000_001), pieces(len(DATA))):
            assert server.ask("PUT", server.path("c"), body)[0] == 413
        assert server.ask("PUT", part[0], DATA[:2_000_000])[0] == 200
        for body in (DATA[:1_000_001], pieces(1_000_001)):
            assert server.ask("PUT", part[1], body)[0] == 413  # all parts together
        assert server.ask("PUT", part[1], DATA[:1_000_000])[0] == 200
        for path in ("/api/2.0/mlflow/runs/create", where.format("create"), "/api/v1/tags"):
            for body in (b" " * 100_001, pieces(100_001)):
                status, _ = server.ask("POST", path, body)
                assert status in (400, 413)
        assert sorted(server.names()) == ["a", "b"]
    finally:
        server.kill()
    server.judge()
