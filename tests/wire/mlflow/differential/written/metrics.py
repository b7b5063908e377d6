"""Metrics, batches and inputs."""

from __future__ import annotations

from typing import Any

from tests.wire.mlflow.differential.cases import Case, Step, get, post
from tests.wire.mlflow.differential.written.beginnings import EXPERIMENT, RUN


def _metrics() -> list[Case]:
    def metric(key: Any, value: Any, step: Any = 0, timestamp: Any = 1, **more: Any) -> Step:
        return post("runs/log-metric", {"run_id": "<<run>>", "key": key, "value": value, "timestamp": timestamp, "step": step} | more)

    odd: list[Any] = [
        float("nan"),
        float("inf"),
        float("-inf"),
        "NaN",
        "Infinity",
        "-Infinity",
        "1.5",
        "x",
        1e308,
        1e309,
        5e-324,
        -0.0,
        12345678901234567890,
        True,
        None,
        [],
        0.1 + 0.2,
    ]
    return [
        Case(
            "metrics/latest",
            [
                EXPERIMENT,
                RUN,
                metric("m", 1.0, 0, 10),
                metric("m", 2.0, 1, 5),
                metric("m", 3.0, 1, 5),
                metric("m", 2.5, 1, 4),
                metric("m", 0.5, -1, 99),
                get("runs/get", run_id="<<run>>"),
                metric("m", 2.0, 1, 5),
                get("metrics/get-history", run_id="<<run>>", metric_key="m"),
                get("metrics/get-history", run_uuid="<<run>>", metric_key="m"),
                get("metrics/get-history", run_id="<<run>>", metric_key="none"),
                get("metrics/get-history", run_id="<<run>>"),
                metric("nan", "NaN", 0),
                metric("nan", 1.0, 0),
                metric("nan", "NaN", 1),
                metric("n2", "NaN", 1),
                metric("n2", 5, 1),
                metric("n3", "Infinity", 1),
                metric("n3", "-Infinity", 1),
                metric("tie", 1.0, 0, 1),
                metric("tie", 2.0, 0, 1),
                metric("tie", -2.0, 0, 1),
                get("runs/get", run_id="<<run>>"),
            ],
        ),
        Case(
            "metrics/odd-values",
            [
                EXPERIMENT,
                RUN,
                *[metric(f"v{number}", value) for number, value in enumerate(odd)],
                get("runs/get", run_id="<<run>>"),
                *[get("metrics/get-history", run_id="<<run>>", metric_key=f"v{number}") for number in range(len(odd))],
            ],
        ),
        Case(
            "metrics/odd-keys",
            [
                EXPERIMENT,
                RUN,
                *[
                    metric(key, 1.0)
                    for key in (
                        "a/b",
                        "a/../b",
                        "/a",
                        "",
                        "x" * 250,
                        "x" * 251,
                        "☃",
                        "a b",
                        "a;b",
                        "a:b",
                        5,
                        None,
                        ".",
                        "..",
                        "a//b",
                        "A",
                        "a",
                    )
                ],
                get("runs/get", run_id="<<run>>"),
            ],
        ),
        Case(
            "metrics/odd-times",
            [
                EXPERIMENT,
                RUN,
                *[
                    metric("m", 1.0, step, timestamp)
                    for step, timestamp in (
                        (0, 0),
                        (-5, -7),
                        ("3", "4"),
                        (1.0, 2.0),
                        (1.5, 1),
                        (1, 1.5),
                        (2**63 - 1, 1),
                        (2**63, 1),
                        (1, 2**62),
                        (None, 1),
                        (1, None),
                        ("x", 1),
                        (1, "x"),
                    )
                ],
                get("metrics/get-history", run_id="<<run>>", metric_key="m"),
            ],
        ),
        Case(
            "metrics/old-name",
            [
                EXPERIMENT,
                RUN,
                post("runs/log-metric", {"run_uuid": "<<run>>", "key": "m", "value": 1.0, "timestamp": 1}),
                post("runs/log-metric", {"run_id": "<<run>>", "run_uuid": "<<run>>", "key": "n", "value": 1.0, "timestamp": 1}),
                metric("d", 1.0, 1, 1, dataset_name="train", dataset_digest="abc"),
                metric("d", 2.0, 1, 1, model_id="m-" + "0" * 32),
                post("runs/log-parameter", {"run_uuid": "<<run>>", "key": "p", "value": "1"}),
                post("runs/set-tag", {"run_uuid": "<<run>>", "key": "t", "value": "1"}),
                get("runs/get", run_id="<<run>>"),
                get("metrics/get-history", run_id="<<run>>", metric_key="d"),
            ],
        ),
        Case(
            "metrics/history-pages",
            [
                EXPERIMENT,
                RUN,
                post(
                    "runs/log-batch",
                    {"run_id": "<<run>>", "metrics": [{"key": "m", "value": n / 7, "timestamp": 100 - n, "step": n} for n in range(25)]},
                ),
                get("metrics/get-history", {"page": "next_page_token"}, run_id="<<run>>", metric_key="m", max_results=10),
                get(
                    "metrics/get-history",
                    {"page": "next_page_token"},
                    run_id="<<run>>",
                    metric_key="m",
                    max_results=10,
                    page_token="<<page>>",
                ),
                get("metrics/get-history", run_id="<<run>>", metric_key="m", max_results=10, page_token="<<page>>"),
                get("metrics/get-history", run_id="<<run>>", metric_key="m", max_results=10, page_token="junk"),
                *[get("metrics/get-history", run_id="<<run>>", metric_key="m", max_results=size) for size in (0, -1, 25000, 25001, "x")],
                get("metrics/get-history-bulk-interval", run_ids=["<<run>>"], metric_key="m", max_results=5),
                get("metrics/get-history-bulk-interval", run_ids=["<<run>>"], metric_key="m", start_step=3, end_step=9),
                get("metrics/get-history-bulk-interval", run_ids=["<<run>>"], metric_key="m", start_step=9, end_step=3),
                get("metrics/get-history-bulk-interval", run_ids=["<<run>>"], metric_key="m", start_step=3),
                get("metrics/get-history-bulk-interval", run_ids=["<<run>>"], metric_key="none"),
                get("metrics/get-history-bulk-interval", metric_key="m"),
                get("metrics/get-history-bulk-interval", run_ids=["<<run>>"]),
                get("/ajax-api/2.0/mlflow/metrics/get-history-bulk", run_id=["<<run>>"], metric_key="m"),
                get("/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval", run_ids=["<<run>>"], metric_key="m", max_results=5),
            ],
        ),
        Case(
            "batches/life",
            [
                EXPERIMENT,
                RUN,
                post(
                    "runs/log-batch",
                    {
                        "run_id": "<<run>>",
                        "metrics": [
                            {"key": "a", "value": 1.0, "timestamp": 1, "step": 0},
                            {"key": "a", "value": 2.0, "timestamp": 2, "step": 1},
                            {"key": "a", "value": "NaN", "timestamp": 3, "step": 2},
                        ],
                        "params": [{"key": "p", "value": "1"}, {"key": "q", "value": "2"}],
                        "tags": [{"key": "t", "value": "1"}, {"key": "mlflow.runName", "value": "named by batch"}],
                    },
                ),
                get("runs/get", run_id="<<run>>"),
                post("runs/log-batch", {"run_id": "<<run>>", "params": [{"key": "p", "value": "1"}, {"key": "r", "value": "3"}]}),
                post(
                    "runs/log-batch",
                    {
                        "run_id": "<<run>>",
                        "params": [{"key": "p", "value": "9"}, {"key": "s", "value": "3"}],
                        "tags": [{"key": "never", "value": "1"}],
                        "metrics": [{"key": "never", "value": 1, "timestamp": 1}],
                    },
                ),
                post("runs/log-batch", {"run_id": "<<run>>", "params": [{"key": "x", "value": "1"}, {"key": "x", "value": "1"}]}),
                post("runs/log-batch", {"run_id": "<<run>>", "params": [{"key": "y", "value": "1"}, {"key": "y", "value": "2"}]}),
                post("runs/log-batch", {"run_id": "<<run>>", "tags": [{"key": "z", "value": "1"}, {"key": "z", "value": "2"}]}),
                post("runs/log-batch", {"run_id": "<<run>>", "metrics": [{"key": "w", "value": 1, "timestamp": 1, "step": 1}] * 2}),
                get("runs/get", run_id="<<run>>"),
                get("metrics/get-history", run_id="<<run>>", metric_key="a"),
                get("metrics/get-history", run_id="<<run>>", metric_key="w"),
            ],
        ),
        Case(
            "batches/limits",
            [
                EXPERIMENT,
                RUN,
                post(
                    "runs/log-batch",
                    {"run_id": "<<run>>", "metrics": [{"key": f"m{n}", "value": n, "timestamp": 1, "step": 0} for n in range(1000)]},
                ),
                post(
                    "runs/log-batch",
                    {"run_id": "<<run>>", "metrics": [{"key": f"m{n}", "value": n, "timestamp": 1, "step": 0} for n in range(1001)]},
                ),
                post("runs/log-batch", {"run_id": "<<run>>", "params": [{"key": f"p{n}", "value": "1"} for n in range(100)]}),
                post("runs/log-batch", {"run_id": "<<run>>", "params": [{"key": f"q{n}", "value": "1"} for n in range(101)]}),
                post("runs/log-batch", {"run_id": "<<run>>", "tags": [{"key": f"t{n}", "value": "1"} for n in range(101)]}),
                post(
                    "runs/log-batch",
                    {
                        "run_id": "<<run>>",
                        "params": [{"key": f"r{n}", "value": "1"} for n in range(50)],
                        "metrics": [{"key": f"s{n}", "value": 1, "timestamp": 1} for n in range(951)],
                    },
                ),
                post(
                    "runs/log-batch",
                    {
                        "run_id": "<<run>>",
                        "metrics": [{"key": "ok", "value": 1, "timestamp": 1}, {"key": "a/../b", "value": 1, "timestamp": 1}],
                    },
                ),
                post("runs/log-batch", {"run_id": "<<run>>", "params": [{"key": "ok", "value": "x" * 6001}]}),
                post("runs/log-batch", {"run_id": "<<run>>", "metrics": [{"key": "ok", "value": "x", "timestamp": 1}]}),
                post("runs/log-batch", {"run_id": "<<run>>", "metrics": [{"key": "ok", "timestamp": 1}]}),
                post("runs/log-batch", {"run_id": "<<run>>", "metrics": [{"value": 1, "timestamp": 1}]}),
                post("runs/log-batch", {"run_id": "<<run>>", "metrics": [{"key": "ok", "value": 1}]}),
                post("runs/log-batch", {"run_id": "<<run>>", "params": [{"key": "ok"}]}),
                post("runs/log-batch", {"run_id": "<<run>>", "params": {"key": "ok"}}),
                post(
                    "runs/log-batch",
                    {
                        "run_id": "<<run>>",
                        "metrics": [
                            {"key": "n", "value": "Infinity", "timestamp": 1},
                            {"key": "n", "value": "-Infinity", "timestamp": 1, "step": 1},
                        ],
                    },
                ),
                post("runs/log-batch", {"run_id": "<<run>>"}),
                post("runs/log-batch", {}),
                get("runs/get", run_id="<<run>>"),
            ],
        ),
        Case(
            "batches/inputs",
            [
                EXPERIMENT,
                RUN,
                post(
                    "runs/log-inputs",
                    {
                        "run_id": "<<run>>",
                        "datasets": [
                            {
                                "tags": [{"key": "mlflow.data.context", "value": "train"}],
                                "dataset": {
                                    "name": "d",
                                    "digest": "abc",
                                    "source_type": "local",
                                    "source": "here",
                                    "schema": "{}",
                                    "profile": "{}",
                                },
                            }
                        ],
                    },
                ),
                post(
                    "runs/log-inputs",
                    {
                        "run_id": "<<run>>",
                        "datasets": [
                            {
                                "tags": [{"key": "mlflow.data.context", "value": "eval"}],
                                "dataset": {"name": "e", "digest": "x1", "source_type": "local", "source": "there"},
                            }
                        ],
                    },
                ),
                post(
                    "runs/log-inputs",
                    {
                        "run_id": "<<run>>",
                        "datasets": [{"dataset": {"name": "d", "digest": "abc", "source_type": "local", "source": "here"}}],
                    },
                ),
                post("runs/log-inputs", {"run_id": "<<run>>", "datasets": []}),
                post("runs/log-inputs", {"run_id": "<<run>>"}),
                post("runs/log-inputs", {"run_id": "<<run>>", "datasets": [{"dataset": {"name": "d"}}]}),
                post(
                    "runs/log-inputs",
                    {
                        "run_id": "<<run>>",
                        "datasets": [{"dataset": {"name": "x" * 501, "digest": "abc", "source_type": "local", "source": "here"}}],
                    },
                ),
                post(
                    "runs/log-inputs",
                    {
                        "run_id": "<<run>>",
                        "datasets": [{"dataset": {"name": "d", "digest": "x" * 37, "source_type": "local", "source": "here"}}],
                    },
                ),
                post(
                    "runs/log-inputs",
                    {
                        "run_id": "<<run>>",
                        "datasets": [
                            {
                                "tags": [{"key": "k" * 256, "value": "v"}],
                                "dataset": {"name": "d", "digest": "q", "source_type": "local", "source": "here"},
                            }
                        ],
                    },
                ),
                get("runs/get", run_id="<<run>>"),
                post("runs/search", {"experiment_ids": ["<<exp>>"]}),
                post("runs/search", {"experiment_ids": ["<<exp>>"], "filter": "dataset.name = 'd'"}),
                post("runs/search", {"experiment_ids": ["<<exp>>"], "filter": "dataset.context = 'eval' and datasets.digest LIKE 'x%'"}),
                post("runs/search", {"experiment_ids": ["<<exp>>"], "filter": "dataset.name = 'none'"}),
                post("/ajax-api/2.0/mlflow/experiments/search-datasets", {"experiment_ids": ["<<exp>>"]}),
                post("/ajax-api/2.0/mlflow/experiments/search-datasets", {"experiment_ids": []}),
                post("runs/delete", {"run_id": "<<run>>"}),
                post(
                    "runs/log-inputs",
                    {
                        "run_id": "<<run>>",
                        "datasets": [{"dataset": {"name": "f", "digest": "abc", "source_type": "local", "source": "here"}}],
                    },
                ),
            ],
        ),
    ]


def cases() -> list[Case]:
    """All of them."""
    return [*_metrics()]
