"""Logged models: what a run made, before or without being registered. Searching them is a module of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection

from andon.core.errors import Conflict, Gone, InvalidInput, NotFound
from andon.tracking.artifacts import list_artifacts_in
from andon.tracking.logged_models import (
    LoggedModel,
    ModelMetric,
    ModelStatus,
    Registration,
    create_logged_model_in,
    delete_logged_model,
    delete_logged_model_tag_in,
    finalize_logged_model_in,
    get_logged_model_in,
    log_model_params_in,
    new_model_id,
    set_logged_model_tags_in,
)
from andon.wire.mlflow.artifact_paths import plain
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid, missing
from andon.wire.mlflow.messages import missing_field, required
from andon.wire.mlflow.rendering_runs import LARGEST, artifact_root

T = TypeVar("T")
VERSIONS_TAG = "mlflow.modelVersions"
"""Where clients look for the registered versions of a logged model."""
_FORBIDDEN = ("/", ":", ".", "%", '"', "'")
_STATUSES: dict[ModelStatus, str] = {
    "pending": "LOGGED_MODEL_PENDING",
    "ready": "LOGGED_MODEL_READY",
    "failed": "LOGGED_MODEL_UPLOAD_FAILED",
}
_NUMBERS: dict[str, ModelStatus] = {"1": "pending", "2": "ready", "3": "failed"}


class KeyValue(msgspec.Struct):
    """A param or a tag."""

    key: str = ""
    value: str = ""


class _Create(msgspec.Struct):
    experiment_id: str | None = None
    name: str | None = None
    model_type: str | None = None
    source_run_id: str | None = None
    params: list[KeyValue] | None = None
    tags: list[KeyValue] | None = None


class _Finalize(msgspec.Struct):
    model_id: str | None = None
    status: int | float | str | None = None


class _Get(msgspec.Struct):
    allow_deleted: str = ""


class _Texts(msgspec.Struct):
    model_id: str | None = None
    params: list[KeyValue] | None = None
    tags: list[KeyValue] | None = None


class _List(msgspec.Struct):
    artifact_directory_path: str | None = None


async def create(call: Call) -> dict[str, Any]:
    """A new model, pending until it is finalized."""
    asked = call.read(_Create)
    number = experiment_number(asked.experiment_id)
    name = asked.name or ""
    if any(sign in name for sign in _FORBIDDEN):
        raise invalid(
            f"Invalid model name ({name!r}) provided. Model name must be a non-empty string and cannot contain the following characters: "
            f"{_FORBIDDEN}"
        )
    params, tags = once(asked.params, "params"), once(asked.tags, "tags")
    model, now_us = new_model_id(call.store), call.store.clock.now_us()

    def work(connection: Connection) -> LoggedModel:
        return create_logged_model_in(
            connection,
            model,
            number,
            name=name,
            model_type=asked.model_type,
            run=asked.source_run_id,
            params=params,
            tags=tags,
            now_us=now_us,
            actor=call.actor,
        )

    try:
        made = await call.write(work)
    except Gone:
        raise invalid(f"The experiment {number} must be in the 'active' state. Current state is deleted.") from None
    except NotFound:
        raise missing(f"No Experiment with id={number} exists") from None
    except InvalidInput as error:
        raise refusal(error) from None
    return {"model": logged_model_json(made)}


def get(call: Call) -> dict[str, Any]:
    """One model; ``allow_deleted=true`` finds deleted ones."""
    model = call.path["model_id"]
    deleted_too = call.read(_Get).allow_deleted.lower() == "true"
    with call.store.ledger.read() as connection:
        return {"model": logged_model_json(_present(connection, model, deleted_too=deleted_too))}


async def finalize(call: Call) -> dict[str, Any]:
    """Say that its files are there, or that they will not come."""
    asked = call.read(_Finalize)
    required(asked, "model_id", "status")
    status = _status(asked.status)
    model, now_us = call.path["model_id"], call.store.clock.now_us()
    made = await _write(call, lambda c: finalize_logged_model_in(c, model, status, now_us=now_us, actor=call.actor))
    return {"model": logged_model_json(made)}


def delete(call: Call) -> None:
    """Hide it."""
    model = call.path["model_id"]
    try:
        delete_logged_model(call.store, model, actor=call.actor)
    except NotFound:
        raise _no_model(model) from None


async def set_tags(call: Call) -> None:
    """Set tags; of a key that comes twice, the last value."""
    tags = {item.key: item.value for item in call.read(_Texts).tags or ()}
    model, now_us = call.path["model_id"], call.store.clock.now_us()
    await _write(call, lambda c: set_logged_model_tags_in(c, model, tags, now_us=now_us, actor=call.actor))


async def delete_tag(call: Call) -> None:
    """Remove a tag that is there."""
    model, key, now_us = call.path["model_id"], call.path["tag_key"], call.store.clock.now_us()

    def work(connection: Connection) -> None:
        _present(connection, model, deleted_too=True)
        try:
            delete_logged_model_tag_in(connection, model, key, now_us=now_us, actor=call.actor)
        except NotFound:
            raise missing(f"No tag with key {key!r} found for model with ID {model!r}.") from None

    await call.write(work)


async def log_params(call: Call) -> None:
    """Add params; one that is there keeps its value."""
    asked = call.read(_Texts)
    required(asked, "model_id")
    params, model = once(asked.params, "params"), call.path["model_id"]
    await _write(call, lambda c: log_model_params_in(c, model, params))


def list_artifacts(call: Call) -> dict[str, Any]:
    """What lies in one of its folders."""
    folder, model = plain(call.read(_List).artifact_directory_path or "", folder=True), call.path["model_id"]
    with call.store.ledger.read() as connection:
        found = _present(connection, model)
        listed = list_artifacts_in(connection, found.address, folder)
    files = [
        {"path": path, "is_dir": True} if is_folder else {"path": path, "is_dir": False, "file_size": n} for path, is_folder, n in listed
    ]
    return {"files": files, "root_uri": artifact_uri(found)} if files else {"root_uri": artifact_uri(found)}


def logged_model_json(model: LoggedModel) -> dict[str, Any]:
    """A model as the protocol shows it, with every point that was measured of it."""
    info: dict[str, Any] = {
        "model_id": model.id,
        "experiment_id": str(model.experiment_id),
        "name": model.name,
        "creation_timestamp_ms": model.created_us // 1000,
        "last_updated_timestamp_ms": model.changed_us // 1000,
        "artifact_uri": artifact_uri(model),
        "status": _STATUSES[model.status],
        "model_type": model.model_type or "",
        "source_run_id": model.run or "",
    }
    if model.message is not None:
        info["status_message"] = model.message
    versions = [{"name": item.title or item.name, "version": str(item.version)} for item in model.registrations]
    tags = _with_versions(model.tags, model.registrations)
    if tags:
        info["tags"] = _pairs(tags)
    if versions:
        info["registrations"] = versions
    data: dict[str, Any] = {}
    if model.params:
        data["params"] = _pairs(model.params)
    if model.metrics:
        data["metrics"] = [_metric(model.id, item) for item in model.metrics]
    return {"info": info, "data": data}


def _with_versions(tags: dict[str, str], registrations: Sequence[Registration]) -> dict[str, str]:
    """The tags with every registered version in the list where clients look for them: who registered it need not have said so."""
    if not registrations:
        return tags
    try:
        told = json.loads(tags.get(VERSIONS_TAG, "[]"))
    except ValueError:
        return tags
    if not isinstance(told, list):
        return tags
    known = {(item.get("name"), str(item.get("version"))) for item in told if isinstance(item, dict)}
    named = [(item.title or item.name, item.version) for item in registrations]
    told += [{"name": name, "version": version} for name, version in named if (name, str(version)) not in known]
    return tags | {VERSIONS_TAG: json.dumps(told)}


def artifact_uri(model: LoggedModel) -> str:
    """Where the protocol's clients find a model's files."""
    path, mark, query = artifact_root(model.experiment_id, model.location).partition("?")
    return f"{path.rstrip('/')}/models/{model.id}/artifacts{mark}{query}"


def experiment_number(given: str | None) -> int:
    """An experiment's id as a number. Raises ``WireError``."""
    if not given:
        raise missing_field("experiment_id")
    if not given.isascii() or not given.isdecimal() or len(given) > 18:
        raise invalid(f"Invalid experiment ID {given!r}. Experiment ID must be a valid integer.")
    return int(given)


