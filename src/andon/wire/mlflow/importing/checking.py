"""Counting both sides at the end: the source is read again, the store is read back, and every difference is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from andon.core.errors import AndonError, NotFound
from andon.store import Store
from andon.store import schema as s
from andon.store.statements import rows_of
from andon.tracking.artifacts import files_of_in
from andon.tracking.points import real_value
from andon.wire.mlflow.importing.moving import Had, imported, sum_of_points
from andon.wire.mlflow.importing.records import Run, Source


class Checked(msgspec.Struct, kw_only=True):
    """What was compared, and what differs."""

    runs: int = 0
    points: int = 0
    files: int = 0
    file_bytes: int = 0
    logged_models: int = 0
    versions: int = 0
    aliases: int = 0
    traces: int = 0
    differences: list[str] = []


def check_runs(store: Store, source: Source, experiment: str, checked: Checked, *, files: bool = True) -> None:
    """Compare every run of an experiment: params, tags, points by digest, files by size and by the digest of the bytes kept here."""
    for run in source.runs(experiment):
        had = imported(store, f"run:{run.id}")
        if had is None:
            checked.differences.append(f"run {run.id} is not here")
            continue
        here = _here(store, run)
        there = _there(source, run, had, files=files)
        for field in ("params", "tags", "points", "digest", *(("files", "file_bytes") if files else ())):
            mine, theirs = getattr(here, field), getattr(there, field)
            if mine != theirs:
                checked.differences.append(f"run {run.id}: {field} are {mine} here and {theirs} there")
        checked.runs += 1
        checked.points += here.points
        checked.files += here.files
        checked.file_bytes += here.file_bytes
        if files:
            checked.differences += damaged(store, f"run:{run.id}")
    for model in source.logged_models(experiment):
        if imported(store, f"logged-model:{model.id}") is None:
            checked.differences.append(f"logged model {model.id} is not here")
            continue
        checked.logged_models += 1
        checked.differences += damaged(store, f"logged-model:{model.id}") if files else []


def _there(source: Source, run: Run, had: Had, *, files: bool) -> Had:
    points = sum_of_points()
    count = 0
    for page in source.points(run):
        points.update(page)
        count += len(page)
    try:
        found = source.files(run.artifact_uri) if files and run.artifact_uri else []
    except NotFound:  # said as a problem when it was to be copied
        found = []
    return msgspec.structs.replace(
        had,
        params=len(run.params),
        tags=len(run.tags),
        points=count,
        digest=points.text(),
        files=len(found),
        file_bytes=sum(file.size_bytes for file in found),
    )


def _here(store: Store, run: Run) -> Had:
    with store.ledger.read() as connection:
        points = sum_of_points()
        count = 0
        rows: Callable[[str], list[Any]] = lambda query: rows_of(connection, query, (run.id,))  # noqa: E731
        for series, key in rows("select id, key from series where run = ?"):
            for step, at_us, value, special in rows_of(
                connection, "select step, at_us, value, special from points where series = ?", (series,)
            ):
                points.update([(key, real_value(value, special), step, at_us // 1_000)])
                count += 1
        kept = files_of_in(connection, f"run:{run.id}")
        return Had(
            source="",
            params=_count(connection, s.params, s.params.c.run == run.id),
            tags=_count(connection, s.tags, s.tags.c.subject == f"run:{run.id}"),
            points=count,
            digest=points.text(),
            files=len(kept),
            file_bytes=sum(file.size_bytes for file in kept),
        )


def _count(connection: Connection, table: Any, where: Any) -> int:
    return int(connection.execute(select(func.count()).select_from(table).where(where)).scalar_one())


def damaged(store: Store, owner: str) -> list[str]:
    """Files of an owner whose bytes here are not what their digest says, each read to its end."""
    with store.ledger.read() as connection:
        kept = files_of_in(connection, owner)
    wrong = []
    for file in kept:
        try:
            with store.blobs.open(file.digest) as stream:
                while stream.read(1 << 20):
                    pass
        except AndonError as error:
            wrong.append(f"{owner}: {file.path}: {error.message}")
    return wrong
