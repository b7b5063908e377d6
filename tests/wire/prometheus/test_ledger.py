"""``GET /metrics`` of the control plane: over a seeded line and over nothing, as Prometheus' own parsers read it."""

from __future__ import annotations

from typing import Any

import msgspec

from andon.operations import showing
from andon.releases.splits import Arm, Split, set_split_in
from andon.rollouts.records import Started
from andon.rollouts.strategies import Canary
from andon.serving.exposition import text
from andon.serving.jobs import Job, tell_in
from andon.store import Store, streams
from andon.store import schema as s
from andon.tracking.liveness import holder
from andon.wire.prometheus.ledger import families
from tests.conftest import ANA
from tests.unit.api.conftest import Client, client, empty, empty_client, seeded
from tests.unit.serving.test_metrics import Series, series

__all__ = ["client", "empty", "empty_client", "seeded"]


def one(found: Series, name: str, **wanted: str) -> Any:
    """The value of the one series with these labels among its own."""
    values = [value for (called, named), value in found.items() if called == name and wanted.items() <= dict(named).items()]
    assert len(values) == 1, (name, wanted, values)
    return values[0]


def read(store: Store) -> Series:
    return series(text(families(store)))


def test_both_texts(client: Client) -> None:
    plain = client.get("/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    open_ = client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    assert open_.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert open_.text.endswith("\n# EOF\n")
    assert series(plain.text).keys() == series(open_.text, openmetrics=True).keys()


def test_nothing_is_told_of_nothing(empty_client: Client) -> None:
    found = series(empty_client.get("/metrics").text)
    assert {name for name, _ in found if not name.startswith("process_")} == {"andon_build_info"}


def test_what_the_pages_show_is_what_is_told(seeded: Store) -> None:
    found = read(seeded)
    line = showing.line(seeded)
    assert line.services
    for service in line.services:
        assert one(found, "andon_service_light", service=service.name, light=service.light) == 1
        assert sum(n for (name, named), n in found.items() if name == "andon_service_light" and ("service", service.name) in named) == 1
        assert one(found, "andon_incidents_open", service=service.name) == len(service.open_incidents)
        assert one(found, "andon_training_blocked", service=service.name) == service.training_blocked
        if service.production is not None:
            release = str(service.production)
            assert one(found, "andon_service_release_info", service=service.name, channel="production", release=release) == 1
    for check in showing.service_view(seeded, "bikes").checks:
        assert one(found, "andon_verdict_status", service="bikes", check=check.check, status=check.status) == 1


def test_rollouts_and_jobs(seeded: Store) -> None:
    old, new = "release:bikes@1", "release:bikes@3"
    started = Started(at_us=1, why="a test", service="bikes", candidate=new, baseline=old, strategy=Canary(), policy={})
    arms = (Arm(channel="production", release=old, share=9_900), Arm(channel="candidate", release=new, share=100))
    now_us = seeded.clock.now_us()
    stream = Job(
        id="job:2", kind="stream", service="bikes", release=new, source="in", target="out", rows=70, lag=12, seen_us=now_us, holder=holder()
    )
    batch = Job(id="job:1", kind="batch", service="bikes", release=new, source="in", target="out", state="finished", rows=5)

    def work(connection: Any) -> None:
        body = msgspec.to_builtins(started)
        streams.append(connection, "rollout:1", "started", body, at_us=1, actor=ANA, reason="a test", expected=0)
        set_split_in(connection, "bikes", Split(rollout="rollout:1", salt="s", arms=arms), expected=0, now_us=1)
        tell_in(connection, stream, now_us=now_us)
        tell_in(connection, batch, now_us=now_us)

    seeded.ledger.write(work)
    found = read(seeded)
    assert one(found, "andon_rollout_phase", service="bikes", strategy="canary", phase="warming", candidate=new) == 1
    assert one(found, "andon_rollout_candidate_share_ratio", service="bikes") == 0.01
    assert one(found, "andon_jobs", kind="stream", state="running") == 1
    assert one(found, "andon_jobs", kind="batch", state="finished") == 1
    assert one(found, "andon_job_lag_messages", job="job:2") == 12
    assert one(found, "andon_job_rows_total", job="job:2") == 70
    assert not [named for (name, named) in found if name == "andon_job_rows_total" and ("job", "job:1") in named]


def test_a_replica_that_is_not_heard_from_is_silent(store: Store) -> None:
    now_us = store.clock.now_us()
    fixed = {"service": "bikes", "url": "", "pid": 1, "note": "", "started_us": 1}
    rows = [
        {"id": "1", "status": "ready", "seen_us": now_us},
        {"id": "2", "status": "ready", "seen_us": now_us - 60_000_000},
        {"id": "3", "status": "gone", "seen_us": now_us},
    ]
    store.ledger.write(lambda connection: connection.execute(s.replicas.insert(), [fixed | row for row in rows]) and None)
    found = read(store)
    assert one(found, "andon_replicas", status="ready") == 1
    assert one(found, "andon_replicas", status="silent") == 1
    assert not [named for (name, named) in found if name == "andon_replicas" and ("status", "gone") in named]


def test_a_ledger_in_a_file_says_how_large_it_is(disk_store: Store) -> None:
    assert one(read(disk_store), "andon_ledger_size_bytes") >= 4096
