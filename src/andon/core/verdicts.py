"""One scheme for every judgement: a *check* turns evidence into a *verdict*; a *gate* turns verdicts into an answer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from andon.core.errors import InvalidInput

Status = Literal["pass", "warn", "fail", "undecided"]
STATUSES: tuple[Status, ...] = ("pass", "warn", "fail", "undecided")


class Interval(msgspec.Struct, frozen=True):
    """What the measured value may really be. ``None`` is an open end; ``level`` is the coverage, 0.95 for 95 %."""

    low: float | None
    high: float | None
    level: float = 0.95


class Evidence(msgspec.Struct, frozen=True):
    """A small table that a person reads to believe the verdict: at most some dozens of rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


class SliceResult(msgspec.Struct, frozen=True, kw_only=True):
    """The same measurement on a part of the data, such as ``weekday = 6``."""

    slice: str
    status: Status
    value: float | None
    n: int
    interval: Interval | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What a check found.

    ``value`` and ``threshold`` are in ``unit``; ``undecided`` (too few labels, a judge that failed) has no value or a value that proves
    nothing, and never NaN. ``message`` says it in one sentence. ``at_us`` is when it was judged (for monitors: the event time of the
    window's end), ``window_us`` the half-open range of event time it looked at.
    """

    subject: str
    check: str
    status: Status
    message: str
    value: float | None = None
    unit: str = ""
    interval: Interval | None = None
    threshold: float | None = None
    n: int = 0
    slices: tuple[SliceResult, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    duration_ms: float = 0.0
    at_us: int = 0
    window_us: tuple[int, int] | None = None
    id: str = ""

    def __post_init__(self) -> None:
        numbers = [self.value, self.threshold]
        if self.interval is not None:
            numbers += [self.interval.low, self.interval.high]
        if any(number is not None and not math.isfinite(number) for number in numbers):
            raise InvalidInput("a verdict's numbers are finite; what cannot be measured is 'undecided'", field=self.check)
        if self.status not in STATUSES:
            raise InvalidInput(f"a verdict is one of {', '.join(STATUSES)}", field="status", got=self.status)


E_contra = TypeVar("E_contra", contravariant=True)


class Check(Protocol[E_contra]):
    """A small object that judges one kind of evidence."""

    @property
    def name(self) -> str:
        """What it is called in policies, verdicts and on the board, such as ``mae`` or ``null-share/temp``."""
        ...

    def run(self, evidence: E_contra) -> Verdict:
        """Judge. Pure: the same evidence gives the same verdict."""
        ...


class Answer(IntEnum):
    """A gate's answer; the number is the exit code of the command that asked."""

    GO = 0
    NO = 1
    UNDECIDED = 2


class Judged(msgspec.Struct, frozen=True):
    """A verdict beside what the policy says of it."""

    verdict: Verdict
    blocks: bool
    waived: bool = False


def gate_answer(judged: Iterable[Judged]) -> Answer:
    """Any blocking fail gives NO; else any blocking undecided gives UNDECIDED; else GO. A waived verdict does not block.

    >>> gate_answer([])
    <Answer.GO: 0>
    """
    blocking = [item.verdict.status for item in judged if item.blocks and not item.waived]
    if "fail" in blocking:
        return Answer.NO
    return Answer.UNDECIDED if "undecided" in blocking else Answer.GO
