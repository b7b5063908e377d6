"""A batch job from its first look at the input to its summary.

Exactly once: a part's files are durable under their names before the ledger's event says so, and a part that has no event is done again
under the same names. Whoever comes after a kill therefore finds each input row in exactly one part, as an answer or as an error.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from andon import registry
from andon.core import faults
from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.errors import AndonError, Conflict, InvalidInput
from andon.serving import jobs
from andon.serving.jobs import Job
from andon.serving.loading import Loaded, Loader
from andon.serving.offline import inputs, outputs
from andon.serving.offline.columns import check_schema
from andon.serving.offline.flowing import Sizer, flow, slices
from andon.serving.offline.records import Bound, Input, Options, PartDone, PartKey, Progress, Summary
from andon.serving.offline.registering import register_output
from andon.serving.offline.sizing import MAX_ROWS
from andon.serving.source import StoreSource, Target
from andon.store import Store
from andon.tracking import capture_facts, create_run_in, liveness, log_batch, update_run
from andon.tracking.records import RunRecord

Tell = Callable[[Progress], None]
EXPERIMENT = "predictions"
TELL_S = 1.0


def predict(
    store: Store, release: str, source: str, output: Path, options: Options, *, actor: Actor, tell: Tell = lambda _: None
) -> Summary:
    """Answer every row of ``source`` with ``release`` into the folder ``output``.

    ``release`` is ``release:NAME@N`` or ``service:NAME@CHANNEL`` (the release that holds it now). Goes on where an attempt at the same work
    stopped. Raises ``NotFound``, ``InvalidInput`` (naming the column or file), ``Conflict`` when the output holds other work, ``LeaseHeld``
    when another process is at it, ``LoadFailed``, ``ModelFailed``, ``DiskFull``, …; finished parts stay, and the same call goes on.
    """
    _check(options)
    version = registry.get(store, _release_address(release))
    target = Target(str(version.address), version.digest)
    given = inputs.resolve(store, source)
    work = _Work(store, target, given, output, options, actor, tell)
    with _loop() as run:
        done: Summary = run(work.run())
    return done


def _release_address(release: str) -> Address:
    address = Address.parse(release if ":" in release else f"release:{release}")
    if address.kind == "service" and address.alias is None:
        address = Address.parse(f"{address}@production")
    if address.kind not in ("release", "service"):
        raise InvalidInput("predictions are made by a release", field="release", got=release, next_step="andon release, then its address")
    return address


def _check(options: Options) -> None:
    for field in ("part_rows", "memory_bytes"):
        if getattr(options, field) < 1:
            raise InvalidInput("this is at least 1", field=field, got=getattr(options, field))
    if options.max_errors is not None and options.max_errors < 0:
        raise InvalidInput("this is at least 0", field="max_errors", got=options.max_errors)


@contextmanager
def _loop() -> Iterator[Callable[[Any], Any]]:
    """Runs a coroutine; also where an event loop runs already (a notebook), then on a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with asyncio.Runner() as runner:
            yield runner.run
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, thread_name_prefix="andon-predict") as thread:
        yield lambda work: thread.submit(asyncio.run, work).result()


