"""A request as a front takes it: read by the face it came in by, met with the release that answers it, and on its way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.serving.batching import Work
from andon.serving.callers import Caller
from andon.serving.routing import Choice
from andon.serving.tracing import Face

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]


class Query(msgspec.Struct, kw_only=True):
    """Checked rows or columns, the release that is to answer them, and who waits for that.

    Made by whoever read the request, between ``Front.loaded`` and ``Front.answer`` without an ``await``: so the release cannot be retired
    meanwhile.
    """

    choice: Choice
    n: int
    """Rows."""
    request_id: str
    rows: Sequence[tuple[Any, ...]] | None = None
    """Tuples in the signature's order; or ``columns`` are given."""
    columns: Columns | None = None
    event_us: Sequence[int] | None = None
    """One instant for each row; None: now."""
    deadline_s: float | None = None
    """When the caller stops waiting, on the event loop's clock; None: the release's ``timeout_s`` from now."""
    raw: bool = False
    """Whether the answer is arrays, not lists."""
    caller: Caller | None = None
    """The connection, where its end can be seen."""
    client: str | None = None
    """Whom the queue is shared out between; None: the caller's name."""
    size_bytes: int = 0
    """About what it holds in memory; 0: guessed."""
    traceparent: bytes | None = None
    face: Face | None = None
    """None for a request from within this process."""


class Asked:
    """A request on its way through a release."""

    __slots__ = ("caller", "choice", "copied", "work")

    def __init__(self, choice: Choice, work: Work, caller: Caller | None) -> None:
        self.choice = choice
        self.work = work
        self.caller = caller
        self.copied: Work | None = None
        """What mirrors are to see of it."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a release answered: its address and digest, and its output columns as lists of JSON values, one for each row."""

    request_id: str
    release: str
    digest: str
    outputs: dict[str, list[Any]]
