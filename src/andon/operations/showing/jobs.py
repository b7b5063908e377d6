"""Batch and stream jobs, as a page shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from andon.serving.jobs import Job, get_job, job_events, list_jobs
from andon.store import Store


class JobEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a job."""

    n: int
    type: str
    at_us: int
    actor: str
    reason: str
    body: dict[str, Any]


class JobsView(msgspec.Struct, frozen=True, kw_only=True):
    """The newest jobs first. ``lost`` is the state of one whose process is gone."""

    jobs: tuple[Job, ...]


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """One job, with what happened to it: its newest events, oldest first, and how many there are in all."""

    job: Job
    events: tuple[JobEvent, ...]
    events_total: int


def jobs_view(store: Store, *, service: str | None = None, limit: int = 100) -> JobsView:
    """The newest ``limit`` jobs, of one service if it is named."""
    return JobsView(jobs=tuple(list_jobs(store, limit=limit, service=service)))


def job_view(store: Store, id_: str, *, events: int = 100) -> JobView:
    """One job. Raises ``NotFound``."""
    job = get_job(store, id_)
    found = job_events(store, id_)
    kept = found[-events:] if events else []
    shown = (JobEvent(n=e.n, type=e.type, at_us=e.at_us, actor=e.actor, reason=e.reason, body=e.body) for e in kept)
    return JobView(job=job, events=tuple(shown), events_total=len(found))
