"""Errors as the client branches on them: ``{"error_code", "message"}`` with the status that the protocol gives each code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from andon.core.errors import AndonError, Busy, Conflict, Forbidden, Gone, InvalidInput, NotFound, TooLarge, Unavailable

T = TypeVar("T")
STATUS = {
    "INTERNAL_ERROR": 500,
    "INVALID_STATE": 500,
    "NOT_IMPLEMENTED": 501,
    "TEMPORARILY_UNAVAILABLE": 503,
    "RESOURCE_EXHAUSTED": 429,
    "RESOURCE_CONFLICT": 409,
    "NOT_FOUND": 404,
    "ENDPOINT_NOT_FOUND": 404,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "PERMISSION_DENIED": 403,
    "BAD_REQUEST": 400,
    "RESOURCE_ALREADY_EXISTS": 400,
    "INVALID_PARAMETER_VALUE": 400,
}


class WireError(Exception):
    """An answer that is an error. ``code`` is one of ``STATUS``; ``status`` differs from the code's own only where the protocol's does."""

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status or STATUS[code]

    def body(self) -> bytes:
        """The JSON."""
        said = self.message.encode(errors="replace").decode()  # what came in as half a character goes out as "?"
        return msgspec.json.encode({"error_code": self.code, "message": said})


def invalid(message: str) -> WireError:
    """A value that the protocol does not take."""
    return WireError("INVALID_PARAMETER_VALUE", message)


def missing(message: str) -> WireError:
    """A thing that is not there."""
    return WireError("RESOURCE_DOES_NOT_EXIST", message)


def translated(error: AndonError) -> WireError:
    """One of our own errors, for handlers that do not say it in the protocol's words themselves."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return WireError(code, str(error))
    return WireError("INTERNAL_ERROR", str(error), error.status if error.status >= 500 else 500)


def plainly(handler: Callable[[Any], Awaitable[T]]) -> Callable[[Any], Awaitable[T]]:
    """An inline handler of which the client hears only the message when a thing is not there: it shows it to people as it is."""

    async def handled(call: Any) -> T:
        try:
            return await handler(call)
        except NotFound as error:
            raise missing(error.message) from None

    return handled


_CODES: tuple[tuple[type[AndonError], str], ...] = (
    (Gone, "INVALID_PARAMETER_VALUE"),  # deleted: the protocol calls writing to it a wrong value
    (NotFound, "RESOURCE_DOES_NOT_EXIST"),
    (InvalidInput, "INVALID_PARAMETER_VALUE"),
    (TooLarge, "INVALID_PARAMETER_VALUE"),
    (Forbidden, "PERMISSION_DENIED"),
    (Conflict, "RESOURCE_CONFLICT"),
    (Busy, "RESOURCE_EXHAUSTED"),
    (Unavailable, "TEMPORARILY_UNAVAILABLE"),
)
