"""Keeping house: doctor and gc."""

from __future__ import annotations

import click

from andon.cli.output import common, say_json, say_table, with_store
from andon.store import Store


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
@click.option("--older-than", default="24h", show_default=True, help="Leave alone what was written since.")
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@common
@with_store
def gc(store: Store, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Free the bytes that nothing needs any more."""
    from andon.operations import upkeep

    collected = upkeep.gc(store, older_than=older_than, dry_run=dry_run)
    if as_json:
        say_json(collected)
    else:
        word = "would free" if dry_run else "freed"
        click.echo(f"{word} {collected.size_bytes / 1e6:.1f} MB in {len(collected.digests)} blobs")
