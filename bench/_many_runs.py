"""The same many runs in the ledgers of both servers, written past their APIs: search is what is measured, not filling."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEYS = 20
START_MS = 1_760_000_000_000
_CHUNK = 1_000


def _runs(count: int) -> Iterator[tuple[int, str, list[str], list[float]]]:
    """Number, id, params (ten values each) and metrics (uniform in 0..1); the same ones for everybody."""
    rng = random.Random(7)
    for n in range(count):
        yield n, f"{rng.getrandbits(128):032x}", [f"v{rng.randrange(10)}" for _ in range(KEYS)], [rng.random() for _ in range(KEYS)]


def into_andon(home: Path, count: int, *, first: int = 0) -> None:
    """Runs number ``first`` to ``count`` in the experiment ``many`` of the SQLite ledger in ``home``, which no server has open.

    Ids grow with time, as those made here do; MLflow's are random.
    """
    connection = sqlite3.connect(home / "ledger.db")
    connection.execute("pragma synchronous = off")
    connection.execute("insert or ignore into experiments (name, created_us, changed_us) values ('many', 1, 1)")
    experiment = connection.execute("select id from experiments where name = 'many'").fetchone()[0]
    for made in _chunks(count, first):
        chunk = [(n, f"01{n:024d}", params, metrics) for n, _, params, metrics in made]
        connection.executemany(
            "insert into runs (id, experiment, name, status, started_us, ended_us, actor, facts)"
            " values (?, ?, ?, 'finished', ?, ?, 'person:ana', x'7b7d')",
            [(run, experiment, f"run-{n}", (START_MS + n) * 1_000, (START_MS + n + 60_000) * 1_000) for n, run, _, _ in chunk],
        )
        connection.executemany(
            "insert into params (run, key, value) values (?, ?, ?)",
            [(run, f"p{k}", value) for _, run, params, _ in chunk for k, value in enumerate(params)],
        )
        connection.executemany(
            "insert into series (run, key, step, at_us, value, special, count, min, max) values (?, ?, 0, ?, ?, 0, 1, ?, ?)",
            [
                (run, f"m{k}", (START_MS + n) * 1_000, value, value, value)
                for n, run, _, metrics in chunk
                for k, value in enumerate(metrics)
            ],
        )
        connection.executemany(
            "insert into tags (subject, key, value) values (?, ?, ?)",
            [
                (f"run:{run}", key, value)
                for n, run, _, _ in chunk
                for key, value in (("mlflow.runName", f"run-{n}"), ("mlflow.user", "ana"))
            ],
        )
        connection.commit()
    connection.execute("analyze")
    connection.commit()
    connection.close()


def into_mlflow(database: Path, count: int, *, first: int = 0) -> None:
    """The same runs in MLflow's own SQLite file."""
    connection = sqlite3.connect(database)
    connection.execute("pragma synchronous = off")
    columns = [row[1] for row in connection.execute("pragma table_info(experiments)")]
    values: dict[str, Any] = {"name": "many", "lifecycle_stage": "active", "creation_time": 1, "last_update_time": 1}
    values["artifact_location"] = "mlflow-artifacts:/many"
    if "workspace" in columns:
        values["workspace"] = connection.execute("select workspace from experiments limit 1").fetchone()[0]
    places = ", ".join("?" * len(values))
    connection.execute(f"insert or ignore into experiments ({', '.join(values)}) values ({places})", list(values.values()))
    experiment = connection.execute("select experiment_id from experiments where name = 'many'").fetchone()[0]
    for chunk in _chunks(count, first):
        connection.executemany(
            "insert into runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,"
            " source_version, lifecycle_stage, artifact_uri, experiment_id)"
            " values (?, ?, 'UNKNOWN', '', '', 'ana', 'FINISHED', ?, ?, '', 'active', ?, ?)",
            [(run, f"run-{n}", START_MS + n, START_MS + n + 60_000, f"mlflow-artifacts:/many/{run}", experiment) for n, run, *_ in chunk],
        )
        connection.executemany(
            "insert into params (run_uuid, key, value) values (?, ?, ?)",
            [(run, f"p{k}", value) for _, run, params, _ in chunk for k, value in enumerate(params)],
        )
        rows = [(run, f"m{k}", value, START_MS + n) for n, run, _, metrics in chunk for k, value in enumerate(metrics)]
        for table in ("metrics", "latest_metrics"):
            connection.executemany(f"insert into {table} (run_uuid, key, value, timestamp, step, is_nan) values (?, ?, ?, ?, 0, 0)", rows)
        connection.executemany(
            "insert into tags (run_uuid, key, value) values (?, ?, ?)",
            [(run, *tag) for n, run, _, _ in chunk for tag in (("mlflow.runName", f"run-{n}"), ("mlflow.user", "ana"))],
        )
        connection.commit()
    connection.execute("analyze")
    connection.commit()
    connection.close()


def _chunks(count: int, first: int) -> Iterator[list[tuple[int, str, list[str], list[float]]]]:
    chunk = []
    for item in _runs(count):
        if item[0] >= first:
            chunk.append(item)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
