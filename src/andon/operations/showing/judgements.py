"""Verdicts as the pages need them: the newest of each check, and the windows of live quality."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from andon.core.addresses import Address
from andon.core.verdicts import Verdict
from andon.gates import GatePolicy
from andon.operations.showing.records import QualityPoint, VerdictView
from andon.registry import get, get_verdict, verdicts_on
from andon.releases.services import Judgement, Turn, service_state
from andon.store import Store
from andon.store import schema as s

QUALITY = "live-quality"
DRIFT = "drift"
DATA_QUALITY = ("inputs/", "training-data")
_decoder = msgspec.json.Decoder(Verdict)


def newest_of_each(connection: Connection, subject: str, since_us: int | None = None) -> list[Verdict]:
    """The newest verdict of each check on ``subject``; with ``since_us``, of those judged after it."""
    v = s.verdicts
    mine = v.c.subject == subject
    if since_us is not None:
        mine &= v.c.at_us > since_us
    newest = select(v.c.check_name, func.max(v.c.at_us).label("at_us")).where(mine).group_by(v.c.check_name).subquery()
    query = (
        select(v.c.check_name, v.c.body)
        .join(newest, (v.c.check_name == newest.c.check_name) & (v.c.at_us == newest.c.at_us))
        .where(v.c.subject == subject)
        .order_by(v.c.check_name, v.c.id)
    )
    found = {row.check_name: row.body for row in connection.execute(query)}  # the last id of one instant wins
    return [_decoder.decode(body) for body in found.values()]


def recent_values(connection: Connection, subject: str, check: str, limit: int) -> tuple[float | None, ...]:
    """The newest values of one check, oldest first; None where it was undecided."""
    v = s.verdicts
    query = select(v.c.value, v.c.status).where(v.c.subject == subject, v.c.check_name == check)
    rows = connection.execute(query.order_by(v.c.at_us.desc(), v.c.id.desc()).limit(limit)).all()
    return tuple(None if row.status == "undecided" else row.value for row in reversed(rows))


def since(turn: Turn | None) -> int | None:
    """The event time from which verdicts are about the release that holds the channel; None when that is not known."""
    return None if turn is None else turn.event_us


def quality_points(store: Store, service: str, limit: int = 400) -> tuple[QualityPoint, ...]:
    """The judged windows of live quality, oldest first."""
    found = verdicts_on(store, Address("service", service), check=QUALITY, limit=limit)
    return tuple(_point(verdict) for verdict in reversed(found))


def _point(verdict: Verdict) -> QualityPoint:
    start_us, end_us = verdict.window_us or (verdict.at_us, verdict.at_us)
    undecided = verdict.status == "undecided"
    ratio = None if undecided else _window_ratio(verdict)
    interval = verdict.interval
    return QualityPoint(
        start_us=start_us,
        end_us=end_us,
        status=verdict.status,
        ratio=ratio if ratio is not None or undecided else verdict.value,
        pooled=None if undecided else verdict.value,
        low=None if interval is None or undecided else interval.low,
        high=None if interval is None or undecided else interval.high,
        n=verdict.n,
        verdict=f"verdict:{verdict.id}",
        message=verdict.message,
    )


def _window_ratio(verdict: Verdict) -> float | None:
    """The newest window's own ratio, from the verdict's first table that has such a column."""
    for table in verdict.evidence:
        if "ratio" in table.columns and table.rows:
            value: Any = table.rows[-1][table.columns.index("ratio")]
            return float(value) if isinstance(value, int | float) else None
    return None


def blocking(store: Store, judgement: Judgement | None) -> dict[str, bool]:
    """Which checks of the policy that judged a release can stop the line; empty when the policy cannot be read any more."""
    if judgement is None:
        return {}
    try:
        policy = msgspec.convert(get(store, judgement.policy).manifest, GatePolicy)
    except Exception:  # noqa: BLE001 - a deleted or foreign policy must not hide the verdicts it asked for
        return {}
    return {rule.check.name: rule.blocks for rule in policy.rules}


def verdict_view(store: Store, address: str | Address) -> VerdictView:
    """One verdict, whether it can stop the line, and up to 60 of the same check on the same subject, newest first."""
    verdict = get_verdict(store, Address.parse(address, kind="verdict"))
    subject = Address.parse(verdict.subject)
    blocks = None
    if subject.kind == "release":
        blocks = blocking(store, service_state(store, subject.name).judgements.get(verdict.subject)).get(verdict.check)
    others = verdicts_on(store, subject, check=verdict.check, end_us=verdict.at_us + 1, limit=61)
    return VerdictView(verdict=verdict, earlier=tuple(other for other in others if other.id != verdict.id)[:60], blocks=blocks)
