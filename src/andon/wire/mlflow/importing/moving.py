"""Writing what a source tells. Everything keeps its id; what was finished before is not done again.

A run is one stream of small steps: its record, its points in pages (each page once, since points are keyed by all they hold), its files,
and last the event ``imported`` with what it had, which is how the next start knows. Killed anywhere between, the next start goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
from blake3 import blake3
from sqlalchemy import Connection, select, update

from andon.core.actors import Actor
from andon.core.addresses import check_experiment
from andon.core.errors import Conflict, InvalidAddress, InvalidInput, NotFound
from andon.store import Store, streams
from andon.store import schema as s
from andon.tracking import Artifact, RunRecord, check_path, create_run_in, group, log_batch_in
from andon.tracking.artifacts import SHARED, media_type_of, write_files_in
from andon.tracking.experiments import create_experiment_in, find_experiment_in
from andon.tracking.inputs import DescribedInput, check_described, log_described_in
from andon.tracking.logged_models import RunModel as LinkedModel
from andon.tracking.logged_models import create_logged_model_in, log_run_models_in
from andon.tracking.model_points import ModelPoint, log_model_points_in
from andon.wire.mlflow.importing.records import Experiment, File, LoggedModel, PointRow, Run, Source

IMPORTED = "imported"

CONTEXT = "mlflow.data.context"
PARENT = "mlflow.parentRunId"
DEFAULT_NUMBER = "0"
_FILES_AT_ONCE = 4


class Moved(msgspec.Struct, kw_only=True):
    """What an import did so far. ``skipped``: things that were imported before. ``problems`` say what is left behind, and why."""

    experiments: int = 0
    runs: int = 0
    points: int = 0
    files: int = 0
    file_bytes: int = 0
    logged_models: int = 0
    registered_models: int = 0
    versions: int = 0
    traces: int = 0
    skipped: int = 0
    problems: list[str] = []


NAME_THERE = "andon.name_at_source"
"""The tag with an experiment's name at the source, where it could not keep that."""


def name_here(told: Experiment) -> tuple[str, dict[str, str]]:
    """An experiment's name and tags here. A name of several lines becomes one line with its number at the source, so that no two become
    the same, and the tag ``NAME_THERE`` keeps it as it was.
    """
    name = told.name.strip()
    try:
        return check_experiment(name), told.tags
    except InvalidAddress:
        line = " ".join("".join(c if c.isprintable() else " " for c in name).split())
        return f"{line[:400]} ({told.id})".strip(), told.tags | {NAME_THERE: told.name}


class Had(msgspec.Struct, kw_only=True):
    """What a run had at the source: the body of its event ``imported``. ``digest`` is over its points, in any order."""

    source: str
    params: int = 0
    tags: int = 0
    points: int = 0
    files: int = 0
    file_bytes: int = 0
    digest: str = ""


