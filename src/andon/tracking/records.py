"""What a run knows of itself."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

RunStatus = Literal["scheduled", "running", "finished", "failed", "killed"]


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """The code that ran: a commit, what differed from it, and where it began."""

    commit: str | None = None
    branch: str | None = None
    dirty_diff: str | None = None
    """Digest of the diff against the commit (untracked text files included), or None when clean."""
    remote: str | None = None
    """The remote's URL without credentials."""
    entry_point: str | None = None
    """``script.py``, ``-m module``, or a notebook's name."""
    argv: tuple[str, ...] = ()


class EnvironmentLock(msgspec.Struct, frozen=True, kw_only=True):
    """The Python environment, exact: one per digest (``core.digests.digest_json`` of this record)."""

    python: str
    """``3.11.7``."""
    platform: str
    """``linux-x86_64``."""
    requirements: tuple[str, ...]
    """``name==version``, normalised names, sorted."""
    wheels: str | None = None
    """Digest of a tree of wheels to install from, for what no index has (private or offline); they come before any index."""


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """The machine."""

    host: str
    cpu: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...] = ()


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is captured without being asked, at the start and at the end."""

    code: Code
    environment: EnvironmentLock
    hardware: Hardware
    seeds: dict[str, int] = {}
    """Seeds that were set, by library: ``{"python": 7, "numpy": 7}``."""
    extra: dict[str, Any] = {}


class Point(NamedTuple):
    """One point of a metric; a plain tuple, since batches of them are unpacked in a hot loop.

    ``value`` may be NaN or infinite. ``at_us`` is wall time in microseconds since 1970 UTC.
    """

    key: str
    value: float
    step: int
    at_us: int


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A metric's newest point (by step, then time) and its finite extremes; ``count`` points in all."""

    key: str
    value: float
    step: int
    at_us: int
    count: int
    min: float | None = None
    max: float | None = None


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the ledger has it. ``status`` is ``killed`` also for a run that says ``running`` but whose process is gone."""

    id: str
    experiment: str
    """The experiment's name."""
    experiment_id: int
    """Its number; -1 in a record that is yet to be written: by name, then."""
    name: str
    status: RunStatus
    started_us: int
    ended_us: int | None
    actor: str
    parent: str | None
    facts: RunFacts | None
    """None for runs created over the wire, which capture nothing."""
    deleted_us: int | None = None

    @property
    def address(self) -> str:
        """``run:ID``."""
        return f"run:{self.id}"

    @property
    def duration_s(self) -> float | None:
        """Seconds from start to end; None while it runs."""
        return None if self.ended_us is None else (self.ended_us - self.started_us) / 1e6


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a run, by path within the run."""

    path: str
    digest: str
    size_bytes: int
    media_type: str
    at_us: int


class RunInput(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset version that a run read, and as what (``training``, ``evaluation``, …)."""

    address: str
    digest: str
    context: str


class ReadInput(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset that a program read through its run: as it asked for it, and the version that this meant then."""

    asked: str
    address: str
    context: str
