"""Incidents: what triage found, what was decided, and the state that the decisions add up to. All JSON with msgspec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from andon.core.clocks import DAY_US
from andon.core.verdicts import Evidence, Interval, SliceResult, Verdict
from andon.monitoring.comparison import ComparisonState
from andon.monitoring.profiles import Profile
from andon.monitoring.quality import Expectations, QualityState
from andon.monitoring.records import Frame, Policy, Predict

Cause = Literal["release", "upstream", "world", "unknown"]
Advice = Literal["rollback", "fix-upstream", "retrain", "wait"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One dated line of the ledger: an alias that moved. ``components`` are what differs between what it left and what it came to
    (``code``, ``data``, ``model``, ``environment``, ``features``, ``prompt``, …)."""

    at_us: int
    kind: str
    subject: str
    before: str = ""
    after: str = ""
    components: tuple[str, ...] = ()
    actor: str = ""


@dataclass(frozen=True, slots=True)
class TriageEvidence:
    """Everything triage may look at; it asks nobody else.

    ``served``: the live release's rows, inputs as they were sent, labels where known: from one season before the onset to now (28 days
    are plenty). ``verdicts``: the latest of every check, and every failed one since the incident began. ``predict`` runs the live
    release on other inputs (for the repair replay); ``None`` if it cannot be run.
    """

    subject: str
    release: str
    served: Frame
    verdicts: tuple[Verdict, ...]
    profile: Profile
    expected: Expectations
    quality: QualityState
    comparison: ComparisonState
    policy: Policy
    changes: tuple[Change, ...] = ()
    predict: Predict | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What triage says: one cause, one piece of advice, and why.

    ``replay_ratio``: the previous release's loss over the live loss on the same requests. ``repair_ratio``: the live release's loss with
    the suspects' expected values put back, over its loss as it was. ``harm_ratio``: live over expected loss since the onset.
    """

    subject: str
    release: str
    cause: Cause
    advice: Advice
    message: str
    onset_us: int
    changed: tuple[Change, ...] = ()
    suspects: tuple[str, ...] = ()
    rollback_to: str = ""
    harm_ratio: float | None = None
    harm_interval: Interval | None = None
    replay_ratio: float | None = None
    replay_interval: Interval | None = None
    repair_ratio: float | None = None
    worst_slice: SliceResult | None = None
    evidence: tuple[Evidence, ...] = ()


class IncidentPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller may do by itself, and how long it waits."""

    auto_rollback: bool = True
    """Roll back without asking a person."""
    block_training: bool = True
    """Stop continuous training while an input is broken."""
    resolve_windows: int = 3
    """Windows in a row without a failed verdict, at least one of them a pass, before an incident is resolved."""
    rollback_cooldown_us: int = 2 * DAY_US
    """Event time after a rollback in which there is no other, microseconds."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One incident as the fold over its events leaves it."""

    id: str
    service: str
    cause: Cause
    advice: Advice
    opened_us: int
    onset_us: int
    release: str
    suspects: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    acted_us: int | None = None
    quiet_windows: int = 0
    resolved_us: int | None = None


class IncidentsState(msgspec.Struct, frozen=True):
    """The controller's memory of one service; start with ``IncidentsState("service:bikes")`` and fold events into it."""

    service: str
    incidents: tuple[Incident, ...] = ()
    rejected: tuple[str, ...] = ()
    training_blocked_by: tuple[str, ...] = ()
    rolled_back_us: int | None = None
    opened: int = 0
    seen_until_us: int = 0

    @property
    def open(self) -> tuple[Incident, ...]:
        """Those that are not resolved."""
        return tuple(incident for incident in self.incidents if incident.resolved_us is None)


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What the hands saw after judging one window: its verdicts, and what triage makes of them (``None``: not asked)."""

    at_us: int
    release: str
    verdicts: tuple[Verdict, ...]
    finding: Finding | None = None


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="action"):
    at_us: int
    why: str
    inputs: dict[str, str | float | None] = {}


class AskTriage(_Event, frozen=True, kw_only=True, tag="ask-triage"):
    """A verdict failed and there is no finding yet: run :func:`andon.incidents.triage.triage` and decide again."""

    checks: tuple[str, ...]


class OpenIncident(_Event, frozen=True, kw_only=True, tag="open"):
    """Open an incident."""

    incident: str
    cause: Cause
    advice: Advice
    onset_us: int
    release: str
    suspects: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()


class Escalate(_Event, frozen=True, kw_only=True, tag="escalate"):
    """The cause of an open incident is now thought to be another."""

    incident: str
    cause: Cause
    advice: Advice
    suspects: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()


class BlockTraining(_Event, frozen=True, kw_only=True, tag="block-training"):
    """Continuous training must not learn from these inputs."""

    incident: str
    suspects: tuple[str, ...] = ()


class UnblockTraining(_Event, frozen=True, kw_only=True, tag="unblock-training"):
    """The inputs are sound again. (Rows of the incident stay out of training: data validation refuses them.)"""

    incident: str


class Rollback(_Event, frozen=True, kw_only=True, tag="rollback"):
    """Move the service's channel from one release to another; the one that is left is rejected."""

    incident: str
    release: str
    to: str


class RecommendRetrain(_Event, frozen=True, kw_only=True, tag="recommend-retrain"):
    """Ask continuous training for a challenger (which must pass the gate)."""

    incident: str


class Resolve(_Event, frozen=True, kw_only=True, tag="resolve"):
    """Close an incident."""

    incident: str


class Watched(_Event, frozen=True, kw_only=True, tag="watched"):
    """One more window went by: which open incidents were quiet and which were not."""

    quiet: tuple[str, ...] = ()
    loud: tuple[str, ...] = ()


class Nothing(_Event, frozen=True, kw_only=True, tag="nothing"):
    """Nothing is done, and why."""

    incident: str = ""


Action = AskTriage | OpenIncident | Escalate | BlockTraining | UnblockTraining | Rollback | RecommendRetrain | Resolve | Watched | Nothing
