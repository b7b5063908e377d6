"""Releasing, deploying, going back."""

from __future__ import annotations

from typing import Any

import click

from andon.cli.output import common, say_json, say_table, with_store
from andon.cli.rollouts import say_begun, strategy_of, strategy_options
from andon.core.errors import GateRefused, GateUndecided
from andon.core.verdicts import Answer
from andon.store import Store

_SAID = {Answer.GO: "the gate lets it through", Answer.NO: "the gate refuses it", Answer.UNDECIDED: "the gate cannot decide"}


@click.command()
@click.argument("service")
@click.option("--model", required=True, help="The model to serve, such as model:bikes@3.")
@click.option("--evaluation", help="Dataset of labelled examples to judge on.")
@click.option("--label", help="Its label column.")
@click.option("--event-time", help="Its event-time column.")
@click.option("--baseline", help="Its column with an honest baseline's predictions.")
@click.option("--data", multiple=True, help="Training snapshot (may be given more than once).")
@click.option("--code", type=click.Path(exists=True, file_okay=False), help="Folder of Python for the serving transform.")
@click.option("--transform", help="module:function in that folder, run on every request before the model.")
@click.option("--gate", default="policy:gate/default", show_default=True, help="The gate's policy.")
@click.option("--waive", help="A person's reason to let it through although the gate refuses.")
@click.option("--allow-pickle", is_flag=True, help="Serve a model that is code from its files, from somebody you trust.")
@click.option("--why", default="", help="The reason for this release.")
@common
@with_store
def release(store: Store, service: str, data: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Pin everything that answers a request into release:SERVICE@N, and ask the gate. Exit 1: refused; 2: undecided."""
    from andon.operations import releasing

    made = releasing.release(service, data=data, strict=False, store=store, **options)
    waived = bool(made.manifest.waivers)
    if as_json:
        say_json(made)
    else:
        say_verdicts([item.verdict for item in made.judged])
        note = " (waived)" if waived else ""
        click.echo(f"{made.address} {made.digest[:19]}: {_SAID[made.answer]}{note}")
        if made.answer is Answer.GO or waived:
            click.echo(f"  next: andon deploy {made.address}")
        elif not made.judged:
            try:
                releasing.raise_unless_go(made)
            except (GateRefused, GateUndecided) as error:
                click.echo(f"  {error.message}")
            click.echo("  next: release it again with --evaluation DATASET --label COLUMN --event-time COLUMN (and --baseline COLUMN)")
        else:
            click.echo(f"  next: andon show {made.address}")
    return 0 if waived else int(made.answer)


@click.command()
@click.argument("release")
@click.option("--channel", default="production", show_default=True, help="Which channel it gets.")
@click.option("--why", default="", help="The reason, for whoever reads the history.")
@click.option("--event-time", help="When this happened in the data's own time (for replays).")
@strategy_options
@common
@with_store
def deploy(
    store: Store,
    release: str,
    channel: str,
    why: str,
    event_time: str | None,
    strategy: str | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Give a service's channel to a release. Serving follows and drops nothing.

    With --strategy it comes to production bit by bit, or beside what is there, and is judged meanwhile.
    """
    from andon.operations import moving

    how = strategy_of(strategy, options)
    moved = moving.deploy(release, channel=channel, why=why, event_time=event_time, strategy=how, force=force, store=store)
    if how is None:
        _say_moved(moved, as_json)
    else:
        say_begun(store, moved, as_json)  # type: ignore[arg-type]  # with a strategy it is a rollout


@click.command()
@click.argument("service")
@click.option("--why", required=True, help="The reason: it is what the next person reads.")
@click.option("--only", multiple=True, help="Only this component: code, environment, data, features, model, prompts, indexes, policies.")
@click.option("--to", help="The release to go back to (default: the newest good one).")
@click.option("--event-time", help="When this happened in the data's own time (for replays).")
@common
@with_store
def rollback(store: Store, service: str, only: tuple[Any, ...], as_json: bool, **options: Any) -> None:
    """Put the last good release of a service back; nothing is rebuilt. The one that is left is marked rejected."""
    from andon.operations import moving

    _say_moved(moving.rollback(service, only=only, store=store, **options), as_json)


@click.command()
@click.argument("release")
@click.option("--why", required=True, help="The reason.")
@click.option("--for", "lasting", default="7d", show_default=True, help="How long: 12h, 7d, …")
@common
@with_store
def waive(store: Store, release: str, why: str, lasting: str, as_json: bool) -> None:
    """Let a refused or rejected release be deployed for a while. It changes what happens, never the verdict."""
    from andon.operations import moving

    id_ = moving.waive(release, why=why, lasting=lasting, store=store)
    if as_json:
        say_json({"waiver": id_, "release": release, "for": lasting})
    else:
        click.echo(f"{release} may be deployed for {lasting} (waiver {id_})")


def say_verdicts(verdicts: list[Any]) -> None:
    """Verdicts as a table."""
    rows = [(v.check, v.status, _number(v.value), _interval(v.interval), _number(v.threshold), v.n, v.message) for v in verdicts]
    if rows:
        say_table(("check", "verdict", "value", "interval", "threshold", "n", "in words"), rows)


def _say_moved(moved: Any, as_json: bool) -> None:
    if as_json:
        say_json(moved)
        return
    made = " (made for this)" if moved.made else ""
    click.echo(f"{moved.channel}: {moved.previous or 'nothing'} -> {moved.release}{made}")
    if moved.rollout:
        click.echo(f"  {moved.rollout} is over: everything goes to {moved.release}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _interval(interval: Any) -> str:
    return "-" if interval is None else f"{_number(interval.low)} … {_number(interval.high)}"
