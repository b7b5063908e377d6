"""The line at a glance: every service's light, every station's count, and what changed last."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from andon.core.addresses import Address
from andon.core.clocks import DAY_US
from andon.core.verdicts import Answer
from andon.operations.showing.incidents import SAID, incidents_view, said_once
from andon.operations.showing.judgements import QUALITY, newest_of_each, recent_values, since
from andon.operations.showing.records import LIGHTS, Happening, IncidentRow, Light, LineView, ServiceLight, Station
from andon.operations.showing.services import champion_disagrees, last_turn, light_of, replicas_of, service_names
from andon.registry import aliases_of
from andon.releases import PRODUCTION, service_state
from andon.store import Store, streams
from andon.store import schema as s

SPARKLINE = 40
HAPPENINGS = 14
QUIET = frozenset({"watched", "nothing", "waited", "judged", "ask-triage"})
"""Events that say nothing new; the pages of their streams show them."""
TWICE = frozenset({"rollback", "block-training", "unblock-training"})
"""What an incident did to a service is in the service's stream too, and told from there."""


def line(store: Store) -> LineView:
    """Everything that the first page shows. Works, and says so, when there is nothing at all."""
    incidents = incidents_view(store)
    services = tuple(_service(store, name, incidents) for name in service_names(store))
    return LineView(
        services=tuple(sorted(services, key=lambda service: (-_rank(service.light), service.name))),
        stations=_stations(store, services, incidents),
        happenings=_happenings(store, incidents),
        at_us=store.clock.now_us(),
    )


def _rank(light: Light) -> int:
    return LIGHTS.index(light)


def worst(lights: list[Light]) -> Light:
    """The light that matters most."""
    return max(lights, key=_rank, default="grey")


def _service(store: Store, name: str, incidents: tuple[IncidentRow, ...]) -> ServiceLight:
    state = service_state(store, name)
    channels = aliases_of(store, Address("service", name))
    production, turn = channels.get(PRODUCTION), last_turn(state)
    mine = [incident for incident in incidents if incident.service == name]
    subject = f"service:{name}"
    with store.ledger.read() as connection:
        checks = newest_of_each(connection, subject, since(turn))
        values = recent_values(connection, subject, QUALITY, SPARKLINE)
        replicas = replicas_of(connection, name, store.clock.now_us())
    blocked = None if state.training_block is None else state.training_block.why
    told = light_of(production, turn, checks, mine, blocked, champion_disagrees(store, production))
    return ServiceLight(
        name=name,
        light=told.light,
        why=told.why,
        production=production,
        since_us=None if turn is None else turn.at_us,
        since_event_us=None if turn is None else turn.event_us,
        candidate=channels.get("candidate"),
        quality=values,
        threshold=next((verdict.threshold for verdict in checks if verdict.check == QUALITY), None),
        open_incidents=tuple(incident.id for incident in mine if incident.closed_us is None),
        replicas_ready=sum(replica.status == "ready" and replica.fresh for replica in replicas),
        training_blocked=state.training_block is not None,
    )


def _stations(store: Store, services: tuple[ServiceLight, ...], incidents: tuple[IncidentRow, ...]) -> tuple[Station, ...]:
    now_us = store.clock.now_us()
    with store.ledger.read() as c:
        statuses = {row.status: row.n for row in c.execute(_count_by(s.runs.c.status, s.runs.c.deleted_us.is_(None)))}
        kinds = {row.kind: row.n for row in c.execute(_count_by(s.entries.c.kind))}
        living = {row.kind: row.n for row in c.execute(_count_by(s.versions.c.kind, s.versions.c.deleted_us.is_(None)))}
        windows = _windows(c)
        answers = _answers(c)
        replicas = replicas_of(c, None, now_us)
        failed = c.execute(select(func.count()).where(s.runs.c.status == "failed", s.runs.c.ended_us > now_us - DAY_US)).scalar_one()
    named = sum(kinds.get(kind, 0) for kind in kinds if kind not in ("release", "service", "dataset"))
    models, data, releases = living.get("model", 0), living.get("dataset", 0), living.get("release", 0)
    in_production = sum(service.production is not None for service in services)
    ready = sum(replica.status == "ready" and replica.fresh for replica in replicas)
    noted = next((replica for replica in replicas if replica.note and replica.fresh), None)
    open_ = [incident for incident in incidents if incident.closed_us is None]
    running = statuses.get("running", 0)
    watched: list[Light] = [service.light for service in services if service.production is not None]
    serving: Light = "yellow" if noted else "green" if ready else "grey"
    return (
        _station("runs", "Runs", sum(statuses.values()), "run", f"{running} running, {failed} failed today", "grey"),
        _station("datasets", "Datasets", kinds.get("dataset", 0), "dataset", _plural(data, "version"), "grey"),
        _station("registry", "Registry", named, "name", _plural(models, "model version"), "grey"),
        _station("gates", "Gates", sum(answers.values()), "judgement", _gates_say(answers), "yellow" if _last_answer(store) else "grey"),
        _station("releases", "Releases", releases, "release", f"{in_production} in production", "green" if in_production else "grey"),
        _station("serving", "Serving", ready, "replica", noted.note[:80] if noted else _serving_says(len(replicas), ready), serving),
        _station("monitors", "Monitors", windows, "window", _watched_says(watched), worst(watched)),
        _station(
            "incidents",
            "Incidents",
            len(open_),
            "open",
            f"{len(incidents)} in all",
            "red" if open_ else "green" if in_production else "grey",
        ),
    )


def _station(key: str, title: str, count: int, unit: str, detail: str, light: Light) -> Station:
    return Station(key=key, title=title, count=count, unit=unit, detail=detail, light=light)


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _count_by(column: Any, *conditions: Any) -> Any:
    return select(column, func.count().label("n")).where(*conditions).group_by(column)


