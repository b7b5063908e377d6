"""Incidents as pages: each is the fold over the events of its stream. An event of a kind not known here is shown, never tripped over."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, func, select

from andon.core.addresses import Address
from andon.core.clocks import to_iso
from andon.core.errors import AndonError, NotFound
from andon.core.verdicts import Evidence, Verdict
from andon.operations.showing.records import ActionRow, IncidentRow, IncidentView, Light, TimelineRow
from andon.registry import get_verdict, verdicts_on
from andon.releases import rollback_target
from andon.store import Store, streams
from andon.store import schema as s

CLOSING = frozenset({"resolve", "resolved", "close", "closed"})
CAUSES = {
    "release": "a bad release",
    "upstream": "an upstream data fault",
    "world": "the world has changed",
    "unknown": "not known yet",
}
HEADLINES = {
    "release": "A bad release: {release}",
    "upstream": "A broken input: {suspects}",
    "world": "The world has changed",
    "unknown": "Quality is lower; the cause is not known yet",
}
ADVICE = {
    "rollback": "Roll back to the last good release",
    "fix-upstream": "Block training and fix the upstream data; a rollback would not help",
    "retrain": "Retrain through the gate; a rollback would not help",
    "wait": "Wait: there is too little evidence to act on",
}
SAID = {
    "open": "opened",
    "opened": "opened",
    "cord": "cord pulled",
    "ask-triage": "triage asked",
    "triaged": "triaged",
    "finding": "triaged",
    "escalate": "cause reconsidered",
    "block-training": "training blocked",
    "unblock-training": "training allowed",
    "rollback": "rolled back",
    "recommend-retrain": "retrain recommended",
    "watched": "watched",
    "nothing": "nothing done",
    "note": "note",
    "waited": "waited",
    "resolve": "resolved",
    "resolved": "resolved",
    "close": "closed",
    "closed": "closed",
}


def incident_ids(store: Store, limit: int = 500) -> list[str]:
    """Ids of incidents, newest first."""
    query = select(s.events.c.stream).where(s.events.c.stream.startswith("incident:"), s.events.c.n == 1)
    with store.ledger.read() as connection:
        found = connection.execute(query.order_by(s.events.c.at_us.desc(), s.events.c.stream.desc()).limit(limit)).scalars()
        return [stream.removeprefix("incident:") for stream in found]


def incidents_view(store: Store, *, service: str | None = None, limit: int = 200) -> tuple[IncidentRow, ...]:
    """Incidents, open ones first and then newest first."""
    ids = incident_ids(store, limit)
    with store.ledger.read() as connection:
        found = _folded(store, connection, [f"incident:{id_}" for id_ in ids])
    mine = [row for row in found if service is None or row.service == service]
    return tuple(sorted(mine, key=lambda row: row.closed_us is not None))


_kept: WeakKeyDictionary[Any, dict[str, tuple[int, IncidentRow]]] = WeakKeyDictionary()
"""Ledger -> stream -> (its last event, what it folded to). Events never change, so a row holds until the stream has another one."""


def _folded(store: Store, connection: Connection, names: list[str]) -> list[IncidentRow]:
    """One row for each stream; only streams that moved since the last time are read, all in one query."""
    kept = _kept.setdefault(store.ledger, {})
    e = s.events
    counted = select(e.c.stream, func.max(e.c.n).label("n")).where(e.c.stream.in_(names)).group_by(e.c.stream)
    last = {row.stream: int(row.n) for row in connection.execute(counted)}
    moved = [name for name in names if name in last and kept.get(name, (0,))[0] != last[name]]
    events: dict[str, list[streams.Event]] = {name: [] for name in moved}
    if moved:
        for row in connection.execute(select(e).where(e.c.stream.in_(moved)).order_by(e.c.stream, e.c.n)):
            events[row.stream].append(streams._event(row))
    fresh = {name: (found[-1].n, _row(name.removeprefix("incident:"), found)) for name, found in events.items() if found}
    kept.update(fresh)
    return [kept[name][1] for name in names if name in last]


def said_once(reason: str, incidents: Iterable[IncidentRow]) -> str:
    """A reason without the sentence that an incident says already; the incident's address stands for it."""
    for incident in incidents:
        if incident.title and incident.title in reason:
            rest = reason.replace(incident.title, "").strip(" :;")
            return rest if incident.address in rest else ": ".join(part for part in (rest, incident.address) if part)
    return reason


