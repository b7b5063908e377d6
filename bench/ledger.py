"""How many durable commits and rows a second the ledger takes. ``python bench/ledger.py`` (two minutes); ``--quick`` for a smoke test.

Each row stands beside plain ``sqlite3`` doing the same in the same run, one transaction each, with the same durability (WAL,
``synchronous=FULL``). How much sharing an fsync is worth depends on what one costs, so where a C compiler is at hand everything is measured
a second time with an ``fsync`` slowed down to that of a common disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import insert, select

from _report import report
from andon.core.settings import Settings
from andon.store.ledger import open_ledger
from andon.store.ports import Ledger
from andon.store.schema import tag_changes

ROW = {"subject": "model:bikes@3", "key": "stage", "value": "trial", "at_us": 1_312_156_800_000_000, "actor": "person:ana", "reason": ""}
SQL = "insert into tag_changes (subject, key, value, at_us, actor, reason) values (:subject, :key, :value, :at_us, :actor, :reason)"
POINT_SQL = "insert into points (series, step, at_us, value, special) values (?, ?, ?, ?, ?)"
PUT, LOOK = insert(tag_changes), select(tag_changes).where(tag_changes.c.seq == 7)
BATCH = 1_000
SLOW_FSYNC_US = 1_000

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static int slow(const char *name, int fd) {
    static int (*real[2])(int);
    int which = name[1] == 'd';
    if (!real[which]) real[which] = dlsym(RTLD_NEXT, name);
    usleep(SLOW_US);
    return real[which](fd);
}
int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
"""


