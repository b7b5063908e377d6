"""OTLP messages by hand, as any exporter makes them."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

START_NS = 1_795_358_276_704_000_000


def trace_id(n: int) -> bytes:
    """A trace's 16 bytes."""
    return n.to_bytes(16, "big")


def span_id(n: int) -> bytes:
    """A span's 8 bytes."""
    return n.to_bytes(8, "big")


def request(*spans: dict[str, Any], resource: dict[str, Any] | None = None, scope: str = "") -> ExportTraceServiceRequest:
    """A message with these spans: ``trace``, ``n``, ``parent``, ``attributes``, and fields of the message itself."""
    made = ExportTraceServiceRequest()
    group = made.resource_spans.add()
    put(group.resource.attributes, resource or {})
    scoped = group.scope_spans.add()
    scoped.scope.name = scope
    for given in spans:
        n = given.get("n", 1)
        span = scoped.spans.add(
            trace_id=given["trace"] if isinstance(given.get("trace"), bytes) else trace_id(given.get("trace", 1)),
            span_id=n if isinstance(n, bytes) else span_id(n),
            name=given.get("name", f"span {n}"),
            kind=given.get("kind", 1),
            start_time_unix_nano=given.get("start", START_NS + (n if isinstance(n, int) else 0) * 1_000_000),
            end_time_unix_nano=given.get("end", START_NS + 50_000_000),
        )
        if given.get("parent"):
            span.parent_span_id = span_id(given["parent"])
        put(span.attributes, given.get("attributes", {}))
        if "status" in given:
            span.status.code, span.status.message = given["status"]
    return made


def put(pairs: Any, values: dict[str, Any]) -> None:
    """Add attributes."""
    for key, value in values.items():
        set_value(pairs.add(key=key).value, value)


def set_value(into: Any, value: Any) -> None:
    """A Python value as OTLP's ``AnyValue``."""
    if isinstance(value, bool):
        into.bool_value = value
    elif isinstance(value, int):
        into.int_value = value
    elif isinstance(value, float):
        into.double_value = value
    elif isinstance(value, str):
        into.string_value = value
    elif isinstance(value, bytes):
        into.bytes_value = value
    elif isinstance(value, list):
        into.array_value.SetInParent()
        for item in value:
            set_value(into.array_value.values.add(), item)
    elif isinstance(value, dict):
        into.kvlist_value.SetInParent()
        put(into.kvlist_value.values, value)
