"""What is kept and for how long: deleting runs and experiments, the retention policies, freeing space for good, and who uses how much."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection, func, select

from andon import registry
from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.core.clocks import DAY_US, HOUR_US
from andon.core.errors import InvalidInput, LeaseHeld, NotFound
from andon.core.texts import check_reason
from andon.logs.traces import delete_traces_in
from andon.operations import upkeep
from andon.store import Store, leases
from andon.store import schema as s
from andon.store.ports import Collected
from andon.tracking import retention, runs
from andon.tracking.experiments import delete_experiment, get_experiment, list_experiments, restore_experiment
from andon.tracking.liveness import holder, is_alive

if TYPE_CHECKING:
    from andon.serving.environments import Swept

ACTOR = Actor("controller", "retention")
LOOK_EVERY_US = HOUR_US
LEASE_US = 10 * 60 * 1_000_000
LEASE = "controller:retention"
PREFIX = "retention/"
LOOK = "run `andon ls` to see what there is"
TRACES_AT_ONCE = 1_000


class Freed(msgspec.Struct, frozen=True, kw_only=True):
    """What retention did, or would do."""

    dry_run: bool
    purged: int
    freed: int
    spared: int
    actions: tuple[retention.Action, ...]
    traces: int = 0
    experiments: tuple[str, ...] = ()
    """Deleted experiments that hold nothing any more and are gone."""
    blobs: int
    blob_bytes: int
    ledger_bytes: int
    environments: tuple[str, ...] = ()
    """Environments of this machine that no release on a channel needs; they are built again when one asks for them."""
    trees: tuple[str, ...] = ()
    """Files that were laid out for runners, likewise."""
    environment_bytes: int = 0


def policies_of(store: Store) -> dict[str, retention.RetentionPolicy]:
    """The newest version of each ``policy:retention/NAME``."""
    named = [entry.name for entry in registry.entries(store, "policy", prefix=PREFIX)]
    found = {}
    for name in named:
        try:
            found[name] = registry.manifest_of(registry.get(store, f"policy:{name}"), retention.RetentionPolicy)
        except NotFound:  # every version deleted
            continue
    return found


def plan(store: Store, *, experiment: str | None = None) -> list[retention.Action]:
    """What the policies ask for now: purges, freed files, and what is old enough but spared, with the reason of each."""
    policies, now_us = policies_of(store), store.clock.now_us()
    return retention.decide(retention.gather(store, policies, experiment=experiment, now_us=now_us), policies, now_us)


def free(
    store: Store, *, experiment: str | None = None, older_than: str = "24h", dry_run: bool = False, actor: Actor | None = None
) -> Freed:
    """Carry out the retention policies (of one experiment, or of all), then free the bytes that nothing needs any more.

    Without a policy of its own an experiment's deleted runs go 30 days after their deletion, and nothing else does. ``older_than`` keeps
    bytes that were written lately, for whoever is about to name them. A dry run changes nothing.
    """
    who = actor or current_actor()
    if experiment is not None:
        get_experiment(store, experiment)
    actions = plan(store, experiment=experiment)
    gone: list[str] = []
    traces = _old_traces(store, experiment=experiment, dry_run=dry_run)
    if not dry_run:
        retention.carry_out(store, actions, actor=who)
        gone = retention.purge_empty_experiments(store, policies_of(store), now_us=store.clock.now_us(), actor=who)
    collected = upkeep.gc(store, older_than=older_than, dry_run=dry_run)
    swept = upkeep.sweep_environments(store, older_than=older_than, dry_run=dry_run)
    ledger_bytes = 0 if dry_run else store.ledger.reclaim()
    return _freed(actions, traces, gone, collected, swept, ledger_bytes, dry_run=dry_run)


def _old_traces(store: Store, *, experiment: str | None, dry_run: bool) -> int:
    """Delete the traces that their experiment's policy keeps no longer, or count them; those of a deleted experiment go with it."""
    policies, now_us = policies_of(store), store.clock.now_us()
    count = 0
    for found in list_experiments(store, deleted=None):
        if experiment is not None and found.name != experiment:
            continue
        policy = retention.policy_for(found.name, policies)[1]
        limits = []
        if policy.traces_days is not None:
            limits.append(now_us - int(policy.traces_days * DAY_US))
        if found.deleted_us is not None and policy.deleted_days is not None and now_us - found.deleted_us >= policy.deleted_days * DAY_US:
            limits.append(now_us)
        if not limits:
            continue
        until_us = max(limits)
        if dry_run:
            query = select(func.count()).where(s.traces.c.experiment == found.id, s.traces.c.requested_us <= until_us)
            with store.ledger.read() as connection:
                count += connection.execute(query).scalar_one()
            continue
        while gone := store.ledger.write(partial(_delete_some_traces, found.id, until_us, now_us)):
            count += gone
    return count


