"""What a pipeline and its steps leave behind."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

StepStatus = Literal["ran", "cached", "failed"]


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a step in one pipeline run; an event of type ``step`` in the run's stream."""

    step: str
    call: int
    """1, 2, 3, … within the run, in order of start."""
    status: StepStatus
    code: str
    """Digest of the step's code: see ``codes``."""
    inputs: str | None
    """Digest of the arguments; None when one of them has no digest, and then nothing is cached."""
    outputs: Any
    """The returned value as ``values.encode`` writes it; None when it failed or cannot be kept."""
    tries: int
    duration_ms: float
    error: str | None = None
    note: str | None = None
    """Why it could not be cached."""


class PipelineManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of ``pipeline:NAME@VERSION``: a new version whenever its code, or that of a step it names, changes."""

    entry: str
    """``module:function``."""
    code: str
    source: str
    """The function as it is written."""
    steps: dict[str, str] = {}
    """Steps that the function names, with the digests of their code."""
    schedule: str | None = None
    """Cron: minute, hour, day of month, month, day of week; UTC."""


class PipelineResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a pipeline run returned, and how it went."""

    value: Any
    run: str
    """Address of the tracked run."""
    pipeline: str
    """Address of the pipeline's version."""
    steps: tuple[StepRecord, ...]
