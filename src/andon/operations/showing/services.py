"""A service as a page: what holds its channels, how well it does, and what a rollback would do."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, select

from andon.core.addresses import Address, check_name
from andon.core.clocks import SECOND_US
from andon.core.errors import AndonError, NotFound
from andon.core.verdicts import Verdict
from andon.operations.showing.incidents import incidents_view
from andon.operations.showing.judgements import DATA_QUALITY, DRIFT, QUALITY, newest_of_each, quality_points, since
from andon.operations.showing.records import IncidentRow, Light, Replica, ServiceView
from andon.operations.showing.releases import release_rows
from andon.operations.showing.traffic import traffic
from andon.registry import aliases_of, get, manifest_of, tags_of
from andon.releases import PRODUCTION, ReleaseManifest, ServiceState, Turn, rollback_target, service_state
from andon.store import Store
from andon.store import schema as s

FRESH_US = 30 * SECOND_US
"""A replica that has not been seen for longer has lost its lease on the truth."""


def service_names(store: Store) -> tuple[str, ...]:
    """Every service there is: what has a release, something that happened to it, or a replica."""
    with store.ledger.read() as connection:
        released = connection.execute(select(s.entries.c.name).where(s.entries.c.kind == "release")).scalars()
        found = set(released)
        streams = connection.execute(select(s.events.c.stream).where(s.events.c.stream.startswith("service:"), s.events.c.n == 1)).scalars()
        found |= {stream.removeprefix("service:") for stream in streams}
        found |= set(connection.execute(select(s.replicas.c.service).distinct()).scalars())
    return tuple(sorted(found))


def check_service(store: Store, name: str) -> None:
    """Raise ``NotFound`` with the closest names unless there is such a service."""
    check_name(name)
    names = service_names(store)
    if name not in names:
        raise _no_such_service(name, names)


def replicas_of(connection: Connection, service: str | None, now_us: int) -> tuple[Replica, ...]:
    """The processes that answer for a service (None: for any), without those that said goodbye."""
    query = select(s.replicas).where(s.replicas.c.status != "gone").order_by(s.replicas.c.started_us)
    if service is not None:
        query = query.where(s.replicas.c.service == service)
    return tuple(
        Replica(
            id=row.id,
            url=row.url,
            pid=row.pid,
            release=row.release,
            status=row.status,
            note=row.note,
            started_us=row.started_us,
            seen_us=row.seen_us,
            fresh=now_us - row.seen_us <= FRESH_US,
        )
        for row in connection.execute(query)
    )


class Told(msgspec.Struct, frozen=True):
    """A light, and why in one sentence."""

    light: Light
    why: str


def light_of(
    production: str | None,
    turn: Turn | None,
    checks: Sequence[Verdict],
    incidents: Sequence[IncidentRow],
    blocked: str | None,
    disagrees: str | None,
) -> Told:
    """What the lamp of a service shows. An open incident is red, whatever else is well; drift alone is no alarm (a season is drift)."""
    if production is None:
        return Told("grey", "nothing holds production")
    open_ = [incident for incident in incidents if incident.closed_us is None]
    if open_:
        return Told(open_[0].light, open_[0].headline)
    named = {verdict.check: verdict for verdict in checks if verdict.check != DRIFT}
    for status, light in (("fail", "red"), ("warn", "yellow")):
        bad = next((verdict for verdict in named.values() if verdict.status == status), None)
        if bad is not None:
            return Told("red" if light == "red" else "yellow", f"{bad.check}: {bad.message}")
    if blocked is not None:
        return Told("yellow", f"training is blocked: {blocked}")
    if disagrees is not None:
        return Told("yellow", disagrees)
    quality = named.get(QUALITY)
    if quality is None:
        return Told("grey", f"no window has been judged since {production} {_took(turn)} production")
    if quality.status == "undecided":
        return Told("grey", f"live quality is undecided: {quality.message}")
    return Told("green", quality.message)


def _took(turn: Turn | None) -> str:
    return "was put back to" if turn is not None and turn.kind == "rolled-back" else "took"


def last_turn(state: ServiceState, channel: str = PRODUCTION) -> Turn | None:
    """The turn that gave a channel to what holds it now."""
    return next((turn for turn in reversed(state.turns) if turn.channel == channel), None)


def champion_disagrees(store: Store, production: str | None) -> str | None:
    """A sentence when the model's champion is not what production pins; None when they agree or there is nothing to compare."""
    if production is None:
        return None
    try:
        model = Address.parse(manifest_of(get(store, production), ReleaseManifest).model.address)
        champion = aliases_of(store, model).get("champion")
    except AndonError:  # a deleted release: the channel says so elsewhere
        return None
    if champion is None or champion == str(model):
        return None
    return f"{model.entry}@champion is {champion}, but production pins {model}"


