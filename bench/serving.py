"""Online serving beside its peers: requests a second, latency, memory and cold start, every server driven alone in one run.

    OMP_NUM_THREADS=1 python bench/serving.py

A 7 us model (linear, ONNX Runtime) and a 1 ms model (a scikit-learn forest) at 1, 16 and 64 connections of one row, and 16 of 32 rows.
Peers come from ``BENCH_PEERS``, a folder of virtual environments (made with uv where they are missing); each runs with the batching it
offers, with 1 and with 2 workers, and the better of the two is its figure. The floor and Andon are shown with each, and compared with the
floor of as many processes. The load comes from wrk where it is installed, else from
``_load.py``; what it can do at most is measured and printed. ``BENCH_ONLY=andon,floor`` leaves the others out.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _load import Load, post, quantile
from _report import report

HERE = Path(__file__).resolve().parent
SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
SECONDS = 0.3 if SMOKE else float(os.environ.get("BENCH_SECONDS", "4"))
LOADS = ((1, 1), (16, 1), (64, 1), (16, 32))
FEATURES = 10
ROW = [at + 0.5 for at in range(FEATURES)]
PEERS = Path(os.environ.get("BENCH_PEERS", Path.home() / ".cache" / "andon-bench"))
COMMON = ("numpy", "onnxruntime", "scikit-learn", "setuptools")


@dataclass
class Server:
    """One server: how it is started, and what a request of ``n`` rows is for it."""

    name: str
    command: Sequence[str]
    path: str
    body: Any
    health: str
    packages: tuple[str, ...] = ()
    workers: tuple[int, ...] = (1,)
    start_s: float = 0.0
    megabytes: float = 0.0
    processes: int = 0
    found: dict[tuple[int, tuple[int, int]], tuple[float, float, float, int]] = field(default_factory=dict)
    """(workers, (connections, rows)) -> requests/s, p50 ms, p99 ms, failed."""

    @property
    def ours(self) -> bool:
        """Whether every number of workers is shown: the floor's and Andon's."""
        return self.name == "floor" or self.name.startswith("andon")

    def shown(self, load: tuple[int, int]) -> list[int]:
        """The numbers of workers that a load is shown with."""
        ran = [workers for workers in self.workers if (workers, load) in self.found]
        return ran if self.ours else sorted(ran, key=lambda workers: -self.found[workers, load][0])[:1]


def named(n: int) -> dict[str, Any]:
    return {"rows": [{f"f{at}": value for at, value in enumerate(ROW)}] * n}


def plain(n: int) -> dict[str, Any]:
    return {"rows": [ROW] * n}


def tensor(n: int) -> dict[str, Any]:
    return {"inputs": [{"name": "input", "shape": [n, FEATURES], "datatype": "FP64", "data": ROW * n}]}


ANDON = [sys.executable, "-m", "andon", "serve", "bench", "--port", "{port}"]


def servers() -> list[Server]:
    """Every server there is; commands hold places such as ``{python}``, ``{port}`` and ``{home}``."""
    own = [*ANDON, "--home", "{home}"]
    two = (1, 2)
    script = "{python}"
    return [
        Server("floor", (sys.executable, str(HERE / "_serving/floor.py"), "{port}"), "/predict", named, "/health", workers=two),
        Server("andon", own, "/predict", named, "/health", workers=two),
        Server("andon, OIP JSON", own, "/v2/models/bench/infer", tensor, "/health", workers=two),
        Server(
            "BentoML",
            (script, "-m", "bentoml", "serve", "bento:Bench", "--port", "{port}", "--host", "127.0.0.1"),
            "/predict",
            plain,
            "/readyz",
            ("bentoml",),
            two,
        ),
        Server("LitServe", (script, "lit.py", "{port}"), "/predict", plain, "/health", ("litserve",), two),
        Server(
            "MLServer",
            ("{bin}/mlserver", "start", "{settings}"),
            "/v2/models/bench/infer",
            tensor,
            "/v2/health/ready",
            ("mlserver",),
            two,
        ),
        Server(
            "KServe",
            (script, "ks.py", "{port}"),
            "/v1/models/bench:predict",
            lambda n: {"instances": [ROW] * n},
            "/v2/health/ready",
            ("kserve",),
            two,
        ),
        Server("Ray Serve", (script, "rayserve.py", "{port}"), "/", plain, "/-/healthz", ("ray[serve]",), two),
        Server(
            "MLflow",
            (
                sys.executable,
                "-m",
                "mlflow",
                "models",
                "serve",
                "-m",
                "{mlmodel}",
                "--env-manager",
                "local",
                "-h",
                "127.0.0.1",
                "-p",
                "{port}",
                "-w",
                "{workers}",
            ),
            "/invocations",
            lambda n: {"dataframe_split": {"columns": [f"f{at}" for at in range(FEATURES)], "data": [ROW] * n}},
            "/ping",
            workers=two,
        ),
    ]


def python_of(server: Server) -> str:
    """The peer's Python; its environment is made where it is missing."""
    name = server.packages[0].partition("[")[0]
    folder = PEERS / name
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "-q", "--python", "3.11", str(folder)], check=True)
        subprocess.run(["uv", "pip", "install", "-q", "--python", str(python), *server.packages, *COMMON], check=True)
    return str(python)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def running(server: Server, kind: str, places: dict[str, str], workers: int, scratch: Path) -> Iterator[int]:
    """The server on a free port, ready; ended with all its processes."""
    port = free_port()
    values = {**places, "port": str(port), "workers": str(workers), "python": python_of(server) if server.packages else sys.executable}
    values["bin"] = str(Path(values["python"]).parent)
    if server.name == "MLServer":
        values["settings"] = str(mlserver_settings(scratch / f"mlserver-{kind}-{workers}", port, workers))
    command = [part.format(**values) for part in server.command]
    if server.name.startswith("andon") and workers > 1:
        command += ["-n", str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BENCH_MODEL": places["model"], "BENCH_WORKERS": str(workers)}
    environment |= {
        "PYTHONPATH": str(HERE / "_serving"),
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as an installed package is
    began = time.perf_counter()
    with (scratch / f"{server.name.split(',')[0].replace(' ', '')}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=HERE / "_serving", stdout=log, stderr=log, start_new_session=True, env=environment)
        try:
            while not answers(port, server):
                assert process.poll() is None, f"{server.name} ended: {Path(log.name).read_text()[-2_000:]}"
                assert time.perf_counter() - began < 120, f"{server.name} does not answer: {Path(log.name).read_text()[-2_000:]}"
                time.sleep(0.01)
            if workers == 1:
                server.start_s = server.start_s or time.perf_counter() - began
            yield port
            if workers == 1:
                server.megabytes, server.processes = weigh(process.pid)
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """The process and everything of its session."""
    members = [pid for pid in session(process.pid) if pid != process.pid]
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for pid in {*members, *session(process.pid)}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def session(leader: int) -> list[int]:
    """Processes of a session, and their children that left it (Ray's)."""
    parents: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = (int(fields[1]), int(fields[3]))
    found = {pid for pid, (_, sid) in parents.items() if sid == leader}
    while more := {pid for pid, (parent, _) in parents.items() if parent in found and pid not in found}:
        found |= more
    return sorted(found)


def weigh(leader: int) -> tuple[float, int]:
    """Resident megabytes, shared pages counted once (PSS), and the number of processes."""
    total, members = 0, session(leader)
    for pid in members:
        with contextlib.suppress(OSError):
            total += int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1])  # type: ignore[index]
    return total / 1024, len(members)


def mlserver_settings(folder: Path, port: int, workers: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "debug": False}
    settings |= {"parallel_workers": 0 if workers == 1 else workers, "metrics_endpoint": None}
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "bench", "implementation": "mls.Bench", "max_batch_size": 64, "max_batch_time": 0.0005}
    (folder / "model-settings.json").write_text(json.dumps(model))
    return folder


