"""Runs and what is logged to them, by the stock client."""

from __future__ import annotations

import math
import multiprocessing
import threading
from typing import TYPE_CHECKING, Any

import pytest

from andon.store import open_store
from andon.tracking import get_run
from tests.wire.mlflow.servers import AndonServer

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.usefixtures("stock")
DESCRIPTION = "line one\nline two 🎈 " + "é" * 4_000


@pytest.fixture
def run(client: MlflowClient) -> str:
    """A new run's id."""
    return str(client.create_run("0").info.run_id)


def test_a_run_comes_back_as_it_was_made(client: MlflowClient) -> None:
    made = client.create_run(
        "0", start_time=1_700_000_000_123, run_name="gentle-hare-12", tags={"mlflow.user": "ana", "mlflow.note.content": DESCRIPTION}
    )
    for found in (made, client.get_run(made.info.run_id)):
        assert (found.info.run_name, found.info.user_id, found.info.status) == ("gentle-hare-12", "ana", "RUNNING")
        assert (found.info.start_time, found.info.end_time, found.info.lifecycle_stage) == (1_700_000_000_123, None, "active")
        assert found.info.artifact_uri == f"mlflow-artifacts:/0/{found.info.run_id}/artifacts"
        assert found.data.tags == {"mlflow.user": "ana", "mlflow.note.content": DESCRIPTION, "mlflow.runName": "gentle-hare-12"}
    assert len(made.info.run_id) == 26  # sorts by time, as all ids here do


def test_the_end_is_what_the_client_says(client: MlflowClient, run: str) -> None:
    client.set_terminated(run, "FINISHED", end_time=1_700_000_001_000)
    assert (client.get_run(run).info.status, client.get_run(run).info.end_time) == ("FINISHED", 1_700_000_001_000)
    client.update_run(run, status="RUNNING")  # a client that resumes it
    assert (client.get_run(run).info.status, client.get_run(run).info.end_time) == ("RUNNING", 1_700_000_001_000)


def test_name_and_tag_keep_in_step(client: MlflowClient, run: str) -> None:
    client.update_run(run, name="by update")
    assert client.get_run(run).data.tags["mlflow.runName"] == "by update"
    client.set_tag(run, "mlflow.runName", "by tag")
    assert client.get_run(run).info.run_name == "by tag"
    client.log_batch(run, tags=[_tag("mlflow.runName", "by batch")])
    assert client.get_run(run).info.run_name == "by batch"


def test_metrics_keep_their_newest_point_and_their_history(client: MlflowClient, run: str) -> None:
    for value, ms, step in ((1.0, 1000, 1), (2.0, 900, 2), (3.0, 950, 2), (3.0, 950, 2), (0.5, 2000, 0)):
        client.log_metric(run, "loss", value, timestamp=ms, step=step)
    assert client.get_run(run).data.metrics == {"loss": 3.0}
    assert [(m.value, m.timestamp, m.step) for m in client.get_metric_history(run, "loss")] == [
        (2.0, 900, 2),
        (3.0, 950, 2),
        (1.0, 1000, 1),
        (0.5, 2000, 0),
    ]


def test_numbers_that_are_none(client: MlflowClient, run: str) -> None:
    for key, value in (("nan", math.nan), ("up", math.inf), ("down", -math.inf)):
        client.log_metric(run, key, value, timestamp=1)
    metrics = client.get_run(run).data.metrics
    assert math.isnan(metrics["nan"])
    assert (metrics["up"], metrics["down"]) == (1.7976931348623157e308, -1.7976931348623157e308)
    assert math.isnan(client.get_metric_history(run, "nan")[0].value)


def test_a_batch_is_all_or_nothing(client: MlflowClient, run: str) -> None:
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    client.log_batch(run, [Metric("a", 0.5 * n, n, n) for n in range(1_000)])
    client.log_batch(run, params=[Param("depth", "6"), Param("on", "")], tags=[_tag("k", "a\nb 🎈")])
    found = client.get_run(run).data
    assert (found.params, found.tags["k"], found.metrics) == ({"depth": "6", "on": ""}, "a\nb 🎈", {"a": 499.5})
    with pytest.raises(MlflowException, match=r"Changing param values is not allowed.*'new_value': '7'") as caught:
        client.log_batch(run, [Metric("b", 1.0, 1, 1)], [Param("depth", "7")], [_tag("t", "x")])
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    after = client.get_run(run).data
    assert ("b" in after.metrics, "t" in after.tags, after.params["depth"]) == (False, False, "6")


