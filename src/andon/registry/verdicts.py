"""Keeping verdicts: every judgement on anything that has an address, by whoever made it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, insert, select

from andon.core.addresses import Address
from andon.core.errors import NotFound
from andon.core.verdicts import STATUSES, Status, Verdict
from andon.store import Store
from andon.store import schema as s

_decoder = msgspec.json.Decoder(Verdict)


def record_verdicts_in(connection: Connection, verdicts: Sequence[Verdict]) -> None:
    """Keep verdicts (each with its id, subject and ``at_us`` set) inside the caller's transaction."""
    rows = [
        {
            "id": verdict.id,
            "subject": str(Address.parse(verdict.subject)),
            "check_name": verdict.check,
            "status": verdict.status,
            "value": verdict.value,
            "body": msgspec.json.encode(verdict),
            "at_us": verdict.at_us,
            "window_start_us": None if verdict.window_us is None else verdict.window_us[0],
            "window_end_us": None if verdict.window_us is None else verdict.window_us[1],
        }
        for verdict in verdicts
    ]
    if rows:
        connection.execute(insert(s.verdicts), rows)


def get_verdict(store: Store, address: str | Address) -> Verdict:
    """The verdict at ``verdict:ID``. Raises ``NotFound``."""
    at = Address.parse(address, kind="verdict")
    with store.ledger.read() as connection:
        body = connection.execute(select(s.verdicts.c.body).where(s.verdicts.c.id == at.name)).scalar()
    if body is None:
        raise NotFound(address=str(at))
    return _decoder.decode(body)


def verdicts_on(
    store: Store,
    subject: str | Address | None = None,
    *,
    check: str | None = None,
    statuses: Sequence[Status] = STATUSES,
    start_us: int | None = None,
    end_us: int | None = None,
    limit: int = 500,
) -> list[Verdict]:
    """Verdicts, newest first: on one subject (None: on all), of one check, judged in ``[start_us, end_us)``."""
    query = select(s.verdicts.c.body)
    if subject is not None:
        query = query.where(s.verdicts.c.subject == str(Address.parse(subject)))
    if check is not None:
        query = query.where(s.verdicts.c.check_name == check)
    if tuple(statuses) != STATUSES:
        query = query.where(s.verdicts.c.status.in_(statuses))
    if start_us is not None:
        query = query.where(s.verdicts.c.at_us >= start_us)
    if end_us is not None:
        query = query.where(s.verdicts.c.at_us < end_us)
    with store.ledger.read() as connection:
        rows = connection.execute(query.order_by(s.verdicts.c.at_us.desc(), s.verdicts.c.id.desc()).limit(limit))
        return [_decoder.decode(row.body) for row in rows]
