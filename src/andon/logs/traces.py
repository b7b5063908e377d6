"""Trace records: one row of the ledger for each trace, which is what search reads. Its spans are in the span log (``logs.spans``).

A record comes from its spans as they arrive (``note_spans_in``), or from a client that tells it, once it is over (``tell_trace_in``). What
was told is never changed by spans, but for the tokens and previews that were left out. Verbs ending in ``_in`` take a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from andon.core.clocks import MINUTE_US
from andon.core.errors import Conflict, InvalidInput, NotFound
from andon.logs.spans import TABLE, TRACE_PREFIX
from andon.store import Store
from andon.store.statements import places, rows_of, run_sql

IN_PROGRESS, OK, ERROR, UNSPECIFIED = "in-progress", "ok", "error", "unspecified"
MAX_TEXT_CHARACTERS = 1 << 20
_CHUNK = 500
REAP_AFTER_US = 10 * MINUTE_US
_encode = msgspec.json.Encoder(order="deterministic").encode
_texts = msgspec.json.Decoder(dict[str, str])

Usage = dict[str, tuple[str | None, dict[str, int]]]
"""Span id -> id of the nearest span above that says its tokens too, and the tokens: input_tokens, output_tokens, total_tokens, …"""


class TraceRecord(msgspec.Struct, kw_only=True):
    """A trace. Times are microseconds; ``facts`` stay as told, ``tags`` may change; ``first_us`` to ``last_us`` are its spans' starts."""

    id: str
    experiment: int
    state: str = UNSPECIFIED
    requested_us: int
    execution_us: int | None = None
    name: str | None = None
    session: str | None = None
    client_request_id: str | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    facts: dict[str, str] = msgspec.field(default_factory=dict)
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    usage: Usage = msgspec.field(default_factory=dict)
    told: bool = False
    first_us: int | None = None
    last_us: int | None = None

    @property
    def spans_id(self) -> str | None:
        """What the span log calls the trace; None when a client chose an id of its own, so that there can be no spans."""
        hexed = self.id.removeprefix(TRACE_PREFIX)
        return hexed if len(hexed) == 32 else None


class TraceSeed(msgspec.Struct, kw_only=True):
    """What a batch of spans says of a trace. ``first_us`` and ``last_us`` are starts, ``end_us`` the last end; ``state`` is the root's."""

    id: str
    experiment: int
    first_us: int
    last_us: int
    end_us: int | None = None
    state: str | None = None
    name: str | None = None
    session: str | None = None
    user: str | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    usage: Usage = msgspec.field(default_factory=dict)


_FIELDS = TraceRecord.__struct_fields__
COLUMNS = ", ".join(_FIELDS)
"""The columns of ``record_of``, in order."""
_UPSERT = f"insert into traces ({COLUMNS}) values ({', '.join('?' * len(_FIELDS))}) on conflict (id) do update set " + ", ".join(
    f"{name} = excluded.{name}" for name in _FIELDS[1:]
)
USER = "mlflow.trace.user"
SOURCE_RUN = "mlflow.sourceRun"
TOKENS = "mlflow.trace.tokenUsage"


def record_of(row: Sequence[Any]) -> TraceRecord:
    """The record of a row of ``COLUMNS``."""
    values = dict(zip(_FIELDS, row, strict=True))
    values["facts"] = _texts.decode(values["facts"])
    values["tags"] = _texts.decode(values["tags"])
    values["usage"] = msgspec.json.decode(values["usage"], type=Usage) if values["usage"] else {}
    values["told"] = bool(values["told"])
    return TraceRecord(**values)


def put_in(connection: Connection, records: Iterable[TraceRecord]) -> None:
    """Write records, over those of the same id."""
    rows = [
        (
            record.id,
            record.experiment,
            record.state,
            record.requested_us,
            record.execution_us,
            _clean(record.name),
            _clean(record.session),
            _clean(record.client_request_id),
            _clean(record.request_preview),
            _clean(record.response_preview),
            _encode(record.facts).decode().replace("\\u0000", ""),
            _encode(record.tags).decode().replace("\\u0000", ""),
            _encode(record.usage).decode() if record.usage else None,
            int(record.told),
            record.first_us,
            record.last_us,
        )
        for record in sorted(records, key=lambda record: record.id)
    ]
    if rows:
        run_sql(connection, _UPSERT, rows)


def _clean(text: str | None) -> str | None:
    """Text without NUL, which Postgres has no place for."""
    return text.replace("\0", "") if text is not None and "\0" in text else text


