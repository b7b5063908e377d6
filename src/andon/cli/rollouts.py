"""Rollouts: looking at them, and what a person may ask of one. Beginning one is `andon deploy --strategy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from andon.cli.output import Group, common, say_json, say_table, second, with_store
from andon.core.errors import InvalidInput
from andon.store import Store

if TYPE_CHECKING:
    from andon.operations.showing.rollouts import RolloutView
    from andon.rollouts import Rollout, Strategy

STRATEGIES: dict[str, dict[str, str]] = {
    "canary": {
        "steps": "steps",
        "key": "key",
        "promotion": "promotion",
        "step": "step",
        "step_units": "step_units",
        "deadline": "deadline",
        "holdback": "holdback",
        "holdback_for": "holdback_for",
    },
    "shadow": {"share": "share", "lasting": "for_", "most_rows": "most_rows_s", "key": "key"},
    "challenger": {"share": "share", "most_rows": "most_rows_s", "key": "key"},
    "blue-green": {"keep": "keep"},
    "ab": {"share": "share", "key": "key", "rule": "rule", "metric": "metric", "deadline": "deadline"},
}
"""Which options belong to which strategy, and what its function calls them."""

OPTIONS = (
    click.option("--strategy", type=click.Choice(list(STRATEGIES)), help="How it comes to production (default: at once)."),
    click.option("--steps", help="Canary: shares in per cent, growing, the last 100, such as 5,25,50,100."),
    click.option("--key", help="The field of a request that names its unit, such as user_id (default: the header x-andon-key)."),
    click.option("--step", help="Canary: how long a step lasts at least, such as 1m."),
    click.option("--step-units", type=int, help="Canary: how many units a step needs at least."),
    click.option("--promotion", type=click.Choice(["auto", "by-hand"]), help="Canary: who takes the last step."),
    click.option("--deadline", help="Canary, A/B: after this it holds, undecided, such as 7d."),
    click.option("--holdback", type=float, help="Canary: per cent of the units that stay with the old release for a while."),
    click.option("--holdback-for", help="Canary: for how long, such as 1d."),
    click.option("--share", type=float, help="Shadow, challenger, A/B: per cent of the requests (A/B: of the units)."),
    click.option("--for", "lasting", help="Shadow: for how long, such as 1d."),
    click.option("--most-rows", type=float, help="Shadow, challenger: at most so many rows a second in each replica."),
    click.option("--keep", help="Blue-green: how long the old release stays warm, such as 1h."),
    click.option("--rule", type=click.Choice(["person", "winner"]), help="A/B: who decides."),
    click.option("--metric", help="A/B: the metric that decides, of policy:rollout/SERVICE."),
    click.option("--force", is_flag=True, help="Begin one that will take long; or deploy past a rollout, which ends then."),
)


def strategy_options(command: Any) -> Any:
    """The options of ``deploy`` that say how."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def strategy_of(name: str | None, given: dict[str, Any]) -> Strategy | None:
    """The strategy that the options describe. Raises ``InvalidInput`` for an option that belongs to another."""
    chosen = {key: value for key, value in given.items() if value is not None}
    if name is None:
        if chosen:
            raise InvalidInput("that is for a rollout", field=_flag(next(iter(chosen))), next_step="say --strategy canary, for one")
        return None
    known = STRATEGIES[name]
    for key in chosen:
        if key not in known:
            raise InvalidInput(f"{name} has no {_flag(key)}", field=_flag(key), next_step=f"it has {', '.join(map(_flag, known))}")
    from andon import rollouts

    if "steps" in chosen:
        chosen["steps"] = _steps(chosen["steps"])
    make: Any = {
        "canary": rollouts.canary,
        "shadow": rollouts.shadow,
        "challenger": rollouts.challenger,
        "blue-green": rollouts.blue_green,
        "ab": rollouts.ab,
    }[name]
    made: Strategy = make(**{known[key]: value for key, value in chosen.items()})
    return made


def _flag(key: str) -> str:
    return "--for" if key == "lasting" else f"--{key.replace('_', '-')}"


