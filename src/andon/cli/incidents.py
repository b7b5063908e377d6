"""Pulling the cord, and watching by hand."""

from __future__ import annotations

import click

from andon.cli.output import common, say_json, say_table, second, with_store
from andon.store import Store


@click.command()
@click.argument("service")
@click.option("--why", required=True, help="What you saw.")
@common
@with_store
def cord(store: Store, service: str, why: str, as_json: bool) -> None:
    """Pull the cord on a service: open an incident, have it triaged, and see what is recommended."""
    from andon.cli.rendering import render
    from andon.operations import showing, watching

    address = watching.cord(service, why=why, store=store)
    view = showing.show(store, address)
    if as_json:
        say_json(view)
    else:
        render(view)


@click.command()
@click.argument("service")
@common
@with_store
def watch(store: Store, service: str, as_json: bool) -> None:
    """Judge every window that is due and act on what was found, once (what `andon up` does all the time)."""
    from andon.operations import watching

    verdicts = watching.watch(service, store=store)
    if as_json:
        say_json(verdicts)
    elif not verdicts:
        click.echo("nothing is due: a window is judged once a later request has been answered")
    else:
        rows = [(second(v.at_us), v.check, v.status, v.message) for v in verdicts]
        say_table(("window's end", "check", "verdict", "in words"), rows)