def traces_in(connection: Connection, ids: Sequence[str]) -> dict[str, TraceRecord]:
    """Those of these traces that there are, by id."""
    found: dict[str, TraceRecord] = {}
    for start in range(0, len(ids), _CHUNK):
        part = ids[start : start + _CHUNK]
        for row in rows_of(connection, f"select {COLUMNS} from traces where id in ({places(len(part))})", part):
            found[row[0]] = record_of(row)
    return found


def get_trace_in(connection: Connection, identity: str) -> TraceRecord:
    """A trace's record. Raises ``NotFound``."""
    found = traces_in(connection, [identity])
    if not found:
        raise NotFound(f"Trace with ID '{identity}' not found.", field="trace_id")
    return found[identity]


def get_trace(store: Store, identity: str) -> TraceRecord:
    """A trace's record. Raises ``NotFound``."""
    with store.ledger.read() as connection:
        return get_trace_in(connection, identity)


# --- from spans


def note_spans_in(connection: Connection, seeds: Sequence[TraceSeed]) -> None:
    """Bring the records of a batch's traces up to date. Noting a batch twice changes nothing more."""
    known = traces_in(connection, [seed.id for seed in seeds])
    changed = []
    for seed in seeds:
        before = known.get(seed.id)
        if before is None:
            after = TraceRecord(id=seed.id, experiment=seed.experiment, requested_us=seed.first_us, state=IN_PROGRESS)
            _add(after, seed)
            changed.append(after)
            known[seed.id] = after
            continue
        was = msgspec.structs.astuple(before)
        after = msgspec.structs.replace(before, facts=dict(before.facts), tags=dict(before.tags), usage=dict(before.usage))
        _add(after, seed)
        if msgspec.structs.astuple(after) != was:
            changed.append(after)
            known[seed.id] = after
    put_in(connection, {record.id: record for record in changed}.values())


def _add(record: TraceRecord, seed: TraceSeed) -> None:
    record.first_us = seed.first_us if record.first_us is None else min(record.first_us, seed.first_us)
    record.last_us = seed.last_us if record.last_us is None else max(record.last_us, seed.last_us)
    if not record.told:
        ends = [end for end in (seed.end_us, None if record.execution_us is None else record.requested_us + record.execution_us) if end]
        record.requested_us = min(record.requested_us, seed.first_us)
        record.execution_us = max(ends) - record.requested_us if ends else None
    if seed.state is not None and record.state in (IN_PROGRESS, UNSPECIFIED):
        record.state = seed.state
    record.name = record.name if seed.name is None else seed.name
    record.session = record.session or seed.session
    record.request_preview = seed.request_preview if record.request_preview is None else record.request_preview
    record.response_preview = seed.response_preview if record.response_preview is None else record.response_preview
    if seed.user and USER not in record.facts:
        record.facts[USER] = seed.user
    record.tags.update(seed.tags)
    if seed.usage and not (record.told and TOKENS in record.facts):
        record.usage.update(seed.usage)


def tokens_of(usage: Usage) -> dict[str, int]:
    """A trace's tokens: the sum over spans that have none above them with tokens of its own, since those have summed what is below."""
    total: dict[str, int] = {}
    for above, said in usage.values():
        if above is None or above not in usage:
            for key, value in said.items():
                total[key] = total.get(key, 0) + value
    return total


# --- from clients


def tell_trace_in(connection: Connection, told: TraceRecord) -> TraceRecord:
    """Keep what a client tells of a trace that is over; what came of its spans before is kept where the client says nothing."""
    before = traces_in(connection, [told.id]).get(told.id)
    record = msgspec.structs.replace(told, told=True)
    if before is not None:
        record.first_us, record.last_us = before.first_us, before.last_us
        record.tags = before.tags | told.tags
        record.facts = before.facts | told.facts
        record.name = before.name if told.name is None else told.name
        record.session = told.session or before.session
        record.request_preview = before.request_preview if told.request_preview is None else told.request_preview
        record.response_preview = before.response_preview if told.response_preview is None else told.response_preview
        record.usage = {} if TOKENS in told.facts else before.usage
    put_in(connection, [record])
    if run := told.facts.get(SOURCE_RUN):
        link_in(connection, [told.id], [f"run:{run}"])
    return record


def set_tags_in(connection: Connection, identity: str, tags: Mapping[str, str | None]) -> None:
    """Set tags of a trace (None removes one). Raises ``NotFound`` for the trace, or for a tag to remove that is not there."""
    record = get_trace_in(connection, identity)
    for key, value in tags.items():
        if value is None and key not in record.tags:
            raise NotFound(f"No trace tag with key '{key}' for trace with ID '{identity}'", field="key")
        if value is None:
            del record.tags[key]
        else:
            record.tags[key] = value
    put_in(connection, [record])


