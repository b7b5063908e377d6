"""Pipelines: plain functions in order, each call recorded with inputs and outputs, cached by content, tried again, resumable."""

from andon.pipelines.cache import forget
from andon.pipelines.codes import code_digest
from andon.pipelines.records import PipelineManifest, PipelineResult, StepRecord
from andon.pipelines.running import PipelineRun, current_pipeline
from andon.pipelines.steps import Pipeline, Step, pipeline, step

__all__ = [
    "Pipeline",
    "PipelineManifest",
    "PipelineResult",
    "PipelineRun",
    "Step",
    "StepRecord",
    "code_digest",
    "current_pipeline",
    "forget",
    "pipeline",
    "step",
]
