"""The hands of rollouts: read what was shown, judge, decide, act, and write it all down.

What was read (a mark in the logs), what the analysis makes of it, verdicts, the decision and the moves that it asks for are one
transaction, refused when the rollout or the cursor has moved since it was looked at. So a crash, a second controller or a person at the
same moment costs a repeat of the look and nothing else: nothing is counted, judged or moved twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from andon import registry
from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.clocks import SECOND_US
from andon.core.errors import AndonError, Conflict
from andon.core.verdicts import Verdict
from andon.releases import PRODUCTION, ReleaseManifest, fit_in, live_split_in, renew_split_in
from andon.rollouts.acting import act_in
from andon.rollouts.decide import decide
from andon.rollouts.gathering import Memory, Told, gather
from andon.rollouts.journal import rollout_in, under_way_in, write_in
from andon.rollouts.pairing import gather_pairs
from andon.rollouts.policies import RolloutPolicy
from andon.rollouts.records import Action, Judged, Judgement, Observation, Replica, Rollout, Waited
from andon.rollouts.strategies import Shadow
from andon.rollouts.weighing import verdicts_of, weigh
from andon.store import Store, leases
from andon.store.schema import replicas
from andon.telemetry.exposed import says_numbers

ACTOR = Actor("controller", "rollouts")
EVERY_US = SECOND_US
RENEW_US = 5 * SECOND_US
SAVE_US = 60 * SECOND_US
"""The mark is saved this often although nothing has happened, so that a look never reads far back."""
LOOKS_COST = 4.0
"""After a look, so many times its own duration pass before the next: at most a fifth of a core."""
FRESH_US = 30 * SECOND_US
NUMERIC = frozenset({"double", "float", "half", "long", "integer", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "boolean"})

Incidents = Callable[[Connection, str, int], tuple[str, ...]]
"""Open incidents of a service that were opened since an instant: handed in, since incidents are to the right of rollouts."""


def no_incidents(connection: Connection, service: str, since_us: int) -> tuple[str, ...]:  # noqa: ARG001 - the port's signature
    """Nobody watches."""
    return ()


class RolloutController:
    """Looks after every rollout under way. One instance a process; any number of processes."""

    name = "rollouts"

    def __init__(self, incidents: Incidents = no_incidents) -> None:
        self._incidents = incidents
        self._changes: int | None = None
        self._under_way: list[tuple[str, str]] = []
        self._next_s: dict[str, float] = {}
        self._renewed_us: dict[str, int] = {}
        self._saved_us: dict[str, int] = {}
        self._told: dict[str, Told] = {}

    def tick(self, store: Store) -> bool:
        """Look at each rollout that is due, about once a second; without one, a glance at whether the ledger has changed.

        A rollout that cannot be looked at now keeps no other waiting; its error is raised once all have had their turn.
        """
        changes = store.ledger.changes()
        if changes != self._changes:
            with store.ledger.read() as connection:
                self._under_way = under_way_in(connection)
            self._changes = changes
        busy, problem = False, None
        for _, id_ in self._under_way:
            began_s = time.monotonic()
            if began_s < self._next_s.get(id_, 0.0):
                continue
            try:
                busy |= self.step(store, id_)
            except Conflict:
                busy = True  # somebody was quicker: look again at once
                continue
            except Exception as error:  # noqa: BLE001 - whatever one rollout's data does to its analysis, the others go on
                problem = problem or error
            self._next_s[id_] = began_s + max(EVERY_US / SECOND_US, (1 + LOOKS_COST) * (time.monotonic() - began_s))
        if problem is not None:
            raise problem
        return busy

    def step(self, store: Store, id_: str) -> bool:
        """One look at ``rollout:ID``; whether it moved. Raises ``Conflict`` when somebody moved it meanwhile."""
        now_us = store.clock.now_us()
        self._renew(store, id_, now_us)
        with store.ledger.read() as connection:
            state = rollout_in(connection, id_)
            cursor = leases.read_cursor(connection, id_)
            seen = self._observe(connection, state, now_us)
        if state.over:
            return False
        policy = msgspec.convert(state.policy, RolloutPolicy)
        memory = Memory() if cursor.state is None else msgspec.convert(cursor.state, Memory)
        after = memory
        if state.step >= 0 or state.phase == "keeping":
            read = gather_pairs if isinstance(state.strategy, Shadow) else gather
            after = read(store, state, memory, policy, self._asked(store, state, policy), now_us)
        verdicts = verdicts_of(state, after, policy, now_us)
        seen = _told(seen, state, after, weigh(state, verdicts, policy.analysis, after.analysis))
        action = decide(state, seen, now_us)
        changed = [verdict for verdict in verdicts if state.statuses.get(verdict.check) != verdict.status]
        silent = isinstance(action, Waited) and action.why == state.said
        fresh = msgspec.structs.replace(after, mark=memory.mark, matured_us=memory.matured_us) != memory
        saved = fresh or (after != memory and not 0 <= now_us - self._saved_us.get(id_, -SAVE_US) < SAVE_US)
        if silent and not changed and not saved:
            return False
        named = [msgspec.structs.replace(verdict, id=store.ids.new()) for verdict in verdicts]

        def work(connection: Connection) -> Rollout:
            if saved:
                leases.move_cursor(connection, id_, msgspec.to_builtins(after), expected=cursor.revision, now_us=now_us)
            return _write_in(connection, state, None if silent else action, named, now_us)

        moved = store.ledger.write(work)
        if saved:
            self._saved_us[id_] = now_us
        return moved.phase != state.phase or moved.stage != state.stage

    def _renew(self, store: Store, id_: str, now_us: int) -> None:
        """Say that somebody looks after the split, before anything that may take long or fail."""
        if 0 <= now_us - self._renewed_us.get(id_, -RENEW_US) < RENEW_US:  # a clock that was put back renews at once
            return

        def work(connection: Connection) -> None:
            service = rollout_in(connection, id_).service
            live = live_split_in(connection, service)
            if live is not None and live.split.rollout == id_:
                renew_split_in(connection, service)

        store.ledger.write(work)
        self._renewed_us[id_] = now_us

    def _observe(self, connection: Connection, state: Rollout, now_us: int) -> Observation:
        production = registry.read_alias_in(connection, Address("service", state.service, None, PRODUCTION))
        rows = connection.execute(
            select(replicas).where(
                replicas.c.service == state.service, replicas.c.status == "ready", replicas.c.seen_us > now_us - FRESH_US
            )
        )
        held = tuple(_replica(row.id, row.load, state) for row in rows)
        incidents = self._incidents(connection, state.service, state.started_us)
        unfit = ""
        try:
            fit_in(connection, state.candidate, "shadow" if isinstance(state.strategy, Shadow) else PRODUCTION, now_us)
        except AndonError as error:
            unfit = error.message
        return Observation(production=production, replicas=held, incidents=incidents, unfit=unfit)

    def _asked(self, store: Store, state: Rollout, policy: RolloutPolicy) -> Told:
        """Which output is the score: the first of the old release's signature, where it is a number."""
        known = self._told.get(state.baseline)
        if known is None:
            outputs = registry.manifest_of(registry.get(store, state.baseline), ReleaseManifest).signature.outputs
            name = outputs[0].name if outputs and not outputs[0].shape else None
            if isinstance(state.strategy, Shadow):  # texts are compared too
                return Told(output=name)
            if name is None or outputs[0].dtype not in NUMERIC or not says_numbers(store, state.service, name):
                return Told(output=None, slices=policy.analysis.slices)  # nothing is logged yet, or no number
            known = self._told[state.baseline] = Told(output=name, slices=policy.analysis.slices)
        return known


