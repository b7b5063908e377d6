"""Three times more requests than a model can answer: what is answered in time, and how late the answers are.

    OMP_NUM_THREADS=1 python bench/overload.py

A Python model that takes 4 ms a batch and 0.25 ms a row, behind ``andon serve`` (its own process, as user code always is) and behind a bare
uvicorn with a queue and no bound. Peak is what a closed loop of 64 connections gets. Then requests are offered at fixed instants, whatever
was answered before (an open loop), each with a deadline of 200 ms: goodput is what is answered in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _load import Load, post, quantile
from _report import report

SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
SECONDS = 0.5 if SMOKE else 8.0
DEADLINE_S = 0.2
MOST = 600
"""Connections at most: beyond that a request cannot even be sent."""
TIMES = (1.0, 3.0) if SMOKE else (0.5, 0.9, 1.5, 3.0)
MODEL = """
import time

class Model:
    def __init__(self, folder):
        pass

    def predict(self, columns):
        n = len(columns["x"])
        time.sleep(0.004 + 0.00025 * n)
        return {"y": columns["x"] * 2.0}
"""
BARE = """
import asyncio, socket, time
import msgspec, uvicorn, uvloop
from concurrent.futures import ThreadPoolExecutor

queue, thread, busy = [], ThreadPoolExecutor(1), False

def predict(rows):
    time.sleep(0.004 + 0.00025 * len(rows))
    return [row["x"] * 2.0 for row in rows]

async def work():
    global busy
    loop = asyncio.get_running_loop()
    while queue:
        batch, queue[:] = queue[:64], queue[64:]
        made = await loop.run_in_executor(thread, predict, [row for rows, _ in batch for row in rows])
        for value, (_, future) in zip(made, batch):
            if not future.done():
                future.set_result(value)
    busy = False

async def app(scope, receive, send):
    global busy
    rows = msgspec.json.decode((await receive())["body"])["rows"]
    future = asyncio.get_running_loop().create_future()
    queue.append((rows, future))
    if not busy:
        busy = True
        app.task = asyncio.get_running_loop().create_task(work())
    body = msgspec.json.encode({"outputs": [{"y": await future}]})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(4096)
print("bare on http://127.0.0.1:%d" % listener.getsockname()[1], flush=True)
config = uvicorn.Config(app, http="httptools", loop="uvloop", access_log=False, log_config=None, lifespan="off", proxy_headers=False)
uvloop.run(uvicorn.Server(config).serve(sockets=[listener]))
"""
_STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Asker(asyncio.Protocol):
    """One connection; ``ask`` sends a request, and its outcome goes to ``done``."""

    def __init__(self, free: list[Asker], done: list[tuple[int, float]]) -> None:
        self._free, self._done = free, done
        self._data = b""
        self._due_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def ask(self, request: bytes, due_s: float) -> None:
        self._due_s = due_s
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        split = self._data.find(b"\r\n\r\n")
        if split < 0:
            return
        found = _LENGTH.search(self._data, 0, split)
        if len(self._data) < split + 4 + (int(found[1]) if found else 0):
            return
        status = _STATUS.match(self._data)
        self._done.append((int(status[1]) if status else 0, time.perf_counter() - self._due_s))
        self._data = b""
        self._free.append(self)


async def offer(port: int, request: bytes, rate: float) -> tuple[int, list[tuple[int, float]]]:
    """Requests at ``rate`` a second for ``SECONDS``: how many were due, and the status and seconds of those that were answered."""
    loop = asyncio.get_running_loop()
    free: list[Asker] = []
    done: list[tuple[int, float]] = []
    every: list[Asker] = []
    due, began = 0, time.perf_counter()
    while (now := time.perf_counter()) < began + SECONDS:
        while began + due / rate <= now:
            while free and free[-1].transport.is_closing():  # the server has ended this connection
                every.remove(free.pop())
            if not free and len(every) >= MOST:
                due += 1  # all wait: this one is not even sent, and so not answered
                continue
            if not free:
                made = (await loop.create_connection(lambda: Asker(free, done), "127.0.0.1", port))[1]
                every.append(made)
                free.append(made)
            free.pop().ask(request, began + due / rate)  # from when it was due
            due += 1
        await asyncio.sleep(0.001)
    until = time.perf_counter() + 2.0
    while len(done) < due and time.perf_counter() < until:
        await asyncio.sleep(0.01)
    for one in every:
        one.transport.close()
    return due, done


def make_home(home: Path) -> None:
    from andon.models import Column, Signature
    from andon.store import open_store
    from tests.unit.serving.line import Line

    signature = Signature((Column("x", "double"),), (Column("y", "double"),))
    settings = {"batch": {"max_rows": 64}, "timeout_s": 30}
    with open_store(home) as store:
        line = Line(store, home / "scratch", "bench")
        line.point(line.python(MODEL, signature=signature, example=({"x": 1.0},), settings=settings))


def main() -> None:
    import uvloop

    body = json.dumps({"rows": [{"x": 1.5}]}).encode()
    plain = post("/predict", body)
    asked = plain.replace(b"\r\n\r\n", b"\r\nx-request-timeout-ms: %d\r\n\r\n" % (DEADLINE_S * 1e3), 1)
    table: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="andon-bench-") as scratch:
        make_home(Path(scratch))
        own = ("-m", "andon", "serve", "bench", "--home", scratch, "--port", "0")
        for name, arguments in (("andon serve", own), ("bare uvicorn, no bound", ("-c", BARE))):
            process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
            try:
                assert process.stdout is not None
                port = int(process.stdout.readline().rpartition(":")[2])
                until = time.perf_counter() + 60
                while not answered(port, plain):
                    assert time.perf_counter() < until
                    time.sleep(0.05)
                load = Load(lambda: plain)
                began = time.perf_counter()
                uvloop.run(load.run(port, 64, min(SECONDS, 4)))
                peak = len(load.latencies_s) / (time.perf_counter() - began)
                for times in TIMES:
                    due, done = uvloop.run(offer(port, asked, peak * times))
                    good = [seconds for status, seconds in done if status == 200]
                    refused = [seconds for status, seconds in done if status in (429, 504)]
                    in_time = sum(seconds <= DEADLINE_S for seconds in good)
                    table.append([name, times, due / SECONDS, in_time / SECONDS, in_time / SECONDS / peak, quantile(good, 0.5) * 1e3,
                                  quantile(good, 0.99) * 1e3, len(refused), quantile(refused, 0.5) * 1e3 if refused else 0.0,
                                  due - len(good) - len(refused)])  # fmt: skip
            finally:
                process.terminate()
                process.wait()
    report(
        "serving_overload",
        f"More than a model can answer: a deadline of {DEADLINE_S * 1e3:g} ms, 4 ms a batch and 0.25 ms a row, 64 rows a batch at most",
        [
            "server",
            "of peak offered",
            "offered/s",
            "in time/s",
            "of peak",
            "p50 ms",
            "p99 ms",
            "refused",
            "p50 of refusals ms",
            "no answer",
        ],
        table,
        f"open loop, {SECONDS:g} s a load, latency from when a request was due; generator on the same 2 cores; peak: closed loop, "
        "64 connections",
    )


def answered(port: int, request: bytes) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        return b" 200 " in connection.recv(4096)[:20]
    return False


if __name__ == "__main__":
    main()
