"""The records of evaluation datasets.

The same inputs again are the same record: its outputs are replaced, its expectations and tags are merged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from andon.core.actors import Actor
from andon.core.errors import InvalidInput
from andon.datasets.evaluation import digest_of, get_evaluation_dataset_in, new_id, subject_of
from andon.store import Store, streams
from andon.store.statements import IN_ONE, places, rows_of, run_sql

MAX_RECORD_BYTES = 10_000_000
MAX_FIELDS = 10_000
SOURCE_TYPES = ("UNSPECIFIED", "TRACE", "HUMAN", "DOCUMENT", "CODE")


class RecordSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where an example comes from: ``type`` is one of ``SOURCE_TYPES``."""

    type: str
    data: dict[str, Any] = {}


class NewRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An example to add or to merge into the one with the same inputs. ``by``: who says so, as the client names them."""

    inputs: dict[str, Any]
    outputs: Any = msgspec.UNSET
    """Anything; None: there are none any more; UNSET: not said."""
    expectations: dict[str, Any] | None = None
    tags: dict[str, Any] | None = None
    source: RecordSource | None = None
    by: str | None = None


class EvaluationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An example. ``outputs`` is ``{}`` where none were ever said."""

    id: str
    dataset: str
    inputs: dict[str, Any]
    outputs: Any = None
    expectations: dict[str, Any] | None = None
    tags: dict[str, Any] = {}
    source: RecordSource | None = None
    created_us: int
    changed_us: int
    created_by: str | None = None
    changed_by: str | None = None


def upsert_records(store: Store, dataset: str, records: Sequence[NewRecord], *, actor: Actor) -> tuple[int, int]:
    """Add examples, or merge them into those with the same inputs; all or nothing, durable on return.

    Returns how many were added and how many were merged. Raises ``NotFound`` for the dataset, ``InvalidInput`` for a record too large.
    """
    keyed = [(_inputs_digest(record.inputs), record, new_id(store, "dr")) for record in records]
    now_us = store.clock.now_us()

    def work(connection: Connection) -> tuple[int, int]:
        found = get_evaluation_dataset_in(connection, dataset)
        kept = _records_with(connection, dataset, sorted({digest for digest, _, _ in keyed}))
        old, changed, added, merged = set(kept), set(), 0, 0
        for digest, record, identity in keyed:
            before = kept.get(digest)
            added, merged = (added + 1, merged) if before is None else (added, merged + 1)
            kept[digest] = _made(identity, dataset, record, now_us) if before is None else _merged(before, record, now_us)
            changed.add(digest)
        _write(connection, [(digest, kept[digest]) for digest in changed - old], [kept[digest] for digest in sorted(changed & old)])
        fields = json.dumps(_fields(found.fields, records)).encode() if records or found.fields else None
        by = next((record.by for record in reversed(records) if record.by), None)
        row = (digest_of(found.name, now_us), fields, found.records + added, now_us, by, dataset)
        change = "update evaluation_datasets set digest = ?, fields = ?, records = ?, changed_us = ?, changed_by = ? where id = ?"
        run_sql(connection, change, row)
        if keyed:
            told = {"added": added, "merged": merged}
            streams.append(connection, subject_of(dataset), "changed", told, at_us=now_us, actor=actor)
        return added, merged

    return store.ledger.write(work)


def delete_records(store: Store, dataset: str, records: Sequence[str], *, actor: Actor) -> int:
    """Delete examples by id, for good; how many were there."""
    now_us = store.clock.now_us()

    def work(connection: Connection) -> int:
        gone = 0
        for start in range(0, len(records), IN_ONE):
            part = records[start : start + IN_ONE]
            gone += run_sql(
                connection, f"delete from evaluation_records where dataset = ? and id in ({places(len(part))})", (dataset, *part)
            )
        if gone:
            found = get_evaluation_dataset_in(connection, dataset)
            row = (digest_of(found.name, now_us), found.records - gone, now_us, dataset)
            run_sql(connection, "update evaluation_datasets set digest = ?, records = ?, changed_us = ? where id = ?", row)
            streams.append(connection, subject_of(dataset), "changed", {"deleted": gone}, at_us=now_us, actor=actor)
        return gone

    return store.ledger.write(work)


def records_of(store: Store, dataset: str, *, limit: int, after: str = "") -> list[EvaluationRecord]:
    """A dataset's examples in order of creation, from behind the record ``after``; none when there is no such dataset."""
    query = f"select {_COLUMNS} from evaluation_records where dataset = ? and id > ? order by id limit ?"
    with store.ledger.read() as connection:
        return [_record(row) for row in rows_of(connection, query, (dataset, after, limit))]


