"""Counts, times, tokens and grades over many traces, asked with the stock client."""

from __future__ import annotations

import json
import math
import random
import statistics
from typing import Any

import pytest

from andon.wire.mlflow.trace_metrics import Fact, _Aggregation, _points, _Query
from tests.wire.mlflow.servers import AndonServer
from tests.wire.mlflow.test_traces_otlp import call, send
from tests.wire.otlp.spans import START_NS

START_MS = START_NS // 1_000_000


@pytest.fixture(scope="module")
def experiment(andon_server: AndonServer) -> str:
    """Six traces, a second apart: a root and a call of a model each."""
    _, made = call(andon_server.url, "POST", "/api/2.0/mlflow/experiments/create", {"name": "metrics"})
    for n in range(6):
        at = START_NS + n * 1_000_000_000
        tags = {"session.id": f"s{n % 2}", "mlflow.traceTag.mlflow.traceName": f"name{n % 2}", "mlflow.traceTag.k": "v" if n < 4 else "w"}
        root = {
            "trace": 100 + n,
            "n": 1,
            "start": at,
            "end": at + (n + 1) * 10_000_000,
            "attributes": tags,
            "status": (2 if n == 3 else 1, ""),
        }
        said = {
            "mlflow.spanType": "CHAT_MODEL",
            "mlflow.llm.model": f"m{n % 3}",
            "mlflow.chat.tokenUsage": {"input_tokens": n, "total_tokens": 3 * n},
            "mlflow.llm.cost": {"input_cost": 0.5 * n, "total_cost": 1.0 * n},
        }
        child = {"trace": 100 + n, "n": 2, "parent": 1, "start": at + 1_000_000, "end": at + 5_000_000, "name": "chat", "attributes": said}
        for _ in range(2):  # what is sent again counts once
            assert send(andon_server, root, child, headers={"x-mlflow-experiment-id": made["experiment_id"]})[0] == 200
        for value in (True, 0.5) if n < 2 else ():
            item = {"assessment_name": "q", "source": {"source_type": "HUMAN", "source_id": "a"}, "feedback": {"value": value}}
            call(andon_server.url, "POST", f"/api/3.0/mlflow/traces/tr-{100 + n:032x}/assessments", {"assessment": item})
    return str(made["experiment_id"])


def points(server: AndonServer, experiment: str, view: str, metric: str, *how: str | float, **more: Any) -> Any:
    """What is answered: for each point its dimensions' values and its values; or the error's message."""
    aggregations = [
        {"aggregation_type": each} if isinstance(each, str) else {"aggregation_type": "PERCENTILE", "percentile_value": each}
        for each in how
    ]
    body = {"experiment_ids": [experiment], "view_type": view, "metric_name": metric, "aggregations": aggregations} | more
    status, answer = call(server.url, "POST", "/api/3.0/mlflow/traces/metrics", body)
    if status != 200:
        return answer["message"]
    return [(*point.get("dimensions", {}).values(), *point["values"].values()) for point in answer.get("data_points", [])]


def test_metrics(andon_server: AndonServer, experiment: str) -> None:
    def asked(*given: Any, **more: Any) -> Any:
        return points(andon_server, experiment, *given, **more)

    assert asked("TRACES", "trace_count", "COUNT") == [(6.0,)]
    by = {"dimensions": ["trace_name", "trace_status"]}
    assert asked("TRACES", "trace_count", "COUNT", **by) == [("name0", "OK", 3.0), ("name1", "ERROR", 1.0), ("name1", "OK", 2.0)]
    assert asked("TRACES", "session_count", "COUNT") == [(2.0,)]
    assert asked("TRACES", "latency", "AVG", "MAX", 50, dimensions=["trace_name"]) == [
        ("name0", 30.0, 50.0, 30.0),
        ("name1", 40.0, 60.0, 40.0),
    ]
    assert asked("TRACES", "input_tokens", "SUM", 90) == [(15.0, 4.5)]
    assert asked("TRACES", "cache_read_input_tokens", "SUM") == []
    window = {"time_interval_seconds": 2, "start_time_ms": START_MS, "end_time_ms": START_MS + 4_000}
    assert [point[1] for point in asked("TRACES", "total_tokens", "SUM", **window)] == [3.0, 15.0, 12.0]
    where = {"filters": ["trace.tag.k = 'v'", "trace.metadata.`mlflow.trace.session` = 's1'", "trace.status = 'OK'"]}
    assert asked("TRACES", "trace_count", "COUNT", **where) == [(1.0,)]
    assert asked("SPANS", "span_count", "COUNT", dimensions=["span_type", "span_model_name"]) == [
        ("CHAT_MODEL", f"m{n}", 2.0) for n in range(3)
    ]
    assert asked("SPANS", "latency", "AVG", dimensions=["span_name"]) == [("chat", 4.0), ("span 1", 35.0)]
    assert asked("SPANS", "total_cost", "SUM") == [(15.0,)]
    assert asked("SPANS", "input_cost", "MAX") == [(2.5,)]
    assert asked("SPANS", "span_count", "COUNT", filters=["span.name = 'chat'", "trace.tag.k = 'w'"]) == [(2.0,)]
    assert asked("ASSESSMENTS", "assessment_value", "AVG", "MIN", dimensions=["assessment_name"]) == [("q", 0.75, 0.5)]
    by_value = asked("ASSESSMENTS", "assessment_count", "COUNT", dimensions=["assessment_value"])
    assert by_value == [("0.5", 2.0), ("true", 2.0)]
    assert asked("ASSESSMENTS", "assessment_count", "COUNT", filters=["assessment.name = 'other'"]) == [(0.0,)]


@pytest.mark.parametrize(
    ("given", "more", "said"),
    [
        (("TRACES", "bogus", "COUNT"), {}, "metric_name"),
        (("BOGUS", "trace_count", "COUNT"), {}, "view_type"),
        (("TRACES", "trace_count", "SUM"), {}, "aggregation_type"),
        (("TRACES", "latency", 101), {}, "percentile_value"),
        (("TRACES", "trace_count", "COUNT"), {"dimensions": ["x"]}, "dimension"),
        (("TRACES", "trace_count", "COUNT"), {"time_interval_seconds": 5}, "start_time_ms"),
        (("TRACES", "trace_count", "COUNT"), {"filters": ["trace.bogus = 'x'"]}, "bogus"),
        (("TRACES", "trace_count", "COUNT"), {"filters": ["span.name = 'x'"]}, "trace."),
        (("TRACES", "trace_count", "COUNT"), {"max_results": -1}, "max_results"),
    ],
)
def test_wrong_questions(andon_server: AndonServer, experiment: str, given: tuple[Any, ...], more: dict[str, Any], said: str) -> None:
    assert said in points(andon_server, experiment, *given, **more)


def test_percentiles_are_the_usual_ones() -> None:
    dice = random.Random(5)
    values = [dice.expovariate(1) for _ in range(101)]
    asked = _Query(
        metric_name="latency", aggregations=[_Aggregation("PERCENTILE", 25.0), _Aggregation("PERCENTILE", 100.0), _Aggregation("AVG")]
    )
    [point] = _points(asked, iter(Fact(0, value, ()) for value in values))
    assert math.isclose(point["values"]["P25.0"], statistics.quantiles(values, n=4, method="inclusive")[0])
    assert point["values"]["P100.0"] == max(values)
    assert math.isclose(point["values"]["AVG"], statistics.fmean(values))
    assert json.dumps(point)
