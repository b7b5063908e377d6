"""The hands of monitoring and incidents: judge each window that is due, decide, act, and write it all down.

Verdicts, decisions, the moves they ask for (a rollback, a training block) and the cursor are one transaction, and it is refused if the
cursor or the journal has moved since the window was looked at. So a crash, a second controller or a person at the same moment costs a
repeat of the window and nothing else: nothing is judged, decided or moved twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from andon import registry, releases
from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.errors import AndonError, Conflict, LeaseHeld, NotFound
from andon.core.ids import Ids
from andon.core.verdicts import Verdict
from andon.incidents.changes import changes_of
from andon.incidents.decide import decide, fold, incident_id
from andon.incidents.journal import last_in, state_in, write_in
from andon.incidents.records import (
    Action,
    AskTriage,
    BlockTraining,
    Finding,
    IncidentPolicy,
    IncidentsState,
    Nothing,
    Observation,
    OpenIncident,
    Rollback,
    TriageEvidence,
    UnblockTraining,
)
from andon.incidents.replaying import LateReplay
from andon.incidents.triage import triage
from andon.monitoring.served import Replay
from andon.monitoring.watching import Judged, Watcher, WatchState
from andon.store import Store, leases
from andon.tracking.liveness import holder, is_alive

ACTOR = Actor("controller", "incidents")
LEASE_US = 30_000_000
LOOKS_COST = 6.0
"""After a look that found nothing due, so many times its own duration pass before the next: at most a seventh of a core."""


class IncidentController:
    """Watches every service that has a production release. One instance a process; any number of processes, by lease one acts."""

    name = "incidents"

    def __init__(self, replay: Replay | None = None) -> None:
        """``replay`` answers with any release; by default the serving runtime does, started when first needed."""
        self._late = LateReplay() if replay is None else None
        self.watcher = Watcher(self._late or replay)  # type: ignore[arg-type]  # one of the two is there
        self._holder = f"{Ids().new()} {holder()}"
        self._seen: int | None = None
        self._not_before_s = 0.0
        self._renew_us: dict[str, int] = {}

    def close(self) -> None:
        """End the runners that replays started."""
        if self._late is not None:
            self._late.close()

    def tick(self, store: Store) -> bool:
        """Judge one due window of every service; whether there was any. Without new rows there is none, and that is cheap to see.

        A service that cannot be judged now keeps no other from being judged; its error is raised once all have had their turn.
        """
        seen, began_s = store.tables.changes(), time.monotonic()
        if seen == self._seen or began_s < self._not_before_s:
            return False
        busy = held = False
        problem: Exception | None = None
        for entry in registry.entries(store, "release"):
            try:
                busy |= self.step(store, entry.name) is not None
            except LeaseHeld:
                held = True  # `andon watch` is at it, or a control plane that is about to end
            except Exception as error:  # noqa: BLE001 - whatever one service's data does to the monitors, the others go on
                problem = problem or error
        if busy:
            return True
        if problem is not None:
            self._not_before_s = time.monotonic() + LOOKS_COST * (time.monotonic() - began_s)
            raise problem
        self._seen = None if held else seen
        self._not_before_s = time.monotonic() + LOOKS_COST * (time.monotonic() - began_s)
        return False

    def step(self, store: Store, service: str) -> Judged | None:
        """Judge the next due window of a service and act on it, or None when none is due. Raises ``LeaseHeld`` when another does."""
        if self._late is not None:
            self._late.bind(store)
        self._take(store, service)
        with store.ledger.read() as connection:
            cursor = leases.read_cursor(connection, f"watch:{service}")
            known, journaled = state_in(connection, service), last_in(connection, service)
        state = WatchState() if cursor.state is None else msgspec.convert(cursor.state, WatchState)
        judged = self.watcher.judge_next(store, service, state)
        if judged is None:
            return None
        verdicts = tuple(msgspec.structs.replace(verdict, id=store.ids.new()) for verdict in judged.verdicts)
        judged = msgspec.structs.replace(judged, verdicts=verdicts)
        asked, finding = self._decide(store, service, judged, known)
        onset_us = finding.onset_us if finding else None

        def work(connection: Connection) -> None:
            now_us = store.clock.now_us()
            leases.move_cursor(connection, f"watch:{service}", msgspec.to_builtins(judged.state), expected=cursor.revision, now_us=now_us)
            if last_in(connection, service) != journaled:
                raise Conflict("somebody pulled the cord while this window was judged", service=service)
            registry.record_verdicts_in(connection, verdicts)
            actions = [act_in(connection, service, action, onset_us, now_us) for action in asked]
            write_in(connection, service, actions, now_us=now_us, actor=ACTOR, finding=finding, verdicts=verdicts)

        store.ledger.write(work)
        return judged

    def _take(self, store: Store, service: str) -> None:
        """The lease on a service; one that a killed process of this machine left behind is free at once."""
        now_us = store.clock.now_us()
        if now_us < self._renew_us.get(service, 0):
            return

        def alive(held_by: str) -> bool:
            return is_alive(held_by.partition(" ")[2] or held_by, now_us + 1, now_us=now_us)

        store.ledger.write(lambda c: leases.take_lease(c, f"watch:{service}", self._holder, now_us=now_us, for_us=LEASE_US, alive=alive))
        self._renew_us[service] = now_us + LEASE_US // 3

    def let_go(self, store: Store, service: str) -> None:
        """Give the lease back, so that another process can watch at once."""
        store.ledger.write(lambda c: leases.release_lease(c, f"watch:{service}", self._holder))
        self._renew_us.pop(service, None)

    def pull(self, store: Store, service: str, *, actor: Actor, why: str) -> str:
        """Open an incident by hand and triage it at once; returns its address. Raises ``NotFound`` when nothing is in production."""
        release = releases.service_state(store, service).current()
        if release is None:
            raise NotFound("nothing is in production under that name", address=str(Address("service", service)))
        with store.ledger.read() as connection:
            cursor = leases.read_cursor(connection, f"watch:{service}")
        watched = WatchState() if cursor.state is None else msgspec.convert(cursor.state, WatchState)
        finding, verdicts = self._by_hand(store, service, release, watched)
        at_us = watched.next_us or store.clock.now_us()

        def work(connection: Connection) -> str:
            now_us, state = store.clock.now_us(), state_in(connection, service)
            opened = OpenIncident(
                at_us=at_us,
                why=f"{why} (triage: {finding.message})",
                incident=incident_id(service, state.opened + 1),
                cause=finding.cause,
                advice=finding.advice,
                onset_us=finding.onset_us or at_us,
                release=release,
                suspects=finding.suspects,
                checks=("cord",),
            )
            write_in(connection, service, [opened], now_us=now_us, actor=actor, finding=finding, verdicts=verdicts, reason=why)
            return opened.incident

        return str(Address("incident", store.ledger.write(work)))

    def _by_hand(self, store: Store, service: str, release: str, watched: WatchState) -> tuple[Finding, Sequence[Verdict]]:
        subject = str(Address("service", service))
        recent = registry.verdicts_on(store, subject, limit=200)
        newest: dict[str, Verdict] = {}
        for verdict in recent:
            newest.setdefault(verdict.check, verdict)
        if watched.next_us is None:
            message = "no window has been judged yet"
            return Finding(subject=subject, release=release, cause="unknown", advice="wait", message=message, onset_us=0), ()
        from andon.monitoring.served import policy_of, served_frame
        from andon.monitoring.watching import HISTORY_US

        policy = policy_of(store, service)
        try:
            known = self.watcher.born(store, release, policy)
        except AndonError as error:
            return Finding(subject=subject, release=release, cause="unknown", advice="wait", message=error.message, onset_us=0), ()
        served = served_frame(store, known.manifest, watched.next_us - HISTORY_US, watched.next_us, watched.next_us)
        judged = Judged(
            at_us=watched.next_us,
            release=release,
            verdicts=tuple(newest.values()),
            state=watched,
            policy=policy,
            born=known,
            served=served,
        )
        return self._triage(store, service, judged, judged.verdicts), judged.verdicts

    def _decide(self, store: Store, service: str, judged: Judged, state: IncidentsState) -> tuple[list[Action], Finding | None]:
        if judged.passed_over:
            return [Nothing(at_us=judged.at_us, why=judged.passed_over)], None
        policy = incident_policy(store, service)
        observation = Observation(at_us=judged.at_us, release=judged.release, verdicts=judged.verdicts)
        actions = list(decide(state, observation, policy))
        if not any(isinstance(action, AskTriage) for action in actions) or judged.born is None:
            return actions, None
        since = min((incident.onset_us for incident in state.open), default=judged.at_us)
        earlier = registry.verdicts_on(store, Address("service", service), statuses=("fail",), start_us=since, limit=200)
        finding = self._triage(store, service, judged, (*judged.verdicts, *earlier))
        answer = decide(fold(state, actions), msgspec.structs.replace(observation, finding=finding), policy)
        return [*actions, *answer], finding

    def _triage(self, store: Store, service: str, judged: Judged, verdicts: tuple[Verdict, ...]) -> Finding:
        assert judged.born is not None
        assert judged.served is not None
        known = judged.born
        return triage(
            TriageEvidence(
                subject=str(Address("service", service)),
                release=judged.release,
                served=judged.served,
                verdicts=verdicts,
                profile=known.profile,
                expected=known.expected,
                quality=judged.state.quality,
                comparison=judged.state.comparison,
                policy=judged.policy,
                changes=changes_of(store, service),
                predict=lambda columns: self.watcher.replay(known.manifest, columns),
            )
        )


def act_in(connection: Connection, service: str, action: Action, onset_us: int | None, now_us: int) -> Action:
    """Carry an action out inside the caller's transaction; what cannot be done becomes a ``Nothing`` that says why."""
    try:
        with connection.begin_nested():
            _move_in(connection, service, action, onset_us, now_us)
    except AndonError as error:
        if isinstance(action, Rollback) and releases.service_state_in(connection, service).current() == action.to:
            return action  # a person did it a moment ago
        why = f"could not {type(action).__name__.lower()}: {error.message}"
        return Nothing(at_us=action.at_us, why=why, inputs=action.inputs, incident=getattr(action, "incident", ""))
    return action


def _move_in(connection: Connection, service: str, action: Action, onset_us: int | None, now_us: int) -> None:
    if isinstance(action, Rollback):
        releases.rollback_in(
            connection,
            service,
            now_us=now_us,
            to=action.to,
            actor=ACTOR,
            reason=f"incident:{action.incident}: {action.why}",
            event_us=action.at_us,
            expected=action.release,
        )
    elif isinstance(action, BlockTraining):
        releases.block_training_in(
            connection,
            service,
            now_us=now_us,
            actor=ACTOR,
            reason=action.why,
            since_us=onset_us or action.at_us,
            incident=action.incident,
            event_us=action.at_us,
        )
    elif isinstance(action, UnblockTraining):
        releases.allow_training_in(connection, service, now_us=now_us, actor=ACTOR, reason=action.why, event_us=action.at_us)


def incident_policy(store: Store, service: str) -> IncidentPolicy:
    """``policy:incident/SERVICE`` if it is registered, else the defaults."""
    try:
        return registry.manifest_of(registry.get(store, f"policy:incident/{service}"), IncidentPolicy)
    except NotFound:
        return IncidentPolicy()