def _facts(events: list[streams.Event]) -> dict[str, Any]:
    """What the events say together: later ones win; a finding counts as said by its event, whether nested or the body itself."""
    facts: dict[str, Any] = {}
    for event in events:
        finding = event.body.get("finding")
        for said in (event.body, finding if isinstance(finding, dict) else {}):
            facts |= {key: value for key, value in said.items() if value not in (None, "", [], {}) or key not in facts}
    return facts


def _service_of(facts: dict[str, Any]) -> str:
    named = str(facts.get("service") or facts.get("subject") or "")
    name = named.removeprefix("service:").partition("@")[0]
    return name or str(facts.get("release", "")).removeprefix("release:").partition("@")[0]


def _row(id_: str, events: list[streams.Event]) -> IncidentRow:
    facts = _facts(events)
    first = events[0]
    closed = next((event for event in reversed(events) if event.type in CLOSING), None)
    service, cause, advice = _service_of(facts), str(facts.get("cause") or ""), str(facts.get("advice") or "")
    release = next((str(event.body["release"]) for event in events if event.body.get("release")), "")
    said = str(facts.get("title") or facts.get("message") or facts.get("why") or first.reason or "opened without a reason")
    light: Light = "grey" if closed else "yellow" if cause == "unknown" else "red"
    return IncidentRow(
        id=id_,
        address=f"incident:{id_}",
        service=service,
        headline=_headline(cause, release, facts, said),
        title=said,
        status="resolved" if closed else "open",
        light=light,
        cause=CAUSES.get(cause, cause),
        recommendation=ADVICE.get(advice, advice),
        opened_us=first.at_us,
        opened_event_us=first.event_us if first.event_us is not None else facts.get("opened_us"),
        closed_us=None if closed is None else closed.at_us,
        closed_event_us=None if closed is None else closed.event_us,
        opened_by=first.actor,
        release=release,
    )


def _headline(cause: str, release: str, facts: dict[str, Any], said: str) -> str:
    """The cause in a few words: what a list shows. Without a cause, the first words of what was said."""
    if cause not in HEADLINES:
        words = re.split(r"[;.\n]", CAUSES.get(cause, cause) or said, maxsplit=1)[0].strip()
        return (words[:77] + "…" if len(words) > 78 else words) or said[:78]
    named = [str(one) for one in facts.get("suspects") or ()]
    suspects = ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
    return HEADLINES[cause].format(release=release.removeprefix("release:"), suspects=suspects).rstrip(": ")


def incident_view(store: Store, address: str | Address) -> IncidentView:
    """One incident, whole. Raises ``NotFound``."""
    at = Address.parse(address, kind="incident")
    with store.ledger.read() as connection:
        events = streams.read(connection, str(at))
    if not events:
        raise NotFound(address=str(at), next_step="open /incidents, or run `andon ls incident`, to see what there is")
    facts = _facts(events)
    row = _row(at.name, events)
    return IncidentView(
        incident=row,
        timeline=_timeline(events),
        changed=tuple(_change(change) for change in facts.get("changed") or ()),
        worst_slice=_slice(facts.get("worst_slice")),
        counterfactual=_counterfactual(facts),
        cause=row.cause,
        why=str(facts.get("message") or facts.get("why") or ""),
        evidence=_tables(facts.get("evidence")),
        verdicts=_verdicts(store, row, facts),
        actions=_actions(store, row, facts, events),
        finding=facts.get("finding") or {key: facts[key] for key in ("cause", "advice", "message") if key in facts},
    )


def _timeline(events: list[streams.Event]) -> tuple[TimelineRow, ...]:
    """What happened, in order; a sentence that an earlier event said is not said again."""
    rows, heard = [], set[str]()
    for event in events:
        said = str(event.body.get("message") or event.body.get("why") or event.body.get("text") or event.reason or "")
        moved = " → ".join(str(event.body[key]) for key in ("release", "to") if event.body.get(key)) if event.type == "rollback" else ""
        parts = (SAID.get(event.type, event.type), moved, "" if said in heard else said)
        heard.add(said)
        rows.append(
            TimelineRow(
                n=event.n,
                type=event.type,
                text=": ".join(part for part in parts if part),
                at_us=event.at_us,
                event_us=event.event_us if event.event_us is not None else event.body.get("at_us"),
                actor=event.actor,
                reason=event.reason,
                body=event.body,
            )
        )
    return tuple(rows)


