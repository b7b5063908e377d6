"""Users' scripts with the stock client, unchanged but for ``MLFLOW_TRACKING_URI``, on each engine; and what Andon knows of them then."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.wire.mlflow.conftest import serving
from tests.wire.mlflow.servers import AndonServer, environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENGINES = ("sqlite", "postgres")
SCENARIOS = Path(__file__).parent / "scenarios"
ROOT = Path(__file__).parents[3]
LIMIT_S = 240.0
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, AndonServer]]:
    """A server for each engine there is."""
    with ExitStack() as stack:
        started = {}
        for engine in ENGINES:
            try:
                started[engine] = stack.enter_context(serving(engine, request, tmp_path_factory.mktemp(engine) / ".andon"))
            except pytest.skip.Exception:
                continue
        yield started


@pytest.fixture(scope="module", params=ENGINES)
def andon_server(request: pytest.FixtureRequest, servers: dict[str, AndonServer]) -> AndonServer:
    """The same servers, one engine at a time."""
    if request.param not in servers:
        pytest.skip("no PostgreSQL on this machine (initdb was not found)")
    return servers[request.param]


Told = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, stock: None, servers: dict[str, AndonServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Path]]]:
    """Every scenario that a selected test wants, two at a time in the background, each against all servers at once."""
    wanted = [item.originalname.removeprefix("test_") for item in request.session.items if item.path == request.path]  # type: ignore[attr-defined]
    names = [name for name in dict.fromkeys(wanted) if (SCENARIOS / f"{name}.py").exists()]

    def run(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.wire.mlflow.scenarios",
            name,
            str(folder),
            *(server.url for server in servers.values()),
        ]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)
        (folder / "said").write_text(done.stdout + done.stderr)
        return folder

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run, name) for name in names}


@pytest.fixture
def told(runs: dict[str, Future[Path]], servers: dict[str, AndonServer], andon_server: AndonServer) -> Told:
    """What a scenario said last on this engine, once it is through."""

    def told(name: str) -> dict[str, Any]:
        folder = runs[name].result()
        output = folder / str(list(servers.values()).index(andon_server))
        text = output.read_text() if output.exists() else (folder / "said").read_text()
        last = text.strip().rpartition("\n")[2]
        assert last.startswith("{"), f"{name} did not end well:\n{text[-6000:]}\nand the server said:\n{andon_server.errors()[-3000:]}"
        said: dict[str, Any] = json.loads(last)
        return said

    return told


def shown(server: AndonServer, path: str, address: str) -> dict[str, Any]:
    """What Andon's own API says of an address."""
    with urllib.request.urlopen(f"{server.url}/api/v1/{path}?address={quote(address)}", timeout=30) as answer:
        said: dict[str, Any] = json.load(answer)
        return said


def parents_of(server: AndonServer, address: str) -> set[str]:
    """The addresses that one was made from, all the way."""
    return set(shown(server, "lineage", address)["nodes"]) - {address}


