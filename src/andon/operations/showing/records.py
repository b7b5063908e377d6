"""What the read models say: frozen records that the API sends, the board draws and ``andon show --json`` prints."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from andon.core.verdicts import Evidence, Verdict
from andon.registry import Change, Edge, Move, TagChange
from andon.releases.services import Rejection, TrainingBlock, Turn, Waiver

Light = Literal["green", "yellow", "red", "grey"]
LIGHTS: tuple[Light, ...] = ("grey", "green", "yellow", "red")
"""From nothing to say, to stop the line."""


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """Something that changed, in one sentence. ``address`` is what to look at next."""

    at_us: int
    event_us: int | None
    address: str
    what: str
    actor: str
    reason: str
    light: Light = "grey"


class Station(msgspec.Struct, frozen=True, kw_only=True):
    """One station of the line: how much is there, and whether any of it is in trouble."""

    key: str
    title: str
    count: int
    unit: str
    detail: str
    light: Light


class ServiceLight(msgspec.Struct, frozen=True, kw_only=True):
    """One service on the board: its light, and why in one sentence."""

    name: str
    light: Light
    why: str
    production: str | None
    since_us: int | None
    since_event_us: int | None
    candidate: str | None
    quality: tuple[float | None, ...]
    """The newest windows' loss over expected loss, oldest first; None where undecided."""
    threshold: float | None
    open_incidents: tuple[str, ...]
    replicas_ready: int
    training_blocked: bool


class LineView(msgspec.Struct, frozen=True, kw_only=True):
    """The whole line at a glance."""

    services: tuple[ServiceLight, ...]
    stations: tuple[Station, ...]
    happenings: tuple[Happening, ...]
    at_us: int


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run in a list. ``metrics`` are the newest values."""

    id: str
    name: str
    experiment: str
    status: str
    started_us: int
    ended_us: int | None
    actor: str
    parent: str | None
    """The id of the run around it."""
    metrics: dict[str, float | None]
    params: dict[str, str]


class RunsView(msgspec.Struct, frozen=True, kw_only=True):
    """Runs, newest first; ``next_before_us`` continues the list."""

    runs: tuple[RunRow, ...]
    experiments: dict[str, int]
    total: int
    next_before_us: int | None


class SeriesRow(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of a run: its newest point and its extremes. None stands for a value that is not finite."""

    key: str
    count: int
    step: int
    value: float | None
    min: float | None
    max: float | None


class SeriesPoints(msgspec.Struct, frozen=True, kw_only=True):
    """The points of one metric, by step; thinned to the extremes of each stretch when there were more than asked for."""

    key: str
    steps: tuple[int, ...]
    at_us: tuple[int, ...]
    values: tuple[float | None, ...]
    total: int


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that belongs in a run, and whether it is there."""

    name: str
    present: bool
    detail: str


class ArtifactRow(msgspec.Struct, frozen=True, kw_only=True):
    """One file that a run left behind."""

    path: str
    digest: str
    size_bytes: int
    media_type: str


class InputRow(msgspec.Struct, frozen=True, kw_only=True):
    """One dataset that a run read."""

    address: str
    digest: str
    context: str


class DescribedInput(msgspec.Struct, frozen=True, kw_only=True):
    """Data that a run names without handing it over."""

    name: str
    digest: str
    context: str
    source: str
    """Where its client says it is."""


class LoggedModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a run logged (``output``) or used (``input``)."""

    id: str
    name: str
    model_type: str
    status: str
    role: str
    created_us: int


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """One run, whole."""

    run: RunRow
    facts: dict[str, Any]
    series: tuple[SeriesRow, ...]
    completeness: tuple[Present, ...]
    score: float
    """How complete it is, 0 to 1, each part by its weight."""
    artifacts: tuple[ArtifactRow, ...]
    inputs: tuple[InputRow, ...]
    described: tuple[DescribedInput, ...]
    """Data that it named without handing it over."""
    models: tuple[LoggedModelRow, ...]
    """Models that it logged or used, registered or not."""
    made: tuple[Edge, ...]
    """What was registered from this run or from a model that it logged, and the runs inside it."""
    releases: tuple[str, ...]
    """Releases that pin a model of this run."""
    children: tuple[RunRow, ...]
    """The runs inside it, the first hundred."""
    tags: dict[str, str]
    deleted_us: int | None


class EntryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One name in the registry."""

    address: str
    kind: str
    name: str
    head: int
    """The newest version; 0 when there is none yet."""
    changed_us: int
    aliases: dict[str, str]
    title: str = ""
    """What a client of another registry calls it, where that is not its name."""
    description: str = ""


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version, or its tombstone."""

    address: str
    version: int
    digest: str
    created_us: int
    actor: str
    reason: str
    aliases: tuple[str, ...]
    deleted_us: int | None
    deleted_by: str | None
    deleted_why: str | None


class LineageView(msgspec.Struct, frozen=True, kw_only=True):
    """Part of the lineage around ``root``; ``depth`` puts it at 0, what it was made from below, what came of it above."""

    root: str
    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    depth: dict[str, int]
    truncated: bool


