"""A sweep in a home on disk, written with the tracking verbs: three depths by four seeds, one of them with files, a note and a model."""

from __future__ import annotations

import io
import json
import math
import random
import struct
import zlib
from typing import Any

from sqlalchemy import insert

from andon.core.actors import Actor
from andon.core.digests import digest_bytes
from andon.registry import link_in, set_tag
from andon.store import Store
from andon.store import schema as s
from andon.tracking import create_run, log_artifact, log_batch, update_run
from andon.tracking.inputs import DescribedInput, log_described
from andon.tracking.records import Code, EnvironmentLock, Hardware, Point, RunFacts
from tests.browser.making import ANA, model_of

EXPERIMENT = "rides/sweep"


def facts(n: int = 0) -> RunFacts:
    """What was captured of a run; every other has another numpy and an uncommitted change."""
    requirements = ("joblib==1.6.0", f"numpy==2.4.{6 + n % 2}", "scikit-learn==1.9.1", "scipy==1.17.1")
    return RunFacts(
        code=Code(
            commit="8f2c1d94be03a7715c20ffac91b4b2f0c6d3e582",
            branch="main",
            dirty_diff=digest_bytes(b"diff") if n % 2 else None,
            entry_point="train.py",
            argv=("train.py", "--seed", str(n)),
        ),
        environment=EnvironmentLock(python="3.11.7", platform="linux-x86_64", requirements=requirements),
        hardware=Hardware(host="laptop", cpu="AMD EPYC 9R14", cores=2, memory_bytes=16 << 30),
        seeds={"python": n, "numpy": n},
    )


def curve(run: str, started_us: int, *, end: float, steps: int = 60, first: int = 0) -> list[Point]:
    """A loss that falls, with its validation and a learning rate."""
    rng = random.Random(run)
    points = []
    for step in range(first, first + steps):
        at = started_us + step * 900_000
        loss = end + (150 - end) * math.exp(-step / 12)
        points += [
            Point("mae", loss + rng.gauss(0, 0.8), step, at),
            Point("val/mae", loss * 1.09 + rng.gauss(0, 1.6), step, at),
            Point("learning_rate", 0.1 * 0.97**step, step, at),
        ]
    return points


def png(width: int = 320, height: int = 200) -> bytes:
    """A picture: residuals over the hour, as dots."""
    rng = random.Random(3)
    rows = [[250] * width for _ in range(height)]
    for x in range(0, width, 2):
        y = int(height / 2 + 50 * math.sin(x / 25) + rng.gauss(0, 14))
        for dx in range(2):
            for dy in range(2):
                if 0 <= y + dy < height and x + dx < width:
                    rows[y + dy][x + dx] = 60
    raw = b"".join(b"\x00" + bytes(row) for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def parquet() -> bytes:
    """A table of 240 rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    table = pa.table({"hour": list(range(240)), "predicted": [100 + 0.5 * n for n in range(240)], "weather": ["clear", "mist"] * 120})
    pq.write_table(table, out)
    return out.getvalue()


def files() -> dict[str, bytes]:
    """What the best run left behind, good and bad."""
    logged = {"columns": ["hour", "predicted", "actual"], "data": [[n, 120.5 + n, 118 + n] for n in range(130)]}
    return {
        "plots/residuals.png": png(),
        "plots/importance.png": png(300, 140),
        "eval/predictions.json": json.dumps(logged).encode(),
        "eval/by_hour.csv": b"hour,mae,n\n" + b"".join(b"%d,%.2f,%d\n" % (n, 20 + n / 3, 30 + n) for n in range(24)),
        "eval/rides.parquet": parquet(),
        "model/MLmodel": b"flavors:\n  sklearn:\n    pickled_model: model.skops\n",
        "model/model.skops": bytes(range(256)) * 40,
        "config.json": b'{"depth": 6, "features": ["hr", "temp"]}',
        "report.md": b"# Report\n\n<script>document.title='owned'</script>\n\nAugust was added.\n",
        "report.html": b"<script>document.title='owned'</script>",
        "broken.parquet": b"PAR1 this is not parquet",
    }


def sweep(store: Store) -> dict[str, str]:
    """Fill ``store``; run ids by ``depth-D/seed-S``."""
    made: dict[str, str] = {}
    parent = create_run(store, experiment=EXPERIMENT, name="sweep of depth", actor=ANA, facts=facts()).id
    made["parent"] = parent
    for depth, end in ((4, 31.0), (6, 24.0), (8, 26.5)):
        for seed in range(4):
            rng = random.Random(depth * 10 + seed)
            record = create_run(
                store,
                experiment=EXPERIMENT,
                name=f"depth-{depth}",
                actor=ANA,
                facts=facts(seed),
                parent=parent,
                params={"depth": depth, "seed": seed, "learning_rate": 0.1, "loss": "absolute_error"},
                tags={"team": "rides" if seed else "night shift"},
            )
            log_batch(store, record.id, metrics=curve(record.id, record.started_us, end=end + rng.gauss(0, 0.9)), actor=ANA)
            update_run(store, record.id, actor=ANA, status="failed" if (depth, seed) == (8, 3) else "finished")
            made[f"depth-{depth}/seed-{seed}"] = record.id
    update_run(store, parent, actor=ANA, status="finished")
    _enrich(store, made["depth-6/seed-1"])
    made["wire"] = _wire(store)
    return made


def _enrich(store: Store, best: str) -> None:
    for path, data in files().items():
        log_artifact(store, best, data, path, actor=ANA)
    set_tag(
        store, f"run:{best}", "mlflow.note.content", "Best of the sweep so far.\n\nThe hours are in UTC now; August was added.", actor=ANA
    )
    model_of(store, "rides", best, 1, "best of the sweep")

    source = json.dumps({"uri": "s3://rides/2011/hour.parquet"})
    described = DescribedInput(name="hour", digest="f2a81b3c", source_type="s3", source=source, context="training")
    log_described(store, best, [described], actor=ANA)

    def work(c: Any) -> None:
        now = store.clock.now_us()
        link_in(c, "release:rides@1", "model:rides@1", "model", now_us=now)
        c.execute(
            insert(s.logged_models).values(
                id="m-8d1f0c2a", experiment=1, name="regressor", model_type="", run=best, status="ready", created_us=now, changed_us=now
            )
        )

    store.ledger.write(work)


def _wire(store: Store) -> str:
    """A run as the MLflow wire leaves it: nothing captured."""
    tags = {"mlflow.source.name": "train_xgb.py", "mlflow.source.git.commit": "77aa01c2d9", "mlflow.user": "ben", "team": "rides"}
    record = create_run(
        store, experiment="over the wire", name="placid-hare-17", actor=Actor("person", "ben"), params={"eta": 0.3}, tags=tags
    )
    log_batch(store, record.id, metrics=[Point("rmse", 41.0, 0, record.started_us)], actor=ANA)
    update_run(store, record.id, actor=ANA, status="finished")
    return record.id
