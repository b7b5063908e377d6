"""Runs in the ledger: create, end, read, list, delete and restore. Their lifecycle is an event stream; the ``runs`` row is its fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, and_, func, insert, literal, select, tuple_

from andon.core.actors import Actor
from andon.core.addresses import Address, check_experiment
from andon.core.digests import canonical_json
from andon.core.errors import Conflict, Gone, InvalidInput, NotFound
from andon.core.texts import check_text
from andon.registry import link_in
from andon.registry.tags import set_tags_in
from andon.store import Store, leases, streams
from andon.store import schema as s
from andon.store.statements import rows_of, run_sql
from andon.tracking import liveness
from andon.tracking.batches import check_run_in, param_texts, write_params_in
from andon.tracking.experiments import DEFAULT, ensure_experiment_in
from andon.tracking.points import SeriesPoints, read_points, real_value
from andon.tracking.records import Metric, RunFacts, RunInput, RunRecord, RunStatus

View = Literal["active", "deleted", "all"]
MAX_NAME_CHARACTERS = 1_000
NO_END = -1
_STATUSES = ("scheduled", "running", "finished", "failed", "killed")


def create_run(
    store: Store,
    *,
    experiment: str = DEFAULT,
    name: str = "",
    actor: Actor,
    parent: str | None = None,
    run: str | None = None,
    facts: RunFacts | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    started_us: int | None = None,
    holder: str | None = None,
) -> RunRecord:
    """Add a running run; durable on return. ``run`` is its id (default: a new one), ``parent`` the id of the run around it.

    ``holder`` (``liveness.holder()``) is for runs that end with a process: they are reported killed when it is gone.
    Raises ``InvalidInput`` naming the field, ``Conflict`` when the id is taken, ``NotFound`` for the parent.
    """
    texts = param_texts(params or {})
    now_us = store.clock.now_us()
    made = _new_record(store, experiment, name, actor, parent, run, facts, now_us if started_us is None else started_us)
    return store.ledger.write(lambda c: create_run_in(c, made, params=texts, tags=tags or {}, now_us=now_us, actor=actor, holder=holder))


def create_run_in(
    connection: Connection,
    made: RunRecord,
    *,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    now_us: int,
    actor: Actor,
    holder: str | None = None,
) -> RunRecord:
    """``create_run`` inside the caller's transaction."""
    if rows_of(connection, "select 1 from runs where id = ?", (made.id,)):
        raise Conflict("there is a run with this id already", address=made.address)
    if made.parent is not None:
        check_run_in(connection, made.parent)
        link_in(connection, made.address, f"run:{made.parent}", "run", now_us=now_us)
    if made.experiment_id < 0:
        made = msgspec.structs.replace(made, experiment_id=ensure_experiment_in(connection, made.experiment, now_us=now_us))
    row = (made.id, made.experiment_id, made.name, made.status, made.started_us, made.ended_us, made.actor, made.parent)
    run_sql(connection, _INSERT, (*row, _encode(made.facts)))
    run_sql(connection, _BEGIN, (made.address, b"{}", now_us, str(actor)))
    if params:
        write_params_in(connection, made.id, params)
    if tags:
        set_tags_in(connection, made.address, tags, now_us=now_us, actor=actor, fresh=True)
    if holder is not None:
        leases.take_lease(connection, made.address, holder, now_us=now_us, for_us=liveness.LEASE_US)
    return made


_INSERT = "insert into runs (id, experiment, name, status, started_us, ended_us, actor, parent, facts) values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# a new run's stream is empty, so there is nothing to ask first
_BEGIN = "insert into events (stream, n, type, body, at_us, actor, reason) values (?, 1, 'started', ?, ?, ?, '')"


def _new_record(
    store: Store, experiment: str, name: str, actor: Actor, parent: str | None, run: str | None, facts: RunFacts | None, started_us: int
) -> RunRecord:
    check_experiment(experiment)
    identity = Address.parse(f"run:{run}").name if run is not None else store.ids.new()
    check_run_name(name)
    return RunRecord(
        id=identity,
        experiment=experiment,
        experiment_id=-1,
        name=name or f"run-{identity[-6:].lower()}",
        status="running",
        started_us=started_us,
        ended_us=None,
        actor=str(actor),
        parent=parent,
        facts=facts,
    )


