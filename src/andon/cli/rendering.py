"""Views as text for people. What a view says is decided in ``operations.showing``; here it only becomes lines and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
import msgspec

from andon.cli.output import say_json, say_table
from andon.cli.releases import say_verdicts
from andon.core.clocks import to_iso
from andon.operations import showing


def render(view: Any) -> None:
    """Print a view."""
    for kind, printer in _PRINTERS.items():
        if isinstance(view, kind):
            printer(view)
            return
    say_json(view)


def _facts(title: str, facts: Mapping[str, Any]) -> None:
    click.secho(title, bold=True)
    width = max((len(name) for name, value in facts.items() if value not in (None, "", (), {})), default=0)
    for name, value in facts.items():
        if value not in (None, "", (), {}):
            click.echo(f"  {name:<{width}}  {value}")


def _when(at_us: int | None, event_us: int | None = None) -> str:
    if event_us is not None:
        return to_iso(event_us)
    return "-" if at_us is None else to_iso(at_us)


def _service(view: showing.ServiceView) -> None:
    replicas = ", ".join(f"{replica.url} ({replica.status})" for replica in view.replicas if replica.fresh)
    _facts(
        f"service:{view.name}: {view.light}, {view.why}",
        {
            "production": view.production,
            "channels": " ".join(f"@{name}={release}" for name, release in view.channels.items()),
            "served at": replicas,
            "could not follow": "; ".join(dict.fromkeys(replica.note for replica in view.replicas if replica.fresh and replica.note)),
            "answered": f"{view.traffic.rows} rows, {view.traffic.labels} labels" if view.traffic.known else view.traffic.problem,
            "training": f"blocked: {view.training_block.why}" if view.training_block else "",
            "rollback": view.rollback_says,
            "mind": view.champion_disagrees,
        },
    )
    if view.turns:
        rows = [(_when(t.at_us, t.event_us), t.kind, t.release, t.previous or "-", t.actor, t.reason) for t in view.turns[-10:]]
        say_table(("when", "what", "release", "before", "who", "why"), rows, title="what held production")
    failed = [verdict for verdict in view.checks if verdict.status != "pass"]
    say_verdicts(failed)
    if view.incidents:
        incidents = [(row.address, row.status, row.cause, row.title) for row in view.incidents]
        say_table(("incident", "status", "cause", "title"), incidents)


def _release(view: showing.ReleaseView) -> None:
    _facts(
        f"{view.address}: {view.state}",
        {
            "digest": view.digest,
            "made": f"{_when(view.created_us)} by {view.actor}: {view.reason}",
            "channels": " ".join(f"@{name}" for name in view.channels),
            "gate": view.policy,
            "waiver": f"{view.waiver.person}: {view.waiver.reason}, until {to_iso(view.waiver.expires_us)}" if view.waiver else "",
            "rejected": f"{view.rejection.actor}: {view.rejection.why}" if view.rejection else "",
        },
    )
    say_table(
        ("pinned", "address", "digest", "detail"), [(p.component, p.address or "-", (p.digest or "-")[:19], p.detail) for p in view.pins]
    )
    say_verdicts([row.verdict for row in view.judged])
    if view.compared_with and view.changes:
        changes = [(c.path, _short(c.before), _short(c.after)) for c in view.changes[:20]]
        say_table(("what", "before", "after"), changes, title=f"changed since {view.compared_with}")


def _incident(view: showing.IncidentView) -> None:
    row = view.incident
    _facts(
        f"{row.address} on service:{row.service}: {row.status}",
        {
            "title": row.title,
            "opened": f"{_when(row.opened_us, row.opened_event_us)} by {row.opened_by}",
            "cause": f"{view.cause}: {view.why}" if view.why else view.cause,
            "worst for": view.worst_slice,
            "would a rollback help": view.counterfactual,
            "changed": "; ".join(view.changed),
        },
    )
    if view.timeline:
        rows = [(_when(t.at_us, t.event_us), t.text, t.actor) for t in view.timeline]
        say_table(("when", "what", "who"), rows, title="timeline")
    for table in view.evidence:
        if table.rows:
            say_table(table.columns, table.rows, title=table.title)
    for action in view.actions:
        mark = "recommended" if action.recommended and not action.done else "done" if action.done else "possible"
        click.echo(f"  {mark}: {action.text}\n    {action.command}")


def _run(view: showing.RunView) -> None:
    run = view.run
    missing = [part.name for part in view.completeness if not part.present]
    _facts(
        f"run:{run.id}: {run.name}, {run.status}",
        {
            "experiment": run.experiment,
            "started": f"{_when(run.started_us)} by {run.actor}",
            "missing": ", ".join(missing),
            "params": " ".join(f"{key}={value}" for key, value in run.params.items()),
            "inputs": ", ".join(item.address for item in view.inputs),
            "made": ", ".join(edge.child for edge in view.made),
        },
    )
    rows = [(s.key, _number(s.value), _number(s.min), _number(s.max), s.count) for s in view.series]
    if rows:
        say_table(("metric", "last", "least", "most", "points"), rows)
    if view.artifacts:
        say_table(("artifact", "bytes", "digest"), [(a.path, a.size_bytes, a.digest[:19]) for a in view.artifacts])


def _entry(view: showing.EntryView) -> None:
    entry = view.entry
    aliases = " ".join(f"@{name}={target}" for name, target in entry.aliases.items())
    tags = " ".join(f"{key}={value}" for key, value in view.tags.items())
    _facts(entry.address, {"versions": entry.head, "aliases": aliases, "tags": tags})
    rows = [(v.version, v.digest[:19], _when(v.created_us), v.actor, v.deleted_why or v.reason) for v in view.versions]
    say_table(("version", "digest", "when", "who", "why"), rows)
    if view.shown is not None:
        click.secho(view.shown.address, bold=True)
        click.echo(msgspec.json.format(msgspec.json.encode(view.manifest), indent=2).decode())
    if view.lineage.edges:
        say_table(("made", "from", "as"), [(edge.child, edge.parent, edge.role) for edge in view.lineage.edges], title="lineage")


def _verdict(view: showing.VerdictView) -> None:
    verdict = view.verdict
    _facts(f"verdict:{verdict.id}: {verdict.status}", {"on": verdict.subject, "check": verdict.check, "in words": verdict.message})
    say_verdicts([verdict, *view.earlier[:9]])
    if verdict.slices:
        rows = [(part.slice, part.status, _number(part.value), part.n) for part in verdict.slices[:30]]
        say_table(("slice", "verdict", "value", "n"), rows)
    for table in verdict.evidence:
        if table.rows:
            say_table(table.columns, table.rows, title=table.title)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


_PRINTERS: dict[type, Callable[[Any], None]] = {
    showing.ServiceView: _service,
    showing.ReleaseView: _release,
    showing.IncidentView: _incident,
    showing.RunView: _run,
    showing.EntryView: _entry,
    showing.VerdictView: _verdict,
}