def _delete_some_traces(experiment: int, until_us: int, now_us: int, connection: Connection) -> int:
    return delete_traces_in(connection, experiment, now_us=now_us, until_us=until_us, at_most=TRACES_AT_ONCE)


def _freed(
    actions: list[retention.Action], traces: int, gone: list[str], collected: Collected, swept: Swept, ledger_bytes: int, *, dry_run: bool
) -> Freed:
    return Freed(
        traces=traces,
        dry_run=dry_run,
        purged=sum(action.what == "purge" for action in actions),
        freed=sum(action.what == "free" for action in actions),
        spared=sum(action.what == "spare" for action in actions),
        actions=tuple(actions),
        experiments=tuple(gone),
        blobs=len(collected.digests),
        blob_bytes=collected.size_bytes,
        environments=swept.environments,
        trees=swept.trees,
        environment_bytes=swept.size_bytes,
        ledger_bytes=ledger_bytes,
    )


def delete(store: Store, address: str | Address, *, why: str, actor: Actor | None = None) -> str:
    """Delete a run, an experiment with its runs, or a registered version; returns what can be done about it.

    Runs and experiments can be restored until retention removes them; a version leaves a tombstone at once, and is refused while an alias
    or a living release needs it.
    """
    at, who = Address.parse(address), actor or current_actor()
    check_reason(why)
    if at.kind == "run":
        runs.delete_run(store, at.name, actor=who, reason=why)
    elif at.kind == "experiment":
        delete_experiment(store, at.name, actor=who, reason=why)
    elif at.version is not None or at.alias is not None:
        registry.delete(store, at, actor=who, reason=why)
        return "its tombstone stays"
    else:
        raise InvalidInput("name a run, an experiment, or one version (model:bikes@3)", field="address", got=str(at), next_step=LOOK)
    return f"it can be brought back with: andon restore {at}"


def restore(store: Store, address: str | Address, *, why: str = "", actor: Actor | None = None) -> None:
    """Bring a deleted run or experiment back. Raises ``NotFound`` when retention has removed it."""
    at, who = Address.parse(address), actor or current_actor()
    if at.kind == "run":
        runs.restore_run(store, at.name, actor=who, reason=why)
    elif at.kind == "experiment":
        restore_experiment(store, at.name, actor=who, reason=why)
    else:
        raise InvalidInput("only runs and experiments can be restored", field="address", got=str(at), next_step=LOOK)


class Retention:
    """Carries out the retention policies once an hour; without any registered policy it leaves everything alone."""

    name = "retention"

    def __init__(self) -> None:
        self._next_us = 0

    def tick(self, store: Store) -> bool:
        now_us = store.clock.now_us()
        if now_us < self._next_us:
            return False
        self._next_us = now_us + LOOK_EVERY_US
        if not policies_of(store):
            return False
        me = holder()
        try:
            store.ledger.write(
                lambda c: leases.take_lease(
                    c, LEASE, me, now_us=now_us, for_us=LEASE_US, alive=lambda other: is_alive(other, now_us, now_us=now_us)
                )
            )
        except LeaseHeld:
            return False
        try:
            free(store, actor=ACTOR)
        finally:
            store.ledger.write(lambda c: leases.release_lease(c, LEASE, me))
        return False
