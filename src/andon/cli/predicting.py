"""Predicting offline and on streams."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

import click
import msgspec

from andon.cli.output import common, say_json, say_table, second, with_store
from andon.store import Store

if TYPE_CHECKING:
    from andon.operations.showing.jobs import JobView
    from andon.serving.jobs import Job
    from andon.serving.offline import Progress, Summary


@click.command()
@click.argument("release")
@click.argument("input_", metavar="INPUT")
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder for the parts.")
@click.option("--keep", help="Columns of the input to keep, with commas between (default: all; '' for none).")
@click.option("--format", type=click.Choice(["parquet", "csv"]), default="parquet", show_default=True, help="Format of the parts.")
@click.option("--part-rows", type=click.IntRange(1), default=250_000, show_default=True, help="Input rows of one part.")
@click.option("--max-errors", type=click.IntRange(0), help="Stop when more rows than this fail (default: never).")
@click.option("--memory-mb", type=click.IntRange(1), default=64, show_default=True, help="About what the rows in flight may take.")
@click.option("--resume", is_flag=True, help="Nothing is wrong when the output is finished already.")
@click.option("--overwrite", is_flag=True, help="Throw away what an earlier job wrote there.")
@click.option("--register", metavar="NAME", help="Register the output as the next version of dataset:NAME.")
@common
@with_store
def predict(store: Store, release: str, input_: str, output: str, as_json: bool, keep: str | None, memory_mb: int, **options: Any) -> None:
    """Answer every row of INPUT with RELEASE, into a folder of parts. Run it again to go on where it stopped.

    INPUT is a Parquet, CSV or Arrow file, a folder, a glob, dataset:NAME@V or table:NAME. Rows that fail are in OUTPUT/_errors.
    """
    import pyarrow as pa

    from andon.operations import predicting

    pa.set_memory_pool(pa.system_memory_pool())  # the default pool keeps what it was given, which is a third more memory at the end
    names = None if keep is None else [name.strip() for name in keep.split(",") if name.strip()]
    with _progress(quiet=as_json) as tell:
        done = predicting.predict(release, input_, output, keep=names, memory_bytes=memory_mb << 20, tell=tell, store=store, **options)
    if as_json:
        say_json(done)
    else:
        _say(done)


def _say(done: Summary) -> None:
    click.echo(f"{done.output}: {done.rows:,} rows answered by {done.release}, {done.errors:,} failed")
    resumed = f", {done.resumed_parts:,} of them written before" if done.resumed_parts else ""
    click.echo(f"  {done.parts:,} parts{resumed}; {done.seconds:.1f} s, {done.rows_s:,.0f} rows/s, {done.peak_rss_bytes >> 20} MiB at most")
    if done.errors_folder:
        click.echo(f"  the failed rows, each with its reason: {done.errors_folder}")
    if done.dataset:
        click.echo(f"  registered as {done.dataset}")
    click.echo(f"  next: andon lineage {done.dataset or done.run}")


class _Stream(click.Group):
    """``andon stream SERVICE …`` is ``andon stream run SERVICE …``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Stream)
def stream() -> None:
    """Answer a stream of messages: andon stream SERVICE --from URL --to URL. Topics are log:TOPIC (in the home folder, no broker needed),
    redis://HOST:PORT/STREAM or nats://HOST:PORT/SUBJECT."""


@stream.command("run")
@click.argument("service")
@click.option("--from", "source", required=True, metavar="URL", help="Where messages come from.")
@click.option("--to", "target", required=True, metavar="URL", help="Where answers go.")
@click.option("--dead", metavar="URL", help="Where messages go that cannot be answered (default: the source's topic with .dead).")
@click.option("--group", help="Whose position in the source it is (default: andon-SERVICE).")
@click.option("--key", metavar="FIELD", help="The field of a row that is its key; it is not sent to the model.")
@click.option("--in-flight", "most", type=click.IntRange(1, 65_536), default=512, show_default=True, help="Messages in flight at most.")
@click.option("--retries", type=click.IntRange(0, 100), default=2, show_default=True, help="Tries again when the model fails.")
@click.option("--metrics-port", type=click.IntRange(0, 65_535), help="Loopback port for /metrics and /health; 0 takes any free one.")
@common
@with_store
def stream_run(store: Store, service: str, as_json: bool, **options: Any) -> None:
    """Answer messages until SIGTERM or Ctrl-C: what is in flight is finished, nothing is lost."""
    from andon.operations import streaming

    def ready(streamer: Any, url: str) -> None:
        said = f"andon: service:{service} on {streamer.job.source} -> {streamer.job.target}, job {streamer.job.id}"
        click.echo(said + (f", metrics {url}/metrics" if url else ""), err=as_json)

    job = streaming.stream(service, store=store, ready=ready, **options)
    if as_json:
        say_json(job)
    else:
        lag = "" if job.lag is None else f", {job.lag:,} left"
        click.echo(f"{job.rows:,} rows answered, {job.errors:,} messages to the dead letters{lag}")


