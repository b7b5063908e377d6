"""A batch job is killed at every boundary of a part and at random moments, and run again: each input row is in the output exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from andon.operations.showing.jobs import job_view, jobs_view
from andon.serving.offline.outputs import read_bound
from andon.store import Store
from andon.tracking import get_run
from tests.unit.serving.line import Line

ROWS, PART = 40_000, 2_500


def begin(home: str, source: Path, out: Path, fault: str = "") -> subprocess.Popen[bytes]:
    command = ["predict", "release:bikes@1", str(source), "-o", str(out), "--part-rows", str(PART), "--home", home, "--resume", "--json"]
    environment = os.environ | {"ANDON_FAULT": fault, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "andon", *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> int:
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), said.decode()
    return process.returncode


def test_each_row_is_there_exactly_once_after_every_kill(disk_store: Store, tmp_path: Path) -> None:
    Line(disk_store, tmp_path / "scratch").onnx()
    ids = np.arange(ROWS)
    x = ids / 8
    x[::1000] = np.nan  # some rows fail
    source, out, home = tmp_path / "in.parquet", tmp_path / "out", disk_store.settings.home
    pq.write_table(pa.table({"id": ids, "x": x, "k": ids % 7}), source, row_group_size=9_000)
    for fault in ("batch.written:3", "batch.renamed:3", "batch.renamed:2", "batch.recorded:2"):
        assert end(begin(home, source, out, fault)) == -signal.SIGKILL
    chance = random.Random(4)  # where in the work it strikes does not matter, only that the next one copes
    process = begin(home, source, out)
    until = time.monotonic() + chance.uniform(0.4, 1.2)
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    end(process)
    bound = read_bound(out)
    assert bound is not None
    lost = job_view(disk_store, bound.job).job
    assert lost.state in ("lost", "finished"), "a job whose process was killed is not shown as running"
    assert end(begin(home, source, out)) == 0

    found = pa.concat_tables([pq.read_table(part) for part in sorted(out.glob("part-*.parquet"))])
    failed = pa.concat_tables([pq.read_table(part) for part in sorted((out / "_errors").glob("*.parquet"))])
    assert failed["row"].to_pylist() == list(range(0, ROWS, 1000))
    assert found["id"].to_pylist() == [i for i in range(ROWS) if i % 1000]
    assert found["y"].to_numpy().tolist() == [2 * (i / 8) + i % 7 for i in range(ROWS) if i % 1000]
    assert not [*out.glob(".part*"), *(out / "_errors").glob(".part*")]
    view = job_view(disk_store, bound.job)
    assert (view.job.state, view.job.rows, view.job.errors) == ("finished", ROWS - 40, 40)
    assert sum(event.type == "resumed" for event in view.events) > 3
    assert len(jobs_view(disk_store).jobs) == 1, "all attempts are one job"
    assert get_run(disk_store, bound.run).status == "finished"