def name_trace_in(connection: Connection, identity: str, name: str | None) -> None:
    """Give a trace a name, or take it away. Raises ``NotFound``."""
    record = get_trace_in(connection, identity)
    record.name = name
    put_in(connection, [record])


def link_in(connection: Connection, trace_ids: Sequence[str], targets: Sequence[str]) -> None:
    """Link traces to what they belong to: addresses such as ``run:ID``."""
    rows = [(trace, target) for trace in trace_ids for target in targets]
    if rows:
        run_sql(connection, "insert into trace_links (trace, target) values (?, ?) on conflict do nothing", rows)


def delete_traces_in(
    connection: Connection,
    experiment: int,
    *,
    now_us: int,
    ids: Sequence[str] = (),
    until_us: int | None = None,
    at_most: int | None = None,
) -> int:
    """Delete traces of an experiment: those named, or those requested up to ``until_us``, the oldest first. Returns how many.

    Their spans are hidden at once; upkeep removes the rows. Raises ``InvalidInput`` unless something says which.
    """
    if not ids and until_us is None:
        raise InvalidInput("say which traces: by id, or up to a time", field="max_timestamp_millis")
    where, bound = "experiment = ?", [experiment]
    if until_us is not None:
        where, bound = f"{where} and requested_us <= ?", [*bound, until_us]
    tail = "" if at_most is None else f" limit {int(at_most)}"
    gone: list[tuple[str, int | None, int | None]] = []
    for start in range(0, max(len(ids), 1), _CHUNK):
        part = list(ids[start : start + _CHUNK])
        named = f" and id in ({places(len(part))})" if part else ""
        query = f"select id, first_us, last_us from traces where {where}{named} order by requested_us, id{tail}"
        gone += [(row[0], row[1], row[2]) for row in rows_of(connection, query, (*bound, *part))]
    gone = gone[:at_most]
    tombstone = (
        "insert into deleted_traces (trace, at_us, first_us, last_us) values (?, ?, ?, ?)"
        " on conflict (trace) do update set at_us = excluded.at_us, first_us = excluded.first_us, last_us = excluded.last_us"
    )
    hidden = [(identity, now_us, first_us, last_us) for identity, first_us, last_us in gone if first_us is not None]
    if hidden:
        run_sql(connection, tombstone, hidden)
    keys = [(row[0],) for row in gone]
    for text in (
        "delete from traces where id = ?",
        "delete from assessments where trace = ?",
        "delete from trace_links where trace = ?",
    ):
        if keys:
            run_sql(connection, text, keys)
    return len(gone)


def hidden_in(connection: Connection, ids: Sequence[str] | None = None) -> dict[str, int]:
    """Deleted traces whose spans may still be in the log, by the spans' trace id: those that arrived up to then are not to be shown."""
    query, bound = "select trace, at_us from deleted_traces", list(ids or ())
    if ids is not None:
        query += f" where trace in ({places(len(bound))})"
    rows = rows_of(connection, query, bound) if ids is None or bound else []
    return {row[0].removeprefix(TRACE_PREFIX): row[1] for row in rows}


def reap_spans(store: Store, *, older_than_us: int = REAP_AFTER_US) -> int:
    """Remove the rows of traces deleted ``older_than_us`` ago from the log; returns how many. By then all of them are sealed.

    Bytes are freed when the tables are purged. Killed in between, it goes on where it was.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    with store.ledger.read() as connection:
        query = "select trace, at_us, first_us, last_us from deleted_traces where at_us <= ?"
        found = rows_of(connection, query, (store.clock.now_us() - older_than_us,))
    if not found:
        return 0
    gone = pa.array([row[0].removeprefix(TRACE_PREFIX) for row in found])
    until = pa.array([row[1] for row in found], pa.timestamp("us", "UTC"))

    def doomed(rows: pa.Table) -> pa.ChunkedArray:
        if "trace_id" not in rows.column_names:
            return pa.chunked_array([pa.array([False] * rows.num_rows, pa.bool_())])
        deleted = until.take(pc.index_in(rows.column("trace_id"), gone).combine_chunks())  # null where the trace is not among them
        return pc.fill_null(pc.less_equal(rows.column("arrival_time"), deleted), False)

    try:
        removed = store.tables.remove(TABLE, doomed, start_us=min(row[2] for row in found), end_us=max(row[3] for row in found) + 1)
    except Conflict:  # parts were compacted meanwhile: the next time will do
        return 0
    keys = [(row[0], row[1]) for row in found]
    store.ledger.write(lambda connection: run_sql(connection, "delete from deleted_traces where trace = ? and at_us = ?", keys))
    return removed
