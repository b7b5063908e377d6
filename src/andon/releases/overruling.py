"""What a move of production means for a rollout that is under way: in the move's own transaction, so that no two of them ever disagree.

A rollback gives everything to production at once: the split goes, and the rollout is written down as overruled, whoever rolled back and
whether or not a controller runs. A deploy past a rollout must name it. A shadow stays beside whatever holds production.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from sqlalchemy import Connection

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.errors import Conflict
from andon.registry import read_alias_in, remove_alias_in
from andon.releases.services import stream_of
from andon.releases.splits import live_split_in, set_split_in
from andon.store import streams

CANDIDATE = "candidate"
"""The channel that points to the release a rollout is about, while it runs."""
CONTROL = "control"
"""The channel that points to the old release while a rollout keeps it beside the one that has come to production."""


def yield_in(
    connection: Connection,
    service: str,
    production: str,
    *,
    move: Literal["deployed", "rolled-back"],
    over: str,
    now_us: int,
    actor: Actor,
    reason: str,
) -> str:
    """Bring the split in line with what has just come to hold production; returns the rollout that was overruled, or "".

    ``over`` is the rollout that a deploy may overrule. Raises ``Conflict`` when another is under way.
    """
    live = live_split_in(connection, service)
    if live is None:
        return ""
    split = live.split
    if split.mirrors and len(split.arms) == 1:
        beside = msgspec.structs.replace(split, arms=(msgspec.structs.replace(split.arms[0], release=production),), stage=split.stage + 1)
        set_split_in(connection, service, beside, expected=live.revision, now_us=now_us)
        return ""
    if move == "deployed" and split.rollout != over:
        raise Conflict(
            "a rollout of this service is under way",
            rollout=split.rollout,
            next_step=f"`andon rollout show {service}`; then `andon rollout promote`, `abort` or `end` it, or deploy with --force",
        )
    body = {"action": "overruled", "by": move, "production": production, "at_us": now_us, "why": reason}
    streams.append(connection, split.rollout, "overruled", body, at_us=now_us, actor=actor, reason=reason)
    end_split_in(connection, service, split.rollout, now_us=now_us, actor=actor, reason=reason)
    return split.rollout


def end_split_in(connection: Connection, service: str, rollout: str, *, now_us: int, actor: Actor, reason: str) -> None:
    """Everything goes to production: no split, nobody on ``candidate`` or ``control``, and the service may start another rollout."""
    live = live_split_in(connection, service)
    if live is not None:
        set_split_in(connection, service, None, expected=live.revision, now_us=now_us)
    for channel in (CANDIDATE, CONTROL):
        alias = Address("service", service, None, channel)
        if read_alias_in(connection, alias) is not None:
            remove_alias_in(connection, alias, now_us=now_us, actor=actor, reason=reason)
    streams.append(connection, stream_of(service), "rollout-ended", {"rollout": rollout}, at_us=now_us, actor=actor, reason=reason)