def answers(port: int, server: Server) -> bool:
    """Whether a whole request gets its answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{server.path}", json.dumps(server.body(1)).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def drive(port: int, path: str, body: bytes, connections: int, seconds: float) -> tuple[float, float, float, int]:
    """Requests a second, p50 and p99 in ms, and what failed."""
    if shutil.which("wrk") and not SMOKE:
        return wrk(port, path, body, connections, seconds)
    import uvloop

    request = post(path, body)
    load = Load(lambda: request)
    began = time.perf_counter()
    uvloop.run(load.run(port, connections, seconds))
    spent = time.perf_counter() - began
    latencies = load.latencies_s
    return len(latencies) / spent, quantile(latencies, 0.5) * 1e3, quantile(latencies, 0.99) * 1e3, load.failed + load.dropped


FOUND = """
done = function(s, l, r)
  local e = s.errors
  io.write(string.format('\\nFOUND %d %d %d %d ', s.requests, s.duration, l:percentile(50), l:percentile(99)))
  io.write(string.format('%d %d %d\\n', e.status, e.connect + e.read + e.write, e.timeout))
end
"""


def wrk(port: int, path: str, body: bytes, connections: int, seconds: float) -> tuple[float, float, float, int]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method = 'POST'\nwrk.body = [==[{body.decode()}]==]\nwrk.headers['Content-Type'] = 'application/json'\n{FOUND}")
        script.flush()
        command = [
            "wrk",
            "-t",
            "1",
            "-c",
            str(connections),
            "-d",
            f"{max(1, round(seconds))}s",
            "-s",
            script.name,
            f"http://127.0.0.1:{port}{path}",
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    n, micros, p50, p99, bad, broken, late = (int(word) for word in said.partition("FOUND ")[2].split())
    return (n - bad) / (micros / 1e6), p50 / 1e3, p99 / 1e3, bad + broken + late


def make_home(home: Path, kind: str, model: Path) -> None:
    """A home whose production release is this model: as Andon saves it, or as scikit-learn's own."""
    import numpy as np

    from andon.core.actors import Actor
    from andon.models import Column, Signature, save_model
    from andon.registry import get
    from andon.releases import Pin
    from andon.store import open_store
    from tests.unit.serving.line import Line

    inputs = tuple(Column(f"f{at}", "double") for at in range(FEATURES))
    example = tuple(named(1)["rows"])
    with open_store(home) as store:
        line = Line(store, home / "scratch", "bench")
        if kind == "7 us":
            signature = Signature(inputs, (Column("y", "double"),))
            line.point(line.onnx(tuple(range(FEATURES)), 1.0, signature=signature, example=example))
            return
        rows = np.random.default_rng(0).normal(size=(50, FEATURES))
        columns = {f"f{at}": rows[:, at] for at in range(FEATURES)}
        estimator = pickle.loads(model.read_bytes())
        form = "skops" if "native" in kind else None
        kept = save_model(store, estimator, name="bench", actor=Actor("person", "bench"), example=columns, format=form)
        pin = Pin(str(kept.address), get(store, kept.address).digest)
        line.point(line.release(pin, signature=Signature(inputs, (Column("prediction", "double"),)), example=example))


