"""Retention: which runs go, which only lose their files, and removing them for good.

``decide`` is pure. What it reads and what carries it out is below it: a run is hidden first, its points go in slices so that no writer
waits long, and the rest goes in one transaction that leaves a tombstone. Killed half way, the next pass goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import msgspec
from sqlalchemy import Connection, and_, delete, exists, func, insert, literal, or_, select, update

from andon.core.actors import Actor
from andon.core.clocks import DAY_US
from andon.core.errors import InvalidInput
from andon.registry import living_children_in
from andon.store import Store, streams
from andon.store import schema as s

PURGE_POINTS = 50_000
"""Points removed in one transaction: about 30 ms."""
DELETED_DAYS = 30.0


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of ``policy:retention/NAME``. Days count from a run's deletion, or from its end; None: never.

    Runs that a living registered version came from are spared whatever their age, and so are runs with the tag ``keep_tag``, and the best
    run of each experiment by each metric in ``keep_best`` (``{"mae": "min"}``).
    """

    experiments: tuple[str, ...] = ("*",)
    """Names or shell patterns. Of several policies the one with the longest matching pattern holds."""
    deleted_days: float | None = DELETED_DAYS
    runs_days: float | None = None
    artifacts_days: float | None = None
    traces_days: float | None = None
    """Days after a trace's request; nothing spares one."""
    keep_tag: str = "keep"
    keep_best: dict[str, Literal["min", "max"]] = {}


