"""Traces: told, read with their spans, tagged, linked, deleted. Searching is in ``trace_search``, spans come in by ``wire.otlp``."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.logs import traces as kept
from andon.logs.assessments import write_in
from andon.logs.traces import IN_PROGRESS, TraceRecord
from andon.store.statements import rows_of
from andon.telemetry.spans import spans_of
from andon.wire.mlflow import assessments as judging
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid, missing, plainly
from andon.wire.mlflow.limits import MAX_TAG_VALUE, check_key, fitted
from andon.wire.mlflow.messages import missing_field, required
from andon.wire.mlflow.trace_rendering import (
    ARTIFACTS,
    LOCATION,
    NAME,
    SESSION,
    STATES,
    duration_us,
    info_v2_json,
    infos_json,
    roots_in,
    timestamp_us,
    trace_json,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

MAX_LINKS = 100
FINALIZED, SIZES = "mlflow.trace.infoFinalized", "mlflow.trace.sizeStats"
_FIXED_TAGS = (LOCATION, "mlflow.trace.archiveLocation", "mlflow.trace.archivalFailure")
_WAITS_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""A client may ask for a trace before the last of its spans, sent at the same time, is here."""
_OURS = {shown: state for state, shown in STATES.items()}
_CLIENT = re.compile(rb"mlflow-python-client/(\d+)\.(\d+)")


class _Experiment(msgspec.Struct):
    experiment_id: str = ""


class Location(msgspec.Struct):
    """Where a trace is."""

    type: str | None = None
    mlflow_experiment: _Experiment | None = None


class _Info(msgspec.Struct):
    trace_id: str | None = None
    client_request_id: str | None = None
    trace_location: Location | None = None
    request_time: str | None = None
    execution_duration: str | None = None
    state: str | None = None
    trace_metadata: dict[str, str] | None = None
    tags: dict[str, str] | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    assessments: list[judging.Given] | None = None


class _Trace(msgspec.Struct):
    trace_info: _Info | None = None


class _Start(msgspec.Struct):
    trace: _Trace | None = None


class _Pair(msgspec.Struct):
    key: str = ""
    value: str = ""


class _StartV2(msgspec.Struct):
    experiment_id: str | None = None
    timestamp_ms: int | None = None
    status: str | None = None
    request_metadata: list[_Pair] | None = None
    tags: list[_Pair] | None = None


class _Get(msgspec.Struct):
    trace_id: str | None = None
    allow_partial: bool | None = None


class _Batch(msgspec.Struct):
    trace_ids: list[str] | None = None
    experiment_ids: list[str] | None = None


class _Delete(msgspec.Struct):
    experiment_id: str | None = None
    max_timestamp_millis: int | None = None
    max_traces: int | None = None
    request_ids: list[str] | None = None


class _Prompt(msgspec.Struct):
    name: str = ""
    version: str = ""


class _Link(msgspec.Struct):
    trace_ids: list[str] | None = None
    run_id: str | None = None
    trace_id: str | None = None
    prompt_versions: list[_Prompt] | None = None


# --- told


async def start(call: Call) -> dict[str, Any]:
    """``POST 3.0/mlflow/traces``: a client tells of a trace that is over."""
    message = call.read(_Start)
    if message.trace is None:
        raise missing_field("trace")
    info = message.trace.trace_info or _Info()
    if not info.trace_id:
        raise missing_field("trace.trace_info.trace_id")
    if len(info.trace_id) > 250:
        raise invalid("'trace_id' exceeds the maximum length of 250 characters")
    where = info.trace_location
    if where is None or where.mlflow_experiment is None or where.type not in ("MLFLOW_EXPERIMENT", "1"):
        raise invalid("Trace location type does not match the provided location: a trace belongs to an experiment.")
    number = experiment_number(where.mlflow_experiment.experiment_id)
    facts = dict(info.trace_metadata or {})
    tags = {key: value for key, value in (info.tags or {}).items() if key not in (LOCATION, ARTIFACTS)}
    now_us = call.store.clock.now_us()
    requested_us = timestamp_us(info.request_time, "request_time") if info.request_time else 0
    told = TraceRecord(
        id=info.trace_id,
        experiment=number,
        state=_OURS.get(info.state or "STATE_UNSPECIFIED", kept.UNSPECIFIED),
        requested_us=requested_us,
        execution_us=duration_us(info.execution_duration) if info.execution_duration else None,
        name=tags.pop(NAME, None),
        session=facts.pop(SESSION, None),
        client_request_id=info.client_request_id,
        request_preview=info.request_preview,
        response_preview=info.response_preview,
        facts=facts | {FINALIZED: "true"},
        tags=tags,
    )
    judged = [judging.record(item, told.id, now_us) for item in info.assessments or ()]
    here = _sends_spans(call)

    def work(connection: Connection) -> dict[str, Any]:
        check_experiment_in(connection, number)
        record = kept.tell_trace_in(connection, told)
        for item in judged:
            write_in(connection, item)
        return infos_json(connection, [record], here=here)[0]

    return {"trace": {"trace_info": await call.write(work)}}


