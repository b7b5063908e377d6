"""The run as a program holds it: a context manager that logs, and ends when its block does."""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.errors import AndonError, Conflict, InvalidInput
from andon.models import save_model
from andon.registry import Version, get, set_tag
from andon.store import Store
from andon.tracking import artifacts, liveness, runs
from andon.tracking.batches import log_batch, submit_batch
from andon.tracking.buffer import PointBuffer
from andon.tracking.capture.seeds import observed_seeds
from andon.tracking.points import check_key
from andon.tracking.records import Artifact, EnvironmentLock, Point, ReadInput, RunRecord, RunStatus

if TYPE_CHECKING:
    from andon.models import Format, Signature

PUSH_S = 0.5
MAX_TRACEBACK_CHARACTERS = 8_000
NOTE = "note"

_active: contextvars.ContextVar[Run | None] = contextvars.ContextVar("andon_run", default=None)
_open: list[Run] = []  # every run of this process that has not ended, oldest first


def active_run() -> Run | None:
    """The run around the caller: of its context, or, in a thread that has none, the only one that is open in this process."""
    run = _active.get()
    if run is None or run.ended:
        run = _open[0] if len(_open) == 1 and threading.current_thread() is not threading.main_thread() else None
    return run if run is not None and run.in_this_process else None  # a forked child has its parent's, and no business with it


