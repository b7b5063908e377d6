"""The record of decisions: an event stream for each service, of every change and of each new reason to do nothing."""

from __future__ import annotations

import msgspec

from andon.autoscaling.records import Decision
from andon.core.clocks import SECOND_US
from andon.store import Store

QUIET_US = 60 * SECOND_US
_NOTABLE = ("at-most", "blind", "starting")
"""Reasons to do nothing that are said again each minute while they last; others are said once after a change."""


def stream_of(service: str) -> str:
    """The name of a service's stream."""
    return f"scaling:{service}"


def worth_recording(said: dict[str, int], decision: Decision, at_us: int) -> bool:
    """Whether to write a decision down. ``said`` maps each cause of doing nothing since the last change to when it was last written."""
    if decision.action != "hold":
        said.clear()
        return True
    last_us = said.get(decision.cause)
    if last_us is not None and (decision.cause not in _NOTABLE or at_us - last_us < QUIET_US):
        return False
    said[decision.cause] = at_us
    return True


def decisions(store: Store, service: str) -> list[tuple[int, Decision]]:
    """What was decided, oldest first: when (microseconds), and what."""
    from andon.store import streams

    with store.ledger.read() as connection:
        found = streams.read(connection, stream_of(service))
    return [(event.at_us, msgspec.convert(event.body, Decision)) for event in found]