def _windows(connection: Connection) -> int:
    v = s.verdicts
    return int(connection.execute(select(func.count()).where(v.c.subject.startswith("service:"), v.c.check_name == QUALITY)).scalar_one())


def _answers(connection: Connection) -> dict[int, int]:
    """How often a gate said go, no and undecided."""
    found: dict[int, int] = {}
    query = select(s.events).where(s.events.c.type == "judged", s.events.c.stream.startswith("service:"))
    for event in connection.execute(query):
        answer = int(msgspec.json.decode(event.body).get("answer", Answer.UNDECIDED))
        found[answer] = found.get(answer, 0) + 1
    return found


def _gates_say(answers: dict[int, int]) -> str:
    if not answers:
        return "nothing judged yet"
    return f"{answers.get(0, 0)} let through, {answers.get(1, 0)} refused, {answers.get(2, 0)} undecided"


def _last_answer(store: Store) -> int:
    """The newest judgement of any gate; 0 when there is none."""
    query = select(s.events.c.body).where(s.events.c.type == "judged", s.events.c.stream.startswith("service:"))
    with store.ledger.read() as connection:
        body = connection.execute(query.order_by(s.events.c.at_us.desc(), s.events.c.n.desc()).limit(1)).scalar()
    return 0 if body is None else int(msgspec.json.decode(body).get("answer", 0))


def _serving_says(replicas: int, ready: int) -> str:
    if not replicas:
        return "no replica is running"
    return "all ready" if replicas == ready else f"{replicas - ready} of {replicas} not ready"


def _watched_says(lights: list[Light]) -> str:
    if not lights:
        return "nothing to watch yet"
    well = sum(light == "green" for light in lights)
    return f"{well} of {len(lights)} services well"


def _happenings(store: Store, incidents: tuple[IncidentRow, ...]) -> tuple[Happening, ...]:
    """The newest changes of every sort, newest first."""
    e, v, r = s.events, s.versions, s.runs
    # A run has its own line below; a controller's journal repeats what the streams of services and incidents say.
    noisy = e.c.type.in_(sorted(QUIET)) | e.c.stream.startswith("run:") | e.c.stream.startswith("controller:")
    noisy |= e.c.type.in_(sorted(TWICE)) & e.c.stream.startswith("incident:")
    with store.ledger.read() as c:
        events = c.execute(select(e).where(~noisy).order_by(e.c.at_us.desc(), e.c.stream, e.c.n.desc()).limit(HAPPENINGS)).all()
        registered = c.execute(select(v).where(v.c.deleted_us.is_(None)).order_by(v.c.created_us.desc()).limit(HAPPENINGS)).all()
        runs = c.execute(select(r).where(r.c.deleted_us.is_(None)).order_by(r.c.started_us.desc()).limit(HAPPENINGS)).all()
    known = {incident.address: incident for incident in incidents}
    found = [_of_event(streams._event(row), known) for row in events]
    found += [_of_version(row) for row in registered]
    found += [_of_run(row) for row in runs]
    return tuple(sorted(found, key=lambda happening: -happening.at_us)[:HAPPENINGS])


def _of_event(event: streams.Event, incidents: dict[str, IncidentRow]) -> Happening:
    if event.stream.startswith("incident:"):
        return _of_incident(event, incidents.get(event.stream))
    release, channel = event.body.get("release"), event.body.get("channel")
    service = event.stream.removeprefix("service:")
    told: dict[str, tuple[str, Light]] = {
        "deployed": (f"{release} took {channel}" + ("" if str(release).startswith(f"release:{service}@") else f" of {service}"), "green"),
        "rolled-back": (f"{service} rolled back to {release}", "yellow"),
        "rejected": (f"{release} was rejected", "red"),
        "waived": (f"{release} was waived", "yellow"),
        "training-blocked": (f"training for {service} was blocked", "yellow"),
        "training-allowed": (f"training for {service} was allowed again", "green"),
    }
    what, light = told.get(event.type, (f"{event.stream}: {SAID.get(event.type, event.type)}", "grey"))
    return Happening(
        at_us=event.at_us,
        event_us=event.event_us,
        address=str(release) if event.type in ("rejected", "waived", "deployed") and release else event.stream,
        what=what,
        actor=event.actor,
        reason=said_once(event.reason, incidents.values()),
        light=light,
    )


def _of_incident(event: streams.Event, incident: IncidentRow | None) -> Happening:
    said = str(event.body.get("message") or event.body.get("why") or event.body.get("text") or event.reason or "")
    opens = event.type in ("open", "opened", "cord")
    if incident is not None and said == incident.title:  # the sentence is the incident's own: its page says it
        said = incident.headline if opens else ""
    return Happening(
        at_us=event.at_us,
        event_us=event.event_us,
        address=event.stream,
        what=f"{event.stream} {SAID.get(event.type, event.type)}",
        actor=event.actor,
        reason=said,
        light="red" if opens else "green" if event.type in ("resolve", "resolved") else "grey",
    )


def _of_version(row: Any) -> Happening:
    address = f"{row.kind}:{row.name}@{row.version}"
    return Happening(at_us=row.created_us, event_us=None, address=address, what=f"{address} registered", actor=row.actor, reason=row.reason)


def _of_run(row: Any) -> Happening:
    return Happening(
        at_us=row.ended_us or row.started_us,
        event_us=None,
        address=f"run:{row.id}",
        what=f"run {row.name or row.id} {row.status}",
        actor=row.actor,
        reason="",
        light="red" if row.status == "failed" else "grey",
    )