class EntryView(msgspec.Struct, frozen=True, kw_only=True):
    """One name, whole."""

    entry: EntryRow
    versions: tuple[VersionRow, ...]
    shown: VersionRow | None
    """The version whose manifest and lineage are here."""
    manifest: Any
    moves: tuple[Move, ...]
    tags: dict[str, str]
    tag_history: tuple[TagChange, ...]
    lineage: LineageView
    changes: tuple[Change, ...]
    """From the version before to the one shown."""


class PinRow(msgspec.Struct, frozen=True, kw_only=True):
    """One component of a release."""

    component: str
    address: str | None
    digest: str | None
    detail: str
    changed: bool
    """Whether the release it is compared with has another."""


class JudgedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict on a release, and whether the gate's policy lets it stop the line."""

    verdict: Verdict
    blocks: bool | None


class ReleaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A release: everything pinned, what was judged, and what it may still do."""

    address: str
    service: str
    version: int
    digest: str
    created_us: int
    actor: str
    reason: str
    light: Light
    state: str
    """One sentence."""
    deployable: bool
    why_not: str
    channels: tuple[str, ...]
    pins: tuple[PinRow, ...]
    environment: tuple[str, ...]
    signature: Any
    answer: int | None
    policy: str | None
    judged: tuple[JudgedRow, ...]
    waiver: Waiver | None
    rejection: Rejection | None
    turns: tuple[Turn, ...]
    incidents: tuple[IncidentRow, ...]
    """Those that opened while it was live."""
    compared_with: str | None
    changes: tuple[Change, ...]
    lineage: LineageView


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One process that answers for a service."""

    id: str
    url: str
    pid: int
    release: str | None
    status: str
    note: str
    started_us: int
    seen_us: int
    fresh: bool


class QualityPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One judged window. ``ratio`` is the window's own loss over what the gate leads one to expect; ``pooled`` is what was judged."""

    start_us: int
    end_us: int
    status: str
    ratio: float | None
    pooled: float | None
    low: float | None
    high: float | None
    n: int
    verdict: str
    message: str


class TrafficBucket(msgspec.Struct, frozen=True, kw_only=True):
    """Requests answered in one stretch of event time, and how long they took."""

    start_us: int
    rows: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What the prediction and label logs say. ``known`` is False when they could not be read; ``problem`` says why."""

    known: bool
    problem: str
    rows: int
    labels: int
    first_us: int | None
    last_us: int | None
    last_label_us: int | None
    bucket_us: int
    buckets: tuple[TrafficBucket, ...]
    by_release: dict[str, int]


class ReleaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """One release in a service's list."""

    address: str
    version: int
    digest: str
    created_us: int
    actor: str
    reason: str
    light: Light
    state: str
    deployable: bool
    answer: int | None
    channels: tuple[str, ...]


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """A service: what holds its channels, how well it does, and what may be done about it."""

    name: str
    light: Light
    why: str
    production: str | None
    channels: dict[str, str]
    turns: tuple[Turn, ...]
    releases: tuple[ReleaseRow, ...]
    replicas: tuple[Replica, ...]
    quality: tuple[QualityPoint, ...]
    threshold: float | None
    unit: str
    checks: tuple[Verdict, ...]
    """The newest verdict of each check."""
    drift: Verdict | None
    data_quality: tuple[Verdict, ...]
    traffic: Traffic
    training_block: TrainingBlock | None
    incidents: tuple[IncidentRow, ...]
    rollback_target: str | None
    rollback_says: str
    rollout: str | None = None
    """The rollout under way, as ``rollout:ID``."""
    rollout_says: str = ""
    """Where that is, in a sentence."""
    champion_disagrees: str | None
    """Set when the model's @champion is not what production pins: both addresses, in a sentence."""
    tags: dict[str, str]


class IncidentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One incident in a list."""

    id: str
    address: str
    service: str
    headline: str
    """The cause in a few words."""
    title: str
    """One sentence with the numbers."""
    status: str
    light: Light
    cause: str
    recommendation: str
    opened_us: int
    opened_event_us: int | None
    closed_us: int | None
    closed_event_us: int | None
    opened_by: str
    release: str
    """What was live when it opened."""


class TimelineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened in an incident."""

    n: int
    type: str
    text: str
    at_us: int
    event_us: int | None
    actor: str
    reason: str
    body: Any


class ActionRow(msgspec.Struct, frozen=True, kw_only=True):
    """Something to do about an incident. ``verb`` is None when the board cannot do it for you; ``command`` always says how."""

    text: str
    verb: str | None
    target: str | None
    command: str
    recommended: bool
    done: bool


class IncidentView(msgspec.Struct, frozen=True, kw_only=True):
    """An incident: what happened, what changed, who is hurt, why, and what to do."""

    incident: IncidentRow
    timeline: tuple[TimelineRow, ...]
    changed: tuple[str, ...]
    worst_slice: str
    counterfactual: str
    cause: str
    why: str
    evidence: tuple[Evidence, ...]
    verdicts: tuple[Verdict, ...]
    actions: tuple[ActionRow, ...]
    finding: Any


class VerdictView(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict and the ones of the same check before it."""

    verdict: Verdict
    earlier: tuple[Verdict, ...]
    blocks: bool | None
