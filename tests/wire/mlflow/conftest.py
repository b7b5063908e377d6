"""Real servers for the wire's tests: Andon on each engine, the stock client for it, and the server that it is held against."""

from __future__ import annotations

import importlib.util
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.wire.mlflow.servers import QUIET, AndonServer, RealServer, forget_experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """No configuration of the client's from outside, no telemetry, few retries; as before afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("MLFLOW_", "_MLFLOW", "ANDON_")) and not name.startswith("ANDON_TEST_"):
                patch.delenv(name)
        for name, value in QUIET.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def _own_experiment() -> Iterator[None]:
    forget_experiment()
    yield
    forget_experiment()


@pytest.fixture(scope="session")
def stock() -> None:
    """The stock client and its server are installed; else a skip, which in CI is a failure."""
    if importlib.util.find_spec("mlflow") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have mlflow: it is in the development lock")
        pytest.skip("mlflow is not installed (pip install mlflow)")


@contextmanager
def serving(engine: str, request: pytest.FixtureRequest, home: Path) -> Iterator[AndonServer]:
    """Andon over a fresh store on that engine; skips where the engine is not to be had."""
    if engine == "sqlite":
        server = AndonServer(home)
        yield server
        server.stop()
        return
    import psycopg

    cluster: str = request.getfixturevalue("postgres_server")
    name = f"w{time.time_ns()}"
    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    server = AndonServer(home, cluster.rsplit("/", 1)[0] + f"/{name}")
    yield server
    server.stop()
    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def andon_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AndonServer]:
    """Andon over a fresh store, one a module and engine."""
    with serving(request.param, request, tmp_path_factory.mktemp("andon") / ".andon") as server:
        yield server


@pytest.fixture
def client(andon_server: AndonServer, stock: None) -> MlflowClient:
    """The stock client, pointed at Andon."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports, not ours
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=andon_server.url, registry_uri=andon_server.url)


@pytest.fixture(scope="session")
def mlflow_server_starting(stock: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """The real server, not waited for: it takes ten seconds and more to start, in which other things can be done."""
    server = RealServer(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mlflow_server(mlflow_server_starting: RealServer) -> RealServer:
    """The real server, answering: one worker, a SQLite file, proxied artifacts; one a session."""
    return mlflow_server_starting.wait()