def _replica(id_: str, load: str | None, state: Rollout) -> Replica:
    """What a replica's row says of the release that is to come (and, once the candidate has production, of the candidate)."""
    try:
        said: dict[str, Any] = msgspec.json.decode(load) if load else {}
    except msgspec.DecodeError:
        said = {}
    holds = said.get("holds") if isinstance(said, dict) else None
    failing = said.get("failing") if isinstance(said, dict) else None
    problem = str(failing.get(state.candidate, "")) if isinstance(failing, dict) else ""
    return Replica(id=id_, holds=isinstance(holds, list) and state.candidate in holds, problem=problem)


def _told(seen: Observation, state: Rollout, memory: Memory, judgement: Judgement) -> Observation:
    tally = memory.tally(state.stage, 1)
    return msgspec.structs.replace(
        seen,
        units=tally.units,
        deaths=sum(one.died for key, one in memory.tallies.items() if key.endswith("/1")),
        latest=len(memory.latest),
        latest_failed=memory.latest.count("x"),
        judgement=judgement,
    )


def _write_in(connection: Connection, state: Rollout, action: Action | None, verdicts: list[Verdict], now_us: int) -> Rollout:
    """What was decided, with the verdicts that it was decided on: all of them for a transition, else those that have changed."""
    if rollout_in(connection, state.id).last_event != state.last_event:
        raise Conflict("the rollout has moved on since it was looked at", rollout=state.id)
    changed = [verdict for verdict in verdicts if state.statuses.get(verdict.check) != verdict.status]
    if action is None or isinstance(action, Waited):
        state = _judged_in(connection, state, changed, now_us)
        return state if action is None else write_in(connection, state, action, now_us=now_us, actor=ACTOR)
    try:
        with connection.begin_nested():
            return act_in(connection, _judged_in(connection, state, verdicts, now_us), action, now_us=now_us, actor=ACTOR)
    except AndonError as error:  # the rules refuse it: a waiver that has run out, a release that is gone
        refused = Waited(at_us=now_us, why=f"could not be {type(action).__name__.lower()}: {error.message}", inputs=action.inputs)
    state = _judged_in(connection, state, changed, now_us)
    return state if state.said == refused.why else write_in(connection, state, refused, now_us=now_us, actor=ACTOR)


def _judged_in(connection: Connection, state: Rollout, verdicts: list[Verdict], now_us: int) -> Rollout:
    if not verdicts:
        return state
    registry.record_verdicts_in(connection, verdicts)
    statuses: dict[str, str] = {verdict.check: verdict.status for verdict in verdicts}
    why = ", ".join(f"{check}: {status}" for check, status in statuses.items())
    judged = Judged(at_us=now_us, why=why, statuses=statuses, verdicts=tuple(f"verdict:{verdict.id}" for verdict in verdicts))
    return write_in(connection, state, judged, now_us=now_us, actor=ACTOR)


def memory_of(store: Store, id_: str) -> Memory:
    """What is remembered of a rollout; empty before the first request."""
    with store.ledger.read() as connection:
        saved = leases.read_cursor(connection, id_).state
    return Memory() if saved is None else msgspec.convert(saved, Memory)
