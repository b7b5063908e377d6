"""Fixtures that every suite shares: stores on each engine, a clock that moves when told, and a throw-away Postgres."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from andon.core.actors import Actor
from andon.core.clocks import ManualClock
from andon.store import Store, memory_store, open_store

ANA = Actor("person", "ana")
START_US = 1_312_156_800_000_000  # 2011-08-01T00:00:00Z


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_US)


@pytest.fixture
def store(clock: ManualClock) -> Iterator[Store]:
    """A store in memory."""
    with memory_store(clock) as opened:
        yield opened


@pytest.fixture
def disk_store(tmp_path: Path) -> Iterator[Store]:
    """A store in a folder, on the machine's clock."""
    with open_store(tmp_path / ".andon") as opened:
        yield opened


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a Postgres made for this session: ``ANDON_TEST_POSTGRES`` if set, else one started here. Skips when there is none."""
    named = os.environ.get("ANDON_TEST_POSTGRES")
    if named:
        yield named
        return
    binaries = _postgres_binaries()
    if binaries is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have PostgreSQL: .ci/run installs it")
        pytest.skip("no PostgreSQL on this machine (initdb was not found)")
    owner = {"user": "nobody"} if os.getuid() == 0 else {}  # Postgres refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="andon-pg-"))
    if owner:
        shutil.chown(folder, "nobody")
    run = {"check": True, "capture_output": True, "cwd": folder, **owner}
    subprocess.run([binaries / "initdb", "-D", folder / "data", "-U", "andon", "-A", "trust", "--no-sync", "-E", "UTF8"], **run)
    port = _free_port()
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=300 -c shared_buffers=64MB"
    subprocess.run([binaries / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start"], **run)
    try:
        yield f"postgresql://andon@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([binaries / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"], **run)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh database."""
    import psycopg

    name = f"t{time.time_ns()}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    yield postgres_server.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


def _postgres_binaries() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
