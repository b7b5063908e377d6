"""What a gate looks at: a candidate's answers to the evaluation examples, beside the champion's and an honest baseline's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from andon.core.clocks import DAY_US

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class GateEvidence:
    """Evaluation examples in columns of length n, in event-time order, and what was answered to them.

    ``prediction`` was computed by the candidate release itself, through its own transform and environment, never offline. ``champion``
    and ``baseline`` are float64 (n,) with NaN where there is no answer, or None when there is no such thing. ``training`` holds the
    training snapshot's columns.
    """

    subject: str
    event_us: Array
    inputs: Mapping[str, Array]
    label: Array
    prediction: Array
    champion: Array | None = None
    champion_name: str = ""
    baseline: Array | None = None
    baseline_name: str = ""
    training: Mapping[str, Array] = field(default_factory=dict)
    latency_ms: Array | None = None
    block_us: int = DAY_US

    @property
    def block(self) -> Array:
        """Which block (by default: day) each example belongs to, int64 (n,)."""
        return self.event_us.astype(np.int64) // self.block_us