def _sends_spans(call: Call) -> bool:
    """Whether this client exports spans by OTLP whatever we answer, so that it need not upload them as a file, too."""
    found = _CLIENT.match(call.headers.get(b"user-agent", b""))
    return found is not None and (int(found[1]), int(found[2])) >= (3, 6)


def experiment_number(text: str | None) -> int:
    """An experiment's id as a number. Raises ``WireError``."""
    if not text:
        raise missing_field("experiment_id")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise invalid(f"Invalid experiment ID {text[:80]!r}. Experiment ID must be a valid integer.")
    return int(text)


def check_experiment_in(connection: Connection, number: int) -> None:
    """Raise ``WireError`` unless there is such an experiment, and it is active."""
    found = rows_of(connection, "select deleted_us from experiments where id = ?", (number,))
    if not found:
        raise missing(f"No Experiment with id={number} exists")
    if found[0][0] is not None:
        raise invalid(f"The experiment {number} must be in the 'active' state. Current state is deleted.")


async def start_v2(call: Call) -> dict[str, Any]:
    """``POST 2.0/mlflow/traces``: clients before 3.0 tell that a trace begins."""
    message = call.read(_StartV2)
    number = experiment_number(message.experiment_id)
    facts, tags = _pairs(message.request_metadata), _pairs(message.tags)
    told = TraceRecord(
        id=uuid.uuid4().hex,
        experiment=number,
        state=IN_PROGRESS,
        requested_us=(message.timestamp_ms or 0) * 1000,
        name=tags.pop(NAME, None),
        session=facts.pop(SESSION, None),
        facts=facts,
        tags=tags,
    )

    def work(connection: Connection) -> dict[str, Any]:
        check_experiment_in(connection, number)
        record = kept.tell_trace_in(connection, told)
        return info_v2_json(record, roots_in(connection, [record])[number])

    return {"trace_info": await call.write(work)}


async def end_v2(call: Call) -> dict[str, Any]:
    """``PATCH 2.0/mlflow/traces/{id}``: … and that it is over."""
    message = call.read(_StartV2)
    facts, tags = _pairs(message.request_metadata), _pairs(message.tags)
    state = _OURS.get((message.status or "").replace("TRACE_STATUS_", "STATE_"), kept.UNSPECIFIED)

    def work(connection: Connection) -> dict[str, Any]:
        record = kept.get_trace_in(connection, call.path["request_id"])
        record.execution_us = (message.timestamp_ms or 0) * 1000 - record.requested_us
        record.state = state
        record.name = tags.pop(NAME, None) or record.name
        record.session = facts.pop(SESSION, None) or record.session
        record.facts |= facts
        record.tags |= tags
        kept.put_in(connection, [record])
        return info_v2_json(record, roots_in(connection, [record])[record.experiment])

    return {"trace_info": await call.write(work)}


def _pairs(given: Sequence[_Pair] | None) -> dict[str, str]:
    return {pair.key: pair.value for pair in given or ()}


# --- read


async def get_info(call: Call) -> dict[str, Any]:
    """``GET 3.0/mlflow/traces/{id}``."""

    def read(connection: Connection) -> dict[str, Any]:
        return infos_json(connection, [kept.get_trace_in(connection, call.path["trace_id"])])[0]

    return {"trace": {"trace_info": await call.look(read)}}


