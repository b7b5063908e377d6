"""Runs under kill -9 and many writers: what was acknowledged is there, nothing is there twice, and the dead are called dead."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from andon.core.actors import Actor
from andon.store import Store, open_store
from andon.tracking import create_run, get_run, list_runs, log_batch, metric_series, metrics_of, settle_runs

ANA = Actor("person", "ana")

LOGGER = """
import sys
from andon.core.actors import Actor
from andon.store import open_store
from andon.tracking import start_run
store = open_store(sys.argv[1])
run = start_run(store, "kill", actor=Actor("person", "ana"), capture=False)
print("run", run.id, flush=True)
step = 0
while True:
    for _ in range(137):
        run.log({"loss": step / 7, "other": 1.0}, step=step)
        step += 1
    run.flush()
    print("acknowledged", step, flush=True)
"""

WRITER = """
import sys
from andon.core.actors import Actor
from andon.store import open_store
from andon.tracking import join_run
home, run, writer, points = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with open_store(home) as store, join_run(store, run, actor=Actor("person", "ana")) as joined:
    for n in range(points):
        joined.log({"shared": float(writer * points + n), f"own{writer}": float(n)}, step=n)
"""

ENDING = """
import sys
from andon.core.actors import Actor
from andon.store import open_store
from andon.tracking import start_run
store = open_store(sys.argv[1])
run = start_run(store, "exit", actor=Actor("person", "ana"), capture=False)
run.log({"a": 1.0})
if sys.argv[2] == "error":
    1 / 0
"""


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], text=True, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("seed", range(4))
def test_what_was_acknowledged_outlives_kill_9(disk_store: Store, seed: int):
    child = python(LOGGER, disk_store.settings.home, stdout=subprocess.PIPE)
    assert child.stdout is not None
    run = child.stdout.readline().split()[1]
    acknowledged = 0
    deadline = time.monotonic() + random.Random(seed).uniform(0.05, 0.6)
    while time.monotonic() < deadline:
        acknowledged = int(child.stdout.readline().split()[1])
    assert get_run(disk_store, run).status == "running"
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().splitlines()
    child.wait()
    child.stdout.close()
    acknowledged = max([acknowledged, *(int(line.split()[1]) for line in rest if line.startswith("acknowledged ") and line[-1].isdigit())])

    found = metric_series(disk_store, run, "loss")
    assert found.steps.tolist() == list(range(len(found.steps)))  # a whole beginning: no gap, nothing twice
    assert len(found.steps) >= acknowledged > 0
    assert found.values.tolist() == [step / 7 for step in range(len(found.steps))]
    metric = metrics_of(disk_store, run)["loss"]
    assert (metric.count, metric.step) == (len(found.steps), len(found.steps) - 1)
    assert get_run(disk_store, run).status == "killed"
    assert settle_runs(disk_store, actor=ANA) == [run]
    settled = get_run(disk_store, run)
    assert settled.ended_us is not None
    assert settled.ended_us >= int(found.at_us[-1])


def test_eight_processes_write_one_run_none_lost_none_twice(disk_store: Store):
    run = create_run(disk_store, actor=ANA).id
    writers, points = 8, 2_000
    children = [python(WRITER, disk_store.settings.home, run, writer, points) for writer in range(writers)]
    assert [child.wait(120) for child in children] == [0] * writers
    shared = metric_series(disk_store, run, "shared")
    assert sorted(shared.values.tolist()) == [float(n) for n in range(writers * points)]
    found = metrics_of(disk_store, run)
    assert (found["shared"].count, found["shared"].min, found["shared"].max) == (writers * points, 0.0, float(writers * points - 1))
    assert found["shared"].step == points - 1
    for writer in range(writers):
        assert metric_series(disk_store, run, f"own{writer}").values.tolist() == [float(n) for n in range(points)]
        assert found[f"own{writer}"].count == points


def test_threads_share_a_run_too(disk_store: Store):
    from concurrent.futures import ThreadPoolExecutor

    run = create_run(disk_store, actor=ANA).id

    def write(writer: int) -> None:
        for batch in range(10):
            rows = [("a", float(writer), batch * 50 + n, writer) for n in range(50)] + [(f"k{n}", 1.0, batch, writer) for n in range(20)]
            log_batch(disk_store, run, metrics=rows, params={"p": "same"}, actor=ANA)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = metrics_of(disk_store, run)
    assert found["a"].count == 8 * 500
    assert {found[f"k{n}"].count for n in range(20)} == {80}


@pytest.mark.parametrize(("how", "status"), [("well", "finished"), ("error", "failed")])
def test_a_run_without_a_block_ends_with_the_program(tmp_path: Path, how: str, status: str):
    home = tmp_path / ".andon"
    child = python(ENDING, home, how, stderr=subprocess.PIPE)
    assert child.stderr is not None
    child.communicate(timeout=60)
    with open_store(home) as store:
        [run] = list_runs(store, "exit")
        assert run.status == status
        assert metrics_of(store, run.id)["a"].count == 1
