"""Running a command as a tracked run."""

from __future__ import annotations

import click

from andon.cli.output import home_option


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--experiment", default="Default", show_default=True, help="The experiment it belongs to.")
@click.option("--name", default="", help="A name for it (default: the command).")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@home_option
def run(command: tuple[str, ...], experiment: str, name: str, home: str | None) -> int:
    """Run a command as a tracked run: andon run -- python train.py. Exits with the command's status;
    the run's address comes last on stderr."""
    from andon.operations import runs
    from andon.store import open_store

    with open_store(home) as store:
        done = runs.run_command(list(command), experiment=experiment, name=name, store=store)
    if done.problem:
        click.echo(f"andon: {done.problem}", err=True)
    click.echo(done.address, err=True)
    return done.exit_code