class Mover:
    """One import. ``say`` is told of each thing that is done."""

    def __init__(self, store: Store, source: Source, *, actor: Actor, say: Callable[[str], None], files: bool = True) -> None:
        self.store, self.source, self.actor, self.say = store, source, actor, say
        self.moved = Moved()
        self._files = files

    def move_experiment(self, told: Experiment) -> int:
        """An experiment with its runs and logged models; returns its number here. Raises only what the store raises."""
        number = self._experiment(told)
        self.moved.experiments += 1
        with_models: list[Run] = []
        deleted: list[str] = []
        for run in self.source.runs(told.id):
            self._attempt(f"run {run.id}", partial(self._run, run, number, told))
            if run.models:
                with_models.append(run)
            if run.deleted:
                deleted.append(run.id)
        about: set[str] = set()
        for model in self.source.logged_models(told.id):
            if self._attempt(f"logged model {model.id}", partial(self._logged_model, model, number)):
                about.add(model.id)
        for run in with_models:
            self._attempt(f"models of run {run.id}", partial(self._link_models, run, about))
        self.store.ledger.write(partial(self._hide, None, deleted))
        return number

    def hide_experiment(self, told: Experiment, number: int) -> None:
        """What was deleted at the source is so here, once all of it has come: nothing is written to what is deleted."""
        if told.deleted:
            self.store.ledger.write(partial(self._hide, number, []))

    def _hide(self, experiment: int | None, runs: list[str], connection: Connection) -> None:
        now_us = self.store.clock.now_us()
        for run in runs:
            at = (s.runs.c.id == run) & s.runs.c.deleted_us.is_(None)
            connection.execute(update(s.runs).where(at).values(deleted_us=now_us))
        if experiment is not None:
            at = (s.experiments.c.id == experiment) & s.experiments.c.deleted_us.is_(None)
            connection.execute(update(s.experiments).where(at).values(deleted_us=now_us))

    def _attempt(self, what: str, work: Callable[[], Any]) -> bool:
        """Do one thing; what is wrong with it is noted, and the rest goes on. A store that fails ends the import."""
        try:
            work()
        except (InvalidInput, NotFound, Conflict) as error:
            self.moved.problems.append(f"{what}: {error.message}")
            self.say(f"left behind: {what}: {error.message}")
            return False
        return True

    def _experiment(self, told: Experiment) -> int:
        now_us = self.store.clock.now_us()

        name, tags = name_here(told)

        def work(connection: Connection) -> int:
            if told.id == DEFAULT_NUMBER:
                return 0  # the source's own default, by whatever name
            found = find_experiment_in(connection, name)
            if found is not None:
                return found.id
            return create_experiment_in(connection, name, tags=tags, now_us=now_us, actor=self.actor).id

        if NAME_THERE in tags:
            self.say(f"experiment {told.id} is called {name!r} here")

        return self.store.ledger.write(work)

    def _run(self, told: Run, number: int, around: Experiment) -> None:
        had = imported(self.store, f"run:{told.id}")
        if had is not None:
            self.moved.skipped += 1
            return
        self.store.ledger.write(lambda c: self._begin_run(c, told, number, around))
        points = sum_of_points()
        count = 0
        for page in self.source.points(told):
            points.update(page)
            count += len(page)
            self._write_points(told.id, page)
        files = self._copy(f"run:{told.id}", told.artifact_uri)
        body = Had(
            source=self.source.identity,
            params=len(told.params),
            tags=len(told.tags),
            points=count,
            files=len(files),
            file_bytes=sum(file.size_bytes for file in files),
            digest=points.text(),
        )
        self.store.ledger.write(lambda c: self._end_run(c, told, body))
        self.moved.runs += 1
        self.moved.points += count
        self.say(f"run {told.id}: {count:,} points, {len(files)} files")

    def _write_points(self, run: str, page: list[PointRow]) -> None:
        groups = group([(row.key, row.value, row.step, row.at_ms * 1_000) for row in page])
        now_us = self.store.clock.now_us()
        self.store.ledger.write(lambda c: log_batch_in(c, run, groups=groups, now_us=now_us, actor=self.actor))

    def _begin_run(self, connection: Connection, told: Run, number: int, around: Experiment) -> None:
        row = connection.execute(select(s.runs.c.experiment).where(s.runs.c.id == told.id)).first()
        if row is not None:
            if not _begun(connection, f"run:{told.id}", self.source.identity):
                raise Conflict("there is another run with this id here", address=f"run:{told.id}")
            return
        now_us = self.store.clock.now_us()
        parent = told.tags.get(PARENT)
        if parent and connection.execute(select(s.runs.c.id).where(s.runs.c.id == parent)).first() is None:
            parent = None
        record = RunRecord(
            id=told.id,
            experiment=around.name,
            experiment_id=number,
            name=told.name or told.id,
            status="running",  # until all of it is here
            started_us=told.started_ms * 1_000,
            ended_us=None,
            actor=f"person:{told.user}" if told.user else str(self.actor),
            parent=parent or None,
            facts=None,
        )
        create_run_in(connection, record, params=told.params, tags=told.tags, now_us=now_us, actor=self.actor)
        described = [
            DescribedInput(
                name=item.name,
                digest=item.digest,
                source_type=item.source_type,
                source=item.source,
                schema=item.schema,
                profile=item.profile,
                context=item.tags.get(CONTEXT),
                tags={key: value for key, value in item.tags.items() if key != CONTEXT},
            )
            for item in told.inputs
        ]
        if described:
            log_described_in(connection, told.id, check_described(described), now_us=now_us, actor=self.actor)
        streams.append(connection, record.address, "importing", {"source": self.source.identity}, at_us=now_us, actor=self.actor)

    def _end_run(self, connection: Connection, told: Run, had: Had) -> None:
        now_us = self.store.clock.now_us()
        ended_us = None if told.ended_ms is None else told.ended_ms * 1_000
        values = {"status": told.status.lower(), "ended_us": ended_us}
        connection.execute(update(s.runs).where(s.runs.c.id == told.id).values(**values))
        streams.append(connection, f"run:{told.id}", IMPORTED, msgspec.to_builtins(had), at_us=now_us, actor=self.actor)

    def _copy(self, owner: str, uri: str, below: str = "") -> list[File]:
        """Copy what is below an artifact location; four at a time, since each waits for disk or network."""
        if not self._files or not uri:
            return []
        try:
            found = self.source.files(uri)
        except (NotFound, InvalidInput) as error:
            self.moved.problems.append(f"files of {below or owner}: {error.message} ({uri[:200]})")
            return []

        def one(file: File) -> Artifact:
            with self.source.open(uri, file.path) as stream:
                digest = self.store.blobs.put(stream)
            size = self.store.blobs.size_bytes(digest)
            if size != file.size_bytes:
                raise InvalidInput("this file changed while it was read", path=file.path, got=size, expected=file.size_bytes)
            path = check_path(f"{below}/{file.path}" if below else file.path)
            return Artifact(path=path, digest=digest, size_bytes=size, media_type=media_type_of(path), at_us=self.store.clock.now_us())

        several = getattr(self.source, "at_once", 1)
        with ThreadPoolExecutor(max(1, min(several, _FILES_AT_ONCE))) as pool:
            copied = list(pool.map(one, found))
        if copied:
            self.store.ledger.write(lambda c: write_files_in(c, owner, copied, actor=self.actor))
        self.moved.files += len(copied)
        self.moved.file_bytes += sum(item.size_bytes for item in copied)
        return found

    def adopt(self, uri: str, path: str) -> str:
        """Copy files that belong to no run or logged model; returns where they are here, or ``uri`` when they cannot be reached."""
        found = self._copy(SHARED, uri, below=path)
        return f"mlflow-artifacts:/{path}" if found else uri

    def _logged_model(self, told: LoggedModel, number: int) -> None:
        address = f"logged-model:{told.id}"
        if imported(self.store, address) is not None:
            self.moved.skipped += 1
            return

        def begin(connection: Connection) -> None:
            if connection.execute(select(s.logged_models.c.id).where(s.logged_models.c.id == told.id)).first() is None:
                create_logged_model_in(
                    connection,
                    told.id,
                    number,
                    name=told.name,
                    model_type=told.model_type,
                    run=told.run,
                    params=told.params,
                    tags=told.tags,
                    now_us=told.created_ms * 1_000,
                    actor=self.actor,
                )

        self.store.ledger.write(begin)
        files = self._copy(address, told.artifact_uri)
        now_us = self.store.clock.now_us()
        body = Had(source=self.source.identity, params=len(told.params), tags=len(told.tags), files=len(files))
        values = {
            "status": told.status,
            "message": told.message,
            "changed_us": told.changed_ms * 1_000,
            "deleted_us": now_us if told.deleted else None,
        }

        def end(connection: Connection) -> None:
            connection.execute(update(s.logged_models).where(s.logged_models.c.id == told.id).values(**values))
            streams.append(connection, address, IMPORTED, msgspec.to_builtins(body), at_us=now_us, actor=self.actor)

        self.store.ledger.write(end)
        self.moved.logged_models += 1

    def _link_models(self, told: Run, known: set[str]) -> None:
        """A run's models, and its points that are about them; again is nothing."""
        links = [LinkedModel(model=item.model, role=item.role, step=item.step) for item in told.models if item.model in known]  # type: ignore[arg-type]
        about = [
            ModelPoint(row.model, row.key, row.value, row.step, row.at_ms * 1_000, row.dataset or "", row.digest or "")
            for page in self.source.points(told)
            for row in page
            if row.model in known
        ]

        now_us = self.store.clock.now_us()

        def work(connection: Connection) -> None:
            if links:
                log_run_models_in(connection, told.id, links, now_us=now_us, actor=self.actor)
            log_model_points_in(connection, told.id, about)

        self.store.ledger.write(work)


def imported(store: Store, address: str) -> Had | None:
    """What a thing had at its source, if it was imported whole."""
    with store.ledger.read() as connection:
        for event in streams.read(connection, address):
            if event.type == IMPORTED:
                return msgspec.convert(event.body, Had)
    return None


def _begun(connection: Connection, address: str, source: str) -> bool:
    return any(event.type == "importing" and event.body.get("source") == source for event in streams.read(connection, address))


class sum_of_points:  # noqa: N801 - reads as the verb it is
    """A digest over points that does not depend on their order: what two stores, which sort differently, must agree on."""

    def __init__(self) -> None:
        self._sum = 0

    def update(self, rows: Iterable[PointRow] | Sequence[tuple[str, float, int, int]]) -> None:
        """Add points: key, value, step, milliseconds."""
        for key, value, step, at_ms, *_ in rows:
            told = f"{key}\x00{value + 0.0!r}\x00{step}\x00{at_ms}".encode()  # SQLite has no negative zero
            self._sum = (self._sum + int.from_bytes(blake3(told).digest(16), "big")) & ((1 << 128) - 1)

    def text(self) -> str:
        """32 hex digits."""
        return f"{self._sum:032x}"
