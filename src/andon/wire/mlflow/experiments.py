"""Experiments: create, read, rename, delete, restore, and their tags. (Search: ``search``.)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import msgspec

from andon.core.errors import Conflict, NotFound
from andon.registry.tags import remove_tag_in, set_tags_in
from andon.store.statements import IN_ONE, places, rows_of
from andon.tracking.experiments import Experiment, create_experiment_in, get_experiment_in, hide_experiment_in, rename_experiment_in
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid, missing
from andon.wire.mlflow.limits import MAX_EXPERIMENT_NAME, MAX_EXPERIMENT_TAG_VALUE, check_key, too_long
from andon.wire.mlflow.messages import required
from andon.wire.mlflow.rendering_runs import artifact_root
from andon.wire.mlflow.runs import Pair, experiment_number, open_location, pairs_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

MAX_LOCATION = 2_048
MAX_VIEWS = 50
_VIEW = "mlflow.customView.view"


class _Create(msgspec.Struct):
    name: str | None = None
    artifact_location: str | None = None
    tags: list[Pair] | None = None


class _Only(msgspec.Struct):
    experiment_id: str | None = None


class _ByName(msgspec.Struct):
    experiment_name: str | None = None


class _Update(_Only):
    new_name: str | None = None


class _Tag(_Only):
    key: str | None = None
    value: str | None = None


def experiments_json(connection: Connection, experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
    """Experiments as the protocol shows them, with their tags, in the order given."""
    tagged: dict[str, list[dict[str, str]]] = {item.address: [] for item in experiments}
    subjects = list(tagged)
    for start in range(0, len(subjects), IN_ONE):
        part = subjects[start : start + IN_ONE]
        query = f"select subject, key, value from tags where subject in ({places(len(part))}) order by subject, key"
        for subject, key, value in rows_of(connection, query, part):
            tagged[subject].append({"key": key, "value": value})
    made: list[dict[str, Any]] = []
    for item in experiments:
        shown = {
            "experiment_id": str(item.id),
            "name": item.name,
            "artifact_location": artifact_root(item.id, item.location),
            "lifecycle_stage": "active" if item.deleted_us is None else "deleted",
            "last_update_time": item.changed_us // 1000,
            "creation_time": item.created_us // 1000,
            "tags": tagged[item.address],
            "workspace": "default",
        }
        made.append({key: value for key, value in shown.items() if value or key == "name"})
    return made


async def create_experiment(call: Call) -> Any:
    """A new experiment, under a name that no other has, deleted ones included."""
    message = call.read(_Create)
    required(message, "name")
    name, location, tags = message.name or "", message.artifact_location or None, pairs_of(message.tags or ())
    if len(name) > MAX_EXPERIMENT_NAME:
        raise too_long("name", MAX_EXPERIMENT_NAME)
    if sum(key.startswith(_VIEW) for key in tags) > MAX_VIEWS:
        raise _too_many_views()
    if location is not None:
        _check_location(location)
    for key, value in tags.items():
        _check_tag(key, value)
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> int:
        try:
            made = create_experiment_in(connection, name, location=location, tags=tags, now_us=now_us, actor=call.actor)
        except Conflict:
            raise WireError("RESOURCE_ALREADY_EXISTS", f"Experiment(name={name}) already exists.") from None
        return made.id

    return {"experiment_id": str(await call.write(work))}


def _check_location(location: str) -> None:
    parsed = urlparse(location)
    if parsed.fragment or parsed.params:
        raise invalid("'artifact_location' URL can't include fragments or params.")
    if ".." in unquote(unquote(parsed.query)):
        raise invalid("Invalid query string")
    if location.startswith("runs:"):
        raise invalid(f"Artifact location cannot be a runs:/ URI. Given: '{location}'")
    if len(location) > MAX_LOCATION:
        raise invalid(f"Invalid artifact path length. The length of the artifact path cannot be greater than {MAX_LOCATION} characters.")


def _check_tag(key: str, value: str) -> None:
    check_key(key, "key", "key")
    if len(value) > MAX_EXPERIMENT_TAG_VALUE:
        raise too_long("value", MAX_EXPERIMENT_TAG_VALUE)


def _too_many_views(experiment: int | None = None) -> WireError:
    whose = "" if experiment is None else f" for experiment {experiment}"
    return invalid(
        f"Unable to create another custom view{whose}; the maximum number of custom views per experiment is {MAX_VIEWS}."
        " Delete an existing custom view before creating a new one."
    )


async def get_experiment(call: Call) -> Any:
    """An experiment by number, deleted or not."""
    number = _number(call.read(_Only))
    return {"experiment": (await call.look(lambda connection: experiments_json(connection, [_experiment(connection, number)])))[0]}


def _number(message: _Only) -> int:
    required(message, "experiment_id")
    return experiment_number(message.experiment_id or "")


def _experiment(connection: Connection, number: int) -> Experiment:
    try:
        return get_experiment_in(connection, number)
    except NotFound:
        raise missing(f"No Experiment with id={number} exists") from None


async def get_by_name(call: Call) -> Any:
    """An experiment by name, deleted or not."""
    message = call.read(_ByName)
    required(message, "experiment_name")
    name = message.experiment_name or ""

    def look(connection: Connection) -> list[dict[str, Any]]:
        rows = rows_of(connection, "select id from experiments where name = ?", (name,))
        return experiments_json(connection, [get_experiment_in(connection, int(row[0])) for row in rows])

    # A name that cannot be kept, with a NUL in it, is the name of none.
    found = [] if "\x00" in name or not _is_unicode(name) else await call.look(look)
    if not found:
        raise missing(f"Could not find experiment with name '{name}'")
    return {"experiment": found[0]}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def delete_experiment(call: Call) -> None:
    """Hide an experiment that is open, with its runs."""
    await _hide(call, hidden=True)


async def restore_experiment(call: Call) -> None:
    """Bring a deleted experiment back, with its runs."""
    await _hide(call, hidden=False)


async def _hide(call: Call, *, hidden: bool) -> None:
    number, now_us = _number(call.read(_Only)), call.store.clock.now_us()

    def work(connection: Connection) -> None:
        if (_experiment(connection, number).deleted_us is not None) == hidden:
            raise missing(f"No Experiment with id={number} exists")
        hide_experiment_in(connection, number, now_us=now_us, actor=call.actor, hidden=hidden)

    await call.write(work)


async def update_experiment(call: Call) -> None:
    """Another name."""
    message = call.read(_Update)
    number, now_us = _number(message), call.store.clock.now_us()
    required(message, "new_name")
    name = message.new_name or ""
    if len(name) > MAX_EXPERIMENT_NAME:
        raise too_long("name", MAX_EXPERIMENT_NAME)

    def work(connection: Connection) -> None:
        if _experiment(connection, number).deleted_us is not None:
            raise WireError("INVALID_STATE", "Cannot rename a non-active experiment.")
        try:
            rename_experiment_in(connection, number, name, now_us=now_us, actor=call.actor)
        except Conflict:
            raise WireError("BAD_REQUEST", f"Experiment(name={name}) already exists.") from None

    await call.write(work)


async def set_tag(call: Call) -> None:
    """One tag of an experiment, new or changed."""
    message = call.read(_Tag)
    number, key, value, now_us = _number(message), message.key or "", message.value or "", call.store.clock.now_us()
    required(message, "key")
    _check_tag(key, value)

    def work(connection: Connection) -> None:
        subject = _open(connection, number)
        if key.startswith(_VIEW):
            known = {row[0] for row in rows_of(connection, "select key from tags where subject = ?", (subject,))}
            if key not in known and sum(one.startswith(_VIEW) for one in known) >= MAX_VIEWS:
                raise _too_many_views(number)
        set_tags_in(connection, subject, {key: value}, now_us=now_us, actor=call.actor)

    await call.write(work)


async def delete_tag(call: Call) -> None:
    """One tag of an experiment less."""
    message = call.read(_Tag)
    number, key, now_us = _number(message), message.key or "", call.store.clock.now_us()
    required(message, "key")

    def work(connection: Connection) -> None:
        try:
            remove_tag_in(connection, _open(connection, number), key, now_us=now_us, actor=call.actor)
        except NotFound:
            raise missing(f"No tag with name: {key} in experiment with id {number}") from None

    await call.write(work)


def _open(connection: Connection, number: int) -> str:
    """The address of an experiment that may be written to."""
    open_location(connection, number)
    return get_experiment_in(connection, number).address


ROUTES = [
    Route("POST", "2.0/mlflow/experiments/create", create_experiment, "inline"),
    Route("GET", "2.0/mlflow/experiments/get", get_experiment, "inline"),
    Route("GET", "2.0/mlflow/experiments/get-by-name", get_by_name, "inline"),
    Route("POST", "2.0/mlflow/experiments/delete", delete_experiment, "inline"),
    Route("POST", "2.0/mlflow/experiments/restore", restore_experiment, "inline"),
    Route("POST", "2.0/mlflow/experiments/update", update_experiment, "inline"),
    Route("POST", "2.0/mlflow/experiments/set-experiment-tag", set_tag, "inline"),
    Route("POST", "2.0/mlflow/experiments/delete-experiment-tag", delete_tag, "inline"),
]
