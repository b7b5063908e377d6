"""``andon predict`` beside the bare loop over the same file, and ``andon stream`` on each of its logs.

The bare loop is pyarrow and the model's own library in one process: read a record batch, predict, write id and prediction to one Parquet
file. It has no validation, no parts that survive a kill, no record of anything. Memory is the largest sum over a process and its children,
looked at every 20 ms. Streams: a topic filled before is answered into another one; messages a second from the first commit to the last.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from _report import report

SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
ROWS = 20_000 if SMOKE else int(os.environ.get("BENCH_ROWS", "5000000"))
DEAR_ROWS = 5_000 if SMOKE else int(os.environ.get("BENCH_DEAR_ROWS", "1000000"))
MESSAGES = 1_500 if SMOKE else 20_000
ROUNDS = 1 if SMOKE else 2
FEATURES = 10
BATCH = 65_536
BARE = """
import sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
kind, model, source, target = sys.argv[1:]
names = [f"f{at}" for at in range(10)]
if kind == "onnx":
    import onnxruntime as ort
    options = ort.SessionOptions(); options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    predict = lambda rows: session.run(None, {"input": rows})[0][:, 0]
else:
    import skops.io
    predict = skops.io.load(model, trusted=skops.io.get_untrusted_types(file=model)).predict
schema = pa.schema([("id", pa.int64()), ("y", pa.float64())])
with pq.ParquetFile(source) as file, pq.ParquetWriter(target, schema, compression="zstd", compression_level=1) as out:
    for batch in file.iter_batches(65536):
        rows = np.column_stack([batch[name].to_numpy() for name in names])
        out.write_batch(pa.record_batch([batch["id"], pa.array(predict(rows))], schema=schema))
"""


def write_input(path: Path, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chance = np.random.default_rng(3)
    fields = [("id", pa.int64()), *((f"f{at}", pa.float64()) for at in range(FEATURES))]
    with pq.ParquetWriter(path, pa.schema(fields), compression="zstd") as out:
        for start in range(0, rows, 500_000):
            n = min(500_000, rows - start)
            columns = [np.arange(start, start + n), *(chance.integers(0, 1000, n) / 8 for _ in range(FEATURES))]
            out.write_table(pa.table(columns, schema=out.schema), row_group_size=250_000)


def make_releases(home: Path) -> dict[str, Path]:
    """Two services: a linear ONNX model (7 us a call), and gradient boosting of scikit-learn in a process of its own; their files."""
    import skops.io
    from sklearn.ensemble import GradientBoostingRegressor

    from andon.models import Column, Signature, save_model
    from andon.releases.records import Pin
    from andon.store import open_store
    from tests.conftest import ANA
    from tests.unit.serving.line import Line, linear_onnx

    signature = Signature(tuple(Column(f"f{at}", "double") for at in range(FEATURES)), (Column("y", "double"),))
    example = ({f"f{at}": at + 0.5 for at in range(FEATURES)},)
    files = {"onnx": home / "linear.onnx", "sklearn": home / "boosting.skops"}
    with open_store(home) as store:
        cheap = Line(store, home / "scratch", "cheap")
        cheap.point(cheap.onnx(tuple(range(FEATURES)), 1.0, signature=signature, example=example))
        files["onnx"].write_bytes(linear_onnx(tuple(range(FEATURES)), 1.0))
        x = np.random.default_rng(1).normal(size=(2_000, FEATURES))
        model = GradientBoostingRegressor(n_estimators=50, max_depth=3, random_state=0).fit(x, x @ np.arange(FEATURES))
        skops.io.dump(model, files["sklearn"])
        saved = save_model(store, model, name="dear", example={f"f{at}": x[:3, at] for at in range(FEATURES)}, actor=ANA, format="skops")
        dear = Line(store, home / "scratch2", "dear")
        outputs = saved.manifest["signature"]["outputs"][0]["name"]
        named = Signature(signature.inputs, (Column(outputs, "double"),))
        dear.point(dear.release(Pin(str(saved.address), saved.digest), signature=named, example=example))
    return files


def measured(command: list[str]) -> tuple[float, float, float, str]:
    """Seconds, seconds of processor time, MiB at most (both with all children), and what it printed."""
    import psutil

    started, before = time.perf_counter(), os.times()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    watched, most = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            most = max(most, sum(one.memory_info().rss for one in [watched, *watched.children(recursive=True)]))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    out = process.communicate()[0]
    assert process.returncode == 0, command
    after = os.times()
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, worked, most / 2**20, out


def batch_rows(home: Path, files: dict[str, Path]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for kind, service, n in (("onnx", "cheap", ROWS // 10), ("onnx", "cheap", ROWS), ("sklearn", "dear", DEAR_ROWS)):
        source = home / f"{service}-{n}.parquet"
        write_input(source, n)
        ours: list[tuple[float, ...]] = []
        bare: list[tuple[float, ...]] = []
        size = 0
        for attempt in range(ROUNDS):
            out = home / f"out-{service}-{n}-{attempt}"
            begin = [sys.executable, "-m", "andon", "predict", f"service:{service}@production", str(source), "-o", str(out)]
            *figures, said = measured([*begin, "--keep", "id", "--json", "--home", str(home)])
            done = json.loads(said)
            assert (done["rows"], done["errors"]) == (n, 0)
            size = done["batch_rows"]
            ours.append(tuple(figures))
            target = home / f"bare-{service}-{n}-{attempt}.parquet"
            bare.append(measured([sys.executable, "-c", BARE, kind, str(files[kind]), str(source), str(target)])[:3])
        check_equal(home / f"out-{service}-{n}-0", home / f"bare-{service}-{n}-0.parquet")
        for what, found in (("andon predict", ours), ("bare loop", bare)):
            seconds, worked = median(one[0] for one in found), median(one[1] for one in found)
            share = median(one[1] for one in bare) / worked
            label = "linear ONNX" if kind == "onnx" else "boosting, 50 trees (skops)"
            most = max(one[2] for one in found)
            rows.append([label, what, n, n / seconds, worked / n * 1e6, share, most, size if found is ours else BATCH])
    return rows


def check_equal(folder: Path, bare: Path) -> None:
    """The same predictions for the same ids, every one of them once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ours = pa.concat_tables([pq.read_table(part) for part in sorted(folder.glob("part-*.parquet"))])
    theirs = pq.read_table(bare)
    assert ours["id"].equals(theirs["id"])
    assert np.allclose(ours.column(1).to_numpy(), theirs["y"].to_numpy(), rtol=1e-6)


