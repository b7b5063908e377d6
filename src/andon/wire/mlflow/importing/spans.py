"""Traces: the spans go in as any exporter's do, the record as a client tells it; both may be told twice."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from andon.store import Store
from andon.wire.mlflow import traces
from andon.wire.mlflow.calls import Call
from andon.wire.mlflow.importing.moving import Mover
from andon.wire.mlflow.importing.records import Trace
from andon.wire.otlp.receiving import PROTOBUF, keep

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

_STATUS = {"STATUS_CODE_UNSET": 0, "STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}
_KEPT = ("trace_id", "client_request_id", "request_preview", "response_preview", "state", "tags", "trace_metadata")


def move_trace(mover: Mover, told: Trace, experiment: int) -> None:
    """One trace, its assessments with it. Raises what the endpoints raise."""
    if has_trace(mover.store, told.id):
        mover.moved.skipped += 1
        return
    store = mover.store
    number = str(experiment).encode()
    spans = told.spans()
    if spans:
        call = Call(store, store.settings, mover.actor, "POST", {}, b"", {b"x-mlflow-experiment-id": number})
        keep(call, _message(spans), PROTOBUF)
    body = msgspec.json.encode({"trace": {"trace_info": _info(told, experiment)}})
    asyncio.run(traces.start(Call(store, store.settings, mover.actor, "POST", {}, b"", {}, body=body)))
    mover.moved.traces += 1


def has_trace(store: Store, identity: str) -> bool:
    """Whether a trace was told here before, whole."""
    with store.ledger.read() as connection:
        return (
            connection.exec_driver_sql(
                "select 1 from traces where id = " + ("?" if connection.dialect.paramstyle == "qmark" else "%s") + " and told = 1",
                (identity,),
            ).first()
            is not None
        )


def _info(told: Trace, experiment: int) -> dict[str, Any]:
    info = {key: told.info[key] for key in _KEPT if told.info.get(key) is not None}
    info["trace_location"] = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": str(experiment)}}
    at_ms, lasted_ms = told.info.get("request_time_ms"), told.info.get("execution_duration_ms")
    info["request_time"] = told.info.get("request_time") if at_ms is None else _stamp(at_ms)
    info["execution_duration"] = told.info.get("execution_duration") if lasted_ms is None else f"{lasted_ms / 1e3:.3f}s"
    info["assessments"] = [_assessment(one) for one in told.info.get("assessments", [])]
    return {key: value for key, value in info.items() if value is not None}


def _assessment(row: dict[str, Any]) -> dict[str, Any]:
    """The protocol's JSON from a row of the SQL store; what is JSON already goes as it is."""
    if "assessment_type" not in row:
        return row
    value = msgspec.json.decode(row["value"]) if row.get("value") else None
    made: dict[str, Any] = {
        "assessment_id": row["assessment_id"],
        "assessment_name": row["name"],
        "trace_id": row["trace_id"],
        "source": {"source_type": row["source_type"], "source_id": row["source_id"]},
        "create_time": _stamp(row["created_timestamp"]),
        "last_update_time": _stamp(row["last_updated_timestamp"]),
        "span_id": row.get("span_id"),
        "rationale": row.get("rationale"),
        "metadata": msgspec.json.decode(row["assessment_metadata"]) if row.get("assessment_metadata") else None,
        "overrides": row.get("overrides"),
        "valid": bool(row.get("valid", True)),
        row["assessment_type"]: {"value": value},
    }
    if row.get("error"):
        made[row["assessment_type"]]["error"] = msgspec.json.decode(row["error"])
    return {key: item for key, item in made.items() if item is not None}


def _stamp(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1e3, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(spans: Sequence[dict[str, Any]]) -> bytes:
    """The spans as OTLP's own message."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    message = ExportTraceServiceRequest()
    scope = message.resource_spans.add().scope_spans.add()
    for span in spans:
        _fill(scope.spans.add(), span)
    return bytes(message.SerializeToString())


def _fill(made: Span, span: dict[str, Any]) -> None:
    made.trace_id, made.span_id = base64.b64decode(span["trace_id"]), base64.b64decode(span["span_id"])
    if span.get("parent_span_id"):
        made.parent_span_id = base64.b64decode(span["parent_span_id"])
    made.name = span.get("name", "")
    made.start_time_unix_nano = int(span.get("start_time_unix_nano") or 0)
    made.end_time_unix_nano = int(span.get("end_time_unix_nano") or 0)
    status = span.get("status") or {}
    code = status.get("code", 0)
    made.status.code = code if isinstance(code, int) else _STATUS.get(code, 0)  # type: ignore[assignment]
    made.status.message = status.get("message") or ""
    for key, value in _pairs(span.get("attributes")):
        pair = made.attributes.add()
        pair.key = key
        _set(pair.value, value)
    for event in span.get("events") or ():
        told = made.events.add()
        told.name, told.time_unix_nano = event.get("name", ""), int(event.get("time_unix_nano") or 0)
        for key, value in _pairs(event.get("attributes")):
            pair = told.attributes.add()
            pair.key = key
            _set(pair.value, value)
    for link in span.get("links") or ():
        other = made.links.add()
        other.trace_id, other.span_id = base64.b64decode(link["trace_id"]), base64.b64decode(link["span_id"])


def _pairs(attributes: Any) -> list[tuple[str, Any]]:
    """Attributes come as a mapping of texts from files and SQL, and as OTLP's list of pairs from a server."""
    if isinstance(attributes, dict):
        return list(attributes.items())
    return [(pair["key"], _plain(pair.get("value") or {})) for pair in attributes or ()]


def _plain(value: dict[str, Any]) -> Any:
    for kind, said in value.items():
        if kind == "array_value":
            return [_plain(item) for item in said.get("values", [])]
        if kind == "kvlist_value":
            return {pair["key"]: _plain(pair.get("value") or {}) for pair in said.get("values", [])}
        return int(said) if kind == "int_value" else said
    return None


def _set(target: AnyValue, value: Any) -> None:
    if isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int):
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, list):
        target.array_value.SetInParent()
        for item in value:
            _set(target.array_value.values.add(), item)
    elif isinstance(value, dict):
        target.kvlist_value.SetInParent()
        for key, item in value.items():
            pair = target.kvlist_value.values.add()
            pair.key = key
            _set(pair.value, item)
    elif value is not None:
        target.string_value = str(value)
