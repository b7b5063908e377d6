"""Every endpoint that is answered here: each module's own list, joined."""

from __future__ import annotations

from andon.wire.mlflow import (
    artifacts,
    assessments,
    eval_datasets,
    experiments,
    histories,
    inputs,
    logged_models,
    metrics,
    model_versions,
    registered_models,
    registry_search,
    runs,
    search,
    server,
    trace_metrics,
    trace_search,
    traces,
    uploads,
    version_files,
)
from andon.wire.mlflow.calls import Route
from andon.wire.otlp import receiving

ROUTES: list[Route] = [
    *server.ROUTES,
    *experiments.ROUTES,
    *runs.ROUTES,
    *search.ROUTES,
    *metrics.ROUTES,
    *histories.ROUTES,
    *logged_models.ROUTES,
    *inputs.ROUTES,
    *eval_datasets.ROUTES,
    *artifacts.ROUTES,
    *uploads.ROUTES,
    *registered_models.ROUTES,
    *model_versions.ROUTES,
    *registry_search.ROUTES,
    *version_files.ROUTES,
    *trace_search.ROUTES,
    *trace_metrics.ROUTES,
    *traces.ROUTES,
    *assessments.ROUTES,
    *receiving.ROUTES,
]
