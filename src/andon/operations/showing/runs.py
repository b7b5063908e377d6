"""Runs as pages: the list, one run with what is missing from it, and the points of a metric."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, func, select

from andon.core.addresses import Address
from andon.core.errors import NotFound
from andon.operations.showing.records import ArtifactRow, InputRow, Present, RunRow, RunsView, RunView, SeriesPoints, SeriesRow
from andon.registry import Edge, tags_of
from andon.store import Store
from andon.store import schema as s
from andon.tracking.completeness import completeness_of

SHOWN_KEYS = 6
MAX_POINTS = 2_000


def runs_view(
    store: Store, *, experiment: str | None = None, status: str | None = None, before_us: int | None = None, limit: int = 100
) -> RunsView:
    """Runs, newest first."""
    living = s.runs.c.deleted_us.is_(None)
    query = _RUNS.where(living)
    if experiment is not None:
        query = query.where(s.experiments.c.name == experiment)
    if status is not None:
        query = query.where(s.runs.c.status == status)
    if before_us is not None:
        query = query.where(s.runs.c.started_us < before_us)
    with store.ledger.read() as connection:
        experiments = _counts(connection)
        found = connection.execute(query.order_by(s.runs.c.started_us.desc(), s.runs.c.id.desc()).limit(limit + 1)).all()
        rows = _rows(connection, found[:limit])
    return RunsView(
        runs=rows,
        experiments=experiments,
        total=sum(experiments.values()),
        next_before_us=rows[-1].started_us if len(found) > limit else None,
    )


_RUNS = select(s.runs, s.experiments.c.name.label("experiment_name")).join(s.experiments, s.experiments.c.id == s.runs.c.experiment)


def _counts(connection: Connection) -> dict[str, int]:
    living = s.runs.c.deleted_us.is_(None)
    counted = select(s.runs.c.experiment, func.count().label("n")).where(living).group_by(s.runs.c.experiment).subquery()
    query = select(s.experiments.c.name, counted.c.n).join(counted, counted.c.experiment == s.experiments.c.id)
    return {row.name: row.n for row in connection.execute(query.order_by(s.experiments.c.name))}


def _rows(connection: Connection, found: Any) -> tuple[RunRow, ...]:
    ids = [row.id for row in found]
    metrics: dict[str, dict[str, float | None]] = {id_: {} for id_ in ids}
    params: dict[str, dict[str, str]] = {id_: {} for id_ in ids}
    newest = (
        select(s.series.c.run, s.series.c.key, s.series.c.value, s.series.c.special).where(s.series.c.run.in_(ids)).order_by(s.series.c.key)
    )
    for row in connection.execute(newest):
        metrics[row.run][row.key] = None if row.special else row.value
    for row in connection.execute(select(s.params).where(s.params.c.run.in_(ids)).order_by(s.params.c.key)):
        params[row.run][row.key] = row.value
    return tuple(
        RunRow(
            id=row.id,
            name=row.name,
            experiment=row.experiment_name,
            status=row.status,
            started_us=row.started_us,
            ended_us=row.ended_us,
            actor=row.actor,
            parent=row.parent,
            metrics=metrics[row.id],
            params=params[row.id],
        )
        for row in found
    )


def run_view(store: Store, address: str | Address) -> RunView:
    """One run, whole. Raises ``NotFound``."""
    at = Address.parse(address, kind="run")
    with store.ledger.read() as connection:
        found = connection.execute(_RUNS.where(s.runs.c.id == at.name, s.runs.c.deleted_us.is_(None))).all()
        if not found:
            raise NotFound(address=str(at), next_step="open /runs, or run `andon ls run`, to see what there is")
        row = _rows(connection, found)[0]
        facts = json.loads(found[0].facts)
        series = connection.execute(select(s.series).where(s.series.c.run == at.name).order_by(s.series.c.key)).all()
        artifacts = connection.execute(select(s.artifacts).where(s.artifacts.c.owner == str(at)).order_by(s.artifacts.c.path)).all()
        inputs = connection.execute(select(s.run_inputs).where(s.run_inputs.c.run == at.name).order_by(s.run_inputs.c.address)).all()
        made = connection.execute(select(s.edges).where(s.edges.c.parent == str(at)).order_by(s.edges.c.child)).all()
    whole = completeness_of(store, at.name)
    return RunView(
        run=row,
        facts=facts,
        series=tuple(_series(one) for one in series),
        completeness=tuple(Present(name=p.name, present=p.present, detail=p.found if p.present else p.advice) for p in whole.parts),
        score=whole.score,
        artifacts=tuple(ArtifactRow(path=a.path, digest=a.digest, size_bytes=a.size_bytes, media_type=a.media_type) for a in artifacts),
        inputs=tuple(InputRow(address=i.address, digest=i.digest, context=i.context) for i in inputs),
        made=tuple(Edge(edge.child, edge.parent, edge.role) for edge in made),
        tags=tags_of(store, at),
    )


def _series(row: Any) -> SeriesRow:
    return SeriesRow(key=row.key, count=row.count, step=row.step, value=None if row.special else row.value, min=row.min, max=row.max)


def series_points(store: Store, run: str | Address, key: str, *, limit: int = MAX_POINTS) -> SeriesPoints:
    """The points of one metric by step, at most about ``limit``. Raises ``NotFound`` when the run has no such metric."""
    at = Address.parse(run, kind="run")
    with store.ledger.read() as connection:
        head = connection.execute(select(s.series).where(s.series.c.run == at.name, s.series.c.key == key)).first()
        if head is None:
            known = connection.execute(select(s.series.c.key).where(s.series.c.run == at.name).order_by(s.series.c.key).limit(20)).scalars()
            named = ", ".join(known)
            raise NotFound(
                f"this run has no metric {key[:80]!r}", run=str(at), next_step=f"it has {named}" if named else "it has none at all"
            )
        p = s.points
        rows = connection.execute(
            select(p.c.step, p.c.at_us, p.c.value, p.c.special).where(p.c.series == head.id).order_by(p.c.step, p.c.at_us, p.c.value)
        ).all()
    kept = _thin(rows, limit)
    return SeriesPoints(
        key=key,
        steps=tuple(row.step for row in kept),
        at_us=tuple(row.at_us for row in kept),
        values=tuple(None if row.special else row.value for row in kept),
        total=len(rows),
    )


def _thin(rows: Any, limit: int) -> list[Any]:
    """First, last, lowest and highest of each stretch: spikes survive, which every n-th point would lose."""
    if len(rows) <= limit:
        return list(rows)
    stretches = max(1, limit // 4)
    kept: dict[int, Any] = {}
    for part in range(stretches):
        start, end = part * len(rows) // stretches, (part + 1) * len(rows) // stretches
        positions = range(start, end)
        chosen = {start, end - 1, min(positions, key=lambda i: rows[i].value), max(positions, key=lambda i: rows[i].value)}
        kept |= {i: rows[i] for i in chosen}
    return [kept[i] for i in sorted(kept)]