def test_sklearn_autolog(told: Told, client: MlflowClient, andon_server: AndonServer):
    said = told("sklearn_autolog")
    run = client.get_run(said["run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["C"] == "0.5"
    assert run.data.metrics["training_score"] == pytest.approx(said["score"])
    assert [len(run.inputs.dataset_inputs), len(run.outputs.model_outputs)] == [1, 1]
    assert {file.path for file in client.list_artifacts(said["run"])} >= {"estimator.html", "training_confusion_matrix.png"}
    view = shown(andon_server, "show", f"run:{said['run']}")
    assert (view["run"]["status"], view["run"]["experiment"], view["run"]["name"]) == ("finished", "iris", "logistic")
    assert {"estimator.html", "training_confusion_matrix.png"} <= {file["path"] for file in view["artifacts"]}
    assert f"logged-model:{run.outputs.model_outputs[0].model_id}" in parents_of(andon_server, f"run:{said['run']}")


def test_andon_show_prints_a_clients_run(told: Told, andon_server: AndonServer):
    said = told("sklearn_autolog")
    command = [sys.executable, "-m", "andon", "show", f"run:{said['run']}", "--home", str(andon_server.home)]
    printed = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True).stdout
    assert "logistic, finished" in printed
    assert "training_accuracy_score" in printed
    assert "completeness" in printed


def test_xgboost_autolog(told: Told, client: MlflowClient):
    _boosted(told("xgboost_autolog"), client, "train-mlogloss", {"num_boost_round": "6", "max_depth": "3"})


def test_lightgbm_autolog(told: Told, client: MlflowClient):
    _boosted(told("lightgbm_autolog"), client, "train-multi_logloss", {"num_boost_round": "6", "num_leaves": "7"})


def _boosted(said: dict[str, Any], client: MlflowClient, metric: str, params: dict[str, str]) -> None:
    run = client.get_run(said["run"])
    assert said["same"] is True
    assert {name: run.data.params[name] for name in params} == params
    series = client.get_metric_history(said["run"], metric)
    assert [point.step for point in series] == list(range(6))
    assert [point.value for point in series] == sorted((point.value for point in series), reverse=True)
    assert len(run.outputs.model_outputs) == 1


def needed(module: str, why: str) -> None:
    """Skip without a library that only this scenario needs; in CI, which installs it, that is a failure."""
    if importlib.util.find_spec(module) is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have {module}: {why}")
        pytest.skip(f"{module} is not installed: {why}")


def test_torch_model(told: Told, client: MlflowClient):
    needed("torch", "make torch")
    said = told("torch_model")
    assert said["same"] is True
    assert len(client.get_metric_history(said["run"], "loss")) == 20
    assert client.get_logged_model(said["model"]).status == "READY"


def test_lightning_autolog(told: Told, client: MlflowClient):
    needed("lightning", "only it is logged by mlflow.pytorch.autolog(); make torch")
    run = client.get_run(told("lightning_autolog")["run"])
    assert run.data.params["optimizer_name"] == "Adam"
    assert len(client.get_metric_history(run.info.run_id, "train_loss_epoch")) == 3


def test_registering(told: Told, client: MlflowClient, andon_server: AndonServer):
    said = told("registering")
    assert [(run["version"], run["same"]) for run in said["runs"]] == [("1", True), ("2", True)]
    assert [run["loaded_run"] for run in said["runs"]] == [run["run"] for run in said["runs"]]
    assert said["first_alpha"] == 1.0
    champion = client.get_model_version_by_alias(said["name"], "champion")
    assert (champion.version, champion.run_id, champion.tags) == ("2", said["runs"][1]["run"], {"alpha": "0.1"})
    found = client.search_model_versions(f"name = '{said['name']}'", order_by=["version_number"])
    assert [version.run_id for version in found] == [run["run"] for run in said["runs"]]
    address = _address_of(andon_server, said["name"])
    view = shown(andon_server, "show", f"{address}@champion")
    assert json.dumps(view).count(f"{address}@2")
    assert f"run:{said['runs'][1]['run']}" in parents_of(andon_server, f"{address}@champion")
    assert f"run:{said['runs'][0]['run']}" in parents_of(andon_server, f"{address}@1")


def _address_of(server: AndonServer, title: str) -> str:
    with urllib.request.urlopen(f"{server.url}/api/v1/entries/model", timeout=30) as answer:
        return next(str(entry["address"]) for entry in json.load(answer) if title in (entry["title"], entry["name"]))


def test_nested(told: Told, client: MlflowClient, andon_server: AndonServer):
    said = told("nested")
    assert (said["table"], said["bytes"], said["odd"], said["text"], said["dict"]) == (
        [1, 2, 3],
        True,
        "odd",
        "hello ☃",
        ["question", "answer"],
    )
    assert said["found"] == ["0.3", "0.2", "0.1"]
    assert client.get_run(said["parent"]).data.tags["mlflow.note.content"] == "# Why\nto see"
    assert {file.path for file in client.list_artifacts(said["parent"], "folder")} == {"folder/deep", "folder/sp ace ü.txt"}
    child = client.get_run(said["children"][1])
    assert child.data.tags["mlflow.parentRunId"] == said["parent"]
    assert shown(andon_server, "show", f"run:{said['children'][1]}")["run"]["parent"] == said["parent"]
    assert set(said["children"]) <= {row["id"] for row in shown(andon_server, "show", f"run:{said['parent']}")["children"]}


def test_system_metrics(told: Told):
    needed("psutil", "the client samples with it")
    names = told("system_metrics")["names"]
    assert "system/cpu_utilization_percentage" in names
    assert len(names) >= 6


def test_evaluating(told: Told, client: MlflowClient):
    said = told("evaluating")
    run = client.get_run(said["run"])
    assert run.data.metrics["accuracy_score"] in (pytest.approx(said["accuracy"]), pytest.approx(said["static"]))
    assert "confusion_matrix" in said["artifacts"]
    assert {metric.key: metric.value for metric in client.get_logged_model(said["model"]).metrics}["accuracy_score"] == pytest.approx(
        said["accuracy"]
    )


def test_tracing(told: Told):
    said = told("tracing")
    first, second = said["first"], said["second"]
    assert said["spans"] == [
        ["answer", "UNKNOWN", True, {"question": "why"}, {"answer": "WHY"}],
        ["retrieve", "RETRIEVER", False, {"question": "why"}, ["WHY", "more"]],
    ]
    assert (said["events"], said["tags"], said["state"]) == (["thought"], {"team": "blue", "late": "yes"}, "OK")
    assert said["assessments"] == [["good", True, "it is"]]
    assert said["all"] == [second, first]  # newest first
    assert (said["ok"], said["broken"], said["tagged"], said["named"]) == ([first], [second], [first], [second])
    assert (said["paged"], said["of_run"], said["frame"]) == ([second], [first], 2)
    assert (said["deleted"], said["left"]) == (1, [first])


def test_prompting(told: Told):
    said = told("prompting")
    assert said["versions"] == [1, 2]
    assert (said["said"], said["template"], said["message"]) == ("Hello Ana", "Bye {{name}}", "first")
    assert (said["names"], said["missing"]) == (["greeting"], None)
    assert said["tags"]["tone"] == "warm"
    assert "greeting" not in said["models"]


def test_writers(told: Told, client: MlflowClient):
    """Eight processes of 10,000 points each: none lost, none twice."""
    said = told("writers")
    assert said["codes"] == [0] * 8
    for me in range(8):
        own = client.get_metric_history(said["run"], f"own{me}")
        assert [(point.step, point.value) for point in own] == [(n, float(n)) for n in range(0, 10_000, 2)]
    shared = sorted(int(point.value) for point in client.get_metric_history(said["run"], "shared"))
    assert shared == [n for n in range(80_000) if n % 2]


def test_paging_over_250_runs(client: MlflowClient):
    experiment = client.create_experiment("paged")
    made = [client.create_run(experiment, start_time=1000 + n, run_name=f"r{n}", tags={"even": str(n % 2 == 0)}) for n in range(250)]
    found: list[str] = []
    token, pages = None, 0
    while True:
        page = client.search_runs([experiment], max_results=60, page_token=token, order_by=["attributes.start_time ASC"])
        found += [run.info.run_id for run in page]
        token, pages = page.token, pages + 1
        if not token:
            break
    assert (found, pages) == ([run.info.run_id for run in made], 5)
    first = client.search_runs([experiment], "tags.even = 'True'", max_results=100)
    rest = client.search_runs([experiment], "tags.even = 'True'", max_results=100, page_token=first.token)
    assert [run.info.run_name for run in [*first, *rest]] == [f"r{n}" for n in reversed(range(0, 250, 2))]
    assert not rest.token


@pytest.mark.parametrize("engine", ENGINES)
def test_what_was_acknowledged_outlives_kill_9(engine: str, stock: None, request: pytest.FixtureRequest, tmp_path: Path):
    """The server dies twice while the client logs and retries; every acknowledged batch is there, each point once."""
    draw = Random(3)
    with serving(engine, request, tmp_path / ".andon") as server:
        patient = environment(MLFLOW_TRACKING_URI=server.url, MLFLOW_HTTP_REQUEST_MAX_RETRIES="9", MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR="1")
        script = [sys.executable, "-W", "ignore", str(SCENARIOS / "through_a_kill.py")]
        user = subprocess.Popen(
            script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=patient, cwd=tmp_path
        )
        assert user.stdout is not None
        run = user.stdout.readline().split()[1]
        acknowledged = 0
        for _ in range(2):
            upto = acknowledged + draw.randint(20, 40)
            while acknowledged < upto:
                acknowledged = int(user.stdout.readline().split()[1])
            server.kill()
            server.start()
        upto = acknowledged + 20
        while acknowledged < upto:
            acknowledged = int(user.stdout.readline().split()[1])
        rest, errors = user.communicate("enough\n", timeout=60)
        assert user.returncode == 0, errors
        acknowledged = max([acknowledged, *(int(line.split()[1]) for line in rest.splitlines() if line.startswith("acknowledged"))])
        from mlflow import MlflowClient

        client = MlflowClient(server.url)
        points = client.get_metric_history(run, "loss")
        assert [point.step for point in points] == list(range(acknowledged * 100))
        assert client.get_run(run).data.params == {f"p{batch}": str(batch) for batch in range(acknowledged)}