def _steps(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput("steps are numbers with commas between, such as 5,25,50,100", field="--steps", got=text[:80]) from None


def say_begun(store: Store, state: Rollout, as_json: bool) -> None:
    """What ``deploy --strategy`` prints: the rollout, and when to expect a verdict."""
    from andon.operations import rolling

    told = rolling.forecast(store, state.service, state.strategy)
    if as_json:
        say_json({"rollout": state, "forecast": told})
        return
    click.echo(f"{state.id}: {state.candidate} beside {state.baseline}")
    click.echo(f"  {told.says}")
    click.echo(f"  next: andon rollout show {state.service}")


@click.group(cls=Group)
def rollout() -> None:
    """Rollouts: canary, shadow, blue-green, A/B, challenger. They begin with `andon deploy RELEASE --strategy …`."""


@rollout.command("ls")
@click.option("--all", "everything", is_flag=True, help="Those that are over too.")
@common
@with_store
def list_rollouts(store: Store, everything: bool, as_json: bool) -> None:
    """The rollouts under way."""
    from andon.operations import rolling
    from andon.operations.showing.rollouts import step_says

    found = rolling.all_rollouts(store, under_way=not everything)
    if as_json:
        say_json(found)
    elif not found:
        click.echo("no rollout is under way" if not everything else "there has been no rollout")
    else:
        rows = [
            (one.id, f"service:{one.service}", one.candidate, step_says(one), second(one.started_us), one.said or one.why) for one in found
        ]
        say_table(("rollout", "service", "candidate", "where", "began", "in words"), rows)


@rollout.command()
@click.argument("address")
@common
@with_store
def show(store: Store, address: str, as_json: bool) -> None:
    """One rollout, by rollout:ID or by its service: arms, verdicts, and what happened."""
    from andon.operations.showing.rollouts import rollout_view

    view = rollout_view(store, address)
    if as_json:
        say_json(view)
    else:
        say_rollout(view)


def _verb(name: str, text: str, *, needs_why: bool) -> None:
    @rollout.command(name, help=text)
    @click.argument("address")
    @click.option("--why", default="", required=needs_why, help="The reason: it is what the next person reads.")
    @common
    @with_store
    def command(store: Store, address: str, why: str, as_json: bool) -> None:
        from andon.core.actors import current_actor
        from andon.rollouts import steer

        state = steer(store, address, name, actor=current_actor(), reason=why)
        if as_json:
            say_json(state)
        else:
            from andon.operations.showing.rollouts import step_says

            click.echo(f"{state.id}: {step_says(state)}; {state.production} holds production of service:{state.service}")


_verb("promote", "Give the candidate production now.", needs_why=False)
_verb("abort", "Give everything to the old release at once, and reject the candidate.", needs_why=True)
_verb("end", "Stop, and leave production as it is; nobody is rejected.", needs_why=True)
_verb("pause", "Stop it where it is: no step and no promotion. Guards go on.", needs_why=False)
_verb("resume", "Let a paused or undecided rollout go on; its deadline counts from now.", needs_why=False)


def say_rollout(view: RolloutView) -> None:
    """A rollout for a terminal."""
    click.echo(f"{view.id}  {view.strategy} of {view.candidate} beside {view.baseline}: {view.where}")
    click.echo(f"  {view.says}")
    if view.arms:
        columns = ("arm", "release", "share", "requests", "failed", "units", "p50 ms", "p95 ms", "p99 ms")
        rows = []
        for arm in view.arms:
            times = (_ms(value) for value in (arm.p50_ms, arm.p95_ms, arm.p99_ms))
            rows.append((arm.name, arm.release, f"{arm.share:g} %", arm.requests, arm.failed, arm.units, *times))
        say_table(columns, rows)
    if view.verdicts:
        from andon.cli.releases import say_verdicts

        say_verdicts(list(view.verdicts))
    events = [(second(event.at_us), event.kind, event.actor, event.why) for event in view.timeline]
    say_table(("when", "what", "who", "why"), events)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