@stream.command("put")
@click.argument("topic")
@click.argument("file", type=click.File("rb"))
@click.option("--id", "id_field", metavar="FIELD", help="The field that is a message's id: what is there already is not added again.")
@common
@with_store
def stream_put(store: Store, topic: str, file: IO[bytes], id_field: str | None, as_json: bool) -> None:
    """Add each line of a JSON-lines FILE ('-' for stdin) to TOPIC (a URL, or a name of the embedded log)."""
    from andon.operations import streaming

    count = streaming.stream_put_lines(topic, file, id_field=id_field, store=store)
    if as_json:
        say_json({"messages": count})
    else:
        click.echo(f"{count:,} messages put")


@stream.command("read")
@click.argument("topic")
@click.option("--group", help="Read on where this group stopped, and move its position (brokers need one).")
@click.option("--most", type=click.IntRange(1, 100_000), default=1_000, show_default=True, help="Messages at most.")
@common
@with_store
def stream_read(store: Store, topic: str, group: str | None, most: int, as_json: bool) -> None:
    """Print messages of TOPIC, one a line; with --json their ids, keys and headers too."""
    from andon.operations import streaming

    found = streaming.stream_read(topic, group=group, most=most, store=store)
    if not as_json:
        for message in found:
            click.echo(message.record.value.decode(errors="replace"))
        return
    rows = []
    for message in found:
        record = message.record
        rows.append(
            {
                "position": message.position,
                "id": record.id,
                "key": record.key,
                "headers": record.headers,
                "value": record.value.decode(errors="replace"),
            }
        )
    say_json(rows)


@stream.command("jobs")
@click.option("--service", help="Only of this service.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The newest ones.")
@common
@with_store
def stream_jobs(store: Store, service: str | None, limit: int, as_json: bool) -> None:
    """List batch and stream jobs, newest first."""
    from andon.operations.showing.jobs import jobs_view

    view = jobs_view(store, service=service, limit=limit)
    if as_json:
        say_json(view)
        return
    say_table(JOB_COLUMNS, [job_cells(job) for job in view.jobs])


JOB_COLUMNS = ("job", "kind", "service", "state", "rows", "errors", "rows/s", "lag", "started", "source", "problem")


def job_cells(job: Job) -> tuple[Any, ...]:
    """A job as a row of a table."""
    speed, began, lag = f"{job.rows_s:,.0f}", second(job.started_us), "" if job.lag is None else f"{job.lag:,}"
    told = (f"job:{job.id}", job.kind, job.service, job.state, f"{job.rows:,}", f"{job.errors:,}", speed, lag, began, job.source)
    return (*told, job.problem[:60])


def say_job(view: JobView) -> None:
    """A job's page, and the last things that happened to it."""
    job = view.job
    click.secho(f"job:{job.id}: {job.kind} of service:{job.service}, {job.state}", bold=True)
    of = f" of {job.rows_total:,}" if job.rows_total is not None else ""
    facts = {
        "release": job.release,
        "from": job.source,
        "to": job.target,
        "rows": f"{job.rows:,}{of}, {job.errors:,} failed, {job.rows_s:,.0f} rows/s",
        "lag": "" if job.lag is None else f"{job.lag:,} messages",
        "run": f"run:{job.run}" if job.run else "",
        "seen": second(job.seen_us),
        "problem": job.problem,
    }
    for name, value in facts.items():
        if value:
            click.echo(f"  {name:<8} {value}")
    rows = [(second(event.at_us), event.type, event.actor, msgspec.json.encode(event.body).decode()[:100]) for event in view.events[-10:]]
    say_table(("when", "what", "who", "more"), rows, title=f"the last of {view.events_total:,} events")


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line now and then elsewhere; all of it on stderr."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar() as tell:
            yield tell
    else:
        yield _line


def _line(progress: Progress) -> None:
    of = f" of {progress.rows_total:,}" if progress.rows_total is not None else ""
    done = progress.rows + progress.errors
    click.echo(f"andon: {done:,}{of} rows, {progress.errors:,} failed, {progress.rows_s:,.0f} rows/s, {progress.parts} parts", err=True)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows, {task.fields[failed]:,} failed, {task.fields[speed]:,.0f} rows/s"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("rows", total=None, failed=0, speed=0.0)

        def tell(now: Any) -> None:
            bar.update(task, completed=now.rows + now.errors, total=now.rows_total, failed=now.errors, speed=now.rows_s)

        yield tell
