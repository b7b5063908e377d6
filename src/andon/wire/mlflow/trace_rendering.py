"""Traces as the protocol shows them: records, spans and assessments to JSON, and its times to ours."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from andon.core.clocks import SECOND_US
from andon.logs import assessments as said
from andon.logs.assessments import Assessment
from andon.logs.traces import ERROR, IN_PROGRESS, OK, TOKENS, UNSPECIFIED, TraceRecord, tokens_of
from andon.store.statements import places, rows_of
from andon.wire.mlflow.errors import invalid
from andon.wire.otlp import conventions as names

if TYPE_CHECKING:
    from sqlalchemy import Connection

STATES = {OK: "OK", ERROR: "ERROR", IN_PROGRESS: "IN_PROGRESS", UNSPECIFIED: "STATE_UNSPECIFIED"}
NAME, SESSION, REQUEST_ID = "mlflow.traceName", "mlflow.trace.session", "mlflow.traceRequestId"
LOCATION, ARTIFACTS = "mlflow.trace.spansLocation", "mlflow.artifactLocation"
HERE = "TRACKING_STORE"
MAX_FACT, MAX_TAG = 250, 4_096
_STATUS = {"ok": {"code": "STATUS_CODE_OK"}, "error": {"code": "STATUS_CODE_ERROR"}}


# --- times


def timestamp(us: int) -> str:
    """An instant as protobuf's JSON writes it, in whole milliseconds.

    >>> timestamp(1_500_000)
    '1970-01-01T00:00:01.500Z'
    """
    seconds, rest_ms = divmod(us // 1000, 1000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest_ms:03d}Z" if rest_ms else f"{text}Z"


def timestamp_us(text: str, field: str) -> int:
    """An instant from protobuf's JSON. Raises ``WireError`` naming the field."""
    try:
        at = datetime.fromisoformat(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
    except ValueError:
        raise invalid(f"Invalid value {text[:80]!r} for parameter '{field}' supplied: it is a time such as 2026-01-31T12:00:00Z") from None
    whole = at.replace(microsecond=0)
    return round(whole.timestamp()) * SECOND_US + at.microsecond


def duration(ms: int) -> str:
    """A span of time as protobuf's JSON writes it."""
    seconds, rest = divmod(abs(ms), 1000)
    return ("-" if ms < 0 else "") + (f"{seconds}.{rest:03d}s" if rest else f"{seconds}s")


def duration_us(text: str) -> int:
    """A span of time from protobuf's JSON. Raises ``WireError``."""
    try:
        return round(float(text.removesuffix("s")) * SECOND_US)
    except (ValueError, OverflowError):
        raise invalid(f"Invalid value {text[:80]!r} for parameter 'execution_duration' supplied: it is a time such as 1.5s") from None


def execution_ms(record: TraceRecord) -> int | None:
    """How long a trace took, from its first to its last millisecond."""
    if record.execution_us is None:
        return None
    return (record.requested_us + record.execution_us) // 1000 - record.requested_us // 1000


# --- records


def infos_json(connection: Connection, records: Sequence[TraceRecord], *, here: bool = False) -> list[dict[str, Any]]:
    """The protocol's ``TraceInfoV3`` of each record. ``here``: whoever asks sends its spans by OTLP, so they are or will be here."""
    judged = said.of_traces_in(connection, [record.id for record in records])
    roots = roots_in(connection, records)
    return [_info(record, judged.get(record.id, ()), roots[record.experiment], here) for record in records]


def _info(record: TraceRecord, judged: Sequence[Assessment], root: str, here: bool) -> dict[str, Any]:
    info: dict[str, Any] = {"trace_id": record.id}
    if record.client_request_id is not None:
        info["client_request_id"] = record.client_request_id
    info["trace_location"] = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": str(record.experiment)}}
    info["request_time"] = timestamp(record.requested_us)
    took_ms = execution_ms(record)
    if took_ms is not None:
        info["execution_duration"] = duration(took_ms)
    info["state"] = STATES[record.state]
    if facts := facts_of(record):
        info["trace_metadata"] = {key[:MAX_FACT]: value[:MAX_FACT] for key, value in facts.items()}
    if judged:
        info["assessments"] = [assessment_json(item) for item in judged]
    info["tags"] = {key[:MAX_FACT]: value[:MAX_TAG] for key, value in tags_of(record, root, here).items()}
    for name in ("request_preview", "response_preview"):
        if (text := getattr(record, name)) is not None:
            info[name] = text
    return info


def info_v2_json(record: TraceRecord, root: str) -> dict[str, Any]:
    """The protocol's older ``TraceInfo``."""
    facts, tags = facts_of(record), tags_of(record, root, False)
    return {
        "request_id": record.id,
        "experiment_id": str(record.experiment),
        "timestamp_ms": record.requested_us // 1000,
        "execution_time_ms": execution_ms(record) or 0,
        "status": STATES[record.state].replace("STATE_", "TRACE_STATUS_"),
        **({"request_metadata": [{"key": key[:MAX_FACT], "value": value[:MAX_FACT]} for key, value in facts.items()]} if facts else {}),
        "tags": [{"key": key[:MAX_FACT], "value": value[:MAX_TAG]} for key, value in tags.items()],
    }


def facts_of(record: TraceRecord) -> dict[str, str]:
    """A trace's metadata: what was told, its session, and its tokens as its spans say them."""
    facts = dict(record.facts)
    if record.session is not None:
        facts[SESSION] = record.session
    if record.usage and TOKENS not in facts and (tokens := tokens_of(record.usage)):
        facts[TOKENS] = json.dumps(tokens)
    return facts


def tags_of(record: TraceRecord, root: str, here: bool) -> dict[str, str]:
    """A trace's tags, with those that say where its spans and files are."""
    tags = dict(record.tags)
    if record.name is not None:
        tags[NAME] = record.name
    tags[ARTIFACTS] = f"{root}/traces/{record.id}/artifacts"
    if here or record.first_us is not None:
        tags[LOCATION] = HERE
    return tags


def roots_in(connection: Connection, records: Sequence[TraceRecord]) -> dict[int, str]:
    """Where each experiment's artifacts are."""
    wanted = sorted({record.experiment for record in records})
    found = {number: f"mlflow-artifacts:/{number}" for number in wanted}
    if wanted:
        query = f"select id, location from experiments where location is not null and id in ({places(len(wanted))})"
        found |= {row[0]: row[1].rstrip("/") for row in rows_of(connection, query, wanted)}
    return found


# --- spans


def trace_json(info: dict[str, Any], spans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A trace with its spans."""
    return {"trace_info": info, "spans": [span_json(span, info["trace_id"]) for span in spans]}


def span_json(span: dict[str, Any], trace: str) -> dict[str, Any]:
    """A row of the span log as OTLP's span, the way the protocol's own server gives it back."""
    made: dict[str, Any] = {"trace_id": _bytes(span["trace_id"]), "span_id": _bytes(span["span_id"])}
    if span["parent_id"]:
        made["parent_span_id"] = _bytes(span["parent_id"])
    if span["name"]:
        made["name"] = span["name"]
    for key, name in (("start_ns", "start_time_unix_nano"), ("end_ns", "end_time_unix_nano")):
        if span[key]:
            made[name] = span[key]
    made["attributes"] = [{"key": key, "value": any_value(value)} for key, value in _shown(span, trace).items()]
    if span["events"]:
        made["events"] = [_event(event) for event in json.loads(span["events"])]
    if span["links"]:
        made["links"] = [_link(link) for link in json.loads(span["links"])]
    made["status"] = dict(_STATUS.get(span["status"], {}))
    if span["status_message"]:
        made["status"]["message"] = span["status_message"]
    return made


def _shown(span: dict[str, Any], trace: str) -> dict[str, Any]:
    """A span's attributes, and what they mean in the protocol's own names where it did not say that itself."""
    sent = json.loads(span["attributes"])
    shown = {key: _unwrapped(value) for key, value in sent.items()}
    shown[REQUEST_ID] = trace
    kind = shown.get(names.SPAN_TYPE)
    if span["type"] and (kind is None or kind == "UNKNOWN"):
        shown[names.SPAN_TYPE] = span["type"]
    for name, candidates in (("mlflow.spanInputs", names.INPUTS), ("mlflow.spanOutputs", names.OUTPUTS)):
        if name not in shown:
            value = names.first(shown, candidates)
            if value is not None:
                shown[name] = value
    if names.USAGE not in shown and (tokens := _tokens(span)):
        shown[names.USAGE] = tokens
    for name, column in (("mlflow.llm.model", "model"), ("mlflow.llm.provider", "provider")):
        if name not in shown and span[column]:
            shown[name] = span[column]
    return shown


def _tokens(span: dict[str, Any]) -> dict[str, int]:
    counts = {
        "input_tokens": span["input_tokens"],
        "output_tokens": span["output_tokens"],
        "total_tokens": span["total_tokens"],
        "cache_read_input_tokens": span["cache_read_tokens"],
        "cache_creation_input_tokens": span["cache_write_tokens"],
    }
    return {key: value for key, value in counts.items() if value is not None}


def _unwrapped(value: Any) -> Any:
    """Senders without maps put JSON in a text; the protocol's server shows what is in it."""
    if isinstance(value, str) and value[:1] in ("{", "[", '"'):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def any_value(value: Any) -> dict[str, Any]:
    """A value as OTLP's ``AnyValue``."""
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"bool_value": value}
    if isinstance(value, str):
        return {"string_value": value}
    if isinstance(value, int):
        return {"int_value": value} if -(2**63) <= value < 2**63 else {"double_value": float(value)}
    if isinstance(value, float):
        return {"double_value": value}
    if isinstance(value, list):
        return {"array_value": {"values": [any_value(item) for item in value]} if value else {}}
    return {"kvlist_value": {"values": [{"key": key, "value": any_value(item)} for key, item in value.items()]} if value else {}}


def _event(event: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if event["time_ns"]:
        made["time_unix_nano"] = event["time_ns"]
    made["name"] = event["name"]
    if event.get("attributes"):
        made["attributes"] = [{"key": key, "value": any_value(value)} for key, value in event["attributes"].items()]
    return made


def _link(link: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"trace_id": _bytes(link["trace_id"]), "span_id": _bytes(link["span_id"])}
    if link.get("attributes"):
        made["attributes"] = [{"key": key, "value": any_value(value)} for key, value in link["attributes"].items()]
    return made


def _bytes(hexed: str) -> str:
    return base64.b64encode(bytes.fromhex(hexed)).decode()


# --- assessments


def assessment_json(item: Assessment) -> dict[str, Any]:
    """The protocol's ``Assessment``."""
    made: dict[str, Any] = {"assessment_id": item.id, "assessment_name": item.name, "trace_id": item.trace}
    if item.span is not None:
        made["span_id"] = item.span
    made["source"] = {"source_type": item.source_type} | ({} if item.source_id is None else {"source_id": item.source_id})
    made["create_time"], made["last_update_time"] = timestamp(item.created_us), timestamp(item.changed_us)
    if item.kind == said.FEEDBACK:
        made["feedback"] = {"value": item.value} | ({"error": item.error} if item.error else {})
    elif item.kind == said.ISSUE:
        made["issue"] = item.value
    elif isinstance(item.value, dict | list):
        made["expectation"] = {"serialized_value": {"serialization_format": "JSON_FORMAT", "value": json.dumps(item.value)}}
    else:
        made["expectation"] = {"value": item.value}
    told = {"rationale": item.rationale, "metadata": item.facts, "overrides": item.overrides}
    made |= {name: value for name, value in told.items() if value}
    made["valid"] = item.valid
    return made
