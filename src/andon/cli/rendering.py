"""Views as text for people. What a view says is decided in ``operations.showing``; here it only becomes lines and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click
import msgspec

from andon.cli.output import change_rows, root_of, say_json, say_table, second
from andon.cli.releases import say_verdicts
from andon.operations import showing

if TYPE_CHECKING:
    from andon.registry import Change


_MOST = 20
_COMPONENTS = ("model", "code", "environment", "data", "features", "prompts", "indexes", "policies", "evaluation", "signature", "settings")
"""Parts of a release in the order in which people ask for them."""
_NOT_MADE_OF = {"example", "scored", "verdicts", "waivers"}
"""Parts that differ between any two releases and change no answer."""


def render(view: Any) -> None:
    """Print a view."""
    for kind, printer in _PRINTERS.items():
        if isinstance(view, kind):
            printer(view)
            return
    if type(view).__name__ == "JobView":
        from andon.cli.predicting import say_job

        say_job(view)
        return
    if type(view).__name__ == "RolloutView":  # not imported for every page: it brings the analysis with it
        from andon.cli.rollouts import say_rollout

        say_rollout(view)
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
        return second(event_us)
    return "-" if at_us is None else second(at_us)


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
            "rollout": f"{view.rollout}: {view.rollout_says}" if view.rollout else "",
            "rollback": view.rollback_says,
            "mind": view.champion_disagrees,
        },
    )
    held = [turn for turn in view.turns if turn.channel == "production"][-10:]
    if held:
        rows = [(_when(t.at_us, t.event_us), t.kind, t.release, t.previous or "-", t.actor, t.reason) for t in held]
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
            "waiver": f"{view.waiver.person}: {view.waiver.reason}, until {second(view.waiver.expires_us)}" if view.waiver else "",
            "rejected": f"{view.rejection.actor}: {view.rejection.why}" if view.rejection else "",
        },
    )
    say_table(
        ("pinned", "address", "digest", "detail"), [(p.component, p.address or "-", (p.digest or "-")[:19], p.detail) for p in view.pins]
    )
    say_verdicts([row.verdict for row in view.judged])
    if view.compared_with and view.changes:
        told = sorted((change for change in view.changes if root_of(change) not in _NOT_MADE_OF), key=_component_first)
        if told:
            say_table(("what", "before", "after"), change_rows(told[:_MOST]), title=f"changed since {view.compared_with}")
        if len(told) > _MOST:
            click.echo(f"and {len(told) - _MOST} more: andon diff {view.compared_with} {view.address}")


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
    code, environment, hardware, seeds = (view.facts.get(part) or {} for part in ("code", "environment", "hardware", "seeds"))
    packages = f"Python {environment.get('python')} on {environment.get('platform')}, {len(environment.get('requirements') or ())} packages"
    gpus = "".join(f", {gpu}" for gpu in hardware.get("gpus") or ())
    memory = f"{hardware.get('memory_bytes', 0) / 2**30:.1f} GiB"
    _facts(
        f"run:{run.id}: {run.name}, {run.status}",
        {
            "experiment": run.experiment,
            "started": f"{_when(run.started_us)} by {run.actor}",
            "duration": "" if run.ended_us is None else f"{(run.ended_us - run.started_us) / 1e6:.3g} s",
            "commit": (code.get("commit") or "none") + (", with uncommitted changes" if code.get("dirty_diff") else "") if code else "",
            "entry point": code.get("entry_point"),
            "environment": packages if environment else "",
            "hardware": f"{hardware.get('cores')} cores of {hardware.get('cpu')}, {memory}{gpus}" if hardware else "",
            "seeds": ", ".join(f"{library} {seed}" for library, seed in seeds.items()),
            "params": " ".join(f"{key}={value}" for key, value in run.params.items()),
            "inputs": ", ".join(item.address for item in view.inputs),
            "made": ", ".join(edge.child for edge in view.made),
            "completeness": f"{view.score:.0%}",
        },
    )
    for part in view.completeness:
        if not part.present:
            click.echo(f"    missing: {part.name} ({part.detail})")
    rows = [(s.key, _number(s.value), _number(s.min), _number(s.max), s.count) for s in view.series]
    if rows:
        say_table(("metric", "last", "least", "most", "points"), rows)
    if view.artifacts:
        say_table(("artifact", "bytes", "digest"), [(a.path, a.size_bytes, a.digest[:19]) for a in view.artifacts])


def _entry(view: showing.EntryView) -> None:
    entry = view.entry
    aliases = " ".join(f"@{name}={target}" for name, target in entry.aliases.items())
    tags = " ".join(f"{key}={value}" for key, value in view.tags.items())
    told = {"called": entry.title, "about": entry.description, "versions": str(entry.head), "aliases": aliases, "tags": tags}
    _facts(entry.address, told)
    rows = [(v.version, v.digest[:19], _when(v.created_us), v.actor, v.deleted_why or v.reason) for v in view.versions]
    if rows:
        say_table(("version", "digest", "when", "who", "why"), rows)
    if view.shown is not None:
        click.secho(view.shown.address, bold=True)
        if entry.kind == "prompt" and isinstance(view.manifest, dict) and isinstance(view.manifest.get("template"), str):
            click.echo(view.manifest["template"])
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


def _component_first(change: Change) -> int:
    root = root_of(change)
    return _COMPONENTS.index(root) if root in _COMPONENTS else len(_COMPONENTS)


_PRINTERS: dict[type, Callable[[Any], None]] = {
    showing.ServiceView: _service,
    showing.ReleaseView: _release,
    showing.IncidentView: _incident,
    showing.RunView: _run,
    showing.EntryView: _entry,
    showing.VerdictView: _verdict,
}
