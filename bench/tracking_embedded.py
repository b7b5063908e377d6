"""Tracking, embedded (no server): durable points/s, run start and end, reading a series, the pipeline's cost a step, import time.

OMP_NUM_THREADS=1 python bench/tracking_embedded.py
"""

from __future__ import annotations

import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _report import report
from andon.core.actors import Actor
from andon.pipelines import pipeline, step
from andon.store import Store, open_store
from andon.tracking import Point, create_run, log_batch, metric_series, metrics_of, start_run
from andon.tracking.capture import begin_code, capture_environment, environment_notes

ACTOR = Actor("person", "bench")
REPEATS = 5
POINTS = 100_000


def median_ms(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1e3)
    return statistics.median(spent)


def batches(size: int, keys: int, count: int, at_us: int) -> list[list[Point]]:
    return [[Point(f"k{n % keys}", n / 7, (b * size + n) // keys, at_us + b * size + n) for n in range(size)] for b in range(count)]


def points_per_s(store: Store, size: int, keys: int, total: int) -> float:
    run = create_run(store, actor=ACTOR).id
    given = batches(size, keys, total // size, store.clock.now_us())
    began = time.perf_counter()
    for batch in given:
        log_batch(store, run, metrics=batch, actor=ACTOR)
    rate = total / (time.perf_counter() - began)
    assert sum(metric.count for metric in metrics_of(store, run).values()) == total
    return rate


def run_log_per_s(store: Store) -> float:
    with start_run(store, actor=ACTOR, capture=False) as run:
        began = time.perf_counter()
        for n in range(POINTS):
            run.log({"loss": n / 7})
        run.flush()
        return POINTS / (time.perf_counter() - began)


def floor_per_s(folder: Path, size: int, total: int) -> float:
    """Bare sqlite3, the same narrow rows, one transaction a batch, WAL and synchronous=FULL."""
    connection = sqlite3.connect(folder / f"floor{size}.db", isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute(
        "create table points (series int, step int, at_us int, value real, special int,"
        " primary key (series, step, at_us, value, special)) without rowid"
    )
    given = [[(1, b * size + n, b * size + n, n / 7, 0) for n in range(size)] for b in range(total // size)]
    began = time.perf_counter()
    for batch in given:
        connection.execute("begin immediate")
        connection.executemany("insert or ignore into points values (?, ?, ?, ?, ?)", batch)
        connection.execute("commit")
    rate = total / (time.perf_counter() - began)
    connection.close()
    return rate


def import_ms(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1e3)"
    return statistics.median(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(REPEATS))


@step
def add(x: int, y: int) -> int:
    return x + y


@pipeline
def chain(n: int) -> int:
    total = 0
    for number in range(n):
        total = add(total, number)
    return total


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, open_store(Path(scratch, ".andon")) as store:
        folder = Path(scratch)
        throughput = [
            ["log_batch, 1 point", points_per_s(store, 1, 1, 2_000), floor_per_s(folder, 1, 2_000)],
            ["log_batch, 1,000 points of 1 metric", points_per_s(store, 1_000, 1, POINTS), floor_per_s(folder, 1_000, POINTS)],
            ["log_batch, 1,000 points of 20 metrics", points_per_s(store, 1_000, 20, POINTS), ""],
            ["log_batch, 1,000 points of 1,000 metrics", points_per_s(store, 1_000, 1_000, POINTS), ""],
            ["run.log, 1 point a call, then flush", run_log_per_s(store), ""],
        ]
        report(
            "tracking_points",
            "Durable metric points a second, embedded",
            ["work", "ours /s", "bare sqlite3 /s"],
            throughput,
            "one process, one thread; SQLite in WAL, synchronous=FULL; acknowledged when the commit is on disk; one run of each",
        )
        run = create_run(store, actor=ACTOR).id
        for batch in batches(1_000, 1, 100, 0):
            log_batch(store, run, metrics=batch, actor=ACTOR)
        first = chain.run(store, 200, actor=ACTOR)
        times = [
            ["start_run + end, all captured (this repository)", median_ms(lambda: start_run(store, actor=ACTOR).end())],
            ["  of which git", median_ms(lambda: begin_code().finish())],
            ["  of which environment", median_ms(lambda: (capture_environment(), environment_notes()))],
            ["start_run + end, capture off", median_ms(lambda: start_run(store, actor=ACTOR, capture=False).end(), 20)],
            ["create_run (no handle)", median_ms(lambda: create_run(store, actor=ACTOR), 50)],
            ["read a series of 100,000 points", median_ms(lambda: metric_series(store, run, "k0"))],
            ["pipeline, a step that runs (200 in a row)", median_ms(lambda: chain.run(store, 200, actor=ACTOR, cache=False)) / 200],
            ["pipeline, 500 cached steps, all", _cached(store)],
            ["import andon", import_ms("andon")],
            ["import andon.tracking", import_ms("andon.tracking")],
        ]
        assert first.value == 19_900
        report("tracking_times", "Tracking and pipelines, milliseconds", ["work", "ms"], times, f"median of {REPEATS} (50 for create_run)")


def _cached(store: Store) -> float:
    chain.run(store, 500, actor=ACTOR)
    return median_ms(lambda: chain.run(store, 500, actor=ACTOR))


if __name__ == "__main__":
    main()
