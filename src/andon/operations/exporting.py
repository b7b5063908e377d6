"""Runs as files for any other tool: Parquet tables and the artifacts beside them."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection, select

from andon.core.errors import Conflict, InvalidInput
from andon.store import Store
from andon.store import schema as s
from andon.store.statements import places, rows_of
from andon.tracking.artifacts import files_of_in
from andon.tracking.experiments import get_experiment_in, list_experiments
from andon.tracking.points import point_row, read_points
from andon.tracking.search import search_runs

if TYPE_CHECKING:
    import pyarrow as pa

_RUNS_AT_ONCE = 200
_POINTS_AT_ONCE = 100_000


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and where."""

    folder: str
    runs: int
    params: int
    tags: int
    points: int
    files: int
    file_bytes: int


def export_runs(
    store: Store,
    into: str | Path,
    *,
    experiment: str | None = None,
    filter: str = "",  # noqa: A002 - the grammar's own word
    artifacts: bool = True,
    deleted: bool = False,
) -> Exported:
    """Write runs to the new folder ``into``; it appears whole or not at all, and memory stays bounded.

    ``runs.parquet`` has a row a run (id, experiment, name, status, times as timestamp[us, UTC], actor, parent, facts as JSON);
    ``params``, ``tags`` (run, key, value), ``metrics`` (run, key, step, time, value: every point, NaN and infinities kept) and
    ``artifacts.parquet`` (run, path, size, digest) the rest; files are at ``artifacts/RUN/PATH``. ``filter`` is a search filter.
    """
    target = Path(into)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict("this folder is not empty", path=target, next_step="name a new one")
    with store.ledger.read() as connection:
        if experiment is not None:
            numbers = [get_experiment_in(connection, experiment).id]
        else:
            numbers = [found.id for found in list_experiments(store, deleted=None if deleted else False)]
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    scratch.mkdir()
    try:
        done = _write(store, scratch, numbers, filter, artifacts=artifacts, deleted=deleted)
        if target.exists():
            target.rmdir()
        scratch.rename(target)
    except BaseException:  # whatever ended it, an interrupt too: half an export is not left behind
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return msgspec.structs.replace(done, folder=str(target))


def _write(store: Store, folder: Path, numbers: list[int], text: str, *, artifacts: bool, deleted: bool) -> Exported:
    import pyarrow.parquet as pq

    tables = _schemas()
    writers = {name: pq.ParquetWriter(folder / f"{name}.parquet", schema, compression="zstd") for name, schema in tables.items()}
    counts = dict.fromkeys(tables, 0)
    size = 0

    def put(name: str, rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        if rows:
            writers[name].write_table(pa.Table.from_pylist(rows, schema=tables[name]))
            counts[name] += len(rows)

    try:
        for ids in _ids(store, numbers, text, deleted=deleted):
            with store.ledger.read() as connection:
                put("runs", _runs(connection, ids))
                asked = places(len(ids))
                pairs = rows_of(connection, f"select run, key, value from params where run in ({asked}) order by run, key", ids)
                put("params", [{"run": run, "key": key, "value": value} for run, key, value in pairs])
                named = [f"run:{run}" for run in ids]
                pairs = rows_of(connection, f"select subject, key, value from tags where subject in ({asked}) order by subject, key", named)
                put("tags", [{"run": subject[4:], "key": key, "value": value} for subject, key, value in pairs])
                for page in _points(connection, ids):
                    writers["metrics"].write_table(page)
                    counts["metrics"] += page.num_rows
                kept = [(run, file) for run in ids for file in files_of_in(connection, f"run:{run}")]
            put("artifacts", [{"run": run, "path": f.path, "size_bytes": f.size_bytes, "digest": f.digest} for run, f in kept])
            size += sum(file.size_bytes for _, file in kept)
            for run, file in kept if artifacts else ():
                place = folder / "artifacts" / run / file.path
                if not place.resolve().is_relative_to(folder.resolve()):
                    raise InvalidInput("an artifact's path leads out of its folder", run=run, path=file.path)
                place.parent.mkdir(parents=True, exist_ok=True)
                with store.blobs.open(file.digest) as stream, place.open("wb") as out:
                    shutil.copyfileobj(stream, out, 1 << 20)
    finally:
        for writer in writers.values():
            writer.close()
    return Exported(
        folder=str(folder),
        runs=counts["runs"],
        params=counts["params"],
        tags=counts["tags"],
        points=counts["metrics"],
        files=counts["artifacts"],
        file_bytes=size,
    )


def _ids(store: Store, numbers: list[int], text: str, *, deleted: bool) -> Iterator[list[str]]:
    token: str | None = None
    while True:
        with store.ledger.read() as connection:
            page = search_runs(connection, numbers, text, view="all" if deleted else "active", max_results=_RUNS_AT_ONCE, page_token=token)
        if page.ids:
            yield list(page.ids)
        token = page.next_page_token
        if not token:
            return


def _runs(connection: Connection, ids: list[str]) -> list[dict[str, Any]]:
    query = select(s.runs, s.experiments.c.name.label("experiment_name")).join(s.experiments, s.experiments.c.id == s.runs.c.experiment)
    found = {row.id: row for row in connection.execute(query.where(s.runs.c.id.in_(ids)))}
    return [
        {
            "run": row.id,
            "experiment": row.experiment_name,
            "name": row.name,
            "status": row.status,
            "started": row.started_us,
            "ended": row.ended_us,
            "deleted": row.deleted_us,
            "actor": row.actor,
            "parent": row.parent,
            "facts": bytes(row.facts).decode(),
        }
        for row in (found[run] for run in ids if run in found)
    ]


def _points(connection: Connection, ids: list[str]) -> Iterator[pa.Table]:
    """Every point of the runs, a page of a series at a time."""
    import numpy as np
    import pyarrow as pa

    schema = _schemas()["metrics"]
    for run in ids:
        for (key,) in rows_of(connection, "select key from series where run = ? order by key", (run,)):
            after = None
            while True:
                found = read_points(connection, run, key, after=after, limit=_POINTS_AT_ONCE)
                count = len(found.steps)
                if count:
                    columns = [np.full(count, run), np.full(count, key), found.steps, found.at_us.astype("datetime64[us]"), found.values]
                    yield pa.Table.from_arrays([pa.array(c).cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
                if count < _POINTS_AT_ONCE:
                    break
                after = point_row(key, float(found.values[-1]), int(found.steps[-1]), int(found.at_us[-1]))


def _schemas() -> dict[str, pa.Schema]:
    import pyarrow as pa

    time, text, number = pa.timestamp("us", tz="UTC"), pa.string(), pa.int64()
    pairs = pa.schema([("run", text), ("key", text), ("value", text)])
    return {
        "runs": pa.schema(
            [
                *((name, text) for name in ("run", "experiment", "name", "status")),
                *((name, time) for name in ("started", "ended", "deleted")),
                *((name, text) for name in ("actor", "parent", "facts")),
            ]
        ),
        "params": pairs,
        "tags": pairs,
        "metrics": pa.schema([("run", text), ("key", text), ("step", number), ("time", time), ("value", pa.float64())]),
        "artifacts": pa.schema([("run", text), ("path", text), ("size_bytes", number), ("digest", text)]),
    }
