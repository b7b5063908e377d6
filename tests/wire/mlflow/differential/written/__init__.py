"""Cases written by hand, a module a noun."""

from __future__ import annotations

from tests.wire.mlflow.differential.cases import Case
from tests.wire.mlflow.differential.written import datasets, experiments, files, frame, logged, metrics, registry, runs, searching, tracing


def cases() -> list[Case]:
    """All of them."""
    modules = (frame, experiments, runs, metrics, searching, registry, logged, files, tracing, datasets)
    return [case for module in modules for case in module.cases()]
