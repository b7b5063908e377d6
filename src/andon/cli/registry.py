"""Looking at what there is: ls, show, diff, lineage, history; and naming it: alias, tag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from andon.cli.output import change_rows, common, root_of, say_json, say_table, second, with_store
from andon.core.actors import current_actor
from andon.core.addresses import ID_KINDS, VERSIONED_KINDS, Address
from andon.core.errors import InvalidAddress
from andon.store import Store

if TYPE_CHECKING:
    from andon.store.streams import Event


INCIDENT_EVENTS = ("open", "escalate", "resolve", "recommend-retrain")
"""What the incidents' journal adds to a service's history; rollbacks and training blocks are in the service's own events."""


@click.command()
@click.argument("what", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many rows.")
@common
@with_store
def ls(store: Store, what: str | None, limit: int, as_json: bool) -> None:
    """List names, or what is of one kind: a kind (model, run, incident, …), kind:prefix, or nothing for all."""
    from andon import registry
    from andon.operations import showing

    kind, _, prefix = (what or "").partition(":")
    if kind and kind not in VERSIONED_KINDS | ID_KINDS:
        known = ", ".join(sorted(VERSIONED_KINDS | ID_KINDS))
        raise InvalidAddress(f"there is no kind {kind[:40]!r}; kinds are {known}", field="what")
    rows: list[Any]
    columns: tuple[str, ...]
    table: list[tuple[Any, ...]]
    if kind == "run":
        runs = showing.runs_view(store, experiment=prefix or None, limit=limit).runs
        columns, rows = ("run", "experiment", "name", "status", "started"), list(runs)
        table = [(f"run:{run.id}", run.experiment, run.name, run.status, second(run.started_us)) for run in runs]
    elif kind == "incident":
        incidents = showing.incidents_view(store)[:limit]
        columns, rows = ("incident", "service", "status", "cause", "title"), list(incidents)
        table = [(row.address, row.service, row.status, row.cause, row.title) for row in incidents]
    elif kind == "verdict":
        verdicts = registry.verdicts_on(store, limit=limit)
        columns, rows = ("verdict", "subject", "check", "status", "message"), verdicts
        table = [(f"verdict:{v.id}", v.subject, v.check, v.status, v.message) for v in verdicts]
    elif kind == "job":
        from andon.cli.predicting import JOB_COLUMNS, job_cells
        from andon.operations.showing.jobs import jobs_view

        jobs = jobs_view(store, service=prefix or None, limit=limit).jobs
        columns, rows = JOB_COLUMNS, list(jobs)
        table = [job_cells(job) for job in jobs]
    elif kind == "service":
        lights = [light for light in showing.line(store).services if light.name.startswith(prefix)]
        columns, rows = ("service", "light", "production", "why"), lights
        table = [(f"service:{row.name}", row.light, row.production or "-", row.why) for row in lights]
    else:
        entries = registry.entries(store, kind or None, prefix=prefix, limit=limit)
        columns, rows = ("name", "versions", "changed", "aliases"), entries
        table = [
            (f"{entry.kind}:{entry.name}", entry.head, second(entry.changed_us), " ".join(f"@{a}={t}" for a, t in entry.aliases.items()))
            for entry in entries
        ]
        if any(entry.title not in (None, entry.name) for entry in entries):
            columns = (*columns, "called")
            table = [(*row, entry.title or "") for row, entry in zip(table, entries, strict=True)]
    if as_json:
        say_json(rows)
    elif table:
        say_table(columns, table)
    else:
        click.echo("nothing yet; `andon demo` makes a whole line to look at")


@click.command()
@click.argument("address")
@common
@with_store
def show(store: Store, address: str, as_json: bool) -> None:
    """Show anything that has an address."""
    from andon.cli.rendering import render
    from andon.operations import showing

    view = showing.show(store, Address.parse(address))
    if as_json:
        say_json(view)
    else:
        render(view)


@click.command()
@click.argument("a")
@click.argument("b")
@common
@with_store
def diff(store: Store, a: str, b: str, as_json: bool) -> None:
    """Say what changed from version A to version B."""
    from andon import registry

    changes = registry.diff(store, a, b)
    if as_json:
        say_json(changes)
    elif changes:
        told = [change for change in changes if root_of(change) != "example"]
        if told:
            say_table(("what", "before", "after"), change_rows(told))
        if folded := len(changes) - len(told):
            click.echo(f"example: {folded} value{'' if folded == 1 else 's'} differ{'s' if folded == 1 else ''}")
    else:
        click.echo("no difference")


@click.command()
@click.argument("address")
@click.option(
    "--direction", type=click.Choice(["up", "down", "both"]), default="both", show_default=True, help="Parents, children, or both."
)
@common
@with_store
def lineage(store: Store, address: str, direction: Any, as_json: bool) -> None:
    """Show what something was made from (up) and what was made from it (down)."""
    from andon import registry

    graph = registry.lineage(store, address, direction)
    if as_json:
        say_json(graph)
    else:
        say_table(("made", "from", "as"), [(edge.child, edge.parent, edge.role) for edge in graph.edges], title=graph.root)
        if graph.truncated:
            click.echo("… and more")


@click.command()
@click.argument("address")
@common
@with_store
def history(store: Store, address: str, as_json: bool) -> None:
    """Show every move of an alias or of all aliases of a name; for a service, everything that happened to it."""
    from andon import registry
    from andon.incidents.journal import journal_stream
    from andon.operations import showing
    from andon.store import streams

    at = Address.parse(address)
    if at.kind in ID_KINDS or (at.kind == "service" and at.alias is None):
        with store.ledger.read() as connection:
            events = streams.read(connection, str(at))
            if at.kind == "service":
                told = streams.read(connection, journal_stream(at.name))
                events = sorted([*events, *(event for event in told if event.type in INCIDENT_EVENTS)], key=lambda event: event.at_us)
        if not events:
            showing.show(store, at)  # raises NotFound when nothing has that address
        if as_json:
            say_json(events)
        else:
            _say_events(events)
        return
    moves = registry.moves(store, at)
    if as_json:
        say_json(moves)
    else:
        moved = [(second(m.at_us), m.address, m.source or "-", m.target or "-", m.actor, m.reason) for m in moves]
        say_table(("when", "alias", "from", "to", "who", "why"), moved)


@click.command()
@click.argument("address")
@click.argument("to")
@click.option("--why", default="", help="The reason, for whoever reads the history.")
@common
@with_store
def alias(store: Store, address: str, to: str, why: str, as_json: bool) -> None:
    """Point an alias (kind:name@alias) to a version."""
    from andon import registry
    from andon.operations import moving

    with store.ledger.read() as connection:
        before = registry.read_alias_in(connection, address)
    move = moving.alias(address, to, why=why, store=store)
    if as_json:
        say_json(move)
    elif before == move.target:
        click.echo(f"{move.address}: already {move.target}")
    else:
        click.echo(f"{move.address}: {move.source or 'nothing'} -> {move.target}")


@click.command()
@click.argument("address")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--remove", is_flag=True, help="Remove the tag.")
@click.option("--why", default="", help="The reason.")
@common
@with_store
def tag(store: Store, address: str, key: str, value: str | None, remove: bool, why: str, as_json: bool) -> None:
    """Set a tag on anything that has an address, or remove it. Every change is kept."""
    from andon import registry

    if (value is None) != remove:
        raise click.UsageError("give a value, or --remove")
    registry.set_tag(store, address, key, value, actor=current_actor(), reason=why)
    tags = registry.tags_of(store, address)
    if as_json:
        say_json(tags)
    else:
        say_table(("tag", "value"), tags.items())


def _say_events(events: list[Event]) -> None:
    """Events in order: the time they are about and, where that is another, when they were written down."""
    rows: list[tuple[Any, ...]]
    if any(event.event_us is not None for event in events):
        columns: tuple[str, ...] = ("when", "recorded", "what", "release", "who", "why")
        times = [("-" if e.event_us is None else second(e.event_us), second(e.at_us)) for e in events]
        rows = [(*at, _what(e), e.body.get("release", ""), e.actor, e.reason) for e, at in zip(events, times, strict=True)]
    else:
        columns = ("when", "what", "release", "who", "why")
        rows = [(second(e.at_us), _what(e), e.body.get("release", ""), e.actor, e.reason) for e in events]
    say_table(columns, rows)


def _what(event: Event) -> str:
    """What happened, with the incident it happened to where the event is told by the incidents' journal."""
    incident = event.body.get("incident")
    return f"incident:{incident} {event.type}" if incident and event.type in INCIDENT_EVENTS else event.type