def make_mlmodel(folder: Path, model: Path) -> None:
    """The same model as MLflow keeps it; its ``pyfunc`` runs it on a frame."""
    code = f"""
import os
import mlflow
os.environ["BENCH_MODEL"] = {str(model)!r}
from model import load

class Bench(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        os.environ["BENCH_MODEL"] = {str(model)!r}
        from model import load
        self.model = load()
    def predict(self, context, model_input, params=None):
        return self.model(model_input.to_numpy(dtype="float64"))

mlflow.pyfunc.save_model({str(folder)!r}, python_model=Bench(), pip_requirements=[])
"""
    environment = {**os.environ, "PYTHONPATH": str(HERE / "_serving"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run([sys.executable, "-c", code], check=not SMOKE, capture_output=True, env=environment)


def make_models(scratch: Path) -> dict[str, Path]:
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor

    from tests.unit.serving.line import linear_onnx

    cheap, dear = scratch / "cheap.onnx", scratch / "dear.pickle"
    cheap.write_bytes(linear_onnx(tuple(range(FEATURES)), 1.0))
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2_000, FEATURES))
    forest = RandomForestRegressor(n_estimators=24, max_depth=8, random_state=0).fit(rows, rows[:, 0] * 2 + rows[:, 1] ** 2)
    dear.write_bytes(pickle.dumps(forest))
    return {"7 us": cheap, "1 ms": dear}


