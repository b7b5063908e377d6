"""Keeping house: doctor, deleting and restoring, retention (gc), and who uses how much (du)."""

from __future__ import annotations

import click

from andon.cli.output import common, say_json, say_table, with_store
from andon.store import Store

TOLD = 20


@click.command()
@click.option("--deep", is_flag=True, help="Also read and verify every stored byte.")
@common
@with_store
def doctor(store: Store, deep: bool, as_json: bool) -> int:
    """Check everything that must hold, and say what does not. Exit 1 when something is wrong."""
    from andon.operations import upkeep

    problems = upkeep.doctor(store, deep=deep)
    if as_json:
        say_json(problems)
    elif problems:
        say_table(("subject", "problem", "next"), [(p.subject, p.problem, p.next_step) for p in problems])
    else:
        click.echo("all is well")
    return 1 if problems else 0


@click.command()
@click.option("--experiment", help="Only this one's runs.")
@click.option("--older-than", default="24h", show_default=True, help="Leave bytes alone that were written since.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@common
@with_store
def gc(store: Store, experiment: str | None, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Carry out the retention policies, and free the bytes that nothing needs any more.

    Without a policy (policy:retention/NAME) deleted runs go 30 days after their deletion. What registered versions came from stays.
    """
    from andon.operations import retaining

    done = retaining.free(store, experiment=experiment, older_than=older_than, dry_run=dry_run)
    if as_json:
        say_json(done)
        return
    if done.actions:
        say_table(("what", "thing", "experiment", "why"), [(a.what, a.address, a.experiment, a.why) for a in done.actions[:TOLD]])
        if len(done.actions) > TOLD:
            click.echo(f"… and {len(done.actions) - TOLD} more (--json has them all)")
    for name in done.experiments:
        click.echo(f"the deleted experiment {name} held nothing any more and is gone")
    would = "would purge" if dry_run else "purged"
    click.echo(f"{would} {done.purged}, files of {done.freed} more, {done.traces} traces; spared {done.spared}")
    freed = "would free" if dry_run else "freed"
    click.echo(f"{freed} {done.blob_bytes / 1e6:.1f} MB in {done.blobs} blobs and {done.ledger_bytes / 1e6:.1f} MB of the ledger")
    if done.environments or done.trees:
        swept = "would sweep" if dry_run else "swept"
        built = f"{len(done.environments)} built environments and {len(done.trees)} laid-out folders"
        click.echo(f"{swept} {built} that no channel needs ({done.environment_bytes / 1e6:.1f} MB)")
    if dry_run and done.purged:
        click.echo("what the purged runs alone hold comes on top")


@click.command()
@common
@with_store
def du(store: Store, as_json: bool) -> None:
    """Show what each experiment holds: runs, points, files."""
    from andon.tracking import retention

    uses = retention.disk_use(store)
    if as_json:
        say_json(uses)
        return
    say_table(
        ("experiment", "runs", "deleted", "points", "MB (about)", "files", "MB", "of it only here"),
        [
            (
                use.experiment,
                use.runs,
                use.deleted_runs,
                f"{use.points:,}",
                f"{use.points_bytes / 1e6:.1f}",
                use.files,
                f"{use.file_bytes / 1e6:.1f}",
                f"{use.own_bytes / 1e6:.1f}",
            )
            for use in uses
        ],
    )


@click.command()
@click.argument("address")
@click.option("--why", required=True, help="The reason, for whoever looks for it.")
@common
@with_store
def delete(store: Store, address: str, why: str, as_json: bool) -> None:
    """Delete a run, an experiment with its runs, or a version."""
    from andon.operations import retaining

    said = retaining.delete(store, address, why=why)
    if as_json:
        say_json({"deleted": address})
    else:
        click.echo(f"deleted {address}; {said}")


@click.command()
@click.argument("address")
@click.option("--why", default="", help="The reason.")
@common
@with_store
def restore(store: Store, address: str, why: str, as_json: bool) -> None:
    """Bring back a deleted run, or an experiment with its runs."""
    from andon.operations import retaining

    retaining.restore(store, address, why=why)
    if as_json:
        say_json({"restored": address})
    else:
        click.echo(f"restored {address}")