class Run:
    """A running run. Made by ``start_run`` or ``join_run``.

    ``log`` gathers points; they are sent every half second or thousand points, and are durable (acknowledged) once ``flush`` or the end of
    the block returns: a process that is killed loses at most what was logged since the last push, never what was acknowledged. Everything
    else (params, tags, artifacts, inputs, models) is durable when its call returns.
    """

    def __init__(self, store: Store, record: RunRecord, actor: Actor, *, owned: bool) -> None:
        self._store = store
        self._record = record
        self._actor = actor
        self._owned = owned
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._steps: dict[str, int] = {}
        self._last_us = 0
        self._began_cpu_s = time.process_time()
        self._buffer = PointBuffer(lambda points: submit_batch(store, record.id, metrics=points, actor=actor))
        self._stop = threading.Event()
        self.ended = False
        self.inputs: list[ReadInput] = []
        self._token = _active.set(self)
        _open.append(self)
        self._pulse = threading.Thread(target=self._beat, name="andon-run", daemon=True)
        self._pulse.start()

    @property
    def id(self) -> str:
        """26 characters, in order of time."""
        return self._record.id

    @property
    def address(self) -> str:
        """``run:ID``."""
        return self._record.address

    @property
    def experiment(self) -> str:
        """What it belongs to."""
        return self._record.experiment

    @property
    def name(self) -> str:
        """What people call it."""
        return self._record.name

    @property
    def store(self) -> Store:
        """Where it is written."""
        return self._store

    @property
    def in_this_process(self) -> bool:
        """Whether this process opened the handle; after a fork the child must join the run by its id."""
        return self._pid == os.getpid()

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add one point to each metric; without ``step``, the step after the metric's last one here (first 0).

        NaN and infinities are kept. Raises ``InvalidInput`` naming a key whose value is not a number, and what an earlier batch met.
        """
        self._check_open()
        if step is not None and (type(step) is not int or not -(2**63) <= step < 2**63):
            step = _whole(step)
        numbers = {key if key in self._steps else check_key(key): _number(key, value) for key, value in metrics.items()}
        with self._lock:
            at_us = max(self._store.clock.now_us(), self._last_us + 1)  # so that two equal values at one step are two points
            self._last_us = at_us
            points = []
            for key, number in numbers.items():
                at = self._steps[key] = self._steps.get(key, -1) + 1 if step is None else step
                points.append(Point(key, number, at, at_us))
        self._buffer.add(points)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write params; they do not change afterwards (``Conflict`` names one that would)."""
        self._check_open()
        log_batch(self._store, self.id, params=params, actor=self._actor)

    def log_artifact(self, source: str | os.PathLike[str] | bytes, path: str | None = None, *, media_type: str | None = None) -> Artifact:
        """Keep a file, or bytes under ``path``."""
        self._check_open()
        return artifacts.log_artifact(self._store, self.id, source, path, actor=self._actor, media_type=media_type)

    def log_artifacts(self, folder: str | os.PathLike[str], prefix: str = "") -> list[Artifact]:
        """Keep every file of a folder."""
        self._check_open()
        return artifacts.log_artifacts(self._store, self.id, folder, prefix, actor=self._actor)

    def log_input(self, dataset: Any, *, context: str = "training", asked: str | None = None) -> None:
        """Record that this run reads a dataset: its address, or anything that has an ``address`` (such as a dataset's handle).

        ``asked`` is the address as the program wrote it (``dataset:rides@latest``), for those who must know what it would mean later.
        """
        self._check_open()
        given = str(getattr(dataset, "address", dataset))
        version = get(self._store, Address.parse(given, kind="dataset"))
        runs.log_input(self._store, self.id, version.address, version.digest, context=context, actor=self._actor)
        self.inputs.append(ReadInput(asked=asked or given, address=str(version.address), context=context))

    def log_model(
        self,
        model: Any,
        name: str,
        *,
        input_example: Any = None,
        format: Format | None = None,  # noqa: A002 - the field's own word
        entry: str | None = None,
        signature: Signature | None = None,
        optional: tuple[str, ...] = (),
        reason: str = "",
    ) -> Version:
        """Save and register ``model:NAME``, made by this run from the data it has read so far.

        Takes a scikit-learn estimator, an XGBoost or LightGBM model, an ONNX graph, a torch module with ``format="torch"``, an exported
        program, or a folder of code with ``entry="module:Class"``. ``input_example`` holds a few rows: columns, a frame, an array, or
        tensors by name. The version's manifest says what was made of it, and how near its answers are. See ``andon.models.save``.
        """
        self._check_open()
        data = [item.address for item in runs.inputs_of(self._store, self.id) if item.context == "training"]
        return save_model(
            self._store,
            model,
            name=name,
            actor=self._actor,
            example=input_example,
            run=self.id,
            data=data,
            format=format,
            entry=entry,
            signature=signature,
            optional=optional,
            reason=reason,
        )

    def tag(self, key: str, value: str | None) -> None:
        """Set a tag; ``None`` removes it. Every change is journaled."""
        self._check_open()
        set_tag(self._store, self.address, key, value, actor=self._actor)

    def note(self, text: str) -> None:
        """Set the run's note: text for people, kept as the tag ``note``."""
        self.tag(NOTE, text)

    def move_to(self, experiment: str) -> None:
        """Let the run belong to another experiment."""
        self._check_open()
        self._record = runs.update_run(self._store, self.id, actor=self._actor, experiment=experiment)

    def adopt_environment(self, environment: EnvironmentLock) -> None:
        """Say that the run's program has this environment, where whoever started the run runs in another."""
        facts = self._record.facts
        if facts is not None and facts.environment != environment:
            facts = msgspec.structs.replace(facts, environment=environment)
            self._record = runs.update_run(self._store, self.id, actor=self._actor, facts=facts)

    def flush(self) -> None:
        """Wait until every point logged so far is durable. Raises what stood in the way; what was not written is kept for the next try."""
        self._check_process()
        self._buffer.flush()

    def end(self, status: RunStatus = "finished", *, error: BaseException | None = None) -> None:
        """Flush and end; a second call does nothing. A run that was joined is only left: whoever started it ends it."""
        if self.ended:
            return
        self._check_process()
        self.ended = True
        self._stop.set()
        _open.remove(self)
        with contextlib.suppress(ValueError):  # ended in another context than it began in
            _active.reset(self._token)
        try:
            self._buffer.flush()
        finally:
            if self._owned:
                self._write_end(status, error)
            elif self._record.facts is not None and observed_seeds():
                self._write_seeds()

    def _write_end(self, status: RunStatus, error: BaseException | None) -> None:
        body: dict[str, Any] = {}
        if error is not None:
            told = "".join(traceback.format_exception(error))[-MAX_TRACEBACK_CHARACTERS:]
            body = {"error": type(error).__name__, "message": str(error)[:1_000], "traceback": told}
        facts = self._record.facts
        if facts is not None:
            facts = msgspec.structs.replace(facts, seeds=facts.seeds | observed_seeds(), extra=facts.extra | self._usage())
        runs.update_run(self._store, self.id, actor=self._actor, status=status, facts=facts, body=body)

    def _write_seeds(self) -> None:
        """Seeds are set in the process that draws; whoever started the run cannot see them."""
        facts = runs.get_run(self._store, self.id).facts
        if facts is not None:
            seeded = msgspec.structs.replace(facts, seeds=facts.seeds | observed_seeds())
            runs.update_run(self._store, self.id, actor=self._actor, facts=seeded)

    def _usage(self) -> dict[str, Any]:
        usage: dict[str, Any] = {"cpu_s": round(time.process_time() - self._began_cpu_s, 3)}
        with contextlib.suppress(ImportError, OSError):  # not on Windows
            import resource

            usage["max_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return usage

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.end(_status_of(error), error=None if _is_clean_exit(error) else error)
        except AndonError as problem:
            if error is None:
                raise
            error.add_note(f"and the run could not be ended: {problem}")  # the program's own error is what it must hear of first

    def _beat(self) -> None:
        """Push points every half second; renew the lease while this process lives."""
        renewed = time.monotonic()
        held_by = liveness.holder()
        while not self._stop.wait(PUSH_S):
            self._buffer.push()
            if self._owned and time.monotonic() - renewed > liveness.RENEW_S:
                renewed = time.monotonic()
                liveness.renew(self._store, self.id, held_by)

    def _check_open(self) -> None:
        if self.ended:
            raise Conflict("this run has ended", address=self.address, next_step="start another one, or join it again by its id")
        self._check_process()

    def _check_process(self) -> None:
        if not self.in_this_process:
            raise Conflict(
                "this run was opened in another process", address=self.address, next_step=f"in the child, use join_run(store, {self.id!r})"
            )


def _status_of(error: BaseException | None) -> RunStatus:
    if error is None or _is_clean_exit(error):
        return "finished"
    return "killed" if isinstance(error, KeyboardInterrupt) else "failed"


def _is_clean_exit(error: BaseException | None) -> bool:
    return isinstance(error, SystemExit) and error.code in (None, 0)


def _number(key: str, value: Any) -> float:
    if type(value) is float:
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidInput("a metric's value is a number", field=str(key)[:80], got=repr(value)[:80]) from None


def _whole(step: Any) -> int:
    try:
        number = int(step)
    except (TypeError, ValueError):
        number = 2**63
    if number != step or not -(2**63) <= number < 2**63:
        raise InvalidInput("a step is a whole number of 64 bits", field="step", got=repr(step)[:40])
    return number


def end_open_runs() -> None:
    """At the interpreter's end: end what was started without a block, as finished, or failed after an uncaught error."""
    error = getattr(sys, "last_value", None)
    for run in reversed([run for run in _open if run.in_this_process]):
        with contextlib.suppress(AndonError):  # nobody is left to hear of it; the run will be found killed
            run.end(_status_of(error), error=error)
