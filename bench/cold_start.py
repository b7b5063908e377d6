"""How long serving takes to its first 200, from nothing and from sleep, what replicas cost in memory, and what a second one brings."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from _load import Connection, Load
from _report import report
from andon.autoscaling import ServingPolicy, register_serving_policy
from andon.store import open_store
from tests.conftest import ANA
from tests.unit.serving.line import Line, linear_onnx

SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
TIMES = 2 if SMOKE else 7
SECONDS = 0.5 if SMOKE else 3.0
BODY = b'{"rows":[{"x":1,"k":1}]}'
METHOD = (
    "from exec (or, asleep, from connect) to the whole answer of one POST /predict of a small ONNX model, page cache warm; loopback; "
    "median of {times}, lowest beside it; PSS: each page divided by the processes that share it; nothing else was stopped"
)


class Serving:
    """``andon serve`` over a home, with whatever options."""

    def __init__(self, home: str, *options: str) -> None:
        self.began_s = time.perf_counter()
        command = [sys.executable, "-m", "andon", "serve", "bikes", "--home", home, *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as an installed package is
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().strip().rpartition(":")[2])

    def answered(self) -> None:
        """Ask until it says 200."""
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            connection.request("POST", "/predict", BODY)
            answer = connection.getresponse()
            answer.read()
            connection.close()
            if answer.status == 200:
                return
            time.sleep(0.002)

    def replicas(self) -> list[int]:
        return [pid for zygote in children(self.process.pid) for pid in children(zygote)]

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    except OSError:
        return []


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident, and its proportional share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.split(":")[0] in ("Rss", "Pss")}
    return sizes["Rss"], sizes["Pss"]


def make_home(home: Path, *, policy: ServingPolicy | None = None, model: bytes | None = None) -> str:
    with open_store(home) as store:
        line = Line(store, home.parent / f"{home.name}-scratch")
        files: dict[str, str | bytes] = {"model.onnx": model or linear_onnx((2.0, 1.0), 0.0)}
        line.point(line.release(line.model(files, "onnx", "model.onnx")))
        if policy is not None:
            register_serving_policy(store, "bikes", policy, actor=ANA)
    return str(home)


def slow_onnx(target_s: float = 0.001, width: int = 2048) -> bytes:
    """A model that takes about ``target_s`` for each row on one thread, whatever the batch: sines over ``width`` numbers a row."""
    few, many = _seconds(_sines(10, width)), _seconds(_sines(110, width))
    return _sines(max(1, round(target_s / ((many - few) / 100))), width)


def _sines(count: int, width: int) -> bytes:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("MatMul", ["input", "first"], ["h0"])]
    nodes += [helper.make_node("Sin", [f"h{at}"], [f"h{at + 1}"]) for at in range(count)]
    nodes += [helper.make_node("MatMul", [f"h{count}", "last"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("input", TensorProto.DOUBLE, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 1])],
        [numpy_helper.from_array(np.ones((2, width)), "first"), numpy_helper.from_array(np.ones((width, 1)), "last")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def _seconds(model: bytes) -> float:
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options)
    taken = []
    for _ in range(50):
        began_s = time.perf_counter()
        session.run(None, {"input": np.ones((1, 2))})
        taken.append(time.perf_counter() - began_s)
    return min(taken)


def starts(folder: Path) -> list[list[Any]]:
    rows: list[list[Any]] = []
    home = make_home(folder / "plain")
    for what, options in (("fresh process (andon serve)", ()), ("fresh supervisor, zygote and replica (-n 1:1)", ("-n", "1:1"))):
        taken = []
        for _ in range(TIMES):
            serving = Serving(home, *options)
            serving.answered()
            taken.append((time.perf_counter() - serving.began_s) * 1000)
            serving.end()
        rows.append([what, "ms", *_pair(taken), 700.0])
    sleepy = ServingPolicy(min_replicas=0, max_replicas=1, idle_s=0.2)
    serving = Serving(make_home(folder / "sleepy", policy=sleepy))
    serving.answered()
    taken = []
    for _ in range(TIMES):
        while serving.replicas():
            time.sleep(0.01)
        time.sleep(0.3)
        began_s = time.perf_counter()
        serving.answered()
        taken.append((time.perf_counter() - began_s) * 1000)
    serving.end()
    rows.append(["asleep: forked from the zygote", "ms", *_pair(taken), None])
    return rows


def memories(folder: Path) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for count in ("1", "1:1", "2", "4"):
        serving = Serving(str(folder / "plain"), "-n", count)
        serving.answered()
        wanted = 0 if count == "1" else int(count.partition(":")[0])
        while len(serving.replicas()) < wanted:
            time.sleep(0.05)
        time.sleep(1.0)  # until each has loaded and tidied up
        zygotes = children(serving.process.pid) if wanted else []
        everyone = [memory_mib(pid) for pid in (serving.process.pid, *zygotes, *serving.replicas())]
        replicas = [memory_mib(pid) for pid in serving.replicas()] or everyone
        rows.append(
            [
                f"-n {count}",
                round(statistics.mean(rss for rss, _ in replicas), 1),
                round(statistics.mean(pss for _, pss in replicas), 1),
                round(everyone[0][1], 1),
                round(sum(pss for _, pss in everyone), 1),
            ]
        )
        serving.end()
    return rows


def rates(folder: Path) -> list[list[Any]]:
    rows = []
    for name, model in (("7 us", None), ("1 ms", slow_onnx())):
        home = make_home(folder / name.replace(" ", ""), model=model)
        for count in ("1", "2"):
            serving = Serving(home, "-n", count)
            serving.answered()
            while count == "2" and len(serving.replicas()) < 2:
                time.sleep(0.05)
            time.sleep(0.5)
            for connections in (2, 16, 64):
                pids = serving.replicas() or [serving.process.pid]
                before = [_cpu_s(pid) for pid in pids]
                load, client_s = _drive(serving.port, connections)
                spent = [_cpu_s(pid) - was for pid, was in zip(pids, before, strict=True)]
                ordered = sorted(load.latencies_s)
                rate = len(ordered) / SECONDS
                shares = " + ".join(f"{cpu / SECONDS:.2f}" for cpu in spent)
                p50, p99 = (ordered[int(len(ordered) * at)] * 1000 for at in (0.5, 0.99))
                each = round(len(ordered) / max(sum(spent), 0.01))
                said = [round(rate), round(p50, 2), round(p99, 2), shares, each, round(client_s / SECONDS, 2), load.failed + load.dropped]
                rows.append([f"{name}, -n {count}", connections, *said])
            serving.end()
    return rows


def _drive(port: int, connections: int) -> tuple[Load, float]:
    """A closed loop for ``SECONDS``, in this process; and the seconds of CPU that it took."""
    import uvloop

    request = b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
    load = Load(lambda: request)

    async def whole() -> None:
        loop = asyncio.get_running_loop()
        made = [(await loop.create_connection(lambda: Connection(load), "127.0.0.1", port))[1] for _ in range(connections)]
        await asyncio.sleep(SECONDS)
        load.stopped = True
        await asyncio.wait([connection.done for connection in made], timeout=5)

    began_s = time.process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())
    return load, time.process_time() - began_s


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pair(values: list[float]) -> tuple[float, float]:
    return round(statistics.median(values), 1), round(min(values), 1)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = starts(folder)
        report("cold_start", "First answer", ["what", "unit", "median", "lowest", "aim"], found, METHOD.format(times=TIMES))
        columns = ["processes", "RSS of one", "PSS of one", "PSS of the first", "PSS of all"]
        report(
            "replica_memory",
            "Memory of replicas, MiB",
            columns,
            memories(folder),
            "after one answer; -n 1 is one process; else the first is the supervisor, and one more the zygote",
        )
        columns = [
            "model",
            "connections",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "cores of each",
            "requests/s a core",
            "cores of the load",
            "failed",
        ]
        method = (
            f"closed loop for {SECONDS:g} s, one row a request, predictions logged; the load generator shares the {os.cpu_count()} cores"
        )
        report("replica_rates", "Requests a second with one process and with two replicas", columns, rates(folder), method)


if __name__ == "__main__":
    main()
