"""``@step`` and ``@pipeline``: plain functions that can be run on the record.

Called outside a pipeline run both are the functions they decorate, so they are tested like any other.
"""

from __future__ import annotations

import functools
import inspect
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, overload

from andon.core.actors import Actor
from andon.core.addresses import check_name
from andon.core.errors import InvalidInput
from andon.pipelines.codes import code_digest, source_of
from andon.pipelines.records import PipelineManifest, PipelineResult
from andon.pipelines.running import PipelineRun, _current, current_pipeline
from andon.registry import Version, link_in, register
from andon.store import Store
from andon.tracking import start_run

P = ParamSpec("P")
R = TypeVar("R")
MAX_RETRIES = 100
MAX_PARAM_CHARACTERS = 1_000
_CRON = re.compile(r"(\S+\s+){4}\S+")


class Step(Generic[P, R]):
    """A function whose calls inside a pipeline run are recorded. Made by ``@step``."""

    def __init__(self, function: Callable[P, R], *, retries: int, cache: bool, wait_s: float, version: str, name: str) -> None:
        if not 0 <= retries <= MAX_RETRIES:
            raise InvalidInput(f"a step is tried again 0 to {MAX_RETRIES} times", field="retries", got=retries)
        self.function = function
        self.retries = retries
        self.cache = cache
        self.wait_s = wait_s
        self.version = version
        self.name = name or function.__name__
        self.signature = inspect.signature(function)
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Inside a pipeline run: recorded, cached, tried again. Elsewhere: the function itself."""
        around = current_pipeline()
        if around is None:
            return self.function(*args, **kwargs)
        value: R = around.call(self, args, kwargs)
        return value


class Pipeline(Generic[P, R]):
    """A function that calls steps. ``run`` puts a run of it on the record; calling it is calling the function."""

    def __init__(self, function: Callable[P, R], *, name: str, schedule: str | None) -> None:
        if schedule is not None and not _CRON.fullmatch(schedule.strip()):
            raise InvalidInput("a schedule is cron's five fields, such as '0 3 * * *'", field="schedule", got=schedule[:80])
        self.function = function
        self.name = check_name(name or function.__name__.lower())
        self.schedule = schedule
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself, off the record."""
        return self.function(*args, **kwargs)

    def steps(self) -> dict[str, Step[..., Any]]:
        """The steps that the function names, by name."""
        named = {name: self.function.__globals__.get(name) for name in self.function.__code__.co_names}
        for name, cell in zip(self.function.__code__.co_freevars, self.function.__closure__ or (), strict=False):
            named[name] = cell.cell_contents
        return {value.name: value for value in named.values() if isinstance(value, Step)}

    def manifest(self) -> PipelineManifest:
        """What registers it."""
        return PipelineManifest(
            entry=f"{self.function.__module__}:{self.function.__qualname__}",
            code=code_digest(self.function),
            source=source_of(self.function),
            steps={name: code_digest(found.function, version=found.version) for name, found in self.steps().items()},
            schedule=self.schedule,
        )

    def run(
        self,
        store: Store,
        *args: Any,
        actor: Actor,
        arguments: Mapping[str, Any] | None = None,
        reason: str = "",
        cache: bool = True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> PipelineResult:
        """Run it as a tracked run of the experiment ``pipeline/NAME``, and register its version if the code is new.

        Steps that were called with equal arguments and code before come from the cache (``cache=False``: none does), so a run that failed
        goes on where it stopped when it is run again. What a step raises comes out as it is, with a note that names step and run; the run
        is then ``failed``. Metrics and artifacts that a cached step logged in its day belong to that day's run and are not logged again.
        """
        version = self.register(store, actor=actor, reason=reason)
        given = inspect.signature(self.function).bind(*args, **(arguments or {}))
        given.apply_defaults()
        with start_run(
            store,
            f"pipeline/{self.name}",
            actor=actor,
            name=f"{self.name}",
            params=_params(given.arguments),
            tags={"pipeline": str(version.address)},
        ) as run:
            now_us = store.clock.now_us()
            store.ledger.write(lambda c: link_in(c, run.address, str(version.address), "pipeline", now_us=now_us))
            inside = PipelineRun(store, version, run, actor, cache=cache, sleep=sleep)
            token = _current.set(inside)
            try:
                value = self.function(*given.args, **given.kwargs)
            finally:
                _current.reset(token)
                inside.finish()
        return PipelineResult(value=value, run=run.address, pipeline=str(version.address), steps=tuple(inside.records))

    def register(self, store: Store, *, actor: Actor, reason: str = "") -> Version:
        """Register ``pipeline:NAME``; the same code as the newest version's gives that version back."""
        return register(store, "pipeline", self.name, self.manifest(), actor=actor, reason=reason)


def _params(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline's arguments as params: plain values as they are, the rest by type, since a param is a line of text."""
    plain = (bool, int, float, str, type(None))
    return {
        name: value if isinstance(value, plain) and len(str(value)) <= MAX_PARAM_CHARACTERS else type(value).__name__
        for name, value in arguments.items()
    }


@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *, retries: int = 0, cache: bool = True, wait_s: float = 1.0, version: str = "", name: str = ""
) -> Callable[[Callable[P, R]], Step[P, R]]: ...


def step(
    function: Callable[P, R] | None = None,
    /,
    *,
    retries: int = 0,
    cache: bool = True,
    wait_s: float = 1.0,
    version: str = "",
    name: str = "",
) -> Step[P, R] | Callable[[Callable[P, R]], Step[P, R]]:
    """Make a function a step.

    ``retries``: how often it is tried again when it raises, after ``wait_s``, then twice that, and so on. ``cache=False``: it always runs
    (it reads the clock, or the world). ``version``: change it when something changed that its code does not show.

    >>> @step
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double(4)
    8
    """

    def made(function: Callable[P, R]) -> Step[P, R]:
        return Step(function, retries=retries, cache=cache, wait_s=wait_s, version=version, name=name)

    return made if function is None else made(function)


@overload
def pipeline(function: Callable[P, R], /) -> Pipeline[P, R]: ...
@overload
def pipeline(*, name: str = "", schedule: str | None = None) -> Callable[[Callable[P, R]], Pipeline[P, R]]: ...


def pipeline(
    function: Callable[P, R] | None = None, /, *, name: str = "", schedule: str | None = None
) -> Pipeline[P, R] | Callable[[Callable[P, R]], Pipeline[P, R]]:
    """Make a function a pipeline, ``pipeline:NAME`` (default: the function's name), maybe with a ``schedule`` (cron, UTC)."""

    def made(function: Callable[P, R]) -> Pipeline[P, R]:
        return Pipeline(function, name=name, schedule=schedule)

    return made if function is None else made(function)
