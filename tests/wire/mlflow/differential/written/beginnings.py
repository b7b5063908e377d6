"""What cases begin with."""

from __future__ import annotations

from typing import Any

from tests.wire.mlflow.differential.cases import Step, post

EXPERIMENT = post("experiments/create", {"name": "<<case>>"}, exp="experiment_id")
RUN_JSON = {"experiment_id": "<<exp>>", "start_time": 1000, "run_name": "first", "user_id": "ana"}
RUN = post("runs/create", RUN_JSON, run="run.info.run_id")
MODEL = post("registered-models/create", {"name": "<<case>>"})
ARTIFACTS = "/api/2.0/mlflow-artifacts/"


def run(name: str = "run", **more: Any) -> Step:
    """A run of the case's experiment, bound to ``name``."""
    return post("runs/create", RUN_JSON | {"run_name": name} | more, **{name: "run.info.run_id"})


def version(name: str = "<<case>>", **more: Any) -> Step:
    """A version of the case's model."""
    return post("model-versions/create", {"name": name, "source": "s3://b/model"} | more)


def trace_info(trace: str, **more: Any) -> dict[str, Any]:
    """What a client posts for a finished trace."""
    info = {
        "trace_id": trace,
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "<<exp>>"}},
        "request_preview": "q",
        "response_preview": "a",
        "request_time": "2024-05-01T10:00:00.123Z",
        "execution_duration": "1.500s",
        "state": "OK",
        "trace_metadata": {"mlflow.trace_schema.version": "3", "k": "v"},
        "tags": {"mlflow.traceName": "predict", "team": "a"},
    } | more
    return {"trace": {"trace_info": info}}
