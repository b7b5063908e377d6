"""Runs over bare HTTP: how leniently messages are read, what is refused and in which words, pages of histories."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

import pytest

from tests.wire.mlflow.servers import AndonServer

API = "/api/2.0/mlflow"
DOCS = " See the API docs for more information about request parameters."
CHARACTERS = "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/)."
BIG = 1.7976931348623157e308


def ask(server: AndonServer, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of an answer; ``body`` is bytes as they are, or made into JSON."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    prefix = "" if path.startswith("/ajax-api") else API
    request = urllib.request.Request(server.url + prefix + path, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def post(server: AndonServer, path: str, body: Any) -> tuple[int, Any]:
    """``ask`` with POST."""
    return ask(server, "POST", path, body)


@pytest.fixture
def run(andon_server: AndonServer) -> str:
    """A new run's id."""
    return str(post(andon_server, "/runs/create", {"experiment_id": "0", "user_id": "ana"})[1]["run"]["info"]["run_id"])


def data_of(server: AndonServer, run: str) -> dict[str, Any]:
    """A run's data: metrics (value, timestamp, step), params and tags, each by key."""
    data = ask(server, "GET", f"/runs/get?run_id={run}")[1]["run"]["data"]
    metrics = {item["key"]: (item["value"], item["timestamp"], item["step"]) for item in data.get("metrics", [])}
    return {"metrics": metrics} | {part: {item["key"]: item["value"] for item in data.get(part, [])} for part in ("params", "tags")}


