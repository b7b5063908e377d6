"""What the ledger knows, as families of metrics. A scrape reads newest states only and costs a few milliseconds a service."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import func, select

from andon.operations import showing
from andon.operations.showing.judgements import newest_of_each
from andon.operations.showing.records import LIGHTS, LineView
from andon.operations.showing.rollouts import strategy_says
from andon.releases.splits import WHOLE, live_split
from andon.rollouts.journal import rollout_in, under_way_in
from andon.serving.exposition import Family, Labels, counter, gauge, labels
from andon.serving.jobs import Job, list_jobs
from andon.serving.metrics import process_families
from andon.store import Store
from andon.store import schema as s

STATUSES = ("pass", "warn", "fail", "undecided")
JOBS = 1000
"""Of the newest jobs, those that run are told one by one."""


def families(store: Store) -> list[Family]:
    """Everything, read now. Raises what the ledger does when it cannot be read."""
    line = showing.line(store)
    names = [service.name for service in line.services]
    return [
        *_services(line),
        *_verdicts(store, names),
        *_rollouts(store),
        *_replicas(store),
        *_jobs(list_jobs(store, limit=JOBS)),
        *_stores(store),
        *process_families(),
    ]


def _services(line: LineView) -> list[Family]:
    lights: dict[Labels, int] = {}
    releases: dict[Labels, int] = {}
    incidents: dict[Labels, int] = {}
    since: dict[Labels, float] = {}
    blocked: dict[Labels, int] = {}
    for service in sorted(line.services, key=lambda service: service.name):
        one = labels(service=service.name)
        for light in LIGHTS:
            lights[*one, *labels(light=light)] = int(service.light == light)
        for channel, release in (("production", service.production), ("candidate", service.candidate)):
            if release is not None:
                releases[*one, *labels(channel=channel, release=str(release))] = 1
        incidents[one] = len(service.open_incidents)
        blocked[one] = int(service.training_blocked)
        if service.since_us is not None:
            since[one] = service.since_us / 1e6
    return [
        gauge("andon_service_light", "1 for the light that a service shows.", lights, own=False),
        Family("andon_service_release_info", "info", "The release that a channel points to.", [("", k, v) for k, v in releases.items()]),
        gauge("andon_service_release_start_time_seconds", "When production's release came to hold it, since 1970.", since, own=False),
        gauge("andon_incidents_open", "Incidents that are not closed.", incidents, own=False),
        gauge("andon_training_blocked", "1 while an incident keeps a service from being retrained.", blocked, own=False),
    ]


def _verdicts(store: Store, services: Sequence[str]) -> list[Family]:
    statuses: dict[Labels, int] = {}
    at: dict[Labels, float] = {}
    with store.ledger.read() as connection:
        for name in sorted(services):
            for verdict in newest_of_each(connection, f"service:{name}"):
                one = labels(service=name, check=verdict.check)
                at[one] = verdict.at_us / 1e6
                for status in STATUSES:
                    statuses[*one, *labels(status=status)] = int(verdict.status == status)
    return [
        gauge("andon_verdict_status", "1 for the status of a check's newest verdict.", statuses, own=False),
        gauge("andon_verdict_time_seconds", "The time that a check's newest verdict is of, since 1970.", at, own=False),
    ]


def _rollouts(store: Store) -> list[Family]:
    phases: dict[Labels, int] = {}
    shares: dict[Labels, float] = {}
    with store.ledger.read() as connection:
        states = [rollout_in(connection, id_) for _, id_ in sorted(under_way_in(connection))]
    for state in states:
        phases[labels(service=state.service, strategy=strategy_says(state), phase=state.phase, candidate=state.candidate)] = 1
        live = live_split(store, state.service)
        if live is not None:
            share = sum(arm.share for arm in live.split.arms if arm.release == state.candidate)
            shares[labels(service=state.service)] = share / WHOLE
    return [
        gauge("andon_rollout_phase", "1 for the phase of a rollout that is under way.", phases, own=False),
        gauge("andon_rollout_candidate_share_ratio", "Share of the units that its candidate answers, 0 to 1.", shares, own=False),
    ]


def _replicas(store: Store) -> list[Family]:
    with store.ledger.read() as connection:
        query = select(s.replicas.c.service, s.replicas.c.status, s.replicas.c.seen_us).where(s.replicas.c.status != "gone")
        rows = connection.execute(query).all()
    fresh_us = store.clock.now_us() - showing.services.FRESH_US
    counts = Counter((row.service, row.status if row.seen_us >= fresh_us else "silent") for row in rows)
    values = {labels(service=service, status=status): n for (service, status), n in sorted(counts.items())}
    return [gauge("andon_replicas", "Replicas by what they last said of themselves; silent: nothing lately.", values, own=False)]


def _jobs(jobs: Sequence[Job]) -> list[Family]:
    rows: dict[Labels, int] = {}
    errors: dict[Labels, int] = {}
    lags: dict[Labels, int] = {}
    for job in jobs:
        if job.state == "running":
            one = labels(service=job.service, kind=job.kind, job=job.id)
            rows[one], errors[one] = job.rows, job.errors
            if job.lag is not None:
                lags[one] = job.lag
    states = Counter((job.service, job.kind, job.state) for job in jobs)
    counts = {labels(service=service, kind=kind, state=state): n for (service, kind, state), n in sorted(states.items())}
    return [
        gauge("andon_jobs", f"Batch and stream jobs by state, of the newest {JOBS}.", counts, own=False),
        counter("andon_job_rows_total", "Rows that a running job has answered.", rows),
        counter("andon_job_errors_total", "Rows or messages that a running job could not answer.", errors),
        gauge("andon_job_lag_messages", "Messages of its source that a running stream has not finished.", lags, own=False),
    ]


def _stores(store: Store) -> list[Family]:
    p = s.parts
    with store.ledger.read() as connection:
        query = select(p.c.table_name, func.sum(p.c.size_bytes)).where(p.c.removed_version.is_(None)).group_by(p.c.table_name)
        tables = {labels(table=name): int(size) for name, size in connection.execute(query.order_by(p.c.table_name))}
    found = [gauge("andon_table_size_bytes", "Parquet parts of a table, without what is in the inbox.", tables, own=False)]
    file = Path(store.ledger.url.partition("sqlite:///")[2])
    with contextlib.suppress(OSError):  # a ledger that is no file here, or one in memory
        if file.is_file():
            found.append(gauge("andon_ledger_size_bytes", "The ledger's file, without its log.", {(): file.stat().st_size}, own=False))
    return found
