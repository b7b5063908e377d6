"""Runs, their params and tags."""

from __future__ import annotations

from tests.wire.mlflow.differential.cases import Case, get, post
from tests.wire.mlflow.differential.written.beginnings import EXPERIMENT, RUN, run


def _runs() -> list[Case]:
    return [
        Case(
            "runs/life",
            [
                EXPERIMENT,
                RUN,
                get("runs/get", run_id="<<run>>"),
                get("runs/get", run_uuid="<<run>>"),
                post("runs/update", {"run_id": "<<run>>", "status": "FINISHED", "end_time": 5000}),
                post("runs/update", {"run_id": "<<run>>", "run_name": "renamed"}),
                get("runs/get", run_id="<<run>>"),
                post("runs/update", {"run_id": "<<run>>", "status": "RUNNING"}),
                post("runs/update", {"run_id": "<<run>>", "status": "KILLED"}),
                post("runs/update", {"run_id": "<<run>>"}),
                post("runs/delete", {"run_id": "<<run>>"}),
                get("runs/get", run_id="<<run>>"),
                post("runs/delete", {"run_id": "<<run>>"}),
                post("runs/log-metric", {"run_id": "<<run>>", "key": "m", "value": 1.0, "timestamp": 1}),
                post("runs/log-parameter", {"run_id": "<<run>>", "key": "p", "value": "1"}),
                post("runs/set-tag", {"run_id": "<<run>>", "key": "t", "value": "1"}),
                post("runs/delete-tag", {"run_id": "<<run>>", "key": "t"}),
                post("runs/log-batch", {"run_id": "<<run>>", "tags": [{"key": "t", "value": "1"}]}),
                post("runs/update", {"run_id": "<<run>>", "run_name": "again"}),
                post("runs/restore", {"run_id": "<<run>>"}),
                post("runs/restore", {"run_id": "<<run>>"}),
                get("runs/get", run_id="<<run>>"),
            ],
        ),
        Case(
            "runs/created-with",
            [
                EXPERIMENT,
                post("runs/create", {"experiment_id": "<<exp>>"}),
                post("runs/create", {"experiment_id": "<<exp>>", "start_time": 5, "tags": [{"key": "mlflow.runName", "value": "by tag"}]}),
                post(
                    "runs/create",
                    {"experiment_id": "<<exp>>", "start_time": 5, "run_name": "a", "tags": [{"key": "mlflow.runName", "value": "a"}]},
                ),
                post(
                    "runs/create",
                    {"experiment_id": "<<exp>>", "start_time": 5, "run_name": "a", "tags": [{"key": "mlflow.runName", "value": "b"}]},
                ),
                post(
                    "runs/create",
                    {
                        "experiment_id": "<<exp>>",
                        "run_name": "t",
                        "start_time": 7,
                        "tags": [
                            {"key": "mlflow.user", "value": "bo"},
                            {"key": "mlflow.source.name", "value": "train.py"},
                            {"key": "mlflow.source.type", "value": "LOCAL"},
                        ],
                    },
                ),
                post(
                    "runs/create",
                    {"experiment_id": "<<exp>>", "run_name": "dup", "tags": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]},
                ),
                post(
                    "runs/create",
                    {"experiment_id": "<<exp>>", "run_name": "long", "start_time": 3, "tags": [{"key": "a", "value": "x" * 9000}]},
                ),
                post("runs/create", {"experiment_id": "<<exp>>", "run_name": "x" * 300, "start_time": 3}),
                post("runs/create", {"experiment_id": "<<exp>>", "run_name": "neg", "start_time": -5}),
                post("runs/create", {"experiment_id": "<<exp>>", "run_name": "text", "start_time": "5"}),
                post("runs/create", {"experimentId": "<<exp>>", "runName": "camel", "startTime": 5}),
                post("runs/create", {"run_name": "in default", "start_time": 5}),
            ],
        ),
        Case(
            "runs/nested",
            [
                EXPERIMENT,
                RUN,
                run("child", tags=[{"key": "mlflow.parentRunId", "value": "<<run>>"}]),
                get("runs/get", run_id="<<child>>"),
                post("runs/search", {"experiment_ids": ["<<exp>>"], "filter": "tags.mlflow.parentRunId = '<<run>>'"}),
                post("runs/delete", {"run_id": "<<run>>"}),
                get("runs/get", run_id="<<child>>"),
            ],
        ),
        Case(
            "runs/missing",
            [
                get("runs/get", run_id="0" * 32),
                get("runs/get"),
                get("runs/get", run_id=""),
                get("runs/get", run_id="../../x"),
                *[post(f"runs/{verb}", {"run_id": "0" * 32}) for verb in ("delete", "restore", "update", "log-batch")],
                post("runs/log-metric", {"run_id": "0" * 32, "key": "m", "value": 1.0, "timestamp": 1}),
                post("runs/log-parameter", {"run_id": "0" * 32, "key": "m", "value": "1"}),
                post("runs/set-tag", {"run_id": "0" * 32, "key": "m", "value": "1"}),
                post("runs/delete-tag", {"run_id": "0" * 32, "key": "m"}),
                post("runs/log-inputs", {"run_id": "0" * 32, "datasets": []}),
                post("runs/outputs", {"run_id": "0" * 32, "models": []}),
                get("metrics/get-history", run_id="0" * 32, metric_key="m"),
                get("artifacts/list", run_id="0" * 32),
            ],
        ),
        Case(
            "runs/params",
            [
                EXPERIMENT,
                RUN,
                *[
                    post("runs/log-parameter", {"run_id": "<<run>>", "key": key, "value": value})
                    for key, value in (
                        ("lr", "0.1"),
                        ("lr", "0.1"),
                        ("lr", "0.2"),
                        ("empty", ""),
                        ("long", "x" * 6000),
                        ("longer", "x" * 6001),
                        ("x" * 250, "v"),
                        ("x" * 251, "v"),
                        ("a/b", "1"),
                        ("a/../b", "1"),
                        ("/abs", "1"),
                        ("sp ace", "1"),
                        ("sn☃w", "1"),
                        ("semi;colon", "1"),
                        ("", "1"),
                        (".", "1"),
                        ("a:b", "1"),
                        ("quo'te", "1"),
                        ("num", 5),
                        ("n", None),
                        ("dash-under_.dot", "1"),
                    )
                ],
                get("runs/get", run_id="<<run>>"),
            ],
        ),
        Case(
            "runs/tags",
            [
                EXPERIMENT,
                RUN,
                *[
                    post("runs/set-tag", {"run_id": "<<run>>", "key": key, "value": value})
                    for key, value in (
                        ("a", "1"),
                        ("a", "2"),
                        ("empty", ""),
                        ("long", "x" * 8000),
                        ("longer", "x" * 8001),
                        ("x" * 250, "v"),
                        ("x" * 251, "v"),
                        ("a/../b", "1"),
                        ("sn☃w", "☃"),
                        ("", "1"),
                        ("mlflow.note.content", "# note"),
                        ("mlflow.runName", "by tag"),
                        ("mlflow.user", "eve"),
                        ("n", None),
                        ("num", 5),
                        ("nul", "a\0b"),
                    )
                ],
                get("runs/get", run_id="<<run>>"),
                post("runs/delete-tag", {"run_id": "<<run>>", "key": "a"}),
                post("runs/delete-tag", {"run_id": "<<run>>", "key": "a"}),
                post("runs/delete-tag", {"run_id": "<<run>>", "key": ""}),
                post("runs/delete-tag", {"run_id": "<<run>>"}),
                get("runs/get", run_id="<<run>>"),
            ],
        ),
    ]


def cases() -> list[Case]:
    """All of them."""
    return [*_runs()]
