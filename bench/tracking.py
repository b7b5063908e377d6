"""Tracking over HTTP with the unmodified MLflow client: ours, `mlflow server` with 1 and 4 workers, and a server that answers nothing.

    OMP_NUM_THREADS=1 python bench/tracking.py

Each server is started, driven and stopped alone, in one run; "floor" is uvicorn with uvloop giving each request a canned answer, so it is
what the client itself costs. ``BENCH_ONLY=ours`` leaves the others out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _load import Load, post, quantile
from _many_runs import into_andon, into_mlflow
from _report import report

HERE = Path(__file__).resolve().parent
SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
SIZES = [50] if SMOKE else [2_000, 20_000, 100_000]
SERIAL = ["create_run", "log_metric", "log_param", "log_batch_1", "log_batch_4", "registry_write", "alias_read"]
WRITES = [*SERIAL, "params_and_metrics", "artifact", "history", "spans"]


@dataclass
class Subject:
    """A server and what was measured of it."""

    name: str
    ready_s: float = 0.0
    megabytes: float = 0.0
    processes: int = 0
    found: dict[str, Any] = field(default_factory=dict)


def andon(home: Path) -> list[str]:
    return [str(Path(sys.executable).parent / "andon"), "up", "--home", str(home), "--port", "0", "--no-serve"]


def mlflow(folder: Path, port: int, workers: int) -> list[str]:
    stores = ["--backend-store-uri", f"sqlite:///{folder / 'm.db'}", "--artifacts-destination", str(folder / "artifacts")]
    return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers), *stores]


def free_port() -> int:
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], subject: Subject, url: str | None = None) -> Iterator[str]:
    """Start a server, wait for its first 200 (timed from the start), and end it with its children."""
    began = time.perf_counter()
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1"}
    # A pipe only where the first line says the address: a server that logs would fill it, and then stop for good.
    out = subprocess.PIPE if url is None else subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True, env=os.environ | quiet)
    try:
        if url is None:
            assert process.stdout is not None
            url = process.stdout.readline().decode().rpartition(": ")[2].strip()
        while True:
            try:
                with urllib.request.urlopen(url + "/health", timeout=2) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.perf_counter() - began < 120, "the server does not answer"
                time.sleep(0.01)
        subject.ready_s = subject.ready_s or time.perf_counter() - began
        yield url
        subject.megabytes, subject.processes = _weigh(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _weigh(pid: int) -> tuple[float, int]:
    """Resident megabytes and number of the processes of a session."""
    total, count = 0, 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == pid:
                total += int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                count += 1
    return total / 1e6, count


def drive(url: str, *work: str) -> dict[str, Any]:
    """The client's measurements, in a process of its own."""
    done = subprocess.run([sys.executable, str(HERE / "_mlflow_client.py"), url, *work], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_andon(scratch: Path) -> Subject:
    subject, home = Subject("andon"), scratch / "andon"
    with running(andon(home), subject) as url:
        subject.found |= drive(url, *WRITES)
        subject.found |= raw(url)
    for size, first in zip(SIZES, [0, *SIZES], strict=False):
        into_andon(home, size, first=first)
        with running(andon(home), subject) as url:
            subject.found |= {f"{key} {size}": value for key, value in drive(url, "search", "search_newest").items()}
    return subject


def measure_mlflow(scratch: Path, workers: int) -> Subject:
    subject, folder = Subject(f"mlflow, {workers} worker{'s' if workers > 1 else ''}"), scratch / f"mlflow{workers}"
    folder.mkdir()
    port = free_port()
    with running(mlflow(folder, port, workers), subject, f"http://127.0.0.1:{port}") as url:
        subject.found |= drive(url, *WRITES)
    for size, first in zip(SIZES, [0, *SIZES], strict=False):
        into_mlflow(folder / "m.db", size, first=first)
        port = free_port()
        with running(mlflow(folder, port, workers), subject, f"http://127.0.0.1:{port}") as url:
            subject.found |= {f"{key} {size}": value for key, value in drive(url, "search", "search_newest").items()}
    return subject


def measure_floor() -> Subject:
    subject = Subject("floor")
    with running([sys.executable, str(HERE / "_floor.py")], subject) as url:
        subject.found |= drive(url, *SERIAL)
    return subject


def raw(url: str) -> dict[str, float]:
    """Our own capacity under a load generator that costs little: durable points/s, and creates and single points a second."""
    port = int(url.rpartition(":")[2])
    base = "/api/2.0/mlflow/"

    def ask(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(url + base + path, json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    experiment = ask("experiments/create", {"name": f"raw {time.time_ns()}"})["experiment_id"]
    seconds, found = 0.3 if SMOKE else 4.0, {}
    for connections in (1, 4):
        runs = [ask("runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"] for _ in range(4)]

        def batch(at: int, runs: list[str] = runs) -> bytes:
            rows = (f'{{"key":"loss","value":{n / 7!r},"timestamp":1760000000000,"step":{n}}}' for n in range(at * 1_000, (at + 1) * 1_000))
            return post(base + "runs/log-batch", f'{{"run_id":"{runs[at % 4]}","metrics":[{",".join(rows)}]}}'.encode())

        made = iter([batch(at) for at in range(20 if SMOKE else 1_500)])  # before the clock starts: the generator shares our two cores
        times: list[float] = []
        load = Load(lambda made=made: next(made, None), lambda _head, _body, sent, received, times=times: times.extend((sent, received)))
        asyncio.run(load.run(port, connections, 3 * seconds))
        assert not load.failed
        found[f"raw points {connections}"] = len(load.latencies_s) * 1_000 / (max(times) - min(times))
        found[f"raw points {connections}, p99 ms a batch"] = quantile(load.latencies_s, 0.99) * 1e3
    runs = [ask("runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]]
    create = f'{{"experiment_id":"{experiment}","start_time":1760000000000,"tags":[{{"key":"mlflow.user","value":"ana"}}]}}'
    point = f'{{"run_id":"{runs[0]}","key":"x","value":0.5,"timestamp":%d,"step":0}}'
    for name, path, body in (("raw create_run", "runs/create", create), ("raw log_metric", "runs/log-metric", point)):
        numbers = iter(range(10**9))

        def one(path: str = path, body: str = body, numbers: Iterator[int] = numbers) -> bytes:
            return post(base + path, (body % next(numbers) if "%d" in body else body).encode())

        load = Load(one)
        asyncio.run(load.run(port, 16, seconds))
        assert not load.failed
        found[name], found[f"{name} p99 ms"] = len(load.latencies_s) / seconds, quantile(load.latencies_s, 0.99) * 1e3
    return found


ROWS = [
    ("create_run /s", "create_run", True),
    ("log_metric /s", "log_metric", True),
    ("log_param /s", "log_param", True),
    ("log_batch(1,000), 1 thread, points/s", "log_batch_1", True),
    ("log_batch(1,000), 4 threads, points/s", "log_batch_4", True),
    ("whole runs (create, 40 values, end) /s", "params_and_metrics", True),
    ("create_model_version /s", "registry_write", True),
    ("get_model_version_by_alias /s", "alias_read", True),
    ("spans of 2.5 KB by OTLP, 1 connection, durable here, /s", "spans", True),
    *((f"search, filter and order, top 50 of {size:,} runs, ms", f"search {size}", False) for size in SIZES),
    *((f"search, newest 50 of {size:,} runs, ms", f"search_newest {size}", False) for size in SIZES),
    ("history of 100,000 points, ms", "history", False),
]


def rows(ours: Subject, floor: Subject | None, peers: list[Subject]) -> list[list[Any]]:
    made: list[list[Any]] = []

    def line(name: str, values: list[float | None], bare: float | None, *, more_is_better: bool) -> None:
        theirs = [value for value in values[1:] if value is not None]
        best = (max if more_is_better else min)(theirs, default=None)
        mine = values[0]
        assert mine is not None
        ratio = "" if best is None else f"{mine / best if more_is_better else best / mine:.1f} x"
        made.append(
            [
                name,
                mine,
                *("" if value is None else value for value in values[1:]),
                "" if bare is None else bare,
                ratio,
                "" if bare is None else f"{100 * mine / bare:.0f} %",
            ]
        )

    for name, key, more in ROWS:
        bare = floor.found.get(key) if floor is not None else None
        line(name, [ours.found[key], *(peer.found.get(key) for peer in peers)], bare, more_is_better=more)
    for at, name in enumerate(("100 MB artifact up, MB/s", "100 MB artifact down, MB/s")):
        line(name, [ours.found["artifact"][at], *(peer.found["artifact"][at] for peer in peers)], None, more_is_better=True)
    line("start to first 200, s", [ours.ready_s, *(peer.ready_s for peer in peers)], None, more_is_better=False)
    line("memory after the work, MB", [ours.megabytes, *(peer.megabytes for peer in peers)], None, more_is_better=False)
    made.append(["processes", ours.processes, *(peer.processes for peer in peers), "", "", ""])
    return made


def main() -> None:
    only = os.environ.get("BENCH_ONLY")
    with tempfile.TemporaryDirectory(prefix="andon-bench-") as scratch:
        folder = Path(scratch)
        floor = measure_floor() if only != "ours" else None
        ours = measure_andon(folder)
        peers = [measure_mlflow(folder, workers) for workers in ((1,) if SMOKE else (1, 4))] if only != "ours" else []
    made = rows(ours, floor, peers)
    columns = ["work", "andon", *(peer.name for peer in peers), "floor", "against the best peer", "of the floor"]
    method = (
        "the stock client of MLflow 3.17.2, one process, against each server alone; andon: SQLite in WAL, synchronous=FULL, acknowledged"
        " when on disk; mlflow: SQLite as installed, artifacts proxied; floor: the same client against a server that answers nothing"
    )
    report("tracking", "The unmodified MLflow client", columns, made, method)
    capacity = [[name, value] for name, value in ours.found.items() if name.startswith("raw ")]
    how = "points: batches of 1,000 of one metric, over 1 and 4 connections; the others over 16 connections; durable as above"
    report(
        "tracking_capacity", "The MLflow endpoints under a raw load generator on the same cores", ["work", "a second, or ms"], capacity, how
    )


if __name__ == "__main__":
    main()
