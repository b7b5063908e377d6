"""Searches with the stock client, through a real server, on both engines."""

from __future__ import annotations

import base64
import json
import math
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.mlflow.servers import AndonServer

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def client(stock: None, andon_server: AndonServer) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(andon_server.url, andon_server.url)


@pytest.fixture(scope="module")
def filled(client: MlflowClient) -> str:
    """An experiment of twelve runs; metric ``m`` is n / 10, but NaN for 10 and missing for 11."""
    experiment = client.create_experiment("searched", tags={"team": "blue"})
    for n in range(12):
        run = client.create_run(experiment, start_time=1_000_000 + n, run_name=f"name-{n % 3}", tags={"even": str(n % 2 == 0)}).info.run_id
        client.log_param(run, "depth", str(n % 4))
        if n < 11:
            client.log_metric(run, "m", math.nan if n == 10 else n / 10)
    return experiment


def ids(runs: Any) -> list[int]:
    """The runs' numbers, by their start."""
    return [run.info.start_time - 1_000_000 for run in runs]


def test_filters_and_orders(client: MlflowClient, filled: str):
    def found(text: str = "", order: list[str] | None = None) -> list[int]:
        return ids(client.search_runs([filled], text, order_by=order))

    assert found() == list(range(11, -1, -1))
    assert found("metrics.m >= 0.5 AND params.depth = '1'") == [9, 5]
    assert found("metrics.m < 0.3", ["metrics.m DESC"]) == [2, 1, 0]
    assert found("tags.even = 'True' AND attributes.run_name = 'name-0'") == [6, 0]
    assert found("", ["metrics.m DESC"])[-3:] == [0, 10, 11]
    assert found("", ["metrics.m"])[-3:] == [9, 10, 11]
    assert found("", ["params.depth DESC", "start_time ASC"])[:4] == [3, 7, 11, 2]
    assert found("start_time > 1000009") == [11, 10]
    shown = client.search_runs([filled], "metrics.m = 0.5")[0]
    assert shown.data.metrics == {"m": 0.5}
    assert shown.data.params == {"depth": "1"}
    assert client.search_runs([], "") == []