def update_run(
    store: Store,
    run: str,
    *,
    actor: Actor,
    status: RunStatus | None = None,
    ended_us: int | None = None,
    name: str | None = None,
    experiment: str | None = None,
    facts: RunFacts | None = None,
    reason: str = "",
    body: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Change what is given; ``status`` other than ``running`` and ``scheduled`` ends the run (``ended_us``: now unless given), and these
    two open it again."""
    now_us = store.clock.now_us()
    return store.ledger.write(
        lambda c: update_run_in(
            c,
            run,
            actor=actor,
            now_us=now_us,
            status=status,
            ended_us=ended_us,
            name=name,
            experiment=experiment,
            facts=facts,
            reason=reason,
            body=body,
        )
    )


def update_run_in(
    connection: Connection,
    run: str,
    *,
    actor: Actor,
    now_us: int,
    status: RunStatus | None = None,
    ended_us: int | None = None,
    name: str | None = None,
    experiment: str | None = None,
    facts: RunFacts | None = None,
    reason: str = "",
    body: Mapping[str, Any] | None = None,
) -> RunRecord:
    """``update_run`` inside the caller's transaction."""
    if status is not None and status not in ("running", "scheduled"):
        ended_us = now_us if ended_us is None else ended_us
    elif status is not None:
        ended_us = NO_END
    change_run_in(
        connection, run, actor=actor, now_us=now_us, status=status, ended_us=ended_us, name=name, facts=facts, reason=reason, body=body
    )
    if experiment is not None:
        number = ensure_experiment_in(connection, experiment, now_us=now_us)
        run_sql(connection, "update runs set experiment = ? where id = ?", (number, run))
    return get_run_in(connection, run, now_us=now_us)


def change_run_in(
    connection: Connection,
    run: str,
    *,
    actor: Actor,
    now_us: int,
    status: RunStatus | None = None,
    ended_us: int | None = None,
    name: str | None = None,
    facts: RunFacts | None = None,
    reason: str = "",
    body: Mapping[str, Any] | None = None,
) -> None:
    """Change what is given and nothing else: a status says nothing of the end here. ``NO_END`` takes the end away."""
    check_run_in(connection, run)
    changes: dict[str, Any] = {}
    if status is not None:
        if status not in _STATUSES:
            raise InvalidInput(f"a run's status is one of {', '.join(_STATUSES)}", field="status", got=str(status)[:40])
        changes["status"] = status
        if status not in ("running", "scheduled"):
            run_sql(connection, "delete from leases where name = ?", (f"run:{run}",))
        streams.append(connection, f"run:{run}", status, dict(body or {}), at_us=now_us, actor=actor, reason=reason)
    if ended_us is not None:
        changes["ended_us"] = None if ended_us == NO_END else ended_us
    if name is not None:
        changes["name"] = check_run_name(name, at_least=1)
    if facts is not None:
        changes["facts"] = _encode(facts)
    if changes:
        run_sql(connection, f"update runs set {', '.join(f'{column} = ?' for column in changes)} where id = ?", (*changes.values(), run))


def check_run_name(name: str, *, at_least: int = 0) -> str:
    """Return ``name`` if a run can have it: any text of at most ``MAX_NAME_CHARACTERS``. Raises ``InvalidInput``."""
    check_text(name, "name", at_least=at_least, at_most=4 * MAX_NAME_CHARACTERS)
    if len(name) > MAX_NAME_CHARACTERS:
        raise InvalidInput(f"a run's name has at most {MAX_NAME_CHARACTERS} characters", field="name", got=name[:80])
    return name


def get_run(store: Store, run: str) -> RunRecord:
    """A run by id or ``run:ID``, deleted ones included. Raises ``NotFound``."""
    with store.ledger.read() as connection:
        return get_run_in(connection, Address.parse(run, kind="run").name, now_us=store.clock.now_us())


def get_run_in(connection: Connection, run: str, *, now_us: int) -> RunRecord:
    """``get_run`` inside the caller's transaction."""
    row = connection.execute(_ROWS.where(s.runs.c.id == run)).first()
    if row is None:
        raise missing_run_in(connection, run)
    return _record(row, now_us)


def missing_run_in(connection: Connection, run: str) -> NotFound:
    """The error for a run that is not there: ``Gone`` when it once was."""
    grave = connection.execute(select(s.tombstones).where(s.tombstones.c.address == f"run:{run}")).first()
    if grave is not None:
        return Gone("this run was deleted for good", address=f"run:{run}", name=grave.title, by=grave.actor, why=grave.reason)
    return NotFound(address=f"run:{run}", next_step="open /runs, or run `andon ls run`, to see what there is")


def list_runs(
    store: Store,
    experiment: str | None = None,
    *,
    limit: int = 100,
    after: str | None = None,
    view: View = "active",
    parent: str | None = None,
) -> list[RunRecord]:
    """Runs, newest first; ``after`` is the id of the last run of the page before. Raises ``NotFound`` for that id."""
    query = _ROWS.order_by(s.runs.c.started_us.desc(), s.runs.c.id.desc()).limit(limit)
    if experiment is not None:
        query = query.where(s.experiments.c.name == experiment)
    if parent is not None:
        query = query.where(s.runs.c.parent == parent)
    if view != "all":
        query = query.where(s.runs.c.deleted_us.is_(None) if view == "active" else s.runs.c.deleted_us.is_not(None))
    now_us = store.clock.now_us()
    with store.ledger.read() as connection:
        if after is not None:
            last = get_run_in(connection, after, now_us=now_us)
            query = query.where(tuple_(s.runs.c.started_us, s.runs.c.id) < tuple_(last.started_us, last.id))
        return [_record(row, now_us) for row in connection.execute(query)]


def experiments(store: Store) -> dict[str, int]:
    """Experiments that have runs which are not deleted, with how many."""
    counted = (
        select(s.runs.c.experiment, func.count().label("n")).where(s.runs.c.deleted_us.is_(None)).group_by(s.runs.c.experiment).subquery()
    )
    query = select(s.experiments.c.name, counted.c.n).join(counted, counted.c.experiment == s.experiments.c.id)
    with store.ledger.read() as connection:
        return {row[0]: row[1] for row in connection.execute(query.order_by(s.experiments.c.name))}


def delete_run(store: Store, run: str, *, actor: Actor, reason: str = "") -> None:
    """Hide a run from lists and refuse writes to it; ``restore_run`` brings it back until retention frees what it holds."""
    now_us = store.clock.now_us()
    store.ledger.write(lambda c: hide_run_in(c, run, now_us=now_us, actor=actor, reason=reason))


def restore_run(store: Store, run: str, *, actor: Actor, reason: str = "") -> None:
    """Bring a deleted run back."""
    now_us = store.clock.now_us()
    store.ledger.write(lambda c: hide_run_in(c, run, now_us=now_us, actor=actor, reason=reason, hidden=False))


def hide_run_in(connection: Connection, run: str, *, now_us: int, actor: Actor, reason: str = "", hidden: bool = True) -> None:
    """``delete_run``, or with ``hidden=False`` ``restore_run``, inside the caller's transaction."""
    rows = rows_of(connection, "select deleted_us from runs where id = ?", (run,))
    if not rows:
        raise NotFound(address=f"run:{run}", next_step="run `andon ls run` to see what there is")
    if (rows[0][0] is not None) == hidden:
        return
    run_sql(connection, "update runs set deleted_us = ? where id = ?", (now_us if hidden else None, run))
    streams.append(connection, f"run:{run}", "deleted" if hidden else "restored", {}, at_us=now_us, actor=actor, reason=reason)


def adopt_run_in(connection: Connection, run: str, parent: str | None, *, now_us: int) -> None:
    """Put a run under another one, or (None) under none. A parent that is not there, or would be its own, changes nothing."""
    run_sql(connection, "delete from edges where child = ? and role = 'run'", (f"run:{run}",))
    known = parent is not None and parent != run and bool(rows_of(connection, "select 1 from runs where id = ?", (parent,)))
    run_sql(connection, "update runs set parent = ? where id = ?", (parent if known else None, run))
    if known:
        link_in(connection, f"run:{run}", f"run:{parent}", "run", now_us=now_us)


def share_facts_in(connection: Connection, run: str, around: str) -> None:
    """What was captured of the command ``around`` holds for a run that is made inside it, too."""
    run_sql(connection, "update runs set facts = (select o.facts from runs o where o.id = ?) where id = ?", (around, run))


def settle_runs(store: Store, *, actor: Actor) -> list[str]:
    """Write down as killed the runs whose process is gone; returns their ids. Reads report them so already."""
    now_us = store.clock.now_us()

    def work(connection: Connection) -> list[str]:
        dead = [
            row
            for row in connection.execute(_ROWS.where(s.runs.c.status == "running", s.leases.c.holder.is_not(None)))
            if _record(row, now_us).status == "killed"
        ]
        for row in dead:
            last_us = connection.execute(select(func.max(s.series.c.at_us)).where(s.series.c.run == row.id)).scalar() or 0
            ended_us = max(row.started_us, last_us, row.expires_us - liveness.LEASE_US)
            told = {"seen_us": row.expires_us - liveness.LEASE_US}
            update_run_in(
                connection,
                row.id,
                actor=actor,
                now_us=now_us,
                status="killed",
                ended_us=min(ended_us, now_us),
                reason="its process is gone",
                body=told,
            )
        return [row.id for row in dead]

    return store.ledger.write(work)


def log_input(store: Store, run: str, address: str | Address, digest: str, *, context: str = "training", actor: Actor) -> None:
    """Record that a run read a dataset version; again is nothing."""
    now_us = store.clock.now_us()
    store.ledger.write(lambda c: log_input_in(c, run, str(address), digest, context=context, now_us=now_us, actor=actor))


def log_input_in(connection: Connection, run: str, address: str, digest: str, *, context: str, now_us: int, actor: Actor) -> None:  # noqa: ARG001 - every write takes an actor
    """``log_input`` inside the caller's transaction."""
    check_run_in(connection, run)
    at = and_(s.run_inputs.c.run == run, s.run_inputs.c.address == address)
    if connection.execute(select(s.run_inputs.c.run).where(at)).first() is None:
        connection.execute(insert(s.run_inputs).values(run=run, address=address, digest=digest, context=context))
        link_in(connection, f"run:{run}", address, "data", now_us=now_us)


def inputs_of(store: Store, run: str) -> list[RunInput]:
    """What a run read."""
    query = select(s.run_inputs).where(s.run_inputs.c.run == run).order_by(s.run_inputs.c.address)
    with store.ledger.read() as connection:
        return [RunInput(address=row.address, digest=row.digest, context=row.context) for row in connection.execute(query)]


def params_of(store: Store, run: str) -> dict[str, str]:
    """A run's params, by key."""
    query = select(s.params.c.key, s.params.c.value).where(s.params.c.run == run).order_by(s.params.c.key)
    with store.ledger.read() as connection:
        return {row.key: row.value for row in connection.execute(query)}


def metrics_of(store: Store, run: str) -> dict[str, Metric]:
    """The newest point, count and extremes of each of a run's metrics."""
    with store.ledger.read() as connection:
        rows = connection.execute(select(s.series).where(s.series.c.run == run).order_by(s.series.c.key)).all()
    return {row.key: metric_of(row) for row in rows}


def metric_of(row: Any) -> Metric:
    """A row of ``series`` as a record."""
    value = real_value(row.value, row.special)
    return Metric(key=row.key, value=value, step=row.step, at_us=row.at_us, count=row.count, min=row.min, max=row.max)


def metric_series(
    store: Store, run: str, key: str, *, after: tuple[int, int, float, int] | None = None, limit: int | None = None
) -> SeriesPoints:
    """A metric's points in order of step, then time; empty when there are none.

    A page goes on ``after`` the last row ``(step, at_us, value, special)`` of the page before.
    """
    with store.ledger.read() as connection:
        return read_points(connection, run, key, after=after, limit=limit)


def events_of(store: Store, run: str) -> Sequence[streams.Event]:
    """A run's lifecycle: started, finished, failed, killed, deleted, restored."""
    with store.ledger.read() as connection:
        return streams.read(connection, f"run:{run}")


_ROWS = select(s.runs, s.experiments.c.name.label("experiment_name"), s.leases.c.holder, s.leases.c.expires_us).select_from(
    s.runs.join(s.experiments, s.experiments.c.id == s.runs.c.experiment).outerjoin(
        s.leases, s.leases.c.name == literal("run:") + s.runs.c.id
    )
)


def _record(row: Any, now_us: int) -> RunRecord:
    status: RunStatus = row.status
    if status == "running" and row.holder is not None and not liveness.is_alive(row.holder, row.expires_us, now_us=now_us):
        status = "killed"
    return RunRecord(
        id=row.id,
        experiment=row.experiment_name,
        experiment_id=row.experiment,
        name=row.name,
        status=status,
        started_us=row.started_us,
        ended_us=row.ended_us,
        actor=row.actor,
        parent=row.parent,
        facts=_decode(row.facts),
        deleted_us=row.deleted_us,
    )


def _encode(facts: RunFacts | None) -> bytes:
    return canonical_json(facts) if facts is not None else b"{}"


def _decode(body: bytes) -> RunFacts | None:
    return None if body in (b"{}", b"") else msgspec.json.decode(body, type=RunFacts)