@pytest.mark.parametrize(
    ("body", "metric"),
    [
        ('{"run_id": RUN, "key": "m", "value": 1, "timestamp": 2, "step": 3}', (1.0, 2, 3)),
        ('{"run_uuid": RUN, "key": "m", "value": 1, "timestamp": 2}', (1.0, 2, 0)),
        ('{"runId": RUN, "key": "m", "value": 1, "timestamp": 2}', (1.0, 2, 0)),
        ('{"run_id": RUN, "key": "m", "value": "0.25", "timestamp": "12", "step": "3"}', (0.25, 12, 3)),
        ('{"run_id": RUN, "key": "m", "value": 1, "timestamp": 2.0, "step": 3.0}', (1.0, 2, 3)),
        ('{"run_id": RUN, "key": "m", "value": 1, "timestamp": 2, "step": null, "model_id": null}', (1.0, 2, 0)),
        ('{"run_id": RUN, "key": "m", "value": 1, "timestamp": 2, "nobody": {"knows": [1]}}', (1.0, 2, 0)),
        ('{"run_id": RUN, "key": "m", "value": "NaN", "timestamp": 2}', ("NaN", 2, 0)),
        ('{"run_id": RUN, "key": "m", "value": NaN, "timestamp": 2}', ("NaN", 2, 0)),
        ('{"run_id": RUN, "key": "m", "value": "Infinity", "timestamp": 2}', (BIG, 2, 0)),
        ('{"run_id": RUN, "key": "m", "value": "-Infinity", "timestamp": 2}', (-BIG, 2, 0)),
        ('{"run_id": RUN, "key": "m", "value": 0, "timestamp": 0, "step": -5}', (0.0, 0, -5)),
        (
            '{"run_id": RUN, "key": "m", "value": 1e308, "timestamp": 9223372036854775, "step": 9223372036854775807}',
            (1e308, 2**63 // 1000, 2**63 - 1),
        ),
    ],
)
def test_a_metric_is_read_leniently(andon_server: AndonServer, run: str, body: str, metric: tuple[Any, int, int]) -> None:
    assert post(andon_server, "/runs/log-metric", body.replace("RUN", f'"{run}"').encode()) == (200, {})
    assert data_of(andon_server, run)["metrics"] == {"m": metric}


def test_a_message_may_be_encoded_twice(andon_server: AndonServer, run: str) -> None:
    twice = json.dumps(json.dumps({"run_id": run, "key": "k", "value": "v"})).encode()
    assert post(andon_server, "/runs/set-tag", twice) == (200, {})
    assert data_of(andon_server, run)["tags"]["k"] == "v"


def test_camel_case_reaches_the_parts(andon_server: AndonServer) -> None:
    given = {"experimentId": "0", "userId": "ana", "startTime": "1700000000000", "runName": "hare", "tags": [{"key": "a", "value": "b"}]}
    status, answer = post(andon_server, "/runs/create", given)
    info = answer["run"]["info"]
    assert (status, info["run_name"], info["start_time"], info["user_id"]) == (200, "hare", 1_700_000_000_000, "ana")
    status, answer = post(andon_server, "/runs/create", {"experiment_id": "0", "experimentId": "0"})
    said = "Request specifies both 'experiment_id' and 'experimentId'; provide only one of them."
    assert (status, answer["error_code"], answer["message"]) == (400, "INVALID_PARAMETER_VALUE", said)


def _missing(name: str) -> str:
    return f"Missing value for required parameter '{name}'.{DOCS}"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("log-metric", {"run_id": None, "key": "a", "value": 1, "timestamp": 1}, _missing("run_id")),
        ("log-metric", {"value": 1, "timestamp": 1}, _missing("key")),
        ("log-metric", {"key": "a", "timestamp": 1}, _missing("value")),
        ("log-metric", {"key": "a", "value": "", "timestamp": 1}, _missing("value")),
        ("log-metric", {"key": "a", "value": 1}, _missing("timestamp")),
        (
            "log-metric",
            {"key": 5, "value": 1, "timestamp": 1},
            f"Invalid value 5 for parameter 'key' supplied:  Hint: Value was of type 'int'.{DOCS}",
        ),
        (
            "log-metric",
            {"key": "a", "value": "x", "timestamp": 1},
            f"Invalid value \"x\" for parameter 'value' supplied:  Hint: Value was of type 'str'.{DOCS}",
        ),
        (
            "log-metric",
            {"key": "a", "value": 1, "timestamp": -1},
            "Invalid value -1 for parameter 'timestamp' supplied: metric 'a' (value=1.0)."
            " Timestamp must be a nonnegative long (64-bit integer) ",
        ),
        (
            "log-metric",
            {"key": "\U0001f388", "value": 1, "timestamp": 1},
            f"Invalid value \"\\ud83c\\udf88\" for parameter 'name' supplied: {CHARACTERS}",
        ),
        ("log-metric", {"key": "k" * 251, "value": 1, "timestamp": 1}, "'Metric name' exceeds the maximum length of 250 characters"),
        ("log-parameter", {"key": "k" * 251, "value": "1"}, "'Param key' exceeds the maximum length of 250 characters"),
        ("log-parameter", {"value": "1"}, _missing("key")),
        ("set-tag", {"key": "k" * 251, "value": "1"}, "'key' exceeds the maximum length of 250 characters"),
        ("set-tag", {"value": "1"}, _missing("key")),
        ("set-tag", {"key": "k", "value": 5}, f"Invalid value 5 for parameter 'value' supplied:  Hint: Value was of type 'int'.{DOCS}"),
        ("delete-tag", {}, _missing("key")),
        ("log-batch", {"metrics": [{"key": "a", "value": 1}]}, _missing("metrics[0].timestamp")),
        ("log-batch", {"metrics": [{"key": "a", "value": 1, "timestamp": 1}, {"key": "b", "timestamp": 1}]}, _missing("metrics[1].value")),
        ("log-batch", {"params": [{"key": "a"}, {"value": "1"}]}, _missing("params[1].key")),
        ("log-batch", {"tags": [{"value": "1"}]}, _missing("tags[0].key")),
        (
            "log-batch",
            {"metrics": [{"key": "a", "value": 1, "timestamp": 1}, {"key": "\x01", "value": 1, "timestamp": 1}]},
            f"Invalid value \"\\u0001\" for parameter 'metrics[1].name' supplied: {CHARACTERS}",
        ),
        (
            "log-batch",
            {"params": [{"key": "a\x01", "value": "1"}]},
            f"Invalid value \"a\\u0001\" for parameter 'params[0].key' supplied: {CHARACTERS}",
        ),
        ("log-batch", {"tags": [{"key": "k" * 251, "value": "1"}]}, "'tags[0].key' exceeds the maximum length of 250 characters"),
        (
            "log-batch",
            {"params": [{"key": "a", "value": "1"}, {"key": "b", "value": "1"}, {"key": "a", "value": "1"}]},
            "Duplicate parameter keys have been submitted: ['a']. Please ensure the request contains only one param value per param key.",
        ),
        (
            "log-batch",
            {"metrics": [{"key": "a", "value": 1, "timestamp": 1}] * 1001},
            "A batch logging request can contain at most 1000 metrics. Got 1001 metrics."
            " Please split up metrics across multiple requests and try again.",
        ),
        (
            "log-batch",
            {"tags": [{"key": f"t{n}", "value": "1"} for n in range(101)]},
            "A batch logging request can contain at most 100 tags. Got 101 tags."
            " Please split up tags across multiple requests and try again.",
        ),
        (
            "log-batch",
            {"metrics": [{"key": "a", "value": 1, "timestamp": 1}] * 950, "params": [{"key": f"p{n}", "value": "1"} for n in range(51)]},
            "A batch logging request can contain at most 1000 metrics, params, and tags. Got 1001 metrics, params, and tags."
            " Please split up metrics, params, and tags across multiple requests and try again.",
        ),
        ("update", {"status": "NOPE"}, f"Invalid value \"NOPE\" for parameter 'status' supplied:  Hint: Value was of type 'str'.{DOCS}"),
        (
            "update",
            {"end_time": "soon"},
            f"Invalid value \"soon\" for parameter 'end_time' supplied:  Hint: Value was of type 'str'.{DOCS}",
        ),
        ("set-tag", {"key": "k", "value": "a\x00b"}, "a NUL character cannot be kept (field: value)"),
    ],
)
def test_what_is_wrong_is_said_in_the_protocols_words(andon_server: AndonServer, run: str, path: str, body: Any, message: str) -> None:
    before = data_of(andon_server, run)
    status, answer = post(andon_server, f"/runs/{path}", {"run_id": run, **body})
    assert (status, answer) == (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": message})
    assert data_of(andon_server, run) == before  # nothing is half written


@pytest.mark.parametrize("key", ["a//b", "../b", "/b", ".", "a/../b", "a/"])
def test_keys_that_are_other_paths_are_refused(andon_server: AndonServer, run: str, key: str) -> None:
    for path, given in (("log-metric", {"value": 1, "timestamp": 1}), ("log-parameter", {"value": "1"}), ("set-tag", {"value": "1"})):
        status, answer = post(andon_server, f"/runs/{path}", {"run_id": run, "key": key, **given})
        assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
        assert "must not resolve to other names when treated as such" in answer["message"]


@pytest.mark.parametrize("path", ["log-metric", "log-parameter", "set-tag", "delete-tag", "log-batch", "update", "delete", "restore"])
def test_a_run_that_is_not_there(andon_server: AndonServer, path: str) -> None:
    body = {"run_id": "nope", "key": "a", "value": "1", "timestamp": 1}
    assert post(andon_server, f"/runs/{path}", body) == (
        404,
        {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run with id=nope not found"},
    )
    assert post(andon_server, f"/runs/{path}", {"key": "a", "value": "1", "timestamp": 1})[1]["message"] == _missing("run_id")


@pytest.mark.parametrize("body", [b"{bad", b"[1]", b"5", b"\xff{}"])
def test_what_is_no_message_is_refused(andon_server: AndonServer, body: bytes) -> None:
    status, answer = post(andon_server, "/runs/create", body)
    assert (status, answer["error_code"]) == (400, "BAD_REQUEST")


def test_long_values_are_cut_as_the_protocols_server_cuts_them(andon_server: AndonServer, run: str) -> None:
    assert post(andon_server, "/runs/log-parameter", {"run_id": run, "key": "p", "value": "é" * 6_001})[0] == 200
    assert post(andon_server, "/runs/log-batch", {"run_id": run, "tags": [{"key": "t", "value": "🎈" * 8_001}]})[0] == 200
    data = data_of(andon_server, run)
    assert (data["params"]["p"], data["tags"]["t"]) == ("é" * 6_000, "🎈" * 8_000)


def test_a_status_is_a_name_or_a_number(andon_server: AndonServer, run: str) -> None:
    for given, shown in ((3, "FINISHED"), ("4", "FAILED"), ("KILLED", "KILLED"), (2, "SCHEDULED")):
        status, answer = post(andon_server, "/runs/update", {"run_id": run, "status": given})
        assert (status, answer["run_info"]["status"]) == (200, shown)
        assert "end_time" not in answer["run_info"]  # only the client says when a run ended


def test_equal_steps_and_times_are_ordered_by_value(andon_server: AndonServer, run: str) -> None:
    for key, values in (("a", (1.0, "Infinity")), ("b", (-1.0, "NaN")), ("c", ("-Infinity", "NaN"))):
        for value in values:
            assert post(andon_server, "/runs/log-metric", {"run_id": run, "key": key, "value": value, "timestamp": 5})[0] == 200
    assert data_of(andon_server, run)["metrics"] == {"a": (BIG, 5, 0), "b": ("NaN", 5, 0), "c": ("NaN", 5, 0)}


def test_a_history_in_pages(andon_server: AndonServer, run: str) -> None:
    points = [{"key": "m", "value": value, "timestamp": n % 7, "step": n} for n, value in enumerate([0.5, "NaN", "Infinity", -1.5] * 10)]
    assert post(andon_server, "/runs/log-batch", {"run_id": run, "metrics": points})[0] == 200
    whole = ask(andon_server, "GET", f"/metrics/get-history?run_id={run}&metric_key=m")[1]["metrics"]
    assert [(item["timestamp"], item["step"]) for item in whole] == sorted((n % 7, n) for n in range(40))
    paged: list[Any] = []
    token = ""
    for _ in range(6):
        page = ask(andon_server, "GET", f"/metrics/get-history?run_id={run}&metric_key=m&max_results=8{token}")[1]
        paged += page["metrics"]
        if "next_page_token" not in page:
            break
        token = f"&page_token={quote(page['next_page_token'])}"
    assert paged == whole
    for query, said in (
        ("max_results=0", "Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer."),
        ("page_token=zz", "Invalid page token, could not base64-decode"),
    ):
        assert ask(andon_server, "GET", f"/metrics/get-history?run_id={run}&metric_key=m&{query}")[1]["message"] == said
    assert ask(andon_server, "GET", "/metrics/get-history?run_id=nope&metric_key=m") == (200, {})


def test_histories_of_several_runs(andon_server: AndonServer, run: str) -> None:
    other = post(andon_server, "/runs/create", {"experiment_id": "0"})[1]["run"]["info"]["run_id"]
    for one in (run, other):
        points = [{"key": "m", "value": float(n), "timestamp": 10 - n, "step": n} for n in range(3)]
        assert post(andon_server, "/runs/log-batch", {"run_id": one, "metrics": points})[0] == 200
    bulk = f"/ajax-api/2.0/mlflow/metrics/get-history-bulk?run_id={other}&run_id={run}&metric_key=m"
    metrics = ask(andon_server, "GET", bulk)[1]["metrics"]
    assert [(item["run_id"], item["step"]) for item in metrics] == [(one, n) for one in sorted((run, other)) for n in (2, 1, 0)]
    assert ask(andon_server, "GET", bulk + "&max_results=4")[1]["metrics"] == metrics[:4]
    for query, said in (
        ("", "GetMetricHistoryBulk request must specify at least one run_id."),
        ("?run_id=a", "GetMetricHistoryBulk request must specify a metric_key."),
        ("?metric_key=m" + "&run_id=a" * 101, "GetMetricHistoryBulk request cannot specify more than 100 run_ids. Received 101 run_ids."),
    ):
        assert ask(andon_server, "GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk" + query)[1]["message"] == said


@pytest.mark.parametrize(
    ("query", "steps"),
    [
        ("", list(range(10))),
        ("&max_results=10", list(range(10))),
        ("&max_results=1", [9]),
        ("&max_results=2", [0, 9]),
        ("&max_results=4", [0, 3, 6, 9]),  # shares of 3, 3, 2 and 2; the last point takes the place of the last share's first
        ("&max_results=3&start_step=2&end_step=8", [2, 5, 8]),
        ("&start_step=4&end_step=4", [4]),
        ("&start_step=20&end_step=40", []),
    ],
)
def test_a_history_thinned_out(andon_server: AndonServer, run: str, query: str, steps: list[int]) -> None:
    points = [{"key": "m", "value": 0.5, "timestamp": 1, "step": n} for n in range(10)]
    assert post(andon_server, "/runs/log-batch", {"run_id": run, "metrics": points})[0] == 200
    answer = ask(andon_server, "GET", f"/metrics/get-history-bulk-interval?run_ids={run}&metric_key=m{query}")[1]
    assert [item["step"] for item in answer.get("metrics", [])] == steps


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("metric_key=m", _missing("run_ids")),
        ("run_ids=a", _missing("metric_key")),
        ("metric_key=m&run_ids=a&max_results=2501", f"max_results must be between 1 and 2500.{DOCS}"),
        ("metric_key=m&run_ids=a&start_step=1", "If either start step or end step are specified, both must be specified."),
        ("metric_key=m&run_ids=a&start_step=2&end_step=1", "end_step must be greater than start_step. Found start_step=2 and end_step=1."),
    ],
)
def test_intervals_that_are_none(andon_server: AndonServer, query: str, message: str) -> None:
    status, answer = ask(andon_server, "GET", f"/metrics/get-history-bulk-interval?{query}")
    assert (status, answer["message"]) == (400, message)
