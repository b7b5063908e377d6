"""An error in the protocol's two forms: REST has one string, gRPC a status code and one string."""

from __future__ import annotations

from andon.core.errors import AndonError

GRPC_CODES: dict[int, str] = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "FAILED_PRECONDITION",
    410: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    424: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    507: "RESOURCE_EXHAUSTED",
}
"""An error's HTTP status -> the name of gRPC's."""


def said(error: AndonError) -> str:
    """The message with its fields and the next step, since there is no other place for them."""
    return str(error).replace("\n  next: ", "; next: ")


def grpc_code(error: AndonError) -> str:
    """The name of the gRPC status of an error."""
    return GRPC_CODES.get(error.status, "UNKNOWN")
