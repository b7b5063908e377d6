"""One server process for the whole folder: its tests ask it things, and one makes sure that it outlives their attacks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.unit.serving.conftest import line
from tests.wire.openinference.echo import GrpcServer, make_release

__all__ = ["line", "server"]


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServer]:
    home = tmp_path_factory.mktemp("oip") / ".andon"
    make_release(home)
    with GrpcServer(home) as started:
        asyncio.run(started.wait_ready())
        yield started
        assert started.process.poll() is None
        code, errors = started.terminate()
        assert (code, "Traceback" in errors) == (0, False), errors[-2000:]