def service_view(store: Store, name: str) -> ServiceView:
    """One service, whole. Raises ``NotFound`` with the closest names."""
    check_service(store, name)
    state = service_state(store, name)
    channels = aliases_of(store, Address("service", name))
    production = channels.get(PRODUCTION)
    turn = last_turn(state)
    now_us = store.clock.now_us()
    with store.ledger.read() as connection:
        checks = newest_of_each(connection, f"service:{name}", since(turn))
        replicas = replicas_of(connection, name, now_us)
    incidents = incidents_view(store, service=name)
    disagrees = champion_disagrees(store, production)
    blocked = None if state.training_block is None else state.training_block.why
    told = light_of(production, turn, checks, incidents, blocked, disagrees)
    quality = quality_points(store, name)
    judged = next((verdict for verdict in checks if verdict.check == QUALITY and verdict.threshold is not None), None)
    target = rollback_target(store, name)
    rollout, taken_back = _rollout(store, state)
    return ServiceView(
        name=name,
        light=told.light,
        why=told.why,
        production=production,
        channels=channels,
        turns=state.turns,
        releases=release_rows(store, state),
        replicas=replicas,
        quality=quality,
        threshold=None if judged is None else judged.threshold,
        unit="" if judged is None else judged.unit,
        checks=tuple(checks),
        drift=next((verdict for verdict in checks if verdict.check == DRIFT), None),
        data_quality=tuple(verdict for verdict in checks if verdict.check.startswith(DATA_QUALITY)),
        traffic=traffic(store, name),
        training_block=state.training_block,
        incidents=incidents,
        rollback_target=target,
        rollback_says=taken_back or rollback_says(production, target),
        rollout=state.rollout,
        rollout_says=rollout,
        champion_disagrees=disagrees,
        tags=tags_of(store, Address("service", name)),
    )


def _rollout(store: Store, state: ServiceState) -> tuple[str, str]:
    """Where the rollout under way is, and what a rollback does while it answers some of the users; empty without one."""
    if state.rollout is None:
        return "", ""
    from andon.operations.showing.rollouts import step_says, strategy_says
    from andon.rollouts import Shadow, rollout_of

    try:
        found = rollout_of(store, state.rollout)
    except AndonError:  # a damaged stream does not take the page (and the rollback button on it) down
        return state.rollout, ""
    said = f"{strategy_says(found)} of {found.candidate}: {step_says(found)}" + (f"; {found.said}" if found.said else "")
    if isinstance(found.strategy, Shadow) or found.phase == "keeping":
        return said, ""
    return said, f"{state.rollout} is aborted: everything goes to {found.baseline} at once, and {found.candidate} is marked rejected."


def rollback_says(production: str | None, target: str | None) -> str:
    """Exactly what a rollback would do now."""
    if production is None:
        return "Nothing holds production, so there is nothing to roll back."
    if target is None:
        return f"No earlier release held production and passed its gate, so {production} has nothing to go back to."
    return (
        f"Production moves from {production} to {target}. {production} is marked rejected and comes back only by a waiver. "
        "Replicas swap within a moment; no request is dropped and nothing is rebuilt."
    )


def _no_such_service(name: str, names: Sequence[str]) -> NotFound:
    import difflib

    close = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {', '.join(f'service:{other}' for other in close)}?" if close else "run `andon ls service` to see what there is"
    return NotFound(address=f"service:{name[:80]}", next_step=hint)
