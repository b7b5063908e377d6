"""Moving house: import from MLflow, export runs as files."""

from __future__ import annotations

import click

from andon.cli.output import common, say_json, say_table, with_store
from andon.store import Store


@click.group(name="import")
def bring() -> None:
    """Bring over what another tool holds."""


@bring.command(name="mlflow")
@click.argument("source")
@click.option("--artifacts", help="The folder that the old server proxied artifacts to (--artifacts-destination).")
@click.option("--experiment", "only", multiple=True, help="Only this experiment (name or id; may be repeated); the registry stays.")
@click.option("--no-files", is_flag=True, help="Leave artifacts where they are.")
@click.option("--no-verify", is_flag=True, help="Do not read both sides again at the end.")
@common
@with_store
def mlflow(store: Store, source: str, artifacts: str | None, only: tuple[str, ...], no_files: bool, no_verify: bool, as_json: bool) -> int:
    """Import from MLflow: a server's URL, a SQLite file, or an mlruns folder.

    Experiments, runs with every point, files, logged models, registered models with their version numbers and aliases, and traces. It may
    be stopped and started again. At the end both sides are counted and compared; exit 1 when something is missing or differs.
    """
    from andon.core.actors import current_actor
    from andon.wire.mlflow.importing.house import import_mlflow

    say = (lambda _: None) if as_json else (lambda line: click.echo(f"  {line}", err=True))
    done = import_mlflow(
        store, source, actor=current_actor(), artifacts=artifacts, only=only, files=not no_files, verify=not no_verify, say=say
    )
    if as_json:
        say_json(done)
        return 0 if done.whole else 1
    moved, checked = done.moved, done.checked
    rows = [
        ("runs", moved.runs, checked.runs if checked else ""),
        ("points", moved.points, checked.points if checked else ""),
        ("files", moved.files, checked.files if checked else ""),
        ("logged models", moved.logged_models, checked.logged_models if checked else ""),
        ("model versions", moved.versions, checked.versions if checked else ""),
        ("aliases", "", checked.aliases if checked else ""),
        ("traces", moved.traces, checked.traces if checked else ""),
    ]
    say_table(("what", "moved now", "compared"), rows, title=done.source)
    if moved.skipped:
        click.echo(f"{moved.skipped} were here already")
    for problem in moved.problems:
        click.echo(f"left behind: {problem}")
    for difference in checked.differences if checked else ():
        click.echo(f"differs: {difference}")
    if done.whole:
        click.echo("everything is here" + (", and both sides agree" if checked else ""))
    return 0 if done.whole else 1


@click.group()
def export() -> None:
    """Write things as files for other tools."""


@export.command(name="runs")
@click.option("-o", "--output", "into", required=True, type=click.Path(file_okay=False), help="A new folder.")
@click.option("--experiment", help="Only this one's.")
@click.option("--filter", "text", default="", help='Only runs that this search finds, such as "metrics.mae < 30".')
@click.option("--no-artifacts", is_flag=True, help="Tables only.")
@click.option("--deleted", is_flag=True, help="Deleted runs too.")
@common
@with_store
def runs(store: Store, into: str, experiment: str | None, text: str, no_artifacts: bool, deleted: bool, as_json: bool) -> None:
    """Write runs as Parquet tables (runs, params, tags, metrics, artifacts), with their files beside them."""
    from andon.operations.exporting import export_runs

    done = export_runs(store, into, experiment=experiment, filter=text, artifacts=not no_artifacts, deleted=deleted)
    if as_json:
        say_json(done)
    else:
        click.echo(f"{done.runs} runs, {done.points:,} points, {done.files} files ({done.file_bytes / 1e6:.1f} MB) in {done.folder}")
