"""From the message to rows of the span log. This is the hot path: some 25 microseconds a span."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from andon.logs.spans import SpanRow
from andon.wire.otlp import conventions as names

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_encode = msgspec.json.Encoder().encode
_KINDS = (None, "internal", "server", "client", "producer", "consumer")
_STATUSES = ("unset", "ok", "error")
_MAX_NS = 2**63 - 1


class Received(NamedTuple):
    """One span, with its attributes still at hand."""

    row: SpanRow
    attributes: dict[str, Any]
    resource: dict[str, Any]


class Refused(NamedTuple):
    """How many spans of a message cannot be kept, and why the first cannot."""

    spans: int
    why: str


def decode(message: ExportTraceServiceRequest, experiment_of: Any, arrival_us: int) -> tuple[list[Received], Refused]:
    """The spans of a message. ``experiment_of(resource attributes)`` says where those of one resource belong."""
    made: list[Received] = []
    refused, why = 0, ""
    for resource_spans in message.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        resource_text = _encode(resource).decode() if resource else None
        service = resource.get("service.name")
        service = service if isinstance(service, str) else None
        experiment = experiment_of(resource)
        for scope_spans in resource_spans.scope_spans:
            scope = _scope(scope_spans)
            for span in scope_spans.spans:
                problem = _problem(span)
                if problem:
                    refused, why = refused + 1, why or problem
                    continue
                attributes = _attributes(span.attributes)
                row = _row(span, attributes, experiment, service, resource_text, scope, arrival_us)
                made.append(Received(row, attributes, resource))
    return made, Refused(refused, why)


def _problem(span: Any) -> str:
    if len(span.trace_id) != 16 or not any(span.trace_id):
        return "a trace id has 16 bytes that are not all zero"
    if len(span.span_id) != 8 or not any(span.span_id):
        return "a span id has 8 bytes that are not all zero"
    if span.start_time_unix_nano > _MAX_NS or span.end_time_unix_nano > _MAX_NS:
        return "a time is beyond the year 2262"
    return ""


def _row(
    span: Any,
    attributes: dict[str, Any],
    experiment: int,
    service: str | None,
    resource: str | None,
    scope: str | None,
    arrival_us: int,
) -> SpanRow:
    start_ns = span.start_time_unix_nano
    tokens_in, tokens_out, total, cache_read, cache_write = tokens(attributes)
    status = span.status
    return SpanRow(
        start_ns // 1000 if start_ns else arrival_us,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex() or None,
        span.name,
        _KINDS[span.kind] if 0 <= span.kind < 6 else None,
        _STATUSES[status.code] if 0 <= status.code < 3 else "unset",
        status.message or None,
        start_ns,
        span.end_time_unix_nano or None,
        experiment,
        names.span_type(attributes),
        names.text(attributes, names.OPERATION),
        names.text(attributes, names.PROVIDER),
        names.text(attributes, names.MODEL),
        tokens_in,
        tokens_out,
        total,
        cache_read,
        cache_write,
        _cost(attributes),
        names.text(attributes, names.SESSION),
        names.text(attributes, names.USER),
        service,
        _encode(attributes).decode(),
        _events(span) if span.events else None,
        _links(span) if span.links else None,
        resource,
        scope,
        _extra(span),
    )


def tokens(attributes: dict[str, Any]) -> tuple[int | None, int | None, int | None, int | None, int | None]:
    """Input, output, total, read from a cache, written to one."""
    said = names.usage(attributes)
    if said is not None:
        return (
            names.whole(said.get("input_tokens")),
            names.whole(said.get("output_tokens")),
            names.whole(said.get("total_tokens")),
            names.whole(said.get("cache_read_input_tokens")),
            names.whole(said.get("cache_creation_input_tokens")),
        )
    into = names.count(attributes, names.INPUT_TOKENS)
    out = names.count(attributes, names.OUTPUT_TOKENS)
    total = names.count(attributes, names.TOTAL_TOKENS)
    if total is None and into is not None and out is not None:
        total = into + out
    return into, out, total, names.count(attributes, names.CACHE_READ_TOKENS), names.count(attributes, names.CACHE_WRITE_TOKENS)


def _cost(attributes: dict[str, Any]) -> float | None:
    said = attributes.get("mlflow.llm.cost")
    cost = said.get("total_cost") if isinstance(said, dict) else names.first(attributes, names.COST)
    return float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) and math.isfinite(cost) else None


def _attributes(pairs: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for pair in pairs:
        value = pair.value
        kind = value.WhichOneof("value")
        if kind == "string_value":
            made[pair.key] = value.string_value
        elif kind == "int_value":
            made[pair.key] = value.int_value
        else:
            made[pair.key] = _value(value, kind)
    return made


def _value(value: Any, kind: str | None) -> Any:
    """A value as JSON has it: bytes in base64, and infinities and NaN by name, as in OTLP's own JSON."""
    if kind is None:
        return None
    plain = getattr(value, kind)
    if kind == "double_value":
        return plain if math.isfinite(plain) else "NaN" if plain != plain else "Infinity" if plain > 0 else "-Infinity"
    if kind == "array_value":
        return [_value(item, item.WhichOneof("value")) for item in plain.values]
    if kind == "kvlist_value":
        return {pair.key: _value(pair.value, pair.value.WhichOneof("value")) for pair in plain.values}
    if kind == "bytes_value":
        return base64.b64encode(plain).decode()
    return plain


def _scope(scope_spans: Any) -> str | None:
    scope = scope_spans.scope
    said: dict[str, Any] = {"name": scope.name, "version": scope.version, "attributes": _attributes(scope.attributes)}
    said["schema_url"] = scope_spans.schema_url
    kept = {key: value for key, value in said.items() if value}
    return _encode(kept).decode() if kept else None


def _events(span: Any) -> str:
    events = []
    for event in span.events:
        said: dict[str, Any] = {"name": event.name, "time_ns": event.time_unix_nano}
        if event.attributes:
            said["attributes"] = _attributes(event.attributes)
        if event.dropped_attributes_count:
            said["dropped_attributes"] = event.dropped_attributes_count
        events.append(said)
    return _encode(events).decode()


def _links(span: Any) -> str:
    links = []
    for link in span.links:
        said: dict[str, Any] = {"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()}
        if link.attributes:
            said["attributes"] = _attributes(link.attributes)
        if link.trace_state:
            said["trace_state"] = link.trace_state
        if link.flags:
            said["flags"] = link.flags
        links.append(said)
    return _encode(links).decode()


def _extra(span: Any) -> str | None:
    said = {
        "trace_state": span.trace_state,
        "flags": span.flags,
        "dropped_attributes": span.dropped_attributes_count,
        "dropped_events": span.dropped_events_count,
        "dropped_links": span.dropped_links_count,
    }
    kept = {key: value for key, value in said.items() if value}
    return _encode(kept).decode() if kept else None
