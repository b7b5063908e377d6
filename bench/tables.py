"""How fast rows become durable, become parts, and are added up. ``python bench/tables.py`` (a minute); ``--quick`` for a smoke test.

Each row stands beside its floor, measured in the same run: the same Arrow bytes written and fdatasynced by hand, ``pyarrow`` writing the
same Parquet, DuckDB alone reading the same files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from _report import report
from andon.core.clocks import SystemClock
from andon.core.ids import Ids
from andon.core.settings import Settings
from andon.store.ledger import open_ledger
from andon.store.tables.files import FileTables

UTC = pa.timestamp("us", "UTC")
START_US = 1_700_000_000_000_000


def batch(rows: int, seed: int = 0) -> pa.RecordBatch:
    """A prediction log's rows: two times, an id, a model, ten numbers and an answer."""
    dice = np.random.default_rng(seed)
    times = pa.array(START_US + seed * rows + np.arange(rows), pa.int64()).cast(UTC)
    models = [f"model:m{n}@1" for n in range(8)]
    return pa.record_batch(
        {
            "event_time": times,
            "arrival_time": times,
            "request": pa.array([f"{seed:08x}{n:08x}" for n in range(rows)]),
            "model": pa.array([models[n] for n in dice.integers(0, 8, rows)]),
            **{f"x{n}": pa.array(dice.normal(size=rows)) for n in range(10)},
            "answer": pa.array(dice.normal(size=rows)),
        }
    )


def in_threads(threads: int, seconds: float, work: Callable[[int], Any]) -> tuple[int, float]:
    """Call ``work`` over and over in each thread; calls made, and seconds taken."""
    counts = [0] * threads
    until = time.perf_counter() + seconds

    def run(thread: int) -> None:
        while time.perf_counter() < until:
            work(thread)
            counts[thread] += 1

    began = time.perf_counter()
    running = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts), time.perf_counter() - began


def appends(home: Path, seconds: float) -> list[list[Any]]:
    """Appending, by threads, durability and size of batch."""
    rows = []
    for threads in (1, 8):
        for durable in (True, False):
            for size in (1, 100, 1000):
                given = batch(size)
                with Opened(home) as tables:
                    calls, took = in_threads(threads, seconds, lambda _: tables.append("bench", given, durable=durable))  # noqa: B023 - called in this turn
                floor_calls, floor_took = in_threads(threads, seconds, Floor(home, given, durable))
                shutil.rmtree(home)
                label = f"append, {size:,} a batch, {threads} thread{'s' if threads > 1 else ''}, {'durable' if durable else '50 ms'}"
                ours, floor = calls * size / took, floor_calls * size / floor_took
                rows.append([label, int(ours), int(floor), ours / floor, took / calls * threads * 1e6])
    return rows


class Floor:
    """The same bytes, serialized and written by hand, each thread to a file of its own."""

    def __init__(self, home: Path, given: pa.RecordBatch, durable: bool) -> None:
        home.mkdir(exist_ok=True)
        self._files = [os.open(home / f"floor{n}", os.O_WRONLY | os.O_CREAT) for n in range(8)]
        self._given = given
        self._durable = durable

    def __call__(self, thread: int) -> None:
        os.write(self._files[thread], self._given.serialize())
        if self._durable:
            os.fdatasync(self._files[thread])

    def __del__(self) -> None:
        for file in self._files:
            os.close(file)


class Opened:
    """Tables over a ledger in ``home``."""

    def __init__(self, home: Path) -> None:
        home.mkdir(exist_ok=True)
        self._ledger = open_ledger(Settings(home=str(home)))
        self.tables = FileTables(self._ledger, home / "tables", home / "inbox", SystemClock(), Ids())

    def __enter__(self) -> FileTables:
        return self.tables

    def __exit__(self, *_: object) -> None:
        self.tables.close()
        self._ledger.close()


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def seals_and_sums(home: Path, total: int, size: int) -> list[list[Any]]:
    """Sealing ``total`` rows that came ``size`` at a time, then adding them up."""
    rows = []
    with Opened(home) as tables:
        for n in range(total // size):
            tables.append("bench", batch(size, n), durable=False)
        seal_s = timed(tables.seal)
        files = [str(tables.root / part.path) for part in tables.parts("bench")]
        write_s = _bare_write_s(files, home / "floor.parquet")
        rows.append([f"seal {total:,} rows", int(total / seal_s), int(total / write_s), write_s / seal_s, seal_s * 1e6])
        alone = duckdb.connect()
        asked = "select model, date_trunc('minute', event_time) as at, count(*) as n, sum(x0) as s, avg(answer) as a from {} group by all"
        first_s = timed(lambda: tables.query(asked.format('"bench"')))
        ours_s = min(timed(lambda: tables.query(asked.format('"bench"'))) for _ in range(5))
        floor_s = min(timed(lambda: alone.sql(asked.format(f"read_parquet({files})")).to_arrow_table()) for _ in range(5))
        rows.append([f"group by over {total:,} rows, warm", int(total / ours_s), int(total / floor_s), floor_s / ours_s, ours_s * 1e6])
        rows.append(
            [
                f"group by over {total:,} rows, first (proves every part)",
                int(total / first_s),
                int(total / floor_s),
                floor_s / first_s,
                first_s * 1e6,
            ]
        )
        tables.append("bench", batch(1000, 1))
        fresh_s = min(
            timed(lambda: tables.query("select count(*) as n from bench where event_time > make_timestamptz(?)", [START_US]))
            for _ in range(20)
        )
        rows.append(["count with 1,000 unsealed rows", int(total / fresh_s), 0, 0.0, fresh_s * 1e6])
    return rows


def _bare_write_s(files: list[str], path: Path) -> float:
    rows = pq.read_table(files)
    return timed(lambda: pq.write_table(rows, path, compression="zstd", compression_level=3, row_group_size=122_880))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    folder = Path(tempfile.mkdtemp(prefix="andon-bench-"))
    try:
        rows = appends(folder / "a", 0.1 if quick else 1.5)
        rows += seals_and_sums(folder / "s", 200_000 if quick else 10_000_000, 10_000)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(
        "tables-quick" if quick else "tables",
        "Tables: rows a second",
        ["work", "rows/s", "floor rows/s", "of floor", "us a call"],
        rows,
        "rows of 15 columns; durable = acknowledged after an fdatasync shared by the threads that wait, 50 ms = after write, fdatasync "
        "within 50 ms; floor: the same Arrow bytes serialized, written and (durable) fdatasynced by hand, a file for each thread; "
        "pyarrow writing the sealed rows to one Parquet file, unsorted, no fsync; DuckDB alone on the same files; "
        f"DuckDB {duckdb.__version__}, pyarrow {pa.__version__}",
    )


if __name__ == "__main__":
    main()
