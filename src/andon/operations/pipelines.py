"""Running pipelines with the default store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from andon.core.actors import current_actor
from andon.operations.session import current_store

if TYPE_CHECKING:
    from andon.pipelines import Pipeline, PipelineResult


def run_pipeline(pipeline: Pipeline[..., Any], /, *args: Any, **kwargs: Any) -> PipelineResult:
    """Run a pipeline on the record: a tracked run, each step with its inputs, outputs and lineage, unchanged steps from the cache."""
    return pipeline.run(current_store(), *args, actor=current_actor(), **kwargs)