async def get_info_v2(call: Call) -> dict[str, Any]:
    """``GET 2.0/mlflow/traces/{id}/info``."""

    def read(connection: Connection) -> dict[str, Any]:
        record = kept.get_trace_in(connection, call.path["request_id"])
        return info_v2_json(record, roots_in(connection, [record])[record.experiment])

    return {"trace_info": await call.look(read)}


async def get(call: Call) -> bytes:
    """``GET 3.0/mlflow/traces/get``: a trace with its spans, once they are all here."""
    message = call.read(_Get)
    if not message.trace_id:
        raise missing_field("trace_id")
    for wait_s in (*_WAITS_S, None):
        found = await asyncio.to_thread(_read, call, [message.trace_id], None, partial=bool(message.allow_partial))
        if found is None:
            raise missing(f"Trace with ID {message.trace_id} is not found.")
        if found:
            return msgspec.json.encode({"trace": found[0]})
        if wait_s is not None:
            await asyncio.sleep(wait_s)
    raise missing(f"Trace with ID {message.trace_id} is not fully exported yet, please try again later.")


def batch_get(call: Call) -> bytes:
    """``GET 3.0/mlflow/traces/batchGet``: those that are there and complete."""
    message = call.read(_Batch)
    if not message.trace_ids:
        raise missing_field("trace_ids")
    return msgspec.json.encode({"traces": _read(call, message.trace_ids, message.experiment_ids, many=True) or []})


def batch_get_infos(call: Call) -> dict[str, Any]:
    """``POST 3.0/mlflow/traces/batchGetInfos``: records without spans."""
    message = call.read(_Batch)
    if not message.trace_ids:
        raise missing_field("trace_ids")
    with call.store.ledger.read() as connection:
        return {"trace_infos": infos_json(connection, _wanted(connection, message.trace_ids, message.experiment_ids))}


def _wanted(connection: Connection, ids: Sequence[str], experiments: Sequence[str] | None) -> list[TraceRecord]:
    found = kept.traces_in(connection, ids)
    within = None if experiments is None else {experiment_number(text) for text in experiments}
    unique = dict.fromkeys(ids)
    return [found[one] for one in unique if one in found and (within is None or found[one].experiment in within)]


def _read(
    call: Call, ids: Sequence[str], experiments: Sequence[str] | None, *, partial: bool = False, many: bool = False
) -> list[dict[str, Any]] | None:
    """Traces with their spans, those that are complete; None when there is no such trace."""
    with call.store.ledger.read() as connection:
        records = _wanted(connection, ids, experiments)
        infos = infos_json(connection, records)
    if not records:
        return None
    if not many and records[0].first_us is None and SIZES not in records[0].facts:
        raise WireError("INTERNAL_ERROR", "Trace data not stored in tracking store")
    spans = spans_of(call.store, records)
    return [
        trace_json(info, spans.get(record.id, ()))
        for record, info in zip(records, infos, strict=True)
        if partial or _complete(record, len(spans.get(record.id, ())))
    ]


def _complete(record: TraceRecord, n: int) -> bool:
    try:
        expected = json.loads(record.facts.get(SIZES, "{}")).get("num_spans", 1)
    except (ValueError, AttributeError):
        expected = 1
    return n >= (expected if isinstance(expected, int) else 1) and n > 0


# --- changed


async def set_tag(call: Call) -> None:
    """``PATCH …/traces/{id}/tags``."""
    pair = call.read(_Pair)
    required(pair, "key")
    _check_fixed(pair.key, "set")
    check_key(pair.key, "key", "key")
    trace = call.path.get("trace_id") or call.path["request_id"]
    if pair.key == NAME:
        if len(pair.value) > 4_096:
            raise invalid("'Trace name' exceeds the maximum length of 4096 characters")
        await call.write(lambda connection: kept.name_trace_in(connection, trace, pair.value))
        return
    value = fitted(pair.value, "value", MAX_TAG_VALUE)
    await call.write(lambda connection: kept.set_tags_in(connection, trace, {pair.key: value}))