def test_pages_hold_while_runs_come_in(client: MlflowClient, filled: str):
    page = client.search_runs([filled], "metrics.m >= 0", max_results=3, order_by=["metrics.m DESC"])
    seen = ids(page)
    late = client.create_run(filled, start_time=1_000_500).info.run_id
    client.log_metric(late, "m", 0.95)  # sorts before the page that was read
    while page.token:
        page = client.search_runs([filled], "metrics.m >= 0", max_results=3, order_by=["metrics.m DESC"], page_token=page.token)
        seen += ids(page)
    client.delete_run(late)
    assert seen == list(range(9, -1, -1))
    assert ids(client.search_runs([filled], run_view_type=2)) == [500]
    assert len(client.search_runs([filled], run_view_type=3)) == 13


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"filter": "metrics.m = 'x'"}, "Expected numeric value type for metric 'm'"),
        ({"filter": "Metrics.m > 1"}, "Invalid entity type 'Metrics'"),
        ({"filter": "metrics.m > 1 OR metrics.m < 0"}, "expected AND before 'OR'"),
        ({"order_by": ["m DESC"]}, "Invalid attribute key 'm'"),
        ({"order_by": ["metrics.m", "metrics.m DESC"]}, "duplicate fields"),
        ({"max_results": 50_001}, "at most 50000"),
        ({"max_results": 0}, "a positive integer"),
        ({"page_token": "no token"}, "Invalid page token"),
        ({"page_token": base64.urlsafe_b64encode(json.dumps([1, "x", "y", [[0, 1]]]).encode()).decode()}, "Invalid page token"),
        ({"page_token": base64.urlsafe_b64encode(b'{"offset": 5}').decode()}, "Invalid page token"),
        ({"experiment_ids": ["one"]}, "Invalid experiment ID 'one'"),
    ],
)
def test_wrong_searches_say_what_is_wrong(andon_server: AndonServer, filled: str, body: dict[str, Any], says: str):
    asked = urllib.request.Request(
        andon_server.url + "/api/2.0/mlflow/runs/search",
        json.dumps({"experiment_ids": [filled]} | body).encode(),
        {"Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(asked)
    answer = json.loads(caught.value.read())
    assert (caught.value.code, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert says in answer["message"]


def test_a_token_is_for_its_own_search(client: MlflowClient, filled: str):
    from mlflow.exceptions import MlflowException

    token = client.search_runs([filled], "metrics.m >= 0", max_results=2).token
    with pytest.raises(MlflowException, match="a search for something else"):
        client.search_runs([filled], "metrics.m >= 0.1", max_results=2, page_token=token)


def test_experiments(client: MlflowClient, filled: str):
    client.create_experiment("other one")
    gone = client.create_experiment("gone one", tags={"team": "red"})
    client.delete_experiment(gone)
    names = lambda **asked: [item.name for item in client.search_experiments(**asked)]  # noqa: E731
    assert names(filter_string="name LIKE '%one'") == ["other one"]
    assert names(filter_string="name ILIKE '%ONE'", view_type=3, order_by=["name"]) == ["gone one", "other one"]
    assert names(filter_string="tags.team = 'blue'") == ["searched"]
    assert names(filter_string="tags.`team` IS NULL AND name != 'Default'") == ["other one"]
    assert names(view_type=2) == ["gone one"]
    assert names(filter_string=f"experiment_id IN ('{filled}')") == ["searched"]
    assert set(names(order_by=["last_update_time DESC"])) == {"other one", "searched", "Default"}
    page = client.search_experiments(max_results=2, order_by=["name ASC"])
    rest = client.search_experiments(max_results=2, order_by=["name ASC"], page_token=page.token)
    assert [item.name for item in [*page, *rest]] == ["Default", "other one", "searched"]
    assert rest.token is None


def test_logged_models(client: MlflowClient, filled: str):
    from mlflow.entities import Metric

    made = {}
    for n, name in enumerate(("tree", "forest", "line")):
        model = client.create_logged_model(filled, name, tags={"n": str(n)}, params={"depth": str(n)}, model_type="x" if n else None)
        made[model.model_id] = name
        if n < 2:
            run = client.search_runs([filled], max_results=1)[0].info.run_id
            for dataset, value in (("day", 0.1 * n), ("night", 0.9 - n)):
                metric = Metric("acc", value, 5 + n, 0, model.model_id, dataset, "d1", run)
                client.log_batch(run, [metric])

    def found(**asked: Any) -> list[str]:
        return [made[model.model_id] for model in client.search_logged_models([filled], **asked)]

    assert sorted(found()) == ["forest", "line", "tree"]
    assert found(filter_string="name = 'tree'") == ["tree"]
    assert found(filter_string="params.depth = '1' AND tags.n = '1'") == ["forest"]
    assert found(filter_string="attributes.name IN ('tree', 'line')", order_by=[{"field_name": "name"}]) == ["line", "tree"]
    assert found(filter_string="metrics.acc > 0.5") == ["tree"]
    assert found(filter_string="metrics.acc > 0.5", datasets=[{"dataset_name": "day"}]) == []
    assert sorted(found(datasets=[{"dataset_name": "day"}])) == ["forest", "tree"]
    by_day = [{"field_name": "metrics.acc", "ascending": False, "dataset_name": "day"}]
    assert found(order_by=by_day) == ["forest", "tree", "line"]
    page = client.search_logged_models([filled], max_results=2, order_by=by_day)
    rest = client.search_logged_models([filled], max_results=2, order_by=by_day, page_token=page.token)
    assert [made[model.model_id] for model in [*page, *rest]] == ["forest", "tree", "line"]
