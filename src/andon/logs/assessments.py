"""Assessments: what a person, a judge or a program says of a trace, one row of the ledger each.

A new one may override an older, which is then not valid; deleting the new one makes the old one valid again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from andon.core.errors import NotFound
from andon.logs.traces import get_trace_in
from andon.store.statements import places, rows_of, run_sql

FEEDBACK, EXPECTATION, ISSUE = "feedback", "expectation", "issue"
_CHUNK = 500


class Assessment(msgspec.Struct, kw_only=True):
    """One assessment. ``value`` is anything that JSON holds; ``error`` says why a judge gave none."""

    id: str
    trace: str
    kind: str
    name: str
    value: Any = None
    error: dict[str, str] | None = None
    source_type: str
    source_id: str | None = None
    run: str | None = None
    span: str | None = None
    rationale: str | None = None
    overrides: str | None = None
    valid: bool = True
    facts: dict[str, str] | None = None
    created_us: int
    changed_us: int


_NAMES = Assessment.__struct_fields__
_COLUMNS = ", ".join(_NAMES)
_JSON = ("value", "error", "facts")


def put_in(connection: Connection, assessment: Assessment) -> None:
    """Write one, over that of the same id; what it overrides becomes invalid.

    Raises ``NotFound`` when there is no such trace, or nothing of the id that it overrides.
    """
    get_trace_in(connection, assessment.trace)
    if assessment.overrides:
        hide = "update assessments set valid = 0 where trace = ? and id = ?"
        if not run_sql(connection, hide, (assessment.trace, assessment.overrides)):
            raise NotFound(f"Assessment with ID '{assessment.overrides}' not found for trace '{assessment.trace}'", field="overrides")
    write_in(connection, assessment)


def write_in(connection: Connection, assessment: Assessment) -> None:
    """Write one, over that of the same id, and nothing else."""
    values = msgspec.structs.asdict(assessment)
    for name in _JSON:
        if name == "value" or values[name] is not None:
            values[name] = msgspec.json.encode(values[name]).decode()
    values["valid"] = int(assessment.valid)
    values["number"] = _number(assessment.value)
    text = (
        f"insert into assessments ({', '.join(values)}) values ({', '.join('?' * len(values))}) on conflict (id) do update set "
        + ", ".join(f"{name} = excluded.{name}" for name in values if name != "id")
    )
    run_sql(connection, text, tuple(values.values()))


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
    return None


def get_in(connection: Connection, trace: str, identity: str) -> Assessment:
    """One assessment. Raises ``NotFound``, saying whether it is the trace that is not there."""
    query = f"select {_COLUMNS} from assessments where id = ? and trace = ?"
    rows = rows_of(connection, query, (identity, trace))
    if not rows:
        get_trace_in(connection, trace)
        raise NotFound(f"Assessment with ID '{identity}' not found for trace '{trace}'", field="assessment_id")
    return _record(rows[0])


def delete_in(connection: Connection, trace: str, identity: str) -> None:
    """Delete one; what it overrode is valid again. Deleting what is not there changes nothing. Raises ``NotFound`` for the trace."""
    get_trace_in(connection, trace)
    query = "select overrides from assessments where id = ? and trace = ?"
    rows = rows_of(connection, query, (identity, trace))
    if not rows:
        return
    if rows[0][0]:
        run_sql(connection, "update assessments set valid = 1 where id = ?", (rows[0][0],))
    run_sql(connection, "delete from assessments where id = ?", (identity,))


def of_traces_in(connection: Connection, traces: Sequence[str]) -> dict[str, list[Assessment]]:
    """The assessments of some traces, oldest first."""
    found: dict[str, list[Assessment]] = {}
    for start in range(0, len(traces), _CHUNK):
        part = traces[start : start + _CHUNK]
        query = f"select {_COLUMNS} from assessments where trace in ({places(len(part))}) order by created_us, id"
        for row in rows_of(connection, query, part):
            found.setdefault(row[1], []).append(_record(row))
    return found


def _record(row: Sequence[Any]) -> Assessment:
    values = dict(zip(_NAMES, row, strict=True))
    for name in _JSON:
        if values[name] is not None:
            values[name] = msgspec.json.decode(values[name])
    values["valid"] = bool(values["valid"])
    return Assessment(**values)