_COLUMNS = "inputs_digest, id, dataset, body, created_us, changed_us, created_by, changed_by"


def _records_with(connection: Connection, dataset: str, digests: Sequence[str]) -> dict[str, EvaluationRecord]:
    found: dict[str, EvaluationRecord] = {}
    for start in range(0, len(digests), IN_ONE):
        part = digests[start : start + IN_ONE]
        query = f"select {_COLUMNS} from evaluation_records where dataset = ? and inputs_digest in ({places(len(part))})"
        found |= {row[0]: _record(row) for row in rows_of(connection, query, (dataset, *part))}
    return found


def _made(identity: str, dataset: str, record: NewRecord, now_us: int) -> EvaluationRecord:
    return EvaluationRecord(
        id=identity,
        dataset=dataset,
        inputs=record.inputs,
        outputs={} if record.outputs is msgspec.UNSET else record.outputs,
        expectations=record.expectations,
        tags=record.tags or {},
        source=record.source,
        created_us=now_us,
        changed_us=now_us,
        created_by=record.by,
        changed_by=record.by,
    )


def _merged(before: EvaluationRecord, record: NewRecord, now_us: int) -> EvaluationRecord:
    return msgspec.structs.replace(
        before,
        outputs=before.outputs if record.outputs is msgspec.UNSET else record.outputs,
        expectations=(before.expectations or {}) | record.expectations if record.expectations else before.expectations,
        tags=before.tags | (record.tags or {}),
        changed_us=now_us,
        changed_by=record.by or before.changed_by,
    )


def _write(connection: Connection, fresh: Sequence[tuple[str, EvaluationRecord]], changed: Sequence[EvaluationRecord]) -> None:
    if fresh:
        rows = [
            (digest, item.id, item.dataset, _body(item), item.created_us, item.changed_us, item.created_by, item.changed_by)
            for digest, item in sorted(fresh, key=lambda pair: pair[1].id)
        ]
        run_sql(connection, f"insert into evaluation_records ({_COLUMNS}) values ({places(8)})", rows)
    if changed:
        change = "update evaluation_records set body = ?, changed_us = ?, changed_by = ? where dataset = ? and id = ?"
        run_sql(connection, change, [(_body(item), item.changed_us, item.changed_by, item.dataset, item.id) for item in changed])


def _body(item: EvaluationRecord) -> bytes:
    source = None if item.source is None else {"type": item.source.type, "data": item.source.data}
    # Python's own JSON: examples may hold NaN and infinities
    told = {"inputs": item.inputs, "outputs": item.outputs, "expectations": item.expectations, "tags": item.tags, "source": source}
    body = json.dumps(told).encode()
    if len(body) > MAX_RECORD_BYTES:
        raise InvalidInput(f"a record has at most {MAX_RECORD_BYTES} bytes as JSON", field="records", got=len(body))
    return body


def _record(row: Sequence[Any]) -> EvaluationRecord:
    _, identity, dataset, body, created_us, changed_us, created_by, changed_by = row
    told = json.loads(body)
    source = told["source"]
    return EvaluationRecord(
        id=identity,
        dataset=dataset,
        inputs=told["inputs"],
        outputs=told["outputs"],
        expectations=told["expectations"],
        tags=told["tags"],
        source=None if source is None else RecordSource(type=source["type"], data=source["data"]),
        created_us=created_us,
        changed_us=changed_us,
        created_by=created_by,
        changed_by=changed_by,
    )


def _fields(before: dict[str, Any] | None, records: Sequence[NewRecord]) -> dict[str, Any]:
    """What records hold: the first type seen of every name."""
    made: dict[str, Any] = before or {"inputs": {}, "outputs": {}, "expectations": {}, "version": "1.0"}
    for record in records:
        _note(made["inputs"], record.inputs)
        _note(made["expectations"], record.expectations or {})
        if isinstance(record.outputs, dict):
            if isinstance(made["outputs"], dict):
                _note(made["outputs"], record.outputs)
        elif record.outputs is not None and record.outputs is not msgspec.UNSET and not made["outputs"]:
            made["outputs"] = _type(record.outputs)
    return made


def _note(known: dict[str, str], given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name not in known and len(known) < MAX_FIELDS:
            known[name] = _type(value)


def _type(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "float", str: "string", list: "array", dict: "object", type(None): "null"}
    return names.get(type(value), "unknown")


def _inputs_digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
