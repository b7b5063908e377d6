"""A release: everything that answers a request, pinned together under one digest."""

from __future__ import annotations

from typing import Any

import msgspec

from andon.models.records import Signature
from andon.tracking.records import EnvironmentLock


class Pin(msgspec.Struct, frozen=True):
    """A versioned address and the digest of what it held when it was pinned."""

    address: str
    digest: str


class CodePin(msgspec.Struct, frozen=True, kw_only=True):
    """The serving code. ``tree`` is a directory of Python put on the path of the runner; ``transform`` names a function in it.

    The transform takes and returns columns (``dict[str, numpy.ndarray]``, equal lengths) and runs before the model on every request.
    """

    commit: str | None = None
    dirty_diff: str | None = None
    tree: str | None = None
    transform: str | None = None
    """``module:function``, or None for no transform."""


class ReleaseManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of ``release:NAME@VERSION``. Its digest is the release's digest."""

    service: str
    model: Pin
    code: CodePin
    environment: EnvironmentLock
    signature: Signature
    """What a request holds (before the transform) and what an answer holds."""
    data: tuple[Pin, ...] = ()
    """The training snapshot first."""
    evaluation: Pin | None = None
    """The examples that the gate judged on, as a dataset."""
    scored: str | None = None
    """Digest of the Parquet file of those examples with this release's predictions through its own transform: the monitors' reference."""
    features: tuple[Pin, ...] = ()
    prompts: tuple[Pin, ...] = ()
    indexes: tuple[Pin, ...] = ()
    policies: tuple[Pin, ...] = ()
    verdicts: tuple[str, ...] = ()
    waivers: tuple[str, ...] = ()
    example: tuple[dict[str, Any], ...] = ()
    """Request rows that the runner is warmed up and checked with before traffic moves to it."""
    settings: dict[str, Any] = {}
    """What monitors need to know: ``label`` (column), ``event_time`` (column), ``label_delay_s``."""
