"""From the bytes of a request to the message: unpacked, within bounds, protobuf or JSON."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.errors import InvalidInput, TooLarge

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

MAX_BODY_BYTES = 64 << 20
"""What a request may have on the wire, and unpacked."""
_WINDOW = {"gzip": 31, "deflate": 15}


def unpack(body: bytes, encoding: str) -> bytes:
    """The body without its content encoding. Raises ``InvalidInput`` for one that is unknown or broken, and ``TooLarge``."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _WINDOW:
        raise InvalidInput(f"Unsupported Content-Encoding: {encoding[:80]}", field="content-encoding")
    try:
        return _inflate(body, _WINDOW[encoding])
    except zlib.error:
        if encoding == "deflate":  # some senders leave out zlib's own header
            try:
                return _inflate(body, -15)
            except zlib.error:
                pass
        raise InvalidInput(f"Failed to decompress {encoding} payload", field="body") from None


def _inflate(body: bytes, window: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while body:  # gzip files may follow one another
        unpacking = zlib.decompressobj(window)
        part = unpacking.decompress(body, MAX_BODY_BYTES + 1 - size)
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise TooLarge("this request is too large when unpacked: send fewer spans at once", limit_bytes=MAX_BODY_BYTES)
        if not unpacking.eof:
            raise zlib.error("cut short")
        parts.append(part)
        body = unpacking.unused_data
    return b"".join(parts)


def parse(body: bytes, media_type: str) -> ExportTraceServiceRequest:
    """The message of a body. Raises ``InvalidInput`` when it is neither."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    if media_type == "application/json":
        return _from_json(body)
    try:
        message: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(body)
        return message
    except DecodeError:
        raise InvalidInput("Invalid OpenTelemetry format", field="body") from None


def _from_json(body: bytes) -> ExportTraceServiceRequest:
    from google.protobuf.json_format import ParseDict, ParseError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    try:
        value = msgspec.json.decode(body)
        for span in _dicts(value, "resourceSpans", "scopeSpans", "spans"):
            _ids(span)
            for link in _dicts(span, "links"):
                _ids(link)
        message: ExportTraceServiceRequest = ParseDict(value, ExportTraceServiceRequest(), ignore_unknown_fields=True)
        return message
    except (ParseError, ValueError, TypeError, AttributeError, RecursionError, binascii.Error):  # msgspec's errors are ValueErrors
        raise InvalidInput("Invalid OpenTelemetry format", field="body") from None


def _dicts(value: Any, *path: str) -> list[dict[str, Any]]:
    """The objects at the end of a path of lists; names may be in snake_case, as some senders write them."""
    found = [value]
    for name in path:
        snake = "".join(f"_{char.lower()}" if char.isupper() else char for char in name)
        found = [item for one in found for item in one.get(name, one.get(snake)) or ()]
    return found


def _ids(value: dict[str, Any]) -> None:
    """OTLP writes ids in hex, where protobuf's own JSON has base64."""
    for name in ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"):
        if text := value.get(name):
            value[name] = base64.b64encode(bytes.fromhex(text)).decode()
