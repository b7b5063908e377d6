"""Redis and NATS servers on free ports, with their data in a folder, that can be stopped and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A server process. ``url`` takes a topic at its end."""

    def __init__(self, kind: str, folder: Path) -> None:
        binary = shutil.which({"redis": "redis-server", "nats": "nats-server"}[kind])
        if binary is None:
            if os.environ.get("CI"):
                pytest.fail(f"CI must have {kind}-server: .ci/run installs it")
            pytest.skip(f"no {kind}-server on this machine")
        self.port = free_port()
        self.url = f"{kind}://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        where = ["--port", str(self.port)]
        self._command = {
            "redis": [binary, *where, "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes", "--save", ""],
            "nats": [binary, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(folder)],
        }[kind]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
                    probe.sendall(b"PING\r\n")
                    said = probe.recv(100)  # Redis says +PONG, or -LOADING for a while; NATS greets
                    if said and not said.startswith(b"-LOADING"):
                        return
            except OSError:
                pass
            assert time.monotonic() < until
            assert self._process.poll() is None
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
