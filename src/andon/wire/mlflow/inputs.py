"""What a run read and what it made: datasets as clients describe them, logged models in and out, and the older list of models."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from andon.core.errors import Conflict, Gone, InvalidInput, NotFound
from andon.registry.tags import set_tags_in
from andon.store import schema as s
from andon.tracking.batches import check_run_in
from andon.tracking.inputs import DescribedInput, check_described, described_datasets, log_described_in
from andon.tracking.logged_models import RunModel, log_run_models_in
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid, missing
from andon.wire.mlflow.limits import check_run_id
from andon.wire.mlflow.logged_models import KeyValue, experiment_number, once, refusal
from andon.wire.mlflow.messages import missing_field
from andon.wire.mlflow.rendering_inputs import CONTEXT_TAG

HISTORY_TAG = "mlflow.log-model.history"
MAX_EXPERIMENTS = 20
_MODEL_FIELDS = ("run_id", "artifact_path", "utc_time_created", "model_uuid")
_MODEL_NEEDS = ("artifact_path", "flavors", "run_id", "utc_time_created")


class _Dataset(msgspec.Struct):
    name: str = ""
    digest: str = ""
    source_type: str = ""
    source: str = ""
    schema: str | None = None
    profile: str | None = None


class _DatasetInput(msgspec.Struct):
    tags: list[KeyValue] | None = None
    dataset: _Dataset | None = None


class _Model(msgspec.Struct):
    model_id: str = ""
    step: int = 0


class _LogInputs(msgspec.Struct):
    run_id: str | None = None
    datasets: list[_DatasetInput] | None = None
    models: list[_Model] | None = None


class _LogOutputs(msgspec.Struct):
    run_id: str | None = None
    models: list[_Model] | None = None


class _LogModel(msgspec.Struct):
    run_id: str | None = None
    model_json: str | None = None


class _SearchDatasets(msgspec.Struct):
    experiment_ids: list[str] | None = None


async def log_inputs(call: Call) -> None:
    """Datasets that a run read, and models that went into it."""
    asked = call.read(_LogInputs)
    run = _run_id(asked.run_id)
    try:
        described = check_described(_described(item) for item in asked.datasets or ())
    except InvalidInput as error:
        raise refusal(error) from None
    models = [RunModel(model=item.model_id, role="input") for item in asked.models or ()]
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> None:
        log_described_in(connection, run, described, now_us=now_us, actor=call.actor)
        if models:
            log_run_models_in(connection, run, models, now_us=now_us, actor=call.actor)

    await _write(call, run, work)


async def log_outputs(call: Call) -> None:
    """Models that came out of a run, each with the step."""
    asked = call.read(_LogOutputs)
    run = _run_id(asked.run_id)
    if asked.models is None:
        raise missing_field("models")
    models = [RunModel(model=item.model_id, role="output", step=item.step) for item in asked.models]
    now_us = call.store.clock.now_us()
    await _write(call, run, lambda c: log_run_models_in(c, run, models, now_us=now_us, actor=call.actor))


async def log_model(call: Call) -> None:
    """Append to the list of models that a run keeps in a tag."""
    asked = call.read(_LogModel)
    run, given = _run_id(asked.run_id), asked.model_json
    if not given:
        raise missing_field("model_json")
    try:
        model = json.loads(given)
    except (ValueError, RecursionError):
        raise invalid(f"Malformed model info. \n {given} \n is not a valid JSON.") from None
    lacking = [name for name in _MODEL_NEEDS if not isinstance(model, dict) or name not in model]
    if lacking:
        raise invalid(f"Model json is missing mandatory fields: {lacking}")
    entry, now_us = _history_entry(model), call.store.clock.now_us()

    def work(connection: Connection) -> None:
        check_run_in(connection, run)
        subject = f"run:{run}"
        kept = connection.execute(select(s.tags.c.value).where(s.tags.c.subject == subject, s.tags.c.key == HISTORY_TAG)).scalar()
        try:
            before = json.loads(kept) if kept else []
        except ValueError:
            raise invalid(f"The run's tag {HISTORY_TAG} is not a list in JSON, so nothing can be appended to it") from None
        told = json.dumps([*(before if isinstance(before, list) else []), entry])
        set_tags_in(connection, subject, {HISTORY_TAG: told}, now_us=now_us, actor=call.actor)

    await _write(call, run, work)


def search_datasets(call: Call) -> dict[str, Any]:
    """The different datasets that runs of some experiments described."""
    asked = call.read(_SearchDatasets).experiment_ids
    if not asked:
        raise invalid("SearchDatasets request must specify at least one experiment_id.")
    if len(asked) > MAX_EXPERIMENTS:
        raise invalid(
            f"SearchDatasets request cannot specify more than {MAX_EXPERIMENTS} experiment_ids. Received {len(asked)} experiment_ids."
        )
    found = described_datasets(call.store, sorted({experiment_number(text) for text in asked}))
    made = []
    for item in found:
        summary = {"experiment_id": str(item.experiment_id), "name": item.name, "digest": item.digest}
        made.append(summary if item.context is None else summary | {"context": item.context})
    return {"dataset_summaries": made} if made else {}


def _described(item: _DatasetInput) -> DescribedInput:
    told, tags = item.dataset or _Dataset(), once(item.tags, "tags")
    return DescribedInput(
        name=told.name,
        digest=told.digest,
        source_type=told.source_type,
        source=told.source,
        schema=told.schema,
        profile=told.profile,
        context=tags.pop(CONTEXT_TAG, None),
        tags=tags,
    )


def _history_entry(model: dict[str, Any]) -> dict[str, Any]:
    entry = {name: model.get(name) for name in _MODEL_FIELDS}
    if entry["artifact_path"] is None:
        del entry["artifact_path"]
    flavors = model["flavors"]
    if isinstance(flavors, dict):
        flavors = {
            name: {key: value for key, value in told.items() if key != "config"} if isinstance(told, dict) else told
            for name, told in flavors.items()
        }
    return entry | {"flavors": flavors}


def _run_id(given: str | None) -> str:
    if not given:
        raise missing_field("run_id")
    check_run_id(given)
    return given


async def _write(call: Call, run: str, work: Callable[[Connection], None]) -> None:
    try:
        await call.write(work)
    except Gone:
        raise invalid(f"The run {run} must be in the 'active' state. Current state is deleted.") from None
    except NotFound:
        raise missing(f"Run with id={run} not found") from None
    except Conflict as error:
        raise WireError("BAD_REQUEST", error.message) from None
    except InvalidInput as error:
        raise refusal(error) from None


ROUTES = [
    Route("POST", "2.0/mlflow/runs/log-inputs", log_inputs, "inline"),
    Route("POST", "2.0/mlflow/runs/outputs", log_outputs, "inline"),
    Route("POST", "2.0/mlflow/runs/log-model", log_model, "inline"),
    Route("POST", "2.0/mlflow/experiments/search-datasets", search_datasets),
]
