"""Runs as pages: the list, one run with what is missing from it, and the points of a metric."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, func, literal, select

from andon.core.addresses import Address
from andon.core.errors import InvalidInput, NotFound
from andon.operations.showing.records import (
    ArtifactRow,
    DescribedInput,
    InputRow,
    LoggedModelRow,
    Present,
    RunRow,
    RunsView,
    RunView,
    SeriesPoints,
    SeriesRow,
)
from andon.registry import Edge, tags_of
from andon.store import Store
from andon.store import schema as s
from andon.tracking import liveness
from andon.tracking.completeness import completeness_of
from andon.tracking.inputs import described_inputs_in
from andon.tracking.runs import missing_run_in

MAX_POINTS = 2_000
MOST_CHILDREN = 100
_CHUNK = 400


def runs_view(
    store: Store, *, experiment: str | None = None, status: str | None = None, before_us: int | None = None, limit: int = 100
) -> RunsView:
    """Runs, newest first."""
    r = s.runs.c
    query = select(r.id, r.started_us).join(s.experiments, s.experiments.c.id == r.experiment).where(r.deleted_us.is_(None))
    if experiment is not None:
        query = query.where(s.experiments.c.name == experiment)
    if status is not None:
        query = query.where(r.status == status)
    if before_us is not None:
        query = query.where(r.started_us < before_us)
    with store.ledger.read() as connection:
        experiments = _counts(connection)
        found = connection.execute(query.order_by(r.started_us.desc(), r.id.desc()).limit(limit + 1)).all()
        rows = read_rows(connection, [row.id for row in found[:limit]], now_us=store.clock.now_us())
    return RunsView(
        runs=rows,
        experiments=experiments,
        total=sum(experiments.values()),
        next_before_us=rows[-1].started_us if len(found) > limit else None,
    )


def _counts(connection: Connection) -> dict[str, int]:
    living = s.runs.c.deleted_us.is_(None)
    counted = select(s.runs.c.experiment, func.count().label("n")).where(living).group_by(s.runs.c.experiment).subquery()
    query = select(s.experiments.c.name, counted.c.n).join(counted, counted.c.experiment == s.experiments.c.id)
    return {row.name: row.n for row in connection.execute(query.order_by(s.experiments.c.name))}


def read_rows(connection: Connection, ids: Sequence[str], *, now_us: int, values: bool = True) -> tuple[RunRow, ...]:
    """Runs by id, in that order, deleted ones too; without params and metrics unless ``values``. A run whose process is gone is killed."""
    metrics: dict[str, dict[str, float | None]] = {one: {} for one in ids}
    params: dict[str, dict[str, str]] = {one: {} for one in ids}
    found: dict[str, Any] = {}
    for part in chunks(ids):
        found |= {row.id: row for row in connection.execute(_RUNS.where(s.runs.c.id.in_(part)))}
        if values:
            newest = select(s.series.c.run, s.series.c.key, s.series.c.value, s.series.c.special).where(s.series.c.run.in_(part))
            for run, key, value, special in connection.execute(newest.order_by(s.series.c.run, s.series.c.key)):
                metrics[run][key] = None if special else value
            given = select(s.params.c.run, s.params.c.key, s.params.c.value).where(s.params.c.run.in_(part))
            for run, key, text in connection.execute(given.order_by(s.params.c.run, s.params.c.key)):
                params[run][key] = text
    return tuple(
        RunRow(
            id=row.id,
            name=row.name,
            experiment=row.experiment_name,
            status=_status(row, now_us),
            started_us=row.started_us,
            ended_us=row.ended_us,
            actor=row.actor,
            parent=row.parent,
            metrics=metrics[row.id],
            params=params[row.id],
        )
        for row in (found[one] for one in ids if one in found)
    )


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Parts small enough for one ``IN (…)`` on any engine."""
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]


