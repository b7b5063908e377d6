"""A model that the stock tracking client logged and registered is a registry entry: shown with its run, loaded, released, and served.

The control plane and the replica are processes of their own; the client is unmodified.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from andon import registry
from andon.core.errors import Forbidden
from andon.models import ModelManifest, load_model
from andon.operations import moving, releasing, showing
from andon.store import Store, open_store
from tests.conftest import ANA
from tests.wire.mlflow.servers import QUIET, AndonServer, environment, forget_experiment

pytest.importorskip("mlflow", reason="the stock client is not installed (pip install mlflow)")
pytestmark = [pytest.mark.filterwarnings("ignore")]  # of the client's and its libraries'
COLUMNS = ["hour", "temp", "members"]
SERVE = "import sys; from andon.cli.main import main; main(['serve', sys.argv[1], '--home', sys.argv[2], '--port', '0'])"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_experiment()
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "_MLFLOW"))]:
        monkeypatch.delenv(name)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AndonServer]:
    running = AndonServer(tmp_path / ".andon")
    yield running
    running.stop()


@pytest.fixture
def home(server: AndonServer) -> Iterator[Store]:
    with open_store(server.home) as opened:
        yield opened


def frame(rows: int = 200) -> Any:
    import pandas as pd

    return pd.DataFrame(np.random.default_rng(0).normal(size=(rows, 3)), columns=COLUMNS)


def log(server: AndonServer, estimator: Any, name: str, **options: Any) -> Any:
    """Log and register with the stock client, and call it the champion."""
    import mlflow
    from mlflow import MlflowClient

    mlflow.set_tracking_uri(server.url)
    with mlflow.start_run() as run:
        requirements = [
            f"{package}=={version(package)}" for package in ("mlflow", "scikit-learn", "numpy", "pandas", "scipy", "cloudpickle")
        ]
        model = mlflow.sklearn.log_model(
            estimator,
            name="model",
            input_example=frame()[:3],
            registered_model_name=name,
            pip_requirements=requirements,
            **options,
        )
    MlflowClient().set_registered_model_alias(name, "champion", "1")
    return run.info.run_id, model


def version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


@contextlib.contextmanager
def served(service: str, server: AndonServer) -> Iterator[str]:
    """``andon serve``, once it answers."""
    with open(server.home / "serve.err", "ab") as errors:  # noqa: PTH123 - handed to a process
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, service, str(server.home)], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment()
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, line + (server.home / "serve.err").read_text()
        url = next(word for word in line.split() if word.startswith("http://"))
        wait_until_loaded(url)
        yield url
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


def wait_until_loaded(url: str) -> None:
    """Return once the replica has loaded its release. Raises ``TimeoutError`` with what it says of itself."""
    said, until = "", time.monotonic() + 60
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode()
        time.sleep(0.05)
    raise TimeoutError(said)


def predict(url: str, rows: list[dict[str, Any]]) -> list[float]:
    request = urllib.request.Request(f"{url}/predict", json.dumps({"rows": rows}).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        told = json.loads(answer.read())
    return [row["prediction"] for row in told["outputs"]]


def test_a_logged_estimator_is_shown_loaded_released_and_served(server: AndonServer, home: Store) -> None:
    import mlflow
    from sklearn.linear_model import Ridge

    given = frame()
    run, _ = log(server, Ridge().fit(given, given["hour"] * 3 + given["temp"]), "Ride Counts")
    wanted = mlflow.pyfunc.load_model("models:/Ride Counts@champion").predict(given)

    (entry,) = registry.entries(home, "model")
    address = f"model:{entry.name}@champion"
    assert entry.title == "Ride Counts"
    view = showing.show(home, address)
    assert view.entry.title == "Ride Counts"
    assert {(edge.parent, edge.role) for edge in view.lineage.edges if edge.child == f"model:{entry.name}@1"} >= {(f"run:{run}", "run")}
    assert view.manifest["format"] == "skops"  # no code in it: nothing had to be allowed

    loaded = load_model(home, address)
    columns = {name: given[name].to_numpy() for name in COLUMNS}
    np.testing.assert_allclose(loaded.predict(columns)["prediction"], wanted)

    made = releasing.release("rides", model=address, waive="no labels yet", store=home, actor=ANA)
    assert made.manifest.model.address == f"model:{entry.name}@1"
    moving.deploy(made.address, store=home, actor=ANA)
    with served("rides", server) as url:
        np.testing.assert_allclose(predict(url, given[:5].to_dict("records")), wanted[:5])


def test_a_model_of_code_is_served_only_when_asked_for_by_name(server: AndonServer, home: Store) -> None:
    import mlflow
    from sklearn.linear_model import LogisticRegression

    given = frame()
    log(server, LogisticRegression().fit(given, (given["temp"] > 0).astype(int)), "late", serialization_format="cloudpickle")
    wanted = mlflow.pyfunc.load_model("models:/late/1").predict(given)
    manifest = registry.manifest_of(registry.get(home, "model:late@champion"), ModelManifest)
    assert (manifest.format, manifest.flags) == ("mlflow", ("pickle",))

    with pytest.raises(Forbidden):
        load_model(home, "model:late@champion")
    loaded = load_model(home, "model:late@champion", allow_pickle=True)
    np.testing.assert_array_equal(loaded.predict({name: given[name].to_numpy() for name in COLUMNS})["prediction"], wanted)

    with pytest.raises(Forbidden, match="runs code"):
        releasing.release("late", model="model:late@champion", waive="no labels yet", store=home, actor=ANA)
    made = releasing.release("late", model="model:late@champion", waive="no labels yet", allow_pickle=True, store=home, actor=ANA)
    moving.deploy(made.address, store=home, actor=ANA)
    with served("late", server) as url:
        assert predict(url, given[:5].to_dict("records")) == wanted[:5].tolist()
