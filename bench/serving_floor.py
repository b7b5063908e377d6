"""Requests per second and latency of ``andon serve`` for a small ONNX model, beside the bare libraries doing the same work.

The floor is uvicorn (uvloop, httptools), msgspec and ONNX Runtime with requests of one event-loop turn in one batch, and nothing else: no
validation, no prediction log, no metrics, no releases. Both servers are driven by the same generator, one after the other, in one run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _load import Load, post, quantile
from _report import report

FEATURES = 10
SECONDS = float(os.environ.get("BENCH_SECONDS", "1"))
ROUNDS = 5
FLOOR = """
import asyncio, socket, sys
import msgspec, numpy as np, onnxruntime as ort, uvicorn, uvloop

options = ort.SessionOptions(); options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
queue = []

def flush():
    batch = queue[:]; queue.clear()
    rows = [row for item in batch for row in item[0]]
    made = session.run(None, {"input": np.array([list(row.values()) for row in rows])})[0][:, 0].tolist()
    at = 0
    for part, future in batch:
        future.set_result(made[at:at + len(part)]); at += len(part)

async def app(scope, receive, send):
    message = await receive()
    rows = msgspec.json.decode(message["body"])["rows"]
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    if not queue:
        loop.call_soon(flush)
    queue.append((rows, future))
    body = msgspec.json.encode({"outputs": [{"y": y} for y in await future]})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(1024)
print("floor on http://127.0.0.1:%d" % listener.getsockname()[1], flush=True)
config = uvicorn.Config(app, http="httptools", loop="uvloop", access_log=False, log_config=None, lifespan="off", proxy_headers=False)
uvloop.run(uvicorn.Server(config).serve(sockets=[listener]))
"""


def start(*arguments: str) -> tuple[subprocess.Popen[str], int, float]:
    """A server, its port, and the seconds until it answered its first request."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    port = int(process.stdout.readline().rpartition(":")[2])
    return process, port, started


def first_answer_s(port: int, request: bytes, started: float) -> float:
    import socket

    while True:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request)
            if b" 200 " in connection.recv(4096)[:20]:
                return time.perf_counter() - started
        time.sleep(0.005)


def memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def cpu_s(pid: int) -> float:
    """Processor time of a process: it hardly depends on what else the machine does."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make_release(home: Path) -> Path:
    """A home with one linear ONNX release of ``FEATURES`` inputs in production; returns the model's file."""
    from andon.models import Column, Signature
    from andon.store import open_store
    from tests.unit.serving.line import Line, linear_onnx

    signature = Signature(tuple(Column(f"f{at}", "double") for at in range(FEATURES)), (Column("y", "double"),))
    with open_store(home) as store:
        line = Line(store, home / "scratch", "bench")
        line.point(line.onnx(tuple(range(FEATURES)), 1.0, signature=signature, example=(row(),)))
    model = home / "floor.onnx"
    model.write_bytes(linear_onnx(tuple(range(FEATURES)), 1.0))
    return model


def row() -> dict[str, float]:
    return {f"f{at}": at + 0.5 for at in range(FEATURES)}


class Measured:
    """Rounds of one server at one load."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.cpu_us: list[float] = []
        self.p50_ms: list[float] = []
        self.p99_ms: list[float] = []
        self.bad = 0

    async def round(self, pid: int, port: int, connections: int, rows: int) -> None:
        request = post("/predict", json.dumps({"rows": [row()] * rows}).encode())
        load = Load(lambda: request)
        started, worked = time.perf_counter(), cpu_s(pid)
        await load.run(port, connections, SECONDS)
        self.rates.append(len(load.latencies_s) / (time.perf_counter() - started))
        self.cpu_us.append((cpu_s(pid) - worked) / max(1, len(load.latencies_s)) * 1e6)
        self.p50_ms.append(quantile(load.latencies_s, 0.5) * 1e3)
        self.p99_ms.append(quantile(load.latencies_s, 0.99) * 1e3)
        self.bad += load.failed + load.dropped


def main() -> None:
    import uvloop

    with tempfile.TemporaryDirectory(prefix="andon-bench-") as scratch:
        home = Path(scratch)
        model = make_release(home)
        request = post("/predict", json.dumps({"rows": [row()]}).encode())
        servers = {}
        own = ("-m", "andon", "serve", "bench", "--home", str(home), "--port", "0")
        for name, arguments in (("floor", ("-c", FLOOR, str(model))), ("andon serve", own)):
            process, port, started = start(*arguments)
            servers[name] = (process, port, first_answer_s(port, request, started))
        table: list[list[object]] = []
        try:
            for connections, rows in ((1, 1), (16, 1), (64, 1), (16, 32)):
                found = {name: Measured() for name in servers}
                for _ in range(ROUNDS):  # in turns, so that what else the machine does falls on both
                    for name, (process, port, _) in servers.items():
                        uvloop.run(found[name].round(process.pid, port, connections, rows))
                floor = median(found["floor"].rates)
                for name, seen in found.items():
                    rate = median(seen.rates)
                    table.append(
                        [
                            name,
                            connections,
                            rows,
                            rate,
                            rate / floor,
                            median(seen.cpu_us),
                            median(seen.p50_ms),
                            median(seen.p99_ms),
                            seen.bad,
                        ]
                    )
            start_up = [
                f"{name}: first answer {first:.2f} s, {memory_mb(process.pid):.0f} MB" for name, (process, _, first) in servers.items()
            ]
        finally:
            for process, _, _ in servers.values():
                process.terminate()
                process.wait()
    report(
        "serving_floor",
        f"Serving a linear ONNX model of {FEATURES} inputs: andon serve beside the bare libraries",
        ["server", "connections", "rows/request", "requests/s", "of the floor", "CPU us/request", "p50 ms", "p99 ms", "failed or dropped"],
        table,
        f"closed loop, median of {ROUNDS} rounds of {SECONDS:g} s in turns, one generator process (uvloop) on the same machine; andon "
        f"validates, counts and logs every row to the inbox (written before the answer, fsynced within 50 ms); {'; '.join(start_up)}",
    )


if __name__ == "__main__":
    main()
