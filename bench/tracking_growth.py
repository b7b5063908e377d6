"""What tracking costs as the ledger grows: durable points/s and search time against stored points, from a million to a hundred million.

    OMP_NUM_THREADS=1 python bench/tracking_growth.py          (BENCH_POINTS=1e7 stops earlier; about 6 GB of disk at 1e8)

The runs, with 20 params and 20 metrics each, grow with the points (one run for every 1,000), so at 1e8 points there are 100,000 of them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _many_runs import KEYS, into_andon
from _report import report
from andon.core.actors import Actor
from andon.store import Store, open_store
from andon.tracking import Point, create_run, list_runs, log_batch, metric_series
from andon.tracking.search import search_runs

SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
SIZES = [2_000, 10_000] if SMOKE else [10**6, 3 * 10**6, 10**7, 3 * 10**7, 10**8]
LIMIT = float(os.environ.get("BENCH_POINTS", "1e8"))
ACTOR = Actor("person", "bench")
BATCH = 1_000
PLOT = Path(__file__).resolve().parent.parent / "docs" / "images" / "tracking_growth.svg"


def median_ms(work: Any, repeats: int = 15) -> float:
    work()
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1e3)
    return sorted(spent)[len(spent) // 2]


def grow(store: Store, written: int, target: int) -> float:
    """Log points in batches of 1,000 until there are ``target``, a new run for every 100 batches; returns points/s of the last fifth."""
    began, counted, run = time.perf_counter(), written, ""
    last_fifth = target - (target - written) // 5
    for at in range(written, target, BATCH):
        if not run or at % (100 * BATCH) == 0:
            run = create_run(store, experiment="grown", actor=ACTOR).id
        if at < last_fifth:
            began, counted = time.perf_counter(), at
        log_batch(store, run, metrics=[Point("loss", n / 7, at + n, at + n) for n in range(BATCH)], actor=ACTOR)
    return (target - counted) / (time.perf_counter() - began)


def searched_ms(store: Store) -> tuple[float, float]:
    with store.ledger.read() as connection:
        from andon.tracking import find_experiment_in

        many = find_experiment_in(connection, "many")
        assert many is not None

    def filtered() -> None:
        with store.ledger.read() as connection:
            page = search_runs(connection, [many.id], "metrics.m3 > 0.5 and params.p1 = 'v3'", order_by=["metrics.m5 DESC"], max_results=50)
            assert page.ids or SMOKE

    def newest() -> None:
        with store.ledger.read() as connection:
            assert search_runs(connection, [many.id], "", max_results=50).ids

    return median_ms(filtered), median_ms(newest)


def main() -> None:
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory(prefix="andon-bench-") as scratch:
        home, written, runs = Path(scratch, "home"), 0, 0
        with open_store(home):
            pass
        for size in [size for size in SIZES if size <= LIMIT]:
            into_andon(home, size // 1_000, first=runs)
            runs = size // 1_000
            with open_store(home) as store:
                rate = grow(store, written, size)
                written = size
                filtered, newest = searched_ms(store)
                run = list_runs(store, "grown", limit=1)[0].id
                series = median_ms(lambda store=store, run=run: metric_series(store, run, "loss"), 3)
            megabytes = (home / "ledger.db").stat().st_size / 1e6
            rows.append([size, runs, rate, filtered, newest, series, megabytes])
            print(rows[-1], flush=True)
    columns = ["points", "runs", "points/s", "search, filter and order, ms", "search, newest, ms", "read 100,000 points, ms", "ledger, MB"]
    method = (
        f"one process, batches of {BATCH:,}, SQLite in WAL, synchronous=FULL; points/s over the last fifth of a stretch; searches: median"
        f" of 15 in process, top 50, over runs with {KEYS} params and {KEYS} metrics each"
    )
    report("tracking_growth", "Tracking as it grows", columns, rows, method)
    if not SMOKE:
        draw(rows)


def draw(rows: list[list[Any]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "andon"
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    sizes = [row[0] for row in rows]
    left.plot(sizes, [row[2] / 1e3 for row in rows], marker="o", color="#222222")
    left.set(
        xscale="log", ylim=(0, max(row[2] for row in rows) / 1e3 * 1.1), xlabel="points stored", ylabel="thousand points a second, durable"
    )
    right.plot(sizes, [row[3] for row in rows], marker="o", color="#222222", label="filter and order, top 50")
    right.plot(sizes, [row[4] for row in rows], marker="s", color="#999999", label="newest 50")
    right.set(
        xscale="log", ylim=(0, max(row[3] for row in rows) * 1.1), xlabel="points stored (a run for every 1,000)", ylabel="search, ms"
    )
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee")
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})


if __name__ == "__main__":
    main()