_COLUMNS = [s.runs.c[name] for name in ("id", "name", "experiment", "status", "started_us", "ended_us", "actor", "parent", "deleted_us")]
_RUNS = select(*_COLUMNS, s.experiments.c.name.label("experiment_name"), s.leases.c.holder, s.leases.c.expires_us).select_from(
    s.runs.join(s.experiments, s.experiments.c.id == s.runs.c.experiment).outerjoin(
        s.leases, s.leases.c.name == literal("run:") + s.runs.c.id
    )
)


def _status(row: Any, now_us: int) -> str:
    gone = row.status == "running" and row.holder is not None and not liveness.is_alive(row.holder, row.expires_us, now_us=now_us)
    return "killed" if gone else str(row.status)


def run_view(store: Store, address: str | Address) -> RunView:
    """One run, whole; a deleted one too. Raises ``NotFound``."""
    at = Address.parse(address, kind="run")
    with store.ledger.read() as connection:
        found = read_rows(connection, [at.name], now_us=store.clock.now_us())
        if not found:
            raise missing_run_in(connection, at.name)
        kept = connection.execute(select(s.runs.c.facts, s.runs.c.deleted_us).where(s.runs.c.id == at.name)).one()
        series = connection.execute(select(s.series).where(s.series.c.run == at.name).order_by(s.series.c.key)).all()
        artifacts = connection.execute(select(s.artifacts).where(s.artifacts.c.owner == str(at)).order_by(s.artifacts.c.path)).all()
        inputs = connection.execute(select(s.run_inputs).where(s.run_inputs.c.run == at.name).order_by(s.run_inputs.c.address)).all()
        models = _models(connection, at.name)
        made = _edges(connection, [str(at), *(f"logged-model:{one.id}" for one in models if one.role == "output")])
        pinned = _edges(connection, [edge.child for edge in made if edge.child.startswith("model:")])
        inside = [edge.child.removeprefix("run:") for edge in made if edge.child.startswith("run:")]
        children = read_rows(connection, inside[:MOST_CHILDREN], now_us=store.clock.now_us())
        described = _described(connection, at.name)
    parts, score = _completeness(store, at.name)
    return RunView(
        run=found[0],
        deleted_us=kept.deleted_us,
        facts=json.loads(kept.facts or b"{}"),
        series=tuple(_series(one) for one in series),
        completeness=parts,
        score=score,
        artifacts=tuple(ArtifactRow(path=a.path, digest=a.digest, size_bytes=a.size_bytes, media_type=a.media_type) for a in artifacts),
        inputs=tuple(InputRow(address=i.address, digest=i.digest, context=i.context) for i in inputs),
        described=described,
        models=models,
        made=made,
        releases=tuple(sorted({edge.child for edge in pinned if edge.child.startswith("release:")})),
        children=children,
        tags=tags_of(store, at),
    )


def _completeness(store: Store, run: str) -> tuple[tuple[Present, ...], float]:
    try:
        whole = completeness_of(store, run)
    except InvalidInput as error:  # something that it made has a manifest of another shape: the page says so, and stands
        return (Present(name="what it made", present=False, detail=error.message),), 0.0
    return tuple(Present(name=p.name, present=p.present, detail=p.found if p.present else p.advice) for p in whole.parts), whole.score


def _edges(connection: Connection, parents: Sequence[str]) -> tuple[Edge, ...]:
    e = s.edges.c
    query = select(e.child, e.parent, e.role).where(e.parent.in_(list(parents)[:_CHUNK])).order_by(e.child).limit(1_000)
    return tuple(Edge(row.child, row.parent, row.role) for row in connection.execute(query))


def _models(connection: Connection, run: str) -> tuple[LoggedModelRow, ...]:
    """Logged models that the run made, and those that it used."""
    m, u = s.logged_models.c, s.run_models.c
    made = select(s.logged_models).where(m.run == run, m.deleted_us.is_(None)).order_by(m.created_us)
    used = (
        select(s.logged_models)
        .join(s.run_models, u.model == m.id)
        .where(u.run == run, u.role == "input", m.deleted_us.is_(None))
        .order_by(m.created_us)
    )
    rows = [*((row, "output") for row in connection.execute(made)), *((row, "input") for row in connection.execute(used))]
    return tuple(
        LoggedModelRow(id=row.id, name=row.name, model_type=row.model_type or "", status=row.status, role=role, created_us=row.created_us)
        for row, role in rows
    )


