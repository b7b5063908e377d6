"""What requests may hold. Unknown fields are refused by name."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from andon.releases import PRODUCTION, Component

Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=2_000, description="Why: the next person reads it.")]
When = Annotated[int | str | None, msgspec.Meta(description="Event time: ISO 8601, or microseconds since 1970.")]


class Deploy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give a channel to a release. ``expected`` is the release that must hold it now; empty text: none may."""

    release: str
    reason: Reason
    channel: str = PRODUCTION
    expected: str | None = None
    event_time: When = None


class Rollback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Put the last good release back; with ``only``, just those components of it."""

    reason: Reason
    only: tuple[Component, ...] = ()
    to: str | None = None
    channel: str = PRODUCTION
    expected: str | None = None
    event_time: When = None


class Cord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pull the cord: open an incident by hand."""

    reason: Reason
    event_time: When = None


class Waive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a refused or rejected release be deployed for ``lasting`` (``12h``, ``7d``)."""

    reason: Reason
    lasting: str = "7d"


class MoveAlias(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Point ``address`` (``kind:name@alias``) to a version; ``to`` null removes the alias. ``expected`` is compared before the move."""

    address: str
    to: str | None
    reason: str = ""
    expected: str | msgspec.UnsetType | None = msgspec.UNSET


class SetTag(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Set a tag on an address; ``value`` null removes it."""

    address: str
    key: str
    value: str | None
    reason: str = ""


class LabelIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The truth about one predicted row."""

    request_id: str
    label: float | int | bool | str
    row: int = 0
    event_time: When = None


class Labels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Labels for a service's predictions."""

    labels: Annotated[list[LabelIn], msgspec.Meta(max_length=100_000)]


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What a write did."""

    done: str
    detail: Any = None