async def stream_s(home: Path, prefix: str) -> tuple[float, float]:
    """Messages a second: put into the topic, and answered from it."""
    from andon.serving.streaming import Record, StreamOptions, open_log, parse
    from andon.serving.streaming.running import stream
    from andon.store import open_store
    from tests.conftest import ANA

    body = json.dumps({f"f{at}": at + 0.5 for at in range(FEATURES)}).encode()
    with open_store(home) as store:
        log = open_log(store, parse(f"{prefix}in"), consumer="bench")
        started = time.perf_counter()
        for first in range(0, MESSAGES, 1_000):
            await log.put("in", [Record(id=f"m{n}", value=body) for n in range(first, min(first + 1_000, MESSAGES))])
        put = MESSAGES / (time.perf_counter() - started)
        await log.close()
        looking: list[asyncio.Task[float]] = []

        def ready(streamer: Any, _: str) -> None:
            async def look() -> float:
                counts = streamer.metrics.messages
                while not counts["answered"]:
                    await asyncio.sleep(0.001)
                began, done = time.perf_counter(), counts["answered"]
                while counts["answered"] < MESSAGES:
                    await asyncio.sleep(0.001)
                streamer.stop()
                return (MESSAGES - done) / (time.perf_counter() - began) if done < MESSAGES else 0.0

            looking.append(asyncio.create_task(look()))

        options = StreamOptions(group="bench")
        await stream(store, "cheap", parse(f"{prefix}in"), parse(f"{prefix}out"), options, actor=ANA, ready=ready)
        return put, await looking[0]


def stream_rows(home: Path) -> list[list[Any]]:
    import shutil

    import uvloop

    from tests.unit.serving.streaming.brokers import Broker

    said = {
        "log": "embedded (SQLite, synchronous=FULL; answer and position in one transaction)",
        "redis": "Redis Streams (appendonly, fsync every second; answer and position in one MULTI)",
        "nats": "NATS JetStream (file store, the server's default syncing; answers confirmed one by one)",
    }
    rows = []
    for engine, label in said.items():
        if engine != "log" and shutil.which(f"{engine}-server") is None:
            print(f"{engine}: there is no {engine}-server on this machine")
            continue
        broker = None if engine == "log" else Broker(engine, home / engine)
        if broker is not None:
            broker.start()
        try:
            put, answered = uvloop.run(stream_s(home, "log:" if broker is None else f"{broker.url}/"))
        finally:
            if broker is not None:
                broker.stop()
        rows.append([label, MESSAGES, put, answered])
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="andon-bench-") as scratch:
        home = Path(scratch)
        files = make_releases(home)
        rows = batch_rows(home, files)
        streams = stream_rows(home)
    report(
        "batch",
        f"andon predict: rows of {FEATURES} doubles and an id, from one Parquet file (start of the process included)",
        ("model", "what", "rows", "rows/s", "CPU us/row", "of bare", "MiB at most", "batch rows"),
        rows,
        f"median of {ROUNDS} rounds, alternating; parts of 250,000 rows, fsynced; one thread in each library; outputs compared; "
        "of bare: its processor time over ours, which depends little on what else the machine does",
    )
    report(
        "streams",
        "andon stream: one-row JSON messages of 10 doubles through the linear ONNX model, prediction log on",
        ("log", "messages", "put/s", "answered/s"),
        streams,
        "one round; producer batches of 1,000; at most 512 messages in flight; one consumer process",
    )


if __name__ == "__main__":
    main()