def refusal(error: InvalidInput) -> WireError:
    """What is said of input that cannot be kept; it names the field."""
    field = error.fields.get("field")
    known = field is None or f"'{field}'" in error.message
    return invalid(error.message if known else f"Invalid value for parameter '{field}': {error.message}")


def once(given: Sequence[KeyValue] | None, field: str) -> dict[str, str]:
    """Keys and values, of which no key may come twice."""
    made = {item.key: item.value for item in given or ()}
    if len(made) != len(given or ()):
        raise WireError("BAD_REQUEST", f"A key comes twice in '{field}'")
    return made


async def _write(call: Call, work: Callable[[Connection], T]) -> T:
    try:
        return await call.write(work)
    except NotFound:
        raise _no_model(call.path["model_id"]) from None
    except Conflict as error:
        raise WireError("BAD_REQUEST", error.message) from None
    except InvalidInput as error:
        raise refusal(error) from None


def _present(connection: Connection, model: str, *, deleted_too: bool = False) -> LoggedModel:
    try:
        found = get_logged_model_in(connection, model)
    except NotFound:
        raise _no_model(model) from None
    if found.deleted_us is not None and not deleted_too:
        raise _no_model(model)
    return found


def _no_model(model: str) -> WireError:
    return missing(f"Logged model with ID '{model}' not found.")


def _status(given: object) -> ModelStatus:
    text = str(int(given)) if isinstance(given, float) and given.is_integer() else str(given)
    for ours, theirs in _STATUSES.items():
        if text == theirs:
            return ours
    if text not in _NUMBERS:
        raise invalid(f"Unknown model status: {text[:40]}")
    return _NUMBERS[text]


def _metric(model: str, item: ModelMetric) -> dict[str, Any]:
    value: float | str = "NaN" if item.value != item.value else max(-LARGEST, min(LARGEST, item.value))
    made = {"key": item.key, "value": value, "timestamp": item.at_us // 1000, "step": item.step}
    if item.dataset:
        made["dataset_name"] = item.dataset
    if item.dataset_digest:
        made["dataset_digest"] = item.dataset_digest
    return made | {"model_id": model, "run_id": item.run}


def _pairs(texts: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in texts.items()]


_ONE = "2.0/mlflow/logged-models/{model_id}"
ROUTES = [
    Route("POST", "2.0/mlflow/logged-models", create, "inline"),
    Route("GET", _ONE, get),
    Route("PATCH", _ONE, finalize, "inline"),
    Route("DELETE", _ONE, delete),
    Route("PATCH", _ONE + "/tags", set_tags, "inline"),
    Route("DELETE", _ONE + "/tags/{tag_key:path}", delete_tag, "inline"),
    Route("POST", _ONE + "/params", log_params, "inline"),
    Route("GET", _ONE + "/artifacts/directories", list_artifacts),
]