def run_of_model(store: Store, model: str) -> str:
    """The id of the run that logged a model. Raises ``NotFound``."""
    at = Address.parse(model, kind="logged-model")
    with store.ledger.read() as connection:
        run = connection.execute(select(s.logged_models.c.run).where(s.logged_models.c.id == at.name)).scalar()
    if run is None:
        raise NotFound("no run here logged this model", address=str(at), next_step="open /runs to see what there is")
    return str(run)


def _described(connection: Connection, run: str) -> tuple[DescribedInput, ...]:
    return tuple(
        DescribedInput(name=one.name, digest=one.digest, context=one.context or "", source=_source(one.source))
        for one in described_inputs_in(connection, [run]).get(run, ())
    )


def _source(told: str) -> str:
    """Where a client says that data is: the ``uri`` or ``path`` of its source, else the source as it wrote it."""
    try:
        read = json.loads(told)
    except ValueError:
        return told[:300]
    if not isinstance(read, dict):
        return str(read)[:300]
    return str(next((read[key] for key in ("uri", "url", "path", "table_name") if isinstance(read.get(key), str)), ""))[:300]


def _series(row: Any) -> SeriesRow:
    return SeriesRow(key=row.key, count=row.count, step=row.step, value=None if row.special else row.value, min=row.min, max=row.max)


def series_points(store: Store, run: str | Address, key: str, *, limit: int = MAX_POINTS, after_step: int | None = None) -> SeriesPoints:
    """The points of one metric by step, at most about ``limit``; from ``after_step`` on, that step included, for a chart that follows.

    Raises ``NotFound`` when the run has no such metric.
    """
    at = Address.parse(run, kind="run")
    with store.ledger.read() as connection:
        found = read_series(connection, at.name, key, limit=limit, after_step=after_step)
        if found is None:
            known = connection.execute(select(s.series.c.key).where(s.series.c.run == at.name).order_by(s.series.c.key).limit(20)).scalars()
            named = ", ".join(known)
            raise NotFound(
                f"this run has no metric {key[:80]!r}", run=str(at), next_step=f"it has {named}" if named else "it has none at all"
            )
    return found


def read_series(connection: Connection, run: str, key: str, *, limit: int, after_step: int | None = None) -> SeriesPoints | None:
    """``series_points`` inside the caller's transaction; None when the run has no such metric."""
    head = connection.execute(select(s.series.c.id).where(s.series.c.run == run, s.series.c.key == key)).first()
    if head is None:
        return None
    p = s.points.c
    query = select(p.step, p.at_us, p.value, p.special).where(p.series == head.id)
    if after_step is not None:
        query = query.where(p.step >= after_step)
    rows = connection.execute(query.order_by(p.step, p.at_us, p.value)).cursor.fetchall()  # plain tuples: half the time of Rows
    kept = _thin(rows, limit)
    return SeriesPoints(
        key=key,
        steps=tuple(row[0] for row in kept),
        at_us=tuple(row[1] for row in kept),
        values=tuple(None if row[3] else row[2] for row in kept),
        total=len(rows),
    )


def _thin(rows: Sequence[Any], limit: int) -> list[Any]:
    """First, last, lowest and highest of each stretch: spikes survive, which every n-th point would lose."""
    if len(rows) <= limit:
        return list(rows)
    stretches = max(1, limit // 4)
    kept: dict[int, Any] = {}
    for part in range(stretches):
        start, end = part * len(rows) // stretches, (part + 1) * len(rows) // stretches
        positions = range(start, end)
        chosen = {start, end - 1, min(positions, key=lambda i: rows[i][2]), max(positions, key=lambda i: rows[i][2])}
        kept |= {i: rows[i] for i in chosen}
    return [kept[i] for i in sorted(kept)]