def test_nested_runs_are_nested_here_too(client: MlflowClient, run: str, andon_server: AndonServer) -> None:
    child = client.create_run("0", tags={"mlflow.parentRunId": run}).info.run_id
    assert _parent(andon_server, child) == run
    client.delete_tag(child, "mlflow.parentRunId")
    assert _parent(andon_server, child) is None
    client.set_tag(child, "mlflow.parentRunId", "nobody")  # kept as a tag; there is no such run to be under
    assert client.get_run(child).data.tags["mlflow.parentRunId"] == "nobody"
    assert _parent(andon_server, child) is None


def test_a_deleted_run_can_be_read_and_not_written(client: MlflowClient, run: str) -> None:
    from mlflow.exceptions import MlflowException

    client.delete_run(run)
    client.delete_run(run)
    assert client.get_run(run).info.lifecycle_stage == "deleted"
    for write in (
        lambda: client.log_metric(run, "a", 1.0),
        lambda: client.set_tag(run, "a", "b"),
        lambda: client.log_batch(run, tags=[_tag("a", "b")]),
        lambda: client.update_run(run, status="FINISHED"),
    ):
        with pytest.raises(MlflowException, match=f"The run {run} must be in the 'active' state. Current state is deleted"):
            write()
    client.restore_run(run)
    client.set_tag(run, "a", "b")
    assert client.get_run(run).info.lifecycle_stage == "active"


def test_tags_are_changed_and_removed(client: MlflowClient, run: str) -> None:
    from mlflow.exceptions import MlflowException

    client.set_tag(run, "a/b c", 1)
    client.set_tag(run, "a/b c", 2)
    assert client.get_run(run).data.tags["a/b c"] == "2"
    client.delete_tag(run, "a/b c")
    with pytest.raises(MlflowException, match="No tag with name: a/b c in run with id") as caught:
        client.delete_tag(run, "a/b c")
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_what_a_metric_says_of_a_model_is_the_models_too(client: MlflowClient, run: str) -> None:
    model = client.create_logged_model("0", name="m", source_run_id=run)
    client.log_metric(run, "rmse", 0.25, timestamp=1, step=3, model_id=model.model_id, dataset_name="rides", dataset_digest="d1")
    assert client.get_run(run).data.metrics == {"rmse": 0.25}
    (metric,) = client.get_logged_model(model.model_id).metrics
    assert (metric.key, metric.value, metric.step, metric.dataset_name, metric.run_id) == ("rmse", 0.25, 3, "rides", run)


def test_writers_in_many_threads_lose_nothing(client: MlflowClient, run: str) -> None:
    from mlflow.entities import Metric, Param

    def write(n: int) -> None:
        for batch in range(5):
            points = [Metric(f"m{n % 3}", float(n), 1, n * 1_000 + batch * 100 + i) for i in range(100)]
            client.log_batch(run, points, [Param(f"p{n}-{batch}", "v")], [_tag("shared", f"{n}")])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = client.get_run(run).data
    assert len(found.params) == 30
    assert sum(len(client.get_metric_history(run, f"m{n}")) for n in range(3)) == 6 * 5 * 100
    assert found.metrics == {"m0": 3.0, "m1": 4.0, "m2": 5.0}


def test_what_was_acknowledged_outlives_a_kill(andon_server: AndonServer, client: MlflowClient, run: str) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    writer = context.Process(target=_write_until_it_fails, args=(andon_server.url, run, there))
    writer.start()
    while here.recv() < 20:  # batches acknowledged
        pass
    andon_server.kill()
    writer.join(60)
    acknowledged = max(_drained(here), default=0)
    andon_server.start()
    steps = [metric.step for metric in client.get_metric_history(run, "a")]
    assert acknowledged >= 20
    assert len(steps) % 50 == 0  # a batch is there whole or not at all
    assert len(steps) // 50 in (acknowledged, acknowledged + 1)  # the last may have become durable before it could be said


def _drained(pipe: Any) -> list[int]:
    got = [20]
    while pipe.poll(0):
        try:
            got.append(pipe.recv())
        except EOFError:
            break
    return got


def _write_until_it_fails(url: str, run: str, told: Any) -> None:
    import http.client
    import json
    from urllib.parse import urlsplit

    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    for batch in range(100_000):
        points = [{"key": "a", "value": 1.0, "timestamp": 1, "step": batch * 50 + n} for n in range(50)]
        try:
            connection.request("POST", "/api/2.0/mlflow/runs/log-batch", json.dumps({"run_id": run, "metrics": points}))
            if connection.getresponse().read() != b"{}":
                return
        except (OSError, http.client.HTTPException):
            return
        told.send(batch + 1)


def _tag(key: str, value: str) -> Any:
    from mlflow.entities import RunTag

    return RunTag(key, value)


def _parent(server: AndonServer, run: str) -> str | None:
    with open_store(server.home) as store:
        return get_run(store, run).parent
