"""Running a pipeline: a tracked run in which each call of a step is recorded, cached and, when it fails, tried again."""

from __future__ import annotations

import contextvars
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection, func, insert, select

from andon.core.actors import Actor
from andon.core.digests import canonical_json, digest_bytes, digest_json
from andon.core.errors import CorruptBytes, InvalidInput, NotFound
from andon.pipelines import values
from andon.pipelines.cache import MAX_INLINE_BYTES, Cached, StepCache
from andon.pipelines.codes import code_digest
from andon.pipelines.records import StepRecord
from andon.registry import Version, link_in
from andon.store import Store
from andon.store import schema as s
from andon.tracking import Run

if TYPE_CHECKING:
    from andon.pipelines.steps import Step

SEND_S = 0.02
SEND_COUNT = 50
MAX_TRACEBACK_CHARACTERS = 8_000

_current: contextvars.ContextVar[PipelineRun | None] = contextvars.ContextVar("andon_pipeline", default=None)


def current_pipeline() -> PipelineRun | None:
    """The pipeline run whose body calls; None outside one, and inside a step (whose own calls of steps are plain calls)."""
    return _current.get()


class PipelineRun:
    """One run of a pipeline, from the inside. Made by ``run_pipeline``."""

    def __init__(self, store: Store, pipeline: Version, run: Run, actor: Actor, *, cache: bool, sleep: Callable[[float], None]) -> None:
        self._store = store
        self._run = run
        self._actor = actor
        self._sleep = sleep
        self._use_cache = cache
        self._cache = StepCache(store, pipeline.address.name)
        self._codes: dict[int, str] = {}
        self._known: dict[int, tuple[Any, Any]] = {}
        self._waiting: list[tuple[StepRecord, str | None, Cached | None]] = []
        self._sent: list[Future[None]] = []
        self._last_sent = time.monotonic()
        self.records: list[StepRecord] = []

    def call(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a step: from the cache if it was called so before, else run it, with its retries."""
        began = time.perf_counter()
        number = len(self.records) + 1
        code = self._code_of(step)
        inputs, note = self._inputs(step, args, kwargs)
        key = digest_json([step.name, code, inputs]).removeprefix("b3:") if inputs is not None else None
        made = StepRecord(
            step=step.name, call=number, status="ran", code=code, inputs=inputs, outputs=None, tries=1, duration_ms=0, note=note
        )
        if key is not None and step.cache and self._use_cache:
            hit = self._hit(key)
            if hit is not None:
                value, found = hit
                self._record(made, began, None, None, status="cached", outputs=found.outputs, tries=0)
                return value
        reads_before = len(self._run.inputs)
        value, tries = self._try(step, args, kwargs, made, began)
        outputs, why = self._keep(value)
        kept = why is None and key is not None and step.cache
        cached = Cached(outputs=outputs, reads=tuple(self._run.inputs[reads_before:]), run=self._run.id) if kept else None
        self._record(made, began, key, cached, outputs=outputs, tries=tries, note=note or why)
        return value

    def finish(self) -> None:
        """Wait until every record is durable."""
        self._send()
        for future in self._sent:
            future.result()
        self._sent.clear()

    def _try(
        self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], made: StepRecord, began: float
    ) -> tuple[Any, int]:
        for attempt in range(1, step.retries + 2):
            token = _current.set(None)
            try:
                return step.function(*args, **kwargs), attempt
            except Exception as error:  # a step is the user's code: whatever it raises is retried, then raised with the step's name
                if attempt <= step.retries:
                    self._sleep(step.wait_s * 2 ** (attempt - 1))
                    continue
                tries = f"; {attempt} tries" if attempt > 1 else ""
                error.add_note(f"in step {step.name!r}, call {made.call} of {self._run.name}, {self._run.address}{tries}")
                told = "".join(traceback.format_exception(error))[-MAX_TRACEBACK_CHARACTERS:]
                self._record(made, began, None, None, status="failed", tries=attempt, error=told)
                raise
            finally:
                _current.reset(token)
        raise AssertionError("a step is tried at least once")

    def _code_of(self, step: Step[..., Any]) -> str:
        known = self._codes.get(id(step))
        if known is None:
            known = self._codes[id(step)] = code_digest(step.function, version=step.version)
        return known

    def _inputs(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str | None, str | None]:
        try:
            bound = step.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidInput(f"step {step.name!r}: {error}", field="arguments") from None
        bound.apply_defaults()
        try:
            return digest_json(values.encode(dict(bound.arguments), digest_bytes, self._known)), None
        except values.OpaqueError as error:
            return None, f"not cached: an argument is {error}"

    def _hit(self, key: str) -> tuple[Any, Cached] | None:
        found = self._cache.find(key)
        if found is None:
            return None
        try:
            value = values.decode(found.outputs, self._store)
        except (NotFound, CorruptBytes):  # it was freed or damaged since: make it again
            return None
        self._remember(value, found.outputs)
        for item in found.reads:
            self._run.log_input(item.address, context=item.context, asked=item.asked)
        return value, found

    def _keep(self, value: Any) -> tuple[Any, str | None]:
        try:
            form = values.encode(value, self._store.blobs.put, self._known)
        except values.OpaqueError as error:
            return None, f"not cached: it returns {error}"
        if isinstance(form, dict | str) and len(msgspec.json.encode(form)) > MAX_INLINE_BYTES:
            return None, f"not cached: it returns more than {MAX_INLINE_BYTES} bytes of plain values; return a table or an array"
        self._remember(value, form)
        return form, None

    def _remember(self, value: Any, form: Any) -> None:
        if isinstance(form, dict) and form.get("as") == "skops":
            self._known[id(value)] = (value, form)  # the value is held, so its id is not given to another

    def _record(self, made: StepRecord, began: float, key: str | None, cached: Cached | None, **changes: Any) -> None:
        duration_ms = round((time.perf_counter() - began) * 1e3, 3)
        record = msgspec.structs.replace(made, duration_ms=duration_ms, **changes)
        self.records.append(record)
        self._waiting.append((record, key, cached))
        if len(self._waiting) >= SEND_COUNT or time.monotonic() - self._last_sent > SEND_S:
            self._send()

    def _send(self) -> None:
        """Hand what waits to the ledger, without waiting for it: a killed run loses at most the records of its last moments."""
        if not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        self._last_sent = time.monotonic()
        now_us = self._store.clock.now_us()
        self._sent.append(self._store.ledger.submit(lambda connection: self._write(connection, batch, now_us)))

    def _write(self, connection: Connection, batch: list[tuple[StepRecord, str | None, Cached | None]], now_us: int) -> None:
        stream = self._run.address
        last = connection.execute(select(func.max(s.events.c.n)).where(s.events.c.stream == stream)).scalar() or 0
        rows = [
            {
                "stream": stream,
                "n": last + position,
                "type": "step",
                "body": canonical_json(record),
                "at_us": now_us,
                "event_us": None,
                "actor": str(self._actor),
                "reason": "",
            }
            for position, (record, _, _) in enumerate(batch, start=1)
        ]
        connection.execute(insert(s.events), rows)
        needed: set[str] = set()
        for record, key, cached in batch:
            needed |= values.blobs_in(record.outputs)
            if key is not None and cached is not None:
                self._cache.put_in(connection, key, cached, now_us=now_us)
            if isinstance(record.outputs, dict) and "address" in record.outputs and record.status == "ran":
                link_in(connection, record.outputs["address"], stream, "run", now_us=now_us)
        if needed:
            held = select(s.blob_refs.c.digest).where(s.blob_refs.c.owner == stream)
            fresh = needed - set(connection.execute(held).scalars())
            if fresh:
                connection.execute(insert(s.blob_refs), [{"owner": stream, "digest": digest} for digest in sorted(fresh)])
