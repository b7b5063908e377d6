"""Search over 2,000, 20,000 and 100,000 runs of 20 params and 20 metrics: in the process, and as the stock client sees it over HTTP.

OMP_NUM_THREADS=1 python bench/search.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}

from _many_runs import into_andon
from _report import report
from andon.store import Store, open_store
from andon.tracking import get_experiment
from andon.tracking.search import columns_of, count_runs, search_runs

SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
SIZES = (100,) if SMOKE else (2_000, 20_000, 100_000)
REPEATS = 2 if SMOKE else 15
TOP = 50
UP = "import sys; from andon.cli.main import main; main(['up', '--no-serve', '--home', sys.argv[1], '--port', '0'])"
QUERIES: dict[str, tuple[str, list[str]]] = {
    "newest": ("", []),
    "by a metric": ("", ["metrics.m0 DESC"]),
    "metric > and param =, by a metric": ("metrics.m3 > 0.5 AND params.p1 = 'v3'", ["metrics.m5 DESC"]),
    "metric > and 2 params =, by a metric": ("metrics.m1 > 0.5 AND params.p3 = 'v3' AND params.p4 = 'v4'", ["metrics.m0 ASC"]),
    "4 params = (1 in 10,000), by a metric": (" AND ".join(f"params.p{k} = 'v{k}'" for k in range(3, 7)), ["metrics.m0 DESC"]),
    "4 metrics > (1 in 10,000), by a metric": (" AND ".join(f"metrics.m{k} > 0.9" for k in range(4)), ["metrics.m4 DESC"]),
    "run_name LIKE 'run-7%'": ("run_name LIKE 'run-7%'", []),
    "param LIKE, leading wildcard, no match": ("params.p3 LIKE '%nothing%'", ["metrics.m0 DESC"]),
    "user that nobody is, by a metric": ("user_id = 'nobody'", ["metrics.m0 DESC"]),
    "by end_time (no index)": ("", ["end_time DESC"]),
    "param that all have IS NULL": ("params.p3 IS NULL", ["metrics.m0 DESC"]),
}


def timed_ms(work: Callable[[], Any]) -> tuple[float, float]:
    """Median and 95th percentile, after one call that warms up."""
    work()
    spent = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1e3)
    spent.sort()
    return statistics.median(spent), spent[min(len(spent) - 1, round(0.95 * len(spent)))]


def inside(store: Store, size: int) -> list[list[Any]]:
    many = get_experiment(store, "many").id

    def reading(work: Callable[[Any], Any]) -> tuple[float, float]:
        def once() -> None:
            with store.ledger.read() as connection:
                work(connection)

        return timed_ms(once)

    rows = []
    for name, (text, order) in QUERIES.items():
        rows.append([name, size, *reading(lambda c, t=text, o=order: search_runs(c, [many], t, o, max_results=TOP))])
    with store.ledger.read() as connection:
        deep = search_runs(connection, [many], "", ["metrics.m0 DESC"], max_results=size // 2).next_page_token
    rows.append(["by a metric, page in the middle", size, *reading(lambda c: _page(c, many, deep))])
    rows.append(
        ["count_runs, metric > and param =", size, *reading(lambda c: count_runs(c, [many], "metrics.m3 > 0.5 AND params.p1 = 'v3'"))]
    )
    rows.append(["columns_of", size, *reading(lambda c: columns_of(c, [many]))])
    return rows


def _page(connection: Any, experiment: int, token: str | None) -> None:
    search_runs(connection, [experiment], "", ["metrics.m0 DESC"], max_results=TOP, page_token=token)


def outside(home: Path, size: int) -> list[list[Any]]:
    """Through a server of its own process, with the unmodified client: HTTP, JSON and its own records included."""
    from mlflow import MlflowClient

    server = subprocess.Popen([sys.executable, "-c", UP, str(home)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        client = MlflowClient(url, url)
        many = client.get_experiment_by_name("many").experiment_id
        rows = []
        for name, (text, order) in QUERIES.items():
            rows.append([name, size, *timed_ms(lambda t=text, o=order: client.search_runs([many], t, 1, TOP, o))])
        return rows
    finally:
        server.terminate()
        server.wait(20)
        server.stdout.close()


def main() -> None:
    within: list[list[Any]] = []
    seen: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            home = Path(scratch, str(size))
            with open_store(home):
                pass
            into_andon(home, size)
            with open_store(home) as store:
                within += inside(store, size)
            seen += outside(home, size)
    columns = ["search", "runs", "median, ms", "p95, ms"]
    method = f"{REPEATS} calls each after one; top {TOP}; SQLite; run ids in random order, which is the worst for its pages"
    report("search_inside", "Search, in the process: ids of one page", columns, within, method)
    report("search_client", "Search, as the stock MLflow client sees it", columns, seen, method + "; server and client on one machine")


if __name__ == "__main__":
    main()
