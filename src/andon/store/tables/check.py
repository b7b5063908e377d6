"""Do the ledger, the parts and the inbox agree? Read by ``andon doctor`` and by the fault tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from andon.core.errors import CorruptBytes, Incompatible
from andon.store.ports import Ledger
from andon.store.tables.columns import event_range
from andon.store.tables.frames import SegmentName
from andon.store.tables.inbox import QUARANTINE, Content, read_segment, segments
from andon.store.tables.parts import Part, PartChecker, newest_version, part_of, parts_of, read_part

if TYPE_CHECKING:
    from sqlalchemy import Connection


class TableFinding(msgspec.Struct, frozen=True):
    """Something wrong or left over.

    ``damaged`` parts and segments, a ``gap`` between a writer's segments, and a part that is ``wrong`` about its rows are errors;
    ``quarantined`` segments, ``orphan`` files and segments ``sealed`` but not yet deleted are left over from a crash.
    """

    kind: str
    what: str
    detail: str

    @property
    def is_error(self) -> bool:
        """Whether rows may be lost or wrong."""
        return self.kind in ("damaged", "gap", "wrong")


def check_tables(ledger: Ledger, root: Path, inbox: Path) -> list[TableFinding]:
    """Read every part and segment and compare them with the ledger. Takes time: it is not for every day."""
    contents, findings = _segments(inbox)
    with ledger.read() as connection:
        every = _all_parts(connection)
        live = parts_of(connection, newest_version(connection))
        sealed = _sealed(connection)
    checker = PartChecker(root)
    for part in every:
        findings += _part(part, checker)
    findings += _continuity(contents, sealed)
    known = {part.path for part in every}
    for path in sorted(root.rglob("*.parquet")) if root.is_dir() else ():
        if path.relative_to(root).as_posix() not in known:
            findings.append(TableFinding("orphan", str(path), "no version names it; `andon gc` deletes it"))
    if len({part.id for part in live}) != len(live):
        findings.append(TableFinding("wrong", "ledger", "a part is named twice"))
    return findings


def _segments(inbox: Path) -> tuple[dict[SegmentName, Content], list[TableFinding]]:
    contents: dict[SegmentName, Content] = {}
    findings: list[TableFinding] = []
    for name in segments(inbox):
        path = inbox / name.file
        try:
            contents[name] = read_segment(path, name)
        except FileNotFoundError:
            continue  # sealed while we looked
        except Incompatible as error:
            findings.append(TableFinding("damaged", str(path), error.message))
            continue
        findings += [TableFinding("damaged", str(path), f"bytes {at.start} to {at.end}") for at in contents[name].damage]
    for path in sorted((inbox / QUARANTINE).glob("*.seg")):
        findings.append(TableFinding("quarantined", str(path), "its whole frames are sealed; restore the rest from a copy, then delete it"))
    return contents, findings


def _all_parts(connection: Connection) -> list[Part]:
    from sqlalchemy import select

    from andon.store.schema import parts

    return [part_of(row) for row in connection.execute(select(parts).order_by(parts.c.id)).mappings()]


def _sealed(connection: Connection) -> dict[SegmentName, tuple[int, int]]:
    from sqlalchemy import select

    from andon.store.schema import sealed

    rows = connection.execute(select(sealed.c.writer, sealed.c.segment, sealed.c.first_seq, sealed.c.last_seq))
    return {SegmentName(writer, segment): (first, last) for writer, segment, first, last in rows}


def _part(part: Part, checker: PartChecker) -> list[TableFinding]:
    try:
        rows = read_part(checker.path(part))
    except CorruptBytes as error:
        return [TableFinding("damaged", part.path, error.message)]
    found = (rows.num_rows, *event_range(rows)) if rows.num_rows else (0, 0, 0)
    if found != (part.rows, part.min_event_us, part.max_event_us):
        return [TableFinding("wrong", part.path, f"the ledger says {part.rows} rows, the file has {found[0]}")]
    return []


def _continuity(contents: dict[SegmentName, Content], sealed: dict[SegmentName, tuple[int, int]]) -> list[TableFinding]:
    """A writer's batches are numbered without gaps, over its segments too."""
    ranges = dict(sealed)
    findings = []
    for name, content in contents.items():
        if not content.rows:
            continue
        here = (content.first_sequence, content.last_sequence)
        if name in sealed:
            findings.append(TableFinding("sealed", name.file, "the next seal deletes it"))
            if sealed[name] != here:
                findings.append(TableFinding("wrong", name.file, f"batches {here} here, {sealed[name]} in the ledger"))
        ranges[name] = here
    for name, (first, _) in sorted(ranges.items()):
        before = ranges.get(SegmentName(name.writer, name.segment - 1))
        if before is not None and first != before[1] + 1:
            findings.append(TableFinding("gap", name.file, f"batches {before[1] + 1} to {first - 1} are missing"))
    return findings
