"""The same verbs on Postgres."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from andon.core.actors import Actor
from andon.core.errors import Conflict
from andon.store import open_store
from andon.tracking import (
    Point,
    create_run,
    list_runs,
    log_artifact,
    log_batch,
    metric_series,
    metrics_of,
    settle_runs,
    start_run,
)

ANA = Actor("person", "ana")
pytestmark = pytest.mark.service


def test_runs_points_and_params(postgres_url: str, tmp_path: Path):
    with open_store(tmp_path, ledger=postgres_url) as store:
        run = create_run(store, experiment="bikes", actor=ANA, params={"a": 1}, holder="elsewhere/b/n/1/2").id
        batch = [Point("a", float(n), n, n) for n in range(1_000)] + [Point(f"k{n}", math.nan, 0, 0) for n in range(600)]
        log_batch(store, run, metrics=batch, params={"b": "x"}, tags={"t": "v"}, actor=ANA)
        log_batch(store, run, metrics=batch[500:], actor=ANA)
        found = metrics_of(store, run)
        assert (found["a"].count, found["a"].value, found["a"].max, len(found)) == (1_000, 999.0, 999.0, 601)
        assert math.isnan(metric_series(store, run, "k5").values[0])
        page = metric_series(store, run, "a", after=(9, 9, 9.0, 0), limit=2)
        assert page.steps.tolist() == [10, 11]
        with pytest.raises(Conflict):
            log_batch(store, run, params={"a": 2}, actor=ANA)
        log_artifact(store, run, b"x", "a.txt", actor=ANA)
        with start_run(store, actor=ANA, capture=False) as live:
            live.log({"loss": 1.0})
        assert {item.id: item.status for item in list_runs(store)} == {run: "running", live.id: "finished"}
        assert [item.id for item in list_runs(store, limit=1, after=live.id)] == [run]
        assert settle_runs(store, actor=ANA) == []