def rate(workers: int, seconds: float, work: Callable[[int, int], Any]) -> float:
    """Calls a second of ``work(worker, n)`` in so many threads."""
    counts, until = [0] * workers, time.perf_counter() + seconds

    def run(worker: int) -> None:
        while time.perf_counter() < until:
            work(worker, counts[worker])
            counts[worker] += 1

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(workers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


class Plain:
    """What one would write without thinking: a connection per thread, a transaction per write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self._local.connection = sqlite3.connect(self._path, isolation_level=None, timeout=60)
            self._local.connection.execute("pragma synchronous = full")
        return self._local.connection

    def write(self, *_: int) -> None:
        connection = self._connection()
        connection.execute("begin immediate")
        connection.execute(SQL, ROW)
        connection.execute("commit")

    def write_points(self, worker: int, n: int) -> None:
        connection = self._connection()
        connection.execute("begin immediate")
        connection.executemany(POINT_SQL, [(1_000 + worker, n * BATCH + i, i, i * 0.5, 0) for i in range(BATCH)])
        connection.execute("commit")


def put(ledger: Ledger) -> Callable[[int, int], None]:
    return lambda *_: ledger.write(lambda connection: connection.exec_driver_sql(SQL, ROW) and None)


def put_through_core(ledger: Ledger) -> Callable[[int, int], None]:
    return lambda *_: ledger.write(lambda connection: connection.execute(PUT, ROW) and None)


def put_points(ledger: Ledger) -> Callable[[int, int], None]:
    """As ``andon.tracking`` does it."""

    def write(worker: int, n: int) -> None:
        rows = [(worker, n * BATCH + i, i, i * 0.5, 0) for i in range(BATCH)]
        ledger.write(lambda connection: connection.exec_driver_sql(POINT_SQL, rows) and None)

    return write


def read_latency_us(ledger: Ledger, seconds: float, writers: int) -> tuple[float, float]:
    """Median and 99th percentile of one indexed read, while so many writers write."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            put(ledger)(0, 0)

    threads = [threading.Thread(target=run) for _ in range(writers)]
    for thread in threads:
        thread.start()
    took, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        with ledger.read() as connection:
            connection.execute(LOOK).first()
        took.append((time.perf_counter() - started) * 1e6)
    stop.set()
    for thread in threads:
        thread.join()
    took.sort()
    return took[len(took) // 2], took[int(len(took) * 0.99)]


def measure(folder: Path, seconds: float, rounds: int) -> list[list[Any]]:
    """Rows of the table: what, ours, plain, ratio. The best of some rounds each, in turns, since the machine is shared."""
    ledger = open_ledger(Settings(home=str(folder / "ours")))
    open_ledger(Settings(home=str(folder / "plain"))).close()
    plain = Plain(folder / "plain" / "ledger.db")
    table = []
    for writers, how in ((1, put), (1, put_through_core), (8, put), (64, put)):
        ours = theirs = 0.0
        for _ in range(rounds):
            ours = max(ours, rate(writers, seconds, how(ledger)))
            theirs = max(theirs, rate(writers, seconds, plain.write))
        through = ", through insert()" if how is put_through_core else ""
        table.append([f"durable commits/s, {writers} writer{'s' * (writers > 1)}{through}", ours, theirs, ours / theirs])
    ours, theirs = rate(1, seconds, put_points(ledger)) * BATCH, rate(1, seconds, plain.write_points) * BATCH
    table.append([f"narrow rows/s (points, batches of {BATCH:,})", ours, theirs, ours / theirs])
    for writers in (0, 8):
        half, most = read_latency_us(ledger, seconds, writers)
        table.append([f"one indexed read, {writers} writers, p50 us", half, "", ""])
        table.append([f"one indexed read, {writers} writers, p99 us", most, "", ""])
    ledger.close()
    return table


def fsync_us(folder: Path) -> float:
    """What one fdatasync of a written page costs here."""
    with (folder / "probe").open("wb") as out:
        took = []
        for _ in range(50):
            out.write(b"x" * 4096)
            out.flush()
            started = time.perf_counter()
            os.fdatasync(out.fileno())
            took.append((time.perf_counter() - started) * 1e6)
    return sorted(took)[25]


def slowed(arguments: list[str]) -> dict[str, Any] | None:
    """The same measurements in a child whose fsync takes ``SLOW_FSYNC_US`` longer; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, shim = Path(folder, "slow.c"), Path(folder, "slow.so")
        source.write_text(SHIM.replace("SLOW_US", str(SLOW_FSYNC_US)))
        built = subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", shim, source, "-ldl"], check=False, capture_output=True)
        if built.returncode:
            return None
        child = [sys.executable, __file__, "--json", *arguments]
        out = subprocess.run(child, env=os.environ | {"LD_PRELOAD": str(shim)}, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the time")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON and nothing else")
    parser.add_argument("--folder", default=None, help="where to write; a disk, not a RAM disk")
    asked = parser.parse_args()
    quick = asked.quick or bool(os.environ.get("ANDON_BENCH_SMOKE"))
    seconds, rounds = (0.2, 1) if quick else (1.0, 3)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        found = {"fsync_us": fsync_us(Path(folder)), "rows": measure(Path(folder), seconds, rounds)}
    if asked.json:
        print(json.dumps(found))
        return
    given = (["--quick"] if quick else []) + ([f"--folder={asked.folder}"] if asked.folder else [])
    slow = slowed(given)
    rows = [[what, *numbers, *(slow["rows"][n][1:] if slow else ("", "", ""))] for n, (what, *numbers) in enumerate(found["rows"])]
    second = f"; right, an fdatasync of {slow['fsync_us']:.0f} us (slowed by LD_PRELOAD)" if slow else ""
    report(
        "ledger",
        "The ledger on SQLite beside plain sqlite3",
        ["", "andon", "sqlite3", "ratio", "andon (slow disk)", "sqlite3 (slow disk)", "ratio (slow disk)"],
        rows,
        f"WAL, synchronous=FULL on both; SQLite {sqlite3.sqlite_version}, SQLAlchemy {sqlalchemy.__version__}; plain: one transaction a"
        f" write, a connection a thread; best of {rounds} rounds of {seconds} s; left, an fdatasync of {found['fsync_us']:.0f} us{second}",
    )


if __name__ == "__main__":
    main()