class Aged(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision about one run, or one logged model, reads. Times are microseconds since 1970 UTC."""

    address: str
    experiment: str
    ended_us: int | None
    deleted_us: int | None
    has_files: bool
    registered: bool
    tagged: bool = False
    best_by: str | None = None


class Action(msgspec.Struct, frozen=True):
    """``purge``: gone for good. ``free``: its files go, the rest stays. ``spare``: it is old enough, and stays for ``why``."""

    what: Literal["purge", "free", "spare"]
    address: str
    experiment: str
    why: str


def check_policy(policy: RetentionPolicy) -> RetentionPolicy:
    """Return ``policy`` if it makes sense, else raise ``InvalidInput`` naming the field."""
    for field in ("deleted_days", "runs_days", "artifacts_days", "traces_days"):
        days = getattr(policy, field)
        if days is not None and not 0 <= days < 36_500:
            raise InvalidInput("a number of days from 0 to 36,500, or null for never", field=field, got=days)
    if not policy.experiments or not all(policy.experiments):
        raise InvalidInput("name at least one experiment, or a pattern such as *", field="experiments")
    return policy


def policy_for(experiment: str, policies: Mapping[str, RetentionPolicy]) -> tuple[str, RetentionPolicy]:
    """The name and policy that hold for an experiment: the longest pattern that matches it, by name among equals; else the default.

    >>> policy_for("bikes", {"a": RetentionPolicy(experiments=("*",)), "b": RetentionPolicy(experiments=("bi*",))})[0]
    'b'
    """
    matching = [
        (experiment in policy.experiments, len(pattern), name)
        for name, policy in sorted(policies.items(), reverse=True)
        for pattern in policy.experiments
        if pattern == experiment or fnmatchcase(experiment, pattern)
    ]
    if not matching:
        return "the default", RetentionPolicy()
    name = max(matching)[2]
    return name, policies[name]


def decide(aged: Iterable[Aged], policies: Mapping[str, RetentionPolicy], now_us: int) -> list[Action]:
    """What to do, each with its reason; things that are too young are not mentioned."""
    made = []
    for item in aged:
        name, policy = policy_for(item.experiment, policies)
        action = _decided(item, name, policy, now_us)
        if action is not None:
            made.append(action)
    return made


def _decided(item: Aged, name: str, policy: RetentionPolicy, now_us: int) -> Action | None:
    def over(since_us: int | None, days: float | None) -> bool:
        return since_us is not None and days is not None and now_us - since_us >= days * DAY_US

    what: Literal["purge", "free"]
    if over(item.deleted_us, policy.deleted_days):
        what, why = "purge", f"deleted {policy.deleted_days:g} days ago or more"
    elif over(item.ended_us, policy.runs_days):
        what, why = "purge", f"ended {policy.runs_days:g} days ago or more"
    elif over(item.ended_us, policy.artifacts_days) and item.has_files:
        what, why = "free", f"ended {policy.artifacts_days:g} days ago or more"
    else:
        return None
    if item.registered:
        return Action("spare", item.address, item.experiment, "a registered version came from it")
    if item.deleted_us is None:
        if item.tagged:
            return Action("spare", item.address, item.experiment, f"tagged {policy.keep_tag}")
        if item.best_by is not None:
            return Action("spare", item.address, item.experiment, f"the best of its experiment by {item.best_by}")
    return Action(what, item.address, item.experiment, f"{why} ({name})")


def gather(store: Store, policies: Mapping[str, RetentionPolicy], *, experiment: str | None = None, now_us: int) -> list[Aged]:
    """The runs and logged models that are old enough for any of the policies."""
    with store.ledger.read() as connection:
        names = {row.id: row.name for row in connection.execute(select(s.experiments.c.id, s.experiments.c.name))}
        found: list[Aged] = []
        for number, name in sorted(names.items()):
            if experiment is None or name == experiment:
                found += _gather_one(connection, number, name, policy_for(name, policies)[1], now_us)
        return found


def _gather_one(connection: Connection, number: int, name: str, policy: RetentionPolicy, now_us: int) -> list[Aged]:
    best = _best_runs(connection, number, policy)
    made: list[Aged] = []
    for table, kind, ended in (
        (s.runs, "run", s.runs.c.ended_us),
        (s.logged_models, "logged-model", s.logged_models.c.created_us),
    ):
        columns = table.c
        address = literal(f"{kind}:") + columns.id
        old = []
        if policy.deleted_days is not None:
            old.append(columns.deleted_us <= now_us - int(policy.deleted_days * DAY_US))
        youngest = [days for days in (policy.runs_days, policy.artifacts_days) if days is not None]
        if youngest:
            old.append(ended <= now_us - int(min(youngest) * DAY_US))
        if not old:
            continue
        query = select(
            columns.id,
            ended.label("ended_us"),
            columns.deleted_us,
            exists().where(s.artifacts.c.owner == address).label("has_files"),
            exists().where(s.tags.c.subject == address, s.tags.c.key == policy.keep_tag).label("tagged"),
        ).where(columns.experiment == number, or_(*old))
        rows = connection.execute(query).all()
        pinned = living_children_in(connection, [f"{kind}:{row.id}" for row in rows])
        made += [
            Aged(
                address=f"{kind}:{row.id}",
                experiment=name,
                ended_us=row.ended_us,
                deleted_us=row.deleted_us,
                has_files=bool(row.has_files),
                registered=f"{kind}:{row.id}" in pinned,
                tagged=bool(row.tagged),
                best_by=best.get(row.id),
            )
            for row in rows
        ]
    return made


def _best_runs(connection: Connection, number: int, policy: RetentionPolicy) -> dict[str, str]:
    best: dict[str, str] = {}
    for key, way in policy.keep_best.items():
        order = s.series.c.value.asc() if way == "min" else s.series.c.value.desc()
        living = and_(s.runs.c.experiment == number, s.runs.c.deleted_us.is_(None), s.series.c.key == key, s.series.c.special == 0)
        run = connection.execute(
            select(s.series.c.run).join(s.runs, s.runs.c.id == s.series.c.run).where(living).order_by(order).limit(1)
        ).scalar()
        if run is not None:
            best.setdefault(run, key)
    return best


def carry_out(store: Store, actions: Sequence[Action], *, actor: Actor) -> int:
    """Do what was decided, except what has been registered or restored since; returns how many were done."""
    return sum(_carry_out_one(store, action, actor) for action in actions if action.what != "spare")


def _carry_out_one(store: Store, action: Action, actor: Actor) -> bool:
    now_us = store.clock.now_us()
    kind, _, identity = action.address.partition(":")
    table = s.runs if kind == "run" else s.logged_models

    def begin(connection: Connection) -> str | None:
        row = connection.execute(select(table.c.name, table.c.deleted_us).where(table.c.id == identity)).first()
        if row is None or living_children_in(connection, [action.address]):
            return None
        if action.what == "purge" and row.deleted_us is None:  # nobody writes to it from here on
            connection.execute(update(table).where(table.c.id == identity).values(deleted_us=now_us))
        return str(row.name)

    def free(connection: Connection) -> None:
        for refs in (s.artifacts, s.blob_refs):
            connection.execute(delete(refs).where(refs.c.owner == action.address))
        streams.append(connection, action.address, "files freed", {}, at_us=now_us, actor=actor, reason=action.why)

    name = store.ledger.write(begin)
    if name is None:
        return False
    if action.what == "free":
        store.ledger.write(free)
        return True
    while kind == "run" and store.ledger.write(lambda c: _purge_some_points(c, identity)):
        pass
    store.ledger.write(lambda c: _purge_rest(c, kind, identity, name, now_us, actor, action.why))
    return True


def _purge_some_points(connection: Connection, run: str) -> bool:
    """Removes up to ``PURGE_POINTS`` of a run's points; whether there were any."""
    points = s.points.c
    for row in connection.execute(select(s.series.c.id).where(s.series.c.run == run)).all():
        mine = points.series == row.id
        last = connection.execute(select(points.step).where(mine).order_by(points.step).offset(PURGE_POINTS).limit(1)).scalar()
        gone = connection.execute(delete(s.points).where(mine) if last is None else delete(s.points).where(mine, points.step <= last))
        if gone.rowcount:
            return True
    return False


def _purge_rest(connection: Connection, kind: str, identity: str, name: str, now_us: int, actor: Actor, why: str) -> None:
    address = f"{kind}:{identity}"
    for table, column in (
        (s.params, s.params.c.run),
        (s.series, s.series.c.run),
        (s.run_inputs, s.run_inputs.c.run),
        (s.described_inputs, s.described_inputs.c.run),
        (s.run_models, s.run_models.c.run if kind == "run" else s.run_models.c.model),
        (s.model_metrics, s.model_metrics.c.run if kind == "run" else s.model_metrics.c.model),
    ):
        connection.execute(delete(table).where(column == identity))
    for table, column in (
        (s.tags, s.tags.c.subject),
        (s.tag_changes, s.tag_changes.c.subject),
        (s.artifacts, s.artifacts.c.owner),
        (s.blob_refs, s.blob_refs.c.owner),
        (s.edges, s.edges.c.child),
        (s.events, s.events.c.stream),
        (s.leases, s.leases.c.name),
    ):
        connection.execute(delete(table).where(column == address))
    record = s.runs if kind == "run" else s.logged_models
    connection.execute(delete(record).where(record.c.id == identity))
    known = connection.execute(select(s.tombstones.c.address).where(s.tombstones.c.address == address)).first()
    if known is None:
        connection.execute(insert(s.tombstones).values(address=address, title=name, at_us=now_us, actor=str(actor), reason=why or "purged"))


def purge_empty_experiments(store: Store, policies: Mapping[str, RetentionPolicy], *, now_us: int, actor: Actor) -> list[str]:
    """Remove deleted experiments that are old enough and hold nothing any more, and so free their names; returns the names."""

    def work(connection: Connection) -> list[str]:
        gone = []
        holds = or_(
            exists().where(s.runs.c.experiment == s.experiments.c.id),
            exists().where(s.logged_models.c.experiment == s.experiments.c.id),
            exists().where(s.traces.c.experiment == s.experiments.c.id),
        )
        query = select(s.experiments).where(s.experiments.c.deleted_us.is_not(None), s.experiments.c.id > 0, ~holds)
        for row in connection.execute(query).all():
            name, policy = policy_for(row.name, policies)
            if policy.deleted_days is None or now_us - row.deleted_us < policy.deleted_days * DAY_US:
                continue
            for table in (s.tags, s.tag_changes):
                connection.execute(delete(table).where(table.c.subject == f"experiment:{row.name}"))
            connection.execute(delete(s.experiments).where(s.experiments.c.id == row.id))
            streams.append(connection, f"experiment/{row.id}", "purged", {"name": row.name}, at_us=now_us, actor=actor, reason=name)
            gone.append(row.name)
        return gone

    return store.ledger.write(work)


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What an experiment holds. ``own_bytes`` of its ``file_bytes`` are in no other experiment and no registered version."""

    experiment: str
    runs: int
    deleted_runs: int
    points: int
    points_bytes: int
    """About: ``BYTES_A_POINT`` each."""
    files: int
    file_bytes: int
    own_bytes: int


BYTES_A_POINT = 19
"""In the ledger's file on SQLite, measured over 10 million points of one metric a batch."""


def disk_use(store: Store) -> list[Use]:
    """What each experiment holds, the largest first. Reads every series row once: about a second for two million."""
    with store.ledger.read() as connection:
        owners = (
            select(literal("run:").concat(s.runs.c.id).label("owner"), s.runs.c.experiment)
            .union_all(select(literal("logged-model:").concat(s.logged_models.c.id), s.logged_models.c.experiment))
            .subquery()
        )
        experiments = connection.execute(select(s.experiments.c.id, s.experiments.c.name)).all()
        of = s.runs.c.experiment
        counted = select(of, func.count(), func.count(s.runs.c.deleted_us)).group_by(of)
        runs = {row[0]: (row[1], row[2]) for row in connection.execute(counted)}
        summed = select(of, func.sum(s.series.c.count)).join(s.series, s.series.c.run == s.runs.c.id).group_by(of)
        points = {row[0]: int(row[1]) for row in connection.execute(summed)}
        files: dict[int, tuple[int, int]] = {}
        held: dict[str, tuple[int, int]] = {}
        shared: set[str] = set()
        kept = s.artifacts.c
        query = select(owners.c.experiment, kept.digest, kept.size_bytes).join(owners, owners.c.owner == kept.owner)
        for number, digest, size in connection.execute(query):
            count, total = files.get(number, (0, 0))
            files[number] = (count + 1, total + size)
            if held.setdefault(digest, (number, size))[0] != number:
                shared.add(digest)
        versions = set(connection.execute(select(s.blob_refs.c.digest).where(~s.blob_refs.c.owner.startswith("run:"))).scalars())
        own: dict[int, int] = {}
        for digest, (number, size) in held.items():
            if digest not in shared and digest not in versions:
                own[number] = own.get(number, 0) + size
    made = [
        Use(
            experiment=name,
            runs=runs.get(number, (0, 0))[0],
            deleted_runs=runs.get(number, (0, 0))[1],
            points=points.get(number, 0),
            points_bytes=points.get(number, 0) * BYTES_A_POINT,
            files=files.get(number, (0, 0))[0],
            file_bytes=files.get(number, (0, 0))[1],
            own_bytes=own.get(number, 0),
        )
        for number, name in experiments
    ]
    return sorted(made, key=lambda use: (-(use.file_bytes + use.points_bytes), use.experiment))