async def delete_tag(call: Call) -> None:
    """``DELETE …/traces/{id}/tags``: the key comes in the body, or in the query."""
    pair = call.read(_Pair)
    key = pair.key or next(iter(call.query.get("key", ())), "")
    if not key:
        raise missing_field("key")
    if key != _FIXED_TAGS[2]:
        _check_fixed(key, "deleted")
    trace = call.path.get("trace_id") or call.path["request_id"]
    if key == NAME:

        def unname(connection: Connection) -> None:
            if kept.get_trace_in(connection, trace).name is None:
                raise missing(f"No trace tag with key '{key}' for trace with ID '{trace}'")
            kept.name_trace_in(connection, trace, None)

        await call.write(unname)
        return
    await call.write(lambda connection: kept.set_tags_in(connection, trace, {key: None}))


def _check_fixed(key: str, what: str) -> None:
    if key in _FIXED_TAGS:
        raise invalid(f"Tag '{key}' is immutable and cannot be {what} on a trace.")


async def delete(call: Call) -> dict[str, Any]:
    """``POST …/traces/delete-traces``: by id, or up to a time."""
    message = call.read(_Delete)
    number = experiment_number(message.experiment_id)
    ids, until = message.request_ids or [], message.max_timestamp_millis
    if not ids and until is None:
        raise invalid("Either `max_timestamp_millis` or `trace_ids` must be specified.")
    if ids and until is not None:
        raise invalid("Only one of `max_timestamp_millis` and `trace_ids` can be specified.")
    if ids and message.max_traces is not None:
        raise invalid("`max_traces` can't be specified if `trace_ids` is specified.")
    if message.max_traces is not None and message.max_traces <= 0:
        raise invalid(f"`max_traces` must be a positive integer, received {message.max_traces}.")
    now_us = call.store.clock.now_us()
    until_us = None if until is None else until * 1000 + 999
    gone = await call.write(
        lambda connection: kept.delete_traces_in(connection, number, now_us=now_us, ids=ids, until_us=until_us, at_most=message.max_traces)
    )
    return {"traces_deleted": gone}


async def link_to_run(call: Call) -> None:
    """``POST 2.0/mlflow/traces/link-to-run``."""
    message = call.read(_Link)
    if not message.trace_ids:
        raise missing_field("trace_ids")
    required(message, "run_id")
    ids = message.trace_ids
    if len(ids) > MAX_LINKS:
        raise invalid(f"Cannot link more than {MAX_LINKS} traces to a run in a single request. Provided {len(ids)} traces.")
    await call.write(lambda connection: kept.link_in(connection, ids, [f"run:{message.run_id}"]))


async def link_prompts(call: Call) -> None:
    """``POST 2.0/mlflow/traces/link-prompts``."""
    message = call.read(_Link)
    required(message, "trace_id")
    if not message.prompt_versions:
        raise missing_field("prompt_versions")
    trace, prompts = str(message.trace_id), [f"prompt:{prompt.name}@{prompt.version}" for prompt in message.prompt_versions]

    def work(connection: Connection) -> None:
        kept.get_trace_in(connection, trace)
        kept.link_in(connection, [trace], prompts)

    await call.write(work)


_TAGS = [
    Route(method, f"{version}/mlflow/traces/{{{name}}}/tags", plainly(handler), "inline")
    for version, name in (("2.0", "request_id"), ("3.0", "trace_id"))
    for method, handler in (("PATCH", set_tag), ("DELETE", delete_tag))
]
ROUTES = [
    Route("POST", "3.0/mlflow/traces", plainly(start), "inline"),
    Route("POST", "2.0/mlflow/traces", plainly(start_v2), "inline"),
    Route("PATCH", "2.0/mlflow/traces/{request_id}", plainly(end_v2), "inline"),
    Route("GET", "2.0/mlflow/traces/{request_id}/info", plainly(get_info_v2), "inline"),
    Route("GET", "3.0/mlflow/traces/get", plainly(get), "inline"),
    Route("GET", "3.0/mlflow/traces/batchGet", batch_get),
    Route("POST", "3.0/mlflow/traces/batchGetInfos", batch_get_infos),
    Route("GET", "3.0/mlflow/traces/{trace_id}", plainly(get_info), "inline"),
    Route("POST", "2.0/mlflow/traces/delete-traces", plainly(delete), "inline"),
    Route("POST", "3.0/mlflow/traces/delete-traces", plainly(delete), "inline"),
    Route("POST", "2.0/mlflow/traces/link-to-run", plainly(link_to_run), "inline"),
    Route("POST", "2.0/mlflow/traces/link-prompts", plainly(link_prompts), "inline"),
    *_TAGS,
]
