"""Records of jobs, batch and stream alike: what runs, how far it is, and how it ended.

A job's newest state is one row (the cursor ``job/ID``), so that a stream that runs for a year costs one row; what happened to it (started,
resumed, a part written, ended) is the event stream ``job:ID``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, insert, select, update

from andon.core.actors import Actor
from andon.core.clocks import SECOND_US
from andon.core.digests import canonical_json
from andon.core.errors import NotFound
from andon.store import Store, streams
from andon.store.schema import cursors
from andon.tracking.liveness import is_alive

JobState = Literal["running", "finished", "failed", "stopped", "lost"]
LOST_AFTER_US = 60 * SECOND_US
PREFIX = "job/"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it was last heard of. ``lost`` is a running one whose process is gone."""

    id: str
    kind: Literal["batch", "stream"]
    service: str
    release: str
    """What answers now; empty before a stream's first release is loaded."""
    source: str
    target: str
    state: JobState = "running"
    rows: int = 0
    """Rows answered and written, in all attempts."""
    errors: int = 0
    """Rows in the errors parts, or messages in the dead-letter topic."""
    rows_total: int | None = None
    """Rows of the input, where that is known before the end."""
    rows_s: float = 0.0
    lag: int | None = None
    """Messages of the source that this group has not finished; None for a batch."""
    parts: int = 0
    run: str | None = None
    """The run that the job is, with its inputs and lineage."""
    problem: str = ""
    started_us: int = 0
    seen_us: int = 0
    ended_us: int | None = None
    holder: str = ""
    """The process that runs it, as leases name processes."""


def tell_in(connection: Connection, job: Job, *, now_us: int) -> None:
    """Write a job's newest state."""
    name = f"{PREFIX}{job.id}"
    values = {"state": canonical_json(job), "moved_us": now_us}
    done = connection.execute(update(cursors).where(cursors.c.name == name).values(revision=cursors.c.revision + 1, **values))
    if not done.rowcount:
        connection.execute(insert(cursors).values(name=name, revision=1, **values))


def note_in(connection: Connection, job: Job, kind: str, body: Mapping[str, Any], *, now_us: int, actor: Actor, reason: str = "") -> None:
    """Add what happened to a job to its events, and write its newest state."""
    streams.append(connection, f"job:{job.id}", kind, dict(body), at_us=now_us, actor=actor, reason=reason)
    tell_in(connection, job, now_us=now_us)


def note(store: Store, job: Job, kind: str, body: Mapping[str, Any] | None = None, *, actor: Actor, reason: str = "") -> Job:
    """``note_in`` in a transaction of its own; returns the job as it was written."""
    now_us = store.clock.now_us()
    told = msgspec.structs.replace(job, seen_us=now_us)
    store.ledger.write(lambda c: note_in(c, told, kind, body or {}, now_us=now_us, actor=actor, reason=reason))
    return told


def get_job(store: Store, id_: str) -> Job:
    """A job by its id. Raises ``NotFound``."""
    with store.ledger.read() as connection:
        body = connection.execute(select(cursors.c.state).where(cursors.c.name == f"{PREFIX}{id_}")).scalar()
    if body is None:
        raise NotFound("there is no such job", job=id_, next_step="run `andon ls job` to see what there is")
    return _seen(msgspec.json.decode(body, type=Job), store.clock.now_us())


def list_jobs(store: Store, *, limit: int = 100, service: str | None = None) -> list[Job]:
    """The newest ``limit`` jobs, newest first; of one service, if it is named."""
    newest = select(cursors.c.state).where(cursors.c.name >= PREFIX, cursors.c.name < "job0").order_by(cursors.c.name.desc())
    with store.ledger.read() as connection:
        rows = connection.execute(newest if service is not None else newest.limit(limit)).scalars()
        found = (msgspec.json.decode(row, type=Job) for row in rows)
        kept = [job for job in found if service is None or job.service == service]
    now_us = store.clock.now_us()
    return [_seen(job, now_us) for job in kept[:limit]]


def job_events(store: Store, id_: str) -> list[streams.Event]:
    """What happened to a job, in order."""
    with store.ledger.read() as connection:
        return streams.read(connection, f"job:{id_}")


def _seen(job: Job, now_us: int) -> Job:
    if job.state == "running" and not is_alive(job.holder, job.seen_us + LOST_AFTER_US, now_us=now_us):
        return msgspec.structs.replace(job, state="lost")
    return job
