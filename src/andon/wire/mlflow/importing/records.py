"""What a source tells, whichever kind it is. Ids and names are the source's own; times are milliseconds since 1970 UTC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, Protocol

import msgspec


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment."""

    id: str
    name: str
    location: str | None
    deleted: bool
    created_ms: int | None
    tags: dict[str, str]


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset that a run named."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None
    profile: str | None
    tags: dict[str, str]


class RunModel(msgspec.Struct, frozen=True, kw_only=True):
    """A logged model that went into a run (``input``) or came out of it (``output``)."""

    model: str
    role: str
    step: int = 0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run without its points. ``status`` is the protocol's word (``FINISHED``)."""

    id: str
    experiment: str
    name: str
    user: str
    status: str
    started_ms: int
    ended_ms: int | None
    deleted: bool
    artifact_uri: str
    params: dict[str, str]
    tags: dict[str, str]
    inputs: tuple[Input, ...] = ()
    models: tuple[RunModel, ...] = ()


class PointRow(NamedTuple):
    """One point of a run's metric; ``model``, ``dataset`` and ``digest`` say what it is about, where it is about one."""

    key: str
    value: float
    step: int
    at_ms: int
    model: str | None = None
    dataset: str | None = None
    digest: str | None = None


class LoggedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A logged model. ``status`` is ``pending``, ``ready`` or ``failed``."""

    id: str
    experiment: str
    name: str
    model_type: str | None
    run: str | None
    status: str
    message: str | None
    created_ms: int
    changed_ms: int
    deleted: bool
    artifact_uri: str
    params: dict[str, str]
    tags: dict[str, str]


class RegisteredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A name in the registry. ``aliases``: alias -> version."""

    name: str
    description: str
    created_ms: int | None
    tags: dict[str, str]
    aliases: dict[str, int]


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a name. ``source`` is what was registered; ``location`` where its files are, if elsewhere."""

    name: str
    version: int
    created_ms: int | None
    description: str
    user: str
    stage: str
    source: str
    location: str | None
    run: str | None
    link: str
    tags: dict[str, str]
    model: str | None = None


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A trace: its record and spans in the protocol's own JSON (version 3), assessments inside the record."""

    id: str
    info: dict[str, Any]
    spans: Callable[[], list[dict[str, Any]]]
    """Read when they are wanted. Raises ``NotFound`` where the source has lost them."""


class File(NamedTuple):
    """A file below an artifact location."""

    path: str
    size_bytes: int


class Source(Protocol):
    """Something to import from. Everything is told in a fixed order, so that two readings can be compared."""

    @property
    def identity(self) -> str:
        """What it is, the same at every start: ``file:…`` or the server's URL."""
        ...

    def experiments(self) -> Iterator[Experiment]:
        """All of them, deleted ones too."""
        ...

    def runs(self, experiment: str) -> Iterator[Run]:
        """The runs of an experiment, deleted ones too, parents before their children."""
        ...

    def points(self, run: Run) -> Iterator[list[PointRow]]:
        """A run's points, in lists of at most ``PAGE``."""
        ...

    def logged_models(self, experiment: str) -> Iterator[LoggedModel]:
        """The logged models of an experiment."""
        ...

    def registered_models(self) -> Iterator[RegisteredModel]:
        """All names, prompts among them."""
        ...

    def versions(self, name: str) -> Iterator[ModelVersion]:
        """The versions of a name that are not deleted, the oldest first."""
        ...

    def traces(self, experiment: str) -> Iterator[Trace]:
        """The traces of an experiment."""
        ...

    def files(self, uri: str) -> list[File]:
        """What is below an artifact location. Raises ``NotFound`` when it cannot be reached from here."""
        ...

    def open(self, uri: str, path: str) -> IO[bytes]:
        """One file's bytes."""
        ...


PAGE = 1_000
LARGEST = 1.7976931348623157e308
"""How the protocol's SQL store keeps an infinity."""


def real(value: float, is_nan: bool = False) -> float:
    """A value as it was logged.

    >>> real(0.0, True), real(LARGEST), real(0.5)
    (nan, inf, 0.5)
    """
    if is_nan:
        return float("nan")
    return float("inf") if value >= LARGEST else float("-inf") if value <= -LARGEST else value
