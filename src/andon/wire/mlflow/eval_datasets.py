"""Evaluation datasets and their records. What has a structure travels as JSON inside text, as the protocol has it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from andon.core.errors import InvalidInput, NotFound
from andon.datasets.evaluation import (
    EvaluationDataset,
    create_evaluation_dataset,
    delete_evaluation_dataset,
    experiments_of_dataset,
    get_evaluation_dataset,
    get_evaluation_datasets_in,
    link_experiments,
    remove_evaluation_tag,
    set_evaluation_tags,
)
from andon.datasets.evaluation_records import (
    SOURCE_TYPES,
    EvaluationRecord,
    NewRecord,
    RecordSource,
    delete_records,
    records_of,
    upsert_records,
)
from andon.datasets.evaluation_search import search_evaluation_datasets
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid, missing
from andon.wire.mlflow.logged_models import experiment_number, refusal
from andon.wire.mlflow.messages import required, wrong_value

USER_TAG = "mlflow.user"
MAX_PAGE = 1_000
MAX_RECORDS = 100_000
_SOURCE_IDS = {"TRACE": "trace_id"}


class _Create(msgspec.Struct):
    name: str | None = None
    experiment_ids: list[str] | None = None
    tags: str | None = None


class _Search(msgspec.Struct):
    experiment_ids: list[str] | None = None
    filter_string: str | None = None
    max_results: int | None = None
    order_by: list[str] | None = None
    page_token: str | None = None


class _Tags(msgspec.Struct):
    tags: str | None = None


class _Upsert(msgspec.Struct):
    records: str | None = None


class _Records(msgspec.Struct):
    max_results: int | None = None
    page_token: str | None = None


class _Delete(msgspec.Struct):
    dataset_record_ids: list[str] | None = None


class _Experiments(msgspec.Struct):
    experiment_ids: list[str] | None = None


def create(call: Call) -> dict[str, Any]:
    """A new dataset; its name need not be unique."""
    asked = call.read(_Create)
    required(asked, "name")
    tags = _tags(asked.tags)
    numbers = [_experiment(text) for text in asked.experiment_ids or ()]
    try:
        made = create_evaluation_dataset(
            call.store, asked.name or "", experiments=numbers, tags=tags, by=tags.get(USER_TAG), actor=call.actor
        )
    except NotFound as error:
        raise _no_experiment(error.fields["got"]) from None
    except InvalidInput as error:
        raise refusal(error) from None
    shown = dataset_json(made)
    return {"dataset": shown | {"experiment_ids": [str(one) for one in dict.fromkeys(numbers)]} if numbers else shown}


def get(call: Call) -> dict[str, Any]:
    """One dataset, without its records."""
    dataset = call.path["dataset_id"]
    try:
        return {"dataset": dataset_json(get_evaluation_dataset(call.store, dataset))}
    except NotFound:
        raise missing(f"Evaluation dataset with id '{dataset}' not found") from None


def delete(call: Call) -> None:
    """Delete it with its records; one that is not there is no error."""
    delete_evaluation_dataset(call.store, call.path["dataset_id"], actor=call.actor)


def search(call: Call) -> dict[str, Any]:
    """A page of datasets."""
    asked = call.read(_Search)
    numbers = None if not asked.experiment_ids else [experiment_number(text) for text in asked.experiment_ids]
    with call.store.ledger.read() as connection:
        try:
            page = search_evaluation_datasets(
                connection,
                asked.filter_string,
                asked.order_by,
                experiments=numbers,
                max_results=MAX_PAGE if asked.max_results is None else asked.max_results,
                page_token=asked.page_token or None,
            )
        except InvalidInput as error:
            raise invalid(error.message) from None
        shown = [dataset_json(item) for item in get_evaluation_datasets_in(connection, page.ids)]
    made: dict[str, Any] = {"datasets": shown} if shown else {}
    return made | ({"next_page_token": page.next_page_token} if page.next_page_token else {})


def set_tags(call: Call) -> None:
    """Set tags; nulls are passed over."""
    asked, dataset = call.read(_Tags), call.path["dataset_id"]
    required(asked, "tags")
    try:
        set_evaluation_tags(call.store, dataset, _tags(asked.tags), actor=call.actor)
    except NotFound:
        raise missing(f"Could not find evaluation dataset with ID {dataset}") from None
    except InvalidInput as error:
        raise refusal(error) from None


def delete_tag(call: Call) -> None:
    """Remove a tag, if it is there."""
    remove_evaluation_tag(call.store, call.path["dataset_id"], call.path["key"], actor=call.actor)


def upsert(call: Call) -> dict[str, int]:
    """Add records, or merge them into those with the same inputs."""
    asked, dataset = call.read(_Upsert), call.path["dataset_id"]
    required(asked, "records")
    given = _json(asked.records, "records")
    if not isinstance(given, list) and given != {}:
        raise invalid("Invalid value for parameter 'records': it is a list of objects in JSON")
    if len(given) > MAX_RECORDS:
        raise invalid(f"Invalid value for parameter 'records': at most {MAX_RECORDS} in one request")
    records = [_new_record(item, n) for n, item in enumerate(given)]
    try:
        added, merged = upsert_records(call.store, dataset, records, actor=call.actor)
    except NotFound:
        raise WireError("BAD_REQUEST", f"Evaluation dataset with id '{dataset}' not found") from None
    except InvalidInput as error:
        raise refusal(error) from None
    return {"inserted_count": added, "updated_count": merged}


def get_records(call: Call) -> dict[str, str]:
    """A page of records, in order of creation."""
    asked = call.read(_Records)
    limit, after = asked.max_results or MAX_PAGE, asked.page_token or ""
    if not 0 < limit <= 50 * MAX_PAGE:
        raise wrong_value("max_results", limit, f"It must be at least 1 and at most {50 * MAX_PAGE}")
    if after and not after.startswith("dr-"):
        raise invalid("Invalid page token: it is not one that this server gave out")
    found = records_of(call.store, call.path["dataset_id"], limit=limit + 1, after=after)
    shown = {"records": json.dumps([record_json(item) for item in found[:limit]])}
    return shown | ({"next_page_token": found[limit - 1].id} if len(found) > limit else {})


def delete_some(call: Call) -> dict[str, int]:
    """Delete records by id."""
    wanted = call.read(_Delete).dataset_record_ids or []
    return {"deleted_count": delete_records(call.store, call.path["dataset_id"], list(dict.fromkeys(wanted)), actor=call.actor)}


def experiment_ids(call: Call) -> dict[str, list[str]]:
    """The experiments that a dataset is about."""
    found = [str(number) for number in experiments_of_dataset(call.store, call.path["dataset_id"])]
    return {"experiment_ids": found} if found else {}


def add_experiments(call: Call) -> dict[str, Any]:
    """Say that it is about these experiments too."""
    return _link(call, linked=True)


def remove_experiments(call: Call) -> dict[str, Any]:
    """Say that it is not about these experiments."""
    return _link(call, linked=False)


def _link(call: Call, *, linked: bool) -> dict[str, Any]:
    dataset = call.path["dataset_id"]
    texts = call.read(_Experiments).experiment_ids or ()
    numbers = [_experiment(text) for text in texts if linked or text.isdecimal()]
    try:
        return {"dataset": dataset_json(link_experiments(call.store, dataset, numbers, linked=linked, actor=call.actor))}
    except NotFound as error:
        if error.fields["field"] == "experiment_id":
            raise _no_experiment(error.fields["got"]) from None
        raise missing(f"Dataset '{dataset}' not found") from None


def dataset_json(item: EvaluationDataset) -> dict[str, Any]:
    """A dataset as the protocol shows it."""
    made: dict[str, Any] = {"dataset_id": item.id, "name": item.name, "tags": json.dumps(item.tags)}
    if item.fields is not None:
        made["schema"] = json.dumps(item.fields)
    if item.records:
        made["profile"] = json.dumps({"num_records": item.records})
    made |= {"digest": item.digest, "created_time": item.created_us // 1000, "last_update_time": item.changed_us // 1000}
    for name, value in (("created_by", item.created_by), ("last_updated_by", item.changed_by)):
        if value is not None:
            made[name] = value
    return made


def record_json(item: EvaluationRecord) -> dict[str, Any]:
    """A record as the protocol shows it."""
    made: dict[str, Any] = {"dataset_record_id": item.id, "dataset_id": item.dataset, "inputs": item.inputs}
    if item.expectations is not None:
        made["expectations"] = item.expectations
    made["tags"] = item.tags
    if item.source is not None:
        made["source"] = {"source_type": item.source.type, "source_data": item.source.data}
        identity = item.source.data.get(_SOURCE_IDS.get(item.source.type, "source_id"))
        if identity:
            made["source_id"] = str(identity)
        made["source_type"] = item.source.type
    made |= {"created_time": item.created_us // 1000, "last_update_time": item.changed_us // 1000}
    for name, value in (("created_by", item.created_by), ("last_updated_by", item.changed_by), ("outputs", item.outputs)):
        if value is not None:
            made[name] = value
    return made


def _new_record(item: Any, n: int) -> NewRecord:
    if not isinstance(item, dict):
        raise _bad(n, "it is not an object")
    inputs = item.get("inputs", {})
    tags, expectations, source = item.get("tags"), item.get("expectations"), item.get("source")
    if not isinstance(inputs, dict):
        raise _bad(n, "its 'inputs' are not an object")
    for name, value in (("tags", tags), ("expectations", expectations)):
        if value is not None and not isinstance(value, dict):
            raise _bad(n, f"its '{name}' are not an object")
    by = (tags or {}).get(USER_TAG)
    return NewRecord(
        inputs=inputs,
        outputs=item.get("outputs", msgspec.UNSET),
        expectations=expectations,
        tags=tags,
        source=_source(source, n) if source else None,
        by=str(by)[:250] if by is not None else None,
    )


def _source(given: Any, n: int) -> RecordSource:
    if not isinstance(given, dict) or not isinstance(given.get("source_type"), str) or set(given) - {"source_type", "source_data"}:
        raise _bad(n, "its 'source' is an object with a 'source_type' and 'source_data'")
    kind, data = given["source_type"].upper(), given.get("source_data")
    if kind not in SOURCE_TYPES:
        raise invalid(f"Invalid dataset record source type: {kind[:80]}. Valid source types: {list(SOURCE_TYPES)}")
    if data is not None and not isinstance(data, dict):
        raise _bad(n, "its 'source_data' is not an object")
    return RecordSource(type=kind, data=data or {})


def _bad(n: int, why: str) -> WireError:
    return invalid(f"Invalid value for parameter 'records[{n}]': {why}")


def _tags(text: str | None) -> dict[str, str]:
    given = _json(text, "tags") if text else {}
    if not isinstance(given, dict) and given != []:
        raise invalid("Invalid value for parameter 'tags': it is an object in JSON")
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in dict(given).items() if value is not None}


def _json(text: str | None, field: str) -> Any:
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        raise invalid(f"Invalid value for parameter '{field}': it is not JSON") from None


def _experiment(text: str) -> int:
    try:
        return experiment_number(text)
    except WireError:
        raise _no_experiment(text) from None


def _no_experiment(text: object) -> WireError:
    return missing(f"No Experiment with id={str(text)[:80]}")


_AT = "3.0/mlflow/datasets"
_ONE = _AT + "/{dataset_id}"


ROUTES = [
    Route("POST", _AT + "/create", create),
    Route("POST", _AT + "/search", search),
    Route("GET", _AT + "/search", search),
    Route("GET", _ONE, get),
    Route("DELETE", _ONE, delete),
    Route("PATCH", _ONE + "/tags", set_tags),
    Route("DELETE", _ONE + "/tags/{key:path}", delete_tag),
    Route("POST", _ONE + "/records", upsert),
    Route("GET", _ONE + "/records", get_records),
    Route("DELETE", _ONE + "/records", delete_some),
    Route("GET", _ONE + "/experiment-ids", experiment_ids),
    Route("POST", _ONE + "/add-experiments", add_experiments),
    Route("POST", _ONE + "/remove-experiments", remove_experiments),
]
