"""Registered models, their versions and aliases: written through the protocol's own endpoints, each at the time it was made.

Version numbers stay what they were, gaps included, so that ``models:/NAME/3`` means the same after the move.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, select, update

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.clocks import ManualClock
from andon.core.errors import AndonError
from andon.registry import Entry, entry_titled_in, get_in
from andon.store import Store
from andon.store import schema as s
from andon.wire.mlflow import model_versions, registered_models
from andon.wire.mlflow.calls import Call
from andon.wire.mlflow.errors import WireError
from andon.wire.mlflow.importing.moving import Mover
from andon.wire.mlflow.importing.records import ModelVersion, RegisteredModel

KINDS = ("model", "prompt")
_OF_RUN = re.compile(r"(?:^|/)(?P<run>[0-9A-Za-z][0-9A-Za-z_-]*)/artifacts(?:/(?P<path>.*))?$")
_OF_MODEL = re.compile(r"(?:^|/)models/(?P<model>m-[0-9A-Za-z_-]+)(?:/artifacts)?/?$")


def move_registered(mover: Mover, told: RegisteredModel) -> None:
    """A name with its versions and aliases. What cannot be written is noted among the problems."""
    with noting(mover, f"registered model {told.name}"):
        _entry(mover, told)
        mover.moved.registered_models += 1
    for version in mover.source.versions(told.name):
        with noting(mover, f"model version {told.name}/{version.version}"):
            _version(mover, version)
            continue
        break  # numbers only grow: a later version now would take the place of this one for good
    for alias, number in told.aliases.items():
        with noting(mover, f"alias {told.name}@{alias}"):
            if version_of_alias(mover.store, told.name, alias) is None:
                _ask(mover.store, mover.actor, registered_models.set_alias, {"name": told.name, "alias": alias, "version": str(number)})


class noting:  # noqa: N801 - reads as the verb it is
    """What is wrong with one thing is noted, and the rest goes on."""

    def __init__(self, mover: Mover, what: str) -> None:
        self._mover, self._what = mover, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        if isinstance(error, WireError | AndonError) and getattr(error, "status", 500) < 500:
            self._mover.moved.problems.append(f"{self._what}: {error.message}")
            self._mover.say(f"left behind: {self._what}: {error.message}")
            return True
        return False


def _entry(mover: Mover, told: RegisteredModel) -> None:
    with mover.store.ledger.read() as connection:
        if entry_titled_in(connection, KINDS, told.name) is not None:
            return
    tags = [{"key": key, "value": value} for key, value in told.tags.items()]
    body = {"name": told.name, "tags": tags, "description": told.description}
    _ask(_at(mover.store, told.created_ms), mover.actor, registered_models.create, body)


def _version(mover: Mover, told: ModelVersion) -> None:
    store = mover.store

    def reserve(connection: Connection) -> bool:
        """Let the next version get the wanted number; whether it is still to be written."""
        entry = _entry_of(connection, told.name)
        at = (s.versions.c.kind == entry.kind) & (s.versions.c.name == entry.name) & (s.versions.c.version == told.version)
        if connection.execute(select(s.versions.c.version).where(at)).first() is not None:
            return False
        if entry.head >= told.version:
            raise WireError("RESOURCE_CONFLICT", f"the versions here have come to {entry.head}, so {told.version} cannot be given any more")
        here = (s.entries.c.kind == entry.kind) & (s.entries.c.name == entry.name)
        connection.execute(update(s.entries).where(here).values(head=told.version - 1))
        return True

    if not store.ledger.write(reserve):
        mover.moved.skipped += 1
        _say_if_empty(mover, told)
        return
    source = _source(mover, told)
    model = source.removeprefix("models:/")
    body = {
        "name": told.name,
        "source": source,
        "model_id": model if model.startswith("m-") and "/" not in model else told.model,
        "run_id": told.run or "",
        "run_link": told.link,
        "description": told.description,
        "tags": [{"key": key, "value": value} for key, value in told.tags.items()],
    }
    who = Actor("person", told.user) if told.user else mover.actor
    _ask(_at(store, told.created_ms), who, model_versions.create, body)
    if told.stage not in ("None", ""):
        asked = {"name": told.name, "version": str(told.version), "stage": told.stage, "archive_existing_versions": False}
        _ask(store, mover.actor, model_versions.transition, asked)
    mover.moved.versions += 1
    mover.say(f"{told.name} version {told.version}")


def _say_if_empty(mover: Mover, told: ModelVersion) -> None:
    """A version whose files could not be reached when it was moved is still without them: say so each time."""
    with mover.store.ledger.read() as connection:
        entry = _entry_of(connection, told.name)
        manifest = get_in(connection, Address(entry.kind, entry.name, told.version)).manifest
    if entry.kind == "model" and manifest.get("files") is None:
        mover.moved.problems.append(f"model version {told.name}/{told.version}: it has no files here ({told.location or told.source})")


def _source(mover: Mover, told: ModelVersion) -> str:
    """The source in words that mean the same files here: what a run or a logged model holds; else files of its own, copied."""
    for text in (told.source, told.location or ""):
        if text.startswith(("models:/", "runs:/")) or told.source in ("dummy-source", "prompt-template"):
            return text
        of_model = _OF_MODEL.search(text)
        if of_model is not None and _is_here(mover.store, s.logged_models, of_model["model"]):
            return f"models:/{of_model['model']}"
        of_run = _OF_RUN.search(text)
        if of_run is not None and _is_here(mover.store, s.runs, of_run["run"]):
            return f"runs:/{of_run['run']}/{of_run['path'] or ''}".rstrip("/")
    return mover.adopt(told.location or told.source, f"imported/{told.name}/{told.version}")


def _is_here(store: Store, table: Any, identity: str) -> bool:
    with store.ledger.read() as connection:
        return connection.execute(select(table.c.id).where(table.c.id == identity)).first() is not None


def _entry_of(connection: Connection, title: str) -> Entry:
    found = entry_titled_in(connection, KINDS, title)
    if found is None:
        raise WireError("RESOURCE_DOES_NOT_EXIST", f"there is no {title} here")
    return found


def version_of_alias(store: Store, title: str, alias: str) -> str | None:
    """The version that an alias means here, or None."""
    try:
        said = _ask(store, Actor("process", "import"), registered_models.get_by_alias, {"name": title, "alias": alias}, method="GET")
    except (WireError, AndonError):
        return None
    return str(said["model_version"]["version"])


def has_version(store: Store, title: str, number: int) -> bool:
    """Whether a version is here and not deleted."""
    try:
        asked = {"name": title, "version": str(number)}
        return bool(_ask(store, Actor("process", "import"), model_versions.get, asked, method="GET"))
    except (WireError, AndonError):
        return False


def _at(store: Store, at_ms: int | None) -> Store:
    """The store at the time when something was made."""
    return store if at_ms is None else dataclasses.replace(store, clock=ManualClock(at_ms * 1_000))


def _ask(store: Store, actor: Actor, handler: Callable[[Call], Any], asked: Mapping[str, Any], *, method: str = "POST") -> Any:
    """One of the protocol's endpoints, in process."""
    call = Call(store, store.settings, actor, method, {}, b"", {}, body=msgspec.json.encode(asked))
    answer = handler(call)
    return asyncio.run(answer) if inspect.iscoroutine(answer) else answer
