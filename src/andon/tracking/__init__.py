"""Runs: what was tried, on what, with what, and what came of it.

``start_run`` is the context manager that programs use; the verbs beside it take a run's id, and those ending in ``_in`` a transaction, for
faces that batch (the MLflow wire). What is acknowledged when: see ``Run``.
"""

from andon.tracking.active import Run, active_run
from andon.tracking.artifacts import artifacts_of, check_path, log_artifact, log_artifacts, open_artifact, write_artifacts_in
from andon.tracking.batches import check_run_in, log_batch, log_batch_in, param_texts, submit_batch
from andon.tracking.capture import capture_environment, seed
from andon.tracking.command import CommandResult, run_command
from andon.tracking.completeness import Completeness, Part, completeness_of
from andon.tracking.points import SeriesPoints, group
from andon.tracking.records import (
    Artifact,
    Code,
    EnvironmentLock,
    Hardware,
    Metric,
    Point,
    RunFacts,
    RunInput,
    RunRecord,
    RunStatus,
)
from andon.tracking.runs import (
    create_run,
    create_run_in,
    delete_run,
    events_of,
    experiments,
    get_run,
    get_run_in,
    inputs_of,
    list_runs,
    log_input,
    log_input_in,
    metric_of,
    metric_series,
    metrics_of,
    params_of,
    restore_run,
    settle_runs,
    update_run,
    update_run_in,
)
from andon.tracking.starting import RUN_VARIABLE, capture_facts, join_run, start_run

__all__ = [
    "RUN_VARIABLE",
    "Artifact",
    "Code",
    "CommandResult",
    "Completeness",
    "EnvironmentLock",
    "Hardware",
    "Metric",
    "Part",
    "Point",
    "Run",
    "RunFacts",
    "RunInput",
    "RunRecord",
    "RunStatus",
    "SeriesPoints",
    "active_run",
    "artifacts_of",
    "capture_environment",
    "capture_facts",
    "check_path",
    "check_run_in",
    "completeness_of",
    "create_run",
    "create_run_in",
    "delete_run",
    "events_of",
    "experiments",
    "get_run",
    "get_run_in",
    "group",
    "inputs_of",
    "join_run",
    "list_runs",
    "log_artifact",
    "log_artifacts",
    "log_batch",
    "log_batch_in",
    "log_input",
    "log_input_in",
    "metric_of",
    "metric_series",
    "metrics_of",
    "open_artifact",
    "param_texts",
    "params_of",
    "restore_run",
    "run_command",
    "seed",
    "settle_runs",
    "start_run",
    "submit_batch",
    "update_run",
    "update_run_in",
    "write_artifacts_in",
]
