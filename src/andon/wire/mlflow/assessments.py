"""Assessments of traces: feedback, expectations, references to issues."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from andon.logs import assessments as said
from andon.logs.assessments import Assessment
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import invalid, plainly
from andon.wire.mlflow.messages import missing_field
from andon.wire.mlflow.trace_rendering import assessment_json, timestamp_us

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SOURCES = ("HUMAN", "LLM_JUDGE", "CODE", "SOURCE_TYPE_UNSPECIFIED")
_OLD_SOURCES = {"AI_JUDGE": "LLM_JUDGE"}
MAX_NAME = 250


class _Source(msgspec.Struct):
    source_type: str | None = None
    source_id: str | None = None


class _Error(msgspec.Struct):
    error_code: str | None = None
    error_message: str | None = None
    stack_trace: str | None = None


class _Feedback(msgspec.Struct):
    value: Any = None
    error: _Error | None = None


class _Serialized(msgspec.Struct):
    serialization_format: str | None = None
    value: str = "null"


class _Expectation(msgspec.Struct):
    value: Any = None
    serialized_value: _Serialized | None = None


class _Issue(msgspec.Struct):
    issue_name: str | None = None


class Given(msgspec.Struct):
    """An assessment as a client sends it."""

    assessment_id: str | None = None
    assessment_name: str | None = None
    span_id: str | None = None
    source: _Source | None = None
    create_time: str | None = None
    last_update_time: str | None = None
    feedback: _Feedback | None = None
    expectation: _Expectation | None = None
    issue: _Issue | None = None
    rationale: str | None = None
    error: _Error | None = None
    metadata: dict[str, str] | None = None
    overrides: str | None = None
    valid: bool | None = None


class _Create(msgspec.Struct):
    assessment: Given | None = None


class _Update(msgspec.Struct):
    assessment: Given | None = None
    update_mask: str | None = None


def record(given: Given, trace: str, now_us: int) -> Assessment:
    """What is kept of an assessment. Raises ``WireError`` naming what it lacks."""
    kind, value, error = _said(given)
    if not given.assessment_name:
        raise missing_field("assessment.assessment_name")
    if len(given.assessment_name) > MAX_NAME:
        raise invalid(f"'assessment_name' exceeds the maximum length of {MAX_NAME} characters")
    source = given.source or _Source()
    source_type = (source.source_type or "SOURCE_TYPE_UNSPECIFIED").upper()
    source_type = _OLD_SOURCES.get(source_type, source_type)
    if source_type not in _SOURCES:
        raise invalid(f"Invalid assessment source type: {source_type[:80]}. Valid source types: {list(_SOURCES)}")
    created_us = timestamp_us(given.create_time, "create_time") if given.create_time else now_us
    return Assessment(
        id=given.assessment_id or f"a-{uuid.uuid4().hex}",
        trace=trace,
        kind=kind,
        name=given.assessment_name,
        value=value,
        error=error,
        source_type=source_type,
        source_id=source.source_id,
        span=given.span_id or None,
        rationale=given.rationale or None,
        overrides=given.overrides or None,
        facts=given.metadata or None,
        run=(given.metadata or {}).get("mlflow.assessment.sourceRunId"),
        created_us=created_us,
        changed_us=timestamp_us(given.last_update_time, "last_update_time") if given.last_update_time else created_us,
    )


def _said(given: Given) -> tuple[str, Any, dict[str, str] | None]:
    """Kind, value and error."""
    if given.feedback is not None:
        return said.FEEDBACK, given.feedback.value, _error(given.feedback.error or given.error)
    if given.expectation is not None:
        return said.EXPECTATION, _expected(given.expectation), None
    if given.issue is not None:
        return said.ISSUE, {"issue_name": given.issue.issue_name}, None
    raise invalid("Unknown assessment type: None")


def _expected(given: _Expectation) -> Any:
    packed = given.serialized_value
    if packed is None:
        return given.value
    if packed.serialization_format not in (None, "JSON_FORMAT"):
        raise invalid(f"Unknown serialization format: {packed.serialization_format[:80]}. Only JSON_FORMAT is supported.")
    try:
        return msgspec.json.decode(packed.value)
    except msgspec.DecodeError:
        raise invalid("Invalid value for parameter 'assessment.expectation.serialized_value.value': it is not JSON") from None


def _error(given: _Error | None) -> dict[str, str] | None:
    return None if given is None else {key: value for key, value in msgspec.structs.asdict(given).items() if value is not None}


async def create(call: Call) -> dict[str, Any]:
    """``POST 3.0/mlflow/traces/{id}/assessments``."""
    message = call.read(_Create)
    if message.assessment is None:
        raise missing_field("assessment")
    made = record(message.assessment, call.path["trace_id"], call.store.clock.now_us())
    await call.write(lambda connection: said.put_in(connection, made))
    return {"assessment": assessment_json(made)}


async def get(call: Call) -> dict[str, Any]:
    """``GET 3.0/mlflow/traces/{id}/assessments/{id}``."""

    def read(connection: Connection) -> Assessment:
        return said.get_in(connection, call.path["trace_id"], call.path["assessment_id"])

    return {"assessment": assessment_json(await call.look(read))}


async def update(call: Call) -> dict[str, Any]:
    """``PATCH 3.0/mlflow/traces/{id}/assessments/{id}``: changes what the mask names; metadata is added to."""
    message = call.read(_Update)
    given = message.assessment
    if given is None:
        raise missing_field("assessment")
    if not message.update_mask:
        raise missing_field("update_mask")
    paths = {path.strip().replace("assessmentName", "assessment_name") for path in message.update_mask.split(",")}
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> Assessment:
        item = said.get_in(connection, call.path["trace_id"], call.path["assessment_id"])
        if "assessment_name" in paths and given.assessment_name:
            item.name = given.assessment_name
        if "expectation" in paths and given.expectation is not None:
            if item.kind != said.EXPECTATION:
                raise invalid("Cannot update expectation value on a Feedback assessment.")
            item.value = _expected(given.expectation)
        if "feedback" in paths and given.feedback is not None:
            if item.kind != said.FEEDBACK:
                raise invalid("Cannot update feedback value on an Expectation assessment.")
            item.value, item.error = given.feedback.value, _error(given.feedback.error)
        if "rationale" in paths and item.kind == said.FEEDBACK:
            item.rationale = given.rationale
        if "metadata" in paths:
            item.facts = (item.facts or {}) | (given.metadata or {})
        item.changed_us = now_us
        said.write_in(connection, item)
        return item

    return {"assessment": assessment_json(await call.write(work))}


async def delete(call: Call) -> None:
    """``DELETE 3.0/mlflow/traces/{id}/assessments/{id}``."""
    await call.write(lambda connection: said.delete_in(connection, call.path["trace_id"], call.path["assessment_id"]))


_ONE = "3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}"
ROUTES = [
    Route("POST", "3.0/mlflow/traces/{trace_id}/assessments", plainly(create), "inline"),
    Route("GET", _ONE, plainly(get), "inline"),
    Route("PATCH", _ONE, plainly(update), "inline"),
    Route("DELETE", _ONE, plainly(delete), "inline"),
]