class _Work:
    """One attempt at one job."""

    def __init__(self, store: Store, target: Target, given: Input, folder: Path, options: Options, actor: Actor, tell: Tell) -> None:
        self._store = store
        self._target = target
        self._input = given
        self._folder = folder
        self._options = options
        self._actor = actor
        self._tell = tell
        self._began_s = time.perf_counter()
        self._told_s = 0.0
        self._here = 0  # rows of this attempt
        self._job: Job
        self._bound: Bound

    async def run(self) -> Summary:
        """See ``predict``."""
        store = self._store
        root = store.settings.path(store.settings.environments)
        loader = Loader(StoreSource(store), store.blobs, root, Path(store.settings.home, "logs"))
        earlier = outputs.read_bound(self._folder)
        self._refuse(earlier)
        loaded = await loader.load(self._target)
        try:
            keep, columns = self._columns(loaded)
            held, done = await asyncio.to_thread(self._begin, earlier)
            ended = threading.Event()
            threading.Thread(target=liveness.keep_lease, args=(store, self._bound.run, ended), name="andon-lease", daemon=True).start()
            try:
                return await self._all(loaded, keep, columns, done)
            except BaseException as error:  # also Ctrl-C: the job's record says how it ended
                await asyncio.to_thread(self._end_badly, error)
                raise
            finally:
                ended.set()
                os.close(held)
        finally:
            await asyncio.shield(loaded.runner.close())

    async def _all(self, loaded: Loaded, keep: tuple[str, ...], columns: list[str], done: dict[PartKey, PartDone]) -> Summary:
        resumed = len(done)
        any_length = any(-1 in column.shape for column in loaded.signature.inputs)  # only equal shapes make one array
        batch_s = float(loaded.manifest.settings.get("batch_timeout_s", 30.0)) / 3
        sizer = Sizer(self._options.memory_bytes, batch_s, most_rows=1 if any_length else MAX_ROWS)
        for number, file in enumerate(self._input.files):
            mine = {key.number for key in done if key.file == number}
            if file.rows is not None and len(mine) == -(-file.rows // self._options.part_rows):
                continue
            source = slices(file, columns, loaded.signature, self._options.part_rows, mine, sizer)
            await self._file(loaded, number, source, keep, sizer, done)
        return await asyncio.to_thread(self._finish, done, resumed, sizer.rows)

    async def _file(
        self, loaded: Loaded, number: int, source: Any, keep: tuple[str, ...], sizer: Sizer, done: dict[PartKey, PartDone]
    ) -> None:
        writer: outputs.PartWriter | None = None
        file = self._input.files[number]
        facts = {"release": self._target.address, "job": self._job.id}
        flowing = flow(loaded, source, keep, sizer)
        try:
            async for piece in flowing:
                if writer is not None and writer.key.number != piece.part:
                    await self._part(writer, done)
                    writer = None
                if writer is None:
                    writer = outputs.PartWriter(self._folder, PartKey(number, piece.part), self._options.format, file.name, facts)
                await asyncio.to_thread(writer.add, piece.rows, piece.kept, piece.outputs, piece.failed)
                self._count(piece.rows, len(piece.failed))
            if writer is not None:
                await self._part(writer, done)
                writer = None
        finally:
            await flowing.aclose()  # type: ignore[attr-defined]  # an async generator
            if writer is not None:
                writer.drop()

    async def _part(self, writer: outputs.PartWriter, done: dict[PartKey, PartDone]) -> None:
        part = await asyncio.to_thread(writer.finish)
        job = msgspec.structs.replace(self._job, parts=self._job.parts + 1)
        self._job = await asyncio.to_thread(jobs.note, self._store, job, "part", msgspec.to_builtins(part), actor=self._actor)
        faults.point("batch.recorded")
        done[part.key] = part

    def _count(self, rows: int, errors: int) -> None:
        self._here += rows + errors
        seconds = time.perf_counter() - self._began_s
        rows_s = self._here / max(seconds, 1e-9)
        self._job = msgspec.structs.replace(self._job, rows=self._job.rows + rows, errors=self._job.errors + errors, rows_s=rows_s)
        job, most = self._job, self._options.max_errors
        if most is not None and job.errors > most:
            raise InvalidInput(
                f"{job.errors:,} rows failed, more than --max-errors {most:,} allows; finished parts stay",
                field="max_errors",
                next_step=f"read {self._folder / outputs.ERRORS}, then run it again with a larger --max-errors or a mended input",
            )
        if seconds - self._told_s >= TELL_S:
            self._told_s = seconds
            self._tell(self._progress())
            now_us = self._store.clock.now_us()
            told = msgspec.structs.replace(job, seen_us=now_us)
            self._store.ledger.submit(lambda c: jobs.tell_in(c, told, now_us=now_us))

    def _progress(self) -> Progress:
        job = self._job
        return Progress(rows=job.rows, errors=job.errors, rows_total=job.rows_total, rows_s=job.rows_s, parts=job.parts)

    def _refuse(self, earlier: Bound | None) -> None:
        """Raises ``Conflict`` unless this output may be written now."""
        options = self._options
        if earlier is None:
            outputs.check_free(self._folder)
            return
        if options.overwrite:
            return
        wanted = self._wanted(earlier.job, earlier.run)
        again = f"choose another output, or --overwrite to throw away what {earlier.release} wrote there"
        for field, what in _MEANINGS.items():
            was, now = getattr(earlier, field), getattr(wanted, field)
            if was != now:
                raise Conflict(f"this output was begun with {what}", field=field, was=_said(was), now=_said(now), next_step=again)
        if not options.resume and self._state(earlier) == "finished":
            raise Conflict("this output is finished", output=self._folder, job=earlier.job, next_step=again)

    def _state(self, bound: Bound) -> str:
        try:
            return jobs.get_job(self._store, bound.job).state
        except AndonError:
            raise Conflict("the job that wrote this output is in another home", output=self._folder, job=bound.job) from None

    def _wanted(self, job: str, run: str) -> Bound:
        return Bound(
            job=job,
            run=run,
            release=self._target.address,
            release_digest=self._target.digest,
            input=self._input.named,
            input_digest=self._input.digest,
            keep=self._options.keep,
            format=self._options.format,
            part_rows=self._options.part_rows,
        )

    def _columns(self, loaded: Loaded) -> tuple[tuple[str, ...], list[str]]:
        """Which columns are kept and which are read. Raises ``InvalidInput`` naming the file and column that do not fit."""
        named = {column.name for column in loaded.signature.outputs}
        first: Any = None
        for file in self._input.files:
            has = inputs.schema(file)
            try:
                check_schema(has, loaded.signature, text=file.format == "csv")
            except InvalidInput as error:
                error.fields["file"] = file.name
                raise
            keep = tuple(has.names) if self._options.keep is None else self._options.keep
            for name in keep:
                if has.names.count(name) != 1:
                    why = "the input has no such column to keep" if name not in has.names else "two columns have this name"
                    raise InvalidInput(why, field="keep", got=name, file=file.name, has=", ".join(has.names)[:300])
                if name in named:
                    step = "name the columns to keep with --keep, without this one"
                    raise InvalidInput("the release's output has the name of this column", field="keep", got=name, next_step=step)
            kinds = [(name, has.field(name).type) for name in keep]
            if first is not None and kinds != first:
                raise InvalidInput("the kept columns of this file differ from the first file's", field="input", got=file.name)
            first = kinds
        kept = tuple(name for name, _ in first)
        wanted = [column.name for column in loaded.signature.inputs]
        return kept, list(dict.fromkeys([*kept, *(name for name in wanted if name in has.names)]))

    def _begin(self, earlier: Bound | None) -> tuple[int, dict[PartKey, PartDone]]:
        """Bind the folder to a new job, or go on with the one it is bound to; the lock, and the parts that are done."""
        if earlier is not None and self._options.overwrite:
            held = outputs.lock(self._folder)
            outputs.clear(self._folder)
            os.close(held)
            earlier = None
        if earlier is None:
            self._job = self._open()
            self._bound = self._wanted(self._job.id, self._job.run or "")
            outputs.bind(self._folder, self._bound)
            return outputs.lock(self._folder), {}
        held = outputs.lock(self._folder)
        self._bound = earlier
        outputs.tidy(self._folder)
        said = [event for event in jobs.job_events(self._store, earlier.job) if event.type == "part"]
        parts = [msgspec.convert(event.body, PartDone) for event in said]
        done = {part.key: part for part in parts if outputs.is_there(self._folder, part, self._options.format)}
        rows, errors = sum(part.rows for part in done.values()), sum(part.errors for part in done.values())
        now = msgspec.structs.replace(
            jobs.get_job(self._store, earlier.job),
            state="running",
            problem="",
            holder=liveness.holder(),
            ended_us=None,
            rows=rows,
            errors=errors,
            parts=len(done),
        )
        self._job = jobs.note(self._store, now, "resumed", {"parts": len(done)}, actor=self._actor)
        update_run(self._store, earlier.run, actor=self._actor, status="running", reason="resumed")
        liveness.renew(self._store, earlier.run, liveness.holder())
        return held, done

    def _open(self) -> Job:
        """The job and its run, with what the run read and which release answered as its parents; one transaction."""
        store, now_us = self._store, self._store.clock.now_us()
        run_id = store.ids.new()
        holder = liveness.holder()
        service = self._target.address.removeprefix("release:").rpartition("@")[0]
        job = Job(
            id=store.ids.new(),
            kind="batch",
            service=service,
            release=self._target.address,
            source=self._input.named,
            target=str(self._folder.absolute()),
            rows_total=self._input.rows,
            run=run_id,
            started_us=now_us,
            seen_us=now_us,
            holder=holder,
        )
        params = {"release": job.release, "input": job.source, "output": job.target, "input_digest": self._input.digest}
        made = RunRecord(
            id=run_id,
            experiment=EXPERIMENT,
            experiment_id=-1,
            name=f"predict {service}",
            status="running",
            started_us=now_us,
            ended_us=None,
            actor=str(self._actor),
            parent=None,
            facts=capture_facts(store)[0],
        )

        def work(connection: Any) -> None:
            create_run_in(connection, made, params=params, tags={"andon.job": job.id}, now_us=now_us, actor=self._actor, holder=holder)
            registry.link_in(connection, made.address, self._target.address, "release", now_us=now_us)
            if self._input.address is not None:
                registry.link_in(connection, made.address, self._input.address, "data", now_us=now_us)
            jobs.note_in(connection, job, "started", params, now_us=now_us, actor=self._actor)

        store.ledger.write(work)
        return job

    def _finish(self, done: dict[PartKey, PartDone], resumed: int, batch_rows: int) -> Summary:
        store, folder = self._store, self._folder
        rows, errors = sum(part.rows for part in done.values()), sum(part.errors for part in done.values())
        seconds = time.perf_counter() - self._began_s
        dataset = None
        if self._options.register is not None:
            parents = {"release": self._target.address, "run": f"run:{self._bound.run}"}
            parents |= {"data": self._input.address} if self._input.address is not None else {}
            dataset = register_output(store, self._options.register, folder, self._options.format, rows, parents, actor=self._actor)
        now_us = store.clock.now_us()
        job = msgspec.structs.replace(self._job, rows=rows, errors=errors, parts=len(done), state="finished", ended_us=now_us)
        self._job = jobs.note(store, job, "finished", {"rows": rows, "errors": errors, "dataset": dataset}, actor=self._actor)
        metrics = {"rows": float(rows), "errors": float(errors), "rows_s": job.rows_s}
        log_batch(store, self._bound.run, metrics=[(key, value, 0, now_us) for key, value in metrics.items()], actor=self._actor)
        update_run(store, self._bound.run, actor=self._actor, status="finished")
        self._tell(self._progress())
        return Summary(
            job=job.id,
            run=f"run:{self._bound.run}",
            release=self._target.address,
            release_digest=self._target.digest,
            input=self._input.named,
            input_digest=self._input.digest,
            output=str(folder),
            rows=rows,
            errors=errors,
            parts=len(done),
            resumed_parts=resumed,
            seconds=seconds,
            rows_s=self._here / max(seconds, 1e-9),
            batch_rows=batch_rows,
            peak_rss_bytes=peak_rss_bytes(),
            errors_folder=str(folder / outputs.ERRORS) if errors else None,
            dataset=dataset,
        )

    def _end_badly(self, error: BaseException) -> None:
        """Say how it ended, if the ledger can still be told; the parts stay."""
        stopped = isinstance(error, asyncio.CancelledError | KeyboardInterrupt)
        problem = "" if stopped else str(error)[:2000]
        job = msgspec.structs.replace(
            self._job, state="stopped" if stopped else "failed", problem=problem, ended_us=self._store.clock.now_us()
        )
        try:
            jobs.note(self._store, job, job.state, {"error": problem}, actor=self._actor)
            update_run(self._store, self._bound.run, actor=self._actor, status="killed" if stopped else "failed", reason=problem[:200])
        except AndonError:  # a full disk takes the ledger too; the job is then shown as lost
            pass


_MEANINGS = {
    "release_digest": "another release",
    "input_digest": "another input: a file was changed, added or removed",
    "keep": "other columns kept",
    "format": "another format",
    "part_rows": "another part size",
}


def _said(value: Any) -> str:
    return value[:19] if isinstance(value, str) else str(value)


def peak_rss_bytes() -> int:
    """The most memory this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