def _change(change: Any) -> str:
    if not isinstance(change, dict):
        return str(change)
    at_us, parts = change.get("at_us"), ", ".join(map(str, change.get("components") or ()))
    when = f" on {to_iso(at_us)[:16].replace('T', ' at ').removesuffix(' at 00:00')}" if isinstance(at_us, int) else ""
    before, after = str(change.get("before") or ""), str(change.get("after") or "")
    if not before and after and change.get("kind") == "release":
        return f"{change.get('subject', '')} was first given to {after}{when}"
    moved = " → ".join(part for part in (before, after) if part)
    said = " ".join(part for part in (str(change.get("subject", "")), moved) if part) + when
    return f"{said}: other {parts}" if parts else said


def _slice(found: Any) -> str:
    if not isinstance(found, dict) or not found.get("slice"):
        return str(found or "")
    value = found.get("value")
    measured = f": {value:.2f} × expected loss" if isinstance(value, int | float) else ""
    return f"{found['slice']}{measured} ({found.get('n', 0)} labels)"


def _counterfactual(facts: dict[str, Any]) -> str:
    ratio = facts.get("replay_ratio")
    if not isinstance(ratio, int | float):
        return ""
    interval = facts.get("replay_interval") or {}
    low, high = interval.get("low"), interval.get("high")
    bounds = f" (95 % interval {low:.2f} to {high:.2f})" if isinstance(low, int | float) and isinstance(high, int | float) else ""
    if facts.get("advice") == "rollback":
        better = "would have been clearly better: a rollback helps"
    elif ratio < 1:  # a promising ratio that the evidence does not bear out (yet) is no proof either way
        better = "is not proven to be better: nothing says that a rollback would help"
    else:
        better = "would have been no better: a rollback would not help"
    return f"On the same requests, the last good release has {ratio:.2f} × the loss of the live one{bounds}. It {better}."


def _tables(found: Any) -> tuple[Evidence, ...]:
    tables = []
    for table in found if isinstance(found, list) else []:
        if isinstance(table, dict) and table.get("columns"):
            rows = tuple(tuple(row) for row in table.get("rows") or ())
            tables.append(Evidence(str(table.get("title", "")), tuple(map(str, table["columns"])), rows))
    return tuple(tables)


def _verdicts(store: Store, row: IncidentRow, facts: dict[str, Any]) -> tuple[Verdict, ...]:
    """The verdicts that the events name, else the failed ones on the service around the opening."""
    named = [str(name) for name in facts.get("verdicts") or ()]
    if named:
        found = []
        for name in named[:40]:
            try:
                found.append(get_verdict(store, name if name.startswith("verdict:") else f"verdict:{name}"))
            except AndonError:  # named, but not kept: the timeline still shows the name
                continue
        return tuple(found)
    if not row.service or row.opened_event_us is None:
        return ()
    checks = [str(check) for check in facts.get("checks") or ()]
    failed = verdicts_on(store, Address("service", row.service), statuses=("fail",), end_us=row.opened_event_us + 1, limit=60)
    newest: dict[str, Verdict] = {}
    for verdict in failed:
        if not checks or verdict.check in checks:
            newest.setdefault(verdict.check, verdict)
    return tuple(newest.values())


def _actions(store: Store, row: IncidentRow, facts: dict[str, Any], events: list[streams.Event]) -> tuple[ActionRow, ...]:
    """The recommended action first, then what else is possible while the incident is open."""
    advice = str(facts.get("advice") or "")
    done = {event.type for event in events}
    service = row.service
    target = str(facts.get("rollback_to") or facts.get("to") or "") or (rollback_target(store, service) if service else None)
    actions = []
    if service and (advice == "rollback" or (target and row.status == "open")):
        actions.append(
            ActionRow(
                text=f"Roll service:{service} back to {target}" if target else f"Roll service:{service} back",
                verb="rollback" if target else None,
                target=target or None,
                command=f'andon rollback service:{service} --why "incident {row.id}"',
                recommended=advice == "rollback",
                done=bool(done & {"rollback", "rolled-back"}),
            )
        )
    if advice == "fix-upstream":
        suspects = ", ".join(map(str, facts.get("suspects") or ())) or "the inputs"
        actions.append(
            ActionRow(
                text=f"Fix {suspects} upstream; keep training blocked until it is sound",
                verb=None,
                target=None,
                command=f"andon show service:{service}",
                recommended=True,
                done="unblock-training" in done,
            )
        )
    if advice == "retrain":
        actions.append(
            ActionRow(
                text="Retrain on fresh data, through the gate",
                verb=None,
                target=None,
                command=f"andon release {service} --model model:NAME@latest --why retrain",
                recommended=True,
                done=False,
            )
        )
    return tuple(sorted(actions, key=lambda action: not action.recommended))
