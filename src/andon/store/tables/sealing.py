"""The sealer: finished segments become parts, each row once.

For a group of segments that nobody writes: lock them, read their whole frames, write parts, then in ONE ledger write add a version, the
parts and a ``sealed`` row for each segment; delete the segments. Killed before the commit, nothing happened (the parts are orphans); killed
after it, the segments' rows are known to be sealed and the next sealer deletes the files. The primary key of ``sealed`` lets only one of
two sealers commit, even where locks fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core import faults
from andon.core.clocks import Clock
from andon.core.errors import Conflict, CorruptBytes
from andon.core.ids import Ids
from andon.store.disk import disk_errors
from andon.store.ports import Ledger
from andon.store.tables.columns import by_event_time, united
from andon.store.tables.frames import SegmentName
from andon.store.tables.inbox import Claim, Content, claim, damaged, read_segment, release, remove
from andon.store.tables.parts import Part, add_parts, add_version, new_parts

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection

SEAL_BYTES = 128 << 20
"""About how many bytes of segments one commit takes."""


class Sealed(msgspec.Struct, frozen=True):
    """What one commit sealed, and the first damage met."""

    rows: int
    segments: int
    damage: CorruptBytes | None


def seal_some(ledger: Ledger, inbox: Path, root: Path, clock: Clock, ids: Ids) -> Sealed | None:
    """Seal one group of segments; ``None`` when there is none to take. Raises ``DiskFull`` and its kin with nothing changed."""
    with disk_errors(inbox):
        claims = claim(inbox, SEAL_BYTES)
    try:
        if not claims:
            return None
        faults.point("seal.claimed")
        return _seal(ledger, inbox, root, clock, ids, claims)
    finally:
        release(claims)


def _seal(ledger: Ledger, inbox: Path, root: Path, clock: Clock, ids: Ids, claims: list[Claim]) -> Sealed:
    with ledger.read() as connection:
        known = sealed_among(connection, [one.name for one in claims])
    fresh = [one for one in claims if one.name not in known]
    with disk_errors(inbox):
        contents = [(one, read_segment(one.path, one.name)) for one in fresh]
    rows = _commit(ledger, root, clock, ids, [(one.name, content) for one, content in contents])
    faults.point("seal.committed")
    broken = [(one, content.damage[0]) for one, content in contents if content.damage]
    with disk_errors(inbox):
        remove(inbox, claims, {one.name for one, _ in broken})
    faults.point("seal.removed")
    ledger.write(lambda connection: _mark_cleared(connection, [one.name for one in claims], clock.now_us()))
    return Sealed(rows, len(claims), damaged(broken[0][0].path, broken[0][1]) if broken else None)


def _commit(ledger: Ledger, root: Path, clock: Clock, ids: Ids, contents: Sequence[tuple[SegmentName, Content]]) -> int:
    gathered: dict[str, list[pa.Table]] = {}
    for _, content in contents:
        for table, chunks in content.rows.items():
            gathered.setdefault(table, []).extend(chunks)
    full = [
        {"writer": name.writer, "segment": name.segment, "first_seq": content.first_sequence, "last_seq": content.last_sequence}
        for name, content in contents
        if content.rows
    ]
    if not full:
        return 0
    with new_parts(root, ids) as writer:
        added: list[Part] = []
        for table in sorted(gathered):
            for rows in united(gathered.pop(table)):
                added += writer.write(table, by_event_time(rows))
        faults.point("seal.parts_written")
        now_us = clock.now_us()
        writer.commit(ledger, lambda connection: _record(connection, added, full, now_us))
    return sum(part.rows for part in added)


def _record(connection: Connection, added: list[Part], segments: list[dict[str, Any]], now_us: int) -> None:
    from sqlalchemy import insert

    from andon.store.schema import sealed

    if sealed_among(connection, [SegmentName(row["writer"], row["segment"]) for row in segments]):
        raise Conflict("another sealer took these segments")
    version = add_version(connection, now_us)
    add_parts(connection, added, version)
    connection.execute(insert(sealed), [{**row, "at_version": version} for row in segments])
    faults.point("seal.in_commit")


def sealed_among(connection: Connection, names: Sequence[SegmentName]) -> set[SegmentName]:
    """Which of these segments are sealed already."""
    from sqlalchemy import select

    from andon.store.schema import sealed

    wanted = set(names)
    writers = sorted({name.writer for name in wanted})
    found: set[SegmentName] = set()
    for start in range(0, len(writers), 500):
        rows = connection.execute(select(sealed.c.writer, sealed.c.segment).where(sealed.c.writer.in_(writers[start : start + 500])))
        found |= {SegmentName(writer, segment) for writer, segment in rows} & wanted
    return found


def _mark_cleared(connection: Connection, names: list[SegmentName], now_us: int) -> None:
    from sqlalchemy import bindparam, update

    from andon.store.schema import sealed

    mark = update(sealed).where(sealed.c.writer == bindparam("w"), sealed.c.segment == bindparam("s")).values(cleared_us=now_us)
    connection.execute(mark, [{"w": name.writer, "s": name.segment} for name in names])


def forget_sealed(connection: Connection, before_us: int) -> int:
    """Drop the ``sealed`` rows of segments whose files were durably deleted before ``before_us``; no reader can hold those any more."""
    from sqlalchemy import delete

    from andon.store.schema import sealed

    return int(connection.execute(delete(sealed).where(sealed.c.cleared_us < before_us)).rowcount)