def measure(server: Server, kind: str, places: dict[str, str], scratch: Path) -> None:
    """Every load with each number of workers."""
    for workers in server.workers:
        for_each = LOADS if not SMOKE else LOADS[:1]
        with running(server, kind, places, workers, scratch) as port:
            drive(port, server.path, json.dumps(server.body(1)).encode(), 16, 1)  # warm
            for load in for_each:
                connections, rows = load
                server.found[workers, load] = drive(port, server.path, json.dumps(server.body(rows)).encode(), connections, SECONDS)


def ceiling() -> list[float]:
    """Requests a second that the load generator gets from a server that does nothing, at each number of connections."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(HERE / "_serving/ceiling.py"), str(port)])
    try:
        while True:
            with contextlib.suppress(OSError), contextlib.closing(socket.create_connection(("127.0.0.1", port), 1)):
                break
            time.sleep(0.02)
        return [drive(port, "/", json.dumps(named(rows)).encode(), connections, min(SECONDS, 2))[0] for connections, rows in LOADS]
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    only = [name.strip() for name in os.environ.get("BENCH_ONLY", "floor,andon" if SMOKE else "").split(",") if name.strip()]
    with tempfile.TemporaryDirectory(prefix="andon-bench-") as name:
        scratch = Path(name)
        most = ceiling()
        for kind, model in make_models(scratch).items():
            places = {
                "model": str(model),
                "home": str(scratch / f"home-{kind.replace(' ', '')}"),
                "mlmodel": str(scratch / f"mlmodel-{kind[0]}"),
            }
            make_home(Path(places["home"]), kind, model)
            make_mlmodel(Path(places["mlmodel"]), model)
            compare(kind, places, only, most, scratch)


def compare(kind: str, places: dict[str, str], only: Sequence[str], most: Sequence[float], scratch: Path) -> None:
    subjects = [server for server in servers() if not only or server.name in only]
    if kind == "1 ms":
        places["native"] = places["home"] + "-native"
        make_home(Path(places["native"]), "1 ms, native", Path(places["model"]))
        own = [*ANDON, "--home", "{native}"]
        subjects += [Server("andon, scikit-learn in a process", own, "/predict", named, "/health", workers=(1, 2))] if not SMOKE else []
    for server in subjects:
        try:
            measure(server, kind, places, scratch)
        except (AssertionError, subprocess.CalledProcessError) as error:
            print(f"{server.name}: {error}", file=sys.stderr)
    floor = next(server for server in subjects if server.name == "floor")
    table: list[list[object]] = []
    for at, load in enumerate(LOADS):
        peers = [server.found[workers, load][0] for server in subjects if not server.ours for workers in server.shown(load)]
        for server in subjects:
            for workers in server.shown(load):
                rate, p50, p99, bad = server.found[workers, load]
                bare = floor.found.get((workers, load))
                of_floor = rate / bare[0] if bare else float("nan")
                against = rate / max(peers) if peers else float("nan")
                table.append([server.name, workers, *load, rate, of_floor, against, p50, p99, bad, f"{most[at]:,.0f}"])
    said = [f"{s.name}: first answer {s.start_s:.2f} s, {s.megabytes:.0f} MB in {s.processes}" for s in subjects if s.start_s]
    generator = "wrk, 1 thread" if shutil.which("wrk") and not SMOKE else "_load.py"
    report(
        f"serving_{kind.replace(' ', '_')}",
        f"Online serving, a {kind} model of {FEATURES} inputs",
        [
            "server",
            "processes",
            "connections",
            "rows",
            "requests/s",
            "of the floor",
            "of the best peer",
            "p50 ms",
            "p99 ms",
            "failed",
            "generator's ceiling",
        ],
        table,
        f"closed loop, {SECONDS:g} s a load after a second of warming, {generator}, on the same 2 cores; the floor and andon "
        f"with 1 and with 2 processes, each of the floor of as many; of the peers' 1 and 2 the better; "
        f"memory is PSS with 1 worker; {'; '.join(said)}",
    )


if __name__ == "__main__":
    main()
