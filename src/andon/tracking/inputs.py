"""Data that a run describes without handing it over: a name, a digest of its own making, and where it says that the data is.

What is registered here is ``runs.log_input``'s. A description that names a registered dataset and carries its digest is that too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Connection, insert, select

from andon.core.actors import Actor
from andon.core.errors import InvalidInput
from andon.core.texts import check_text
from andon.store import Store
from andon.store import schema as s
from andon.store.statements import IN_ONE, places, rows_of
from andon.tracking.batches import check_run_in
from andon.tracking.runs import log_input_in

MAX_NAME_CHARACTERS = 500
MAX_NAME_BYTES = 1_000
MAX_DIGEST_CHARACTERS = 36
MAX_SOURCE_CHARACTERS = 65_535
MAX_SCHEMA_CHARACTERS = 1_048_575
MAX_PROFILE_CHARACTERS = 16_777_215
MAX_TAG_KEY_CHARACTERS = 255
MAX_TAG_VALUE_CHARACTERS = 500
DIGEST_TAG = "described.digest"
"""A tag on ``dataset:NAME@V`` whose value is the digest by which clients describe that version."""
MAX_SUMMARIES = 1_000
_NEWEST = 1_000  # versions of one name that are looked at
_LIKELY = 12  # characters with which one of our digests must begin, to be the one that is meant: there is no room for a whole one


class DescribedInput(msgspec.Struct, frozen=True, kw_only=True):
    """What a run said of data that it read. ``source``, ``schema`` and ``profile`` are the client's own text (JSON, mostly)."""

    name: str
    digest: str
    source_type: str = ""
    source: str = ""
    schema: str | None = None
    profile: str | None = None
    context: str | None = None
    """As what: ``training``, ``eval``, …; None when it did not say."""
    tags: dict[str, str] = {}


class DescribedDataset(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset that some run of an experiment described, and as what it was read there."""

    experiment_id: int
    name: str
    digest: str
    context: str | None


class _Body(msgspec.Struct, omit_defaults=True):
    source_type: str = ""
    source: str = ""
    schema: str | None = None
    profile: str | None = None
    tags: dict[str, str] = {}


_bodies = msgspec.json.Decoder(_Body)


def log_described(store: Store, run: str, inputs: Iterable[DescribedInput], *, actor: Actor) -> None:
    """Record what a run says it read; durable on return.

    The first word on a name and digest counts, again is nothing. Where they match a registered ``dataset:NAME`` (the digest is how a
    version's digest, or that of its bytes, begins, or is its tag ``described.digest``), that version is an input of the run too.
    Raises ``InvalidInput`` naming the field, ``NotFound`` or ``Gone`` for the run.
    """
    checked = check_described(inputs)
    now_us = store.clock.now_us()
    store.ledger.write(lambda c: log_described_in(c, run, checked, now_us=now_us, actor=actor))


def check_described(inputs: Iterable[DescribedInput]) -> list[DescribedInput]:
    """The inputs, each name and digest once, all within limits. Pure, and so done before the writer's turn. Raises ``InvalidInput``."""
    kept: dict[tuple[str, str], DescribedInput] = {}
    for item in inputs:
        for field, most in _LIMITS:
            value = getattr(item, field)
            if value is not None:
                _check(value, field, most)
        check_text(item.name, "name", at_most=MAX_NAME_BYTES)
        for key, value in item.tags.items():
            _check(key, "key", MAX_TAG_KEY_CHARACTERS)
            _check(value, "value", MAX_TAG_VALUE_CHARACTERS)
        kept.setdefault((item.name, item.digest), item)
    return list(kept.values())


_LIMITS = (
    ("name", MAX_NAME_CHARACTERS),
    ("digest", MAX_DIGEST_CHARACTERS),
    ("source_type", MAX_NAME_CHARACTERS),
    ("source", MAX_SOURCE_CHARACTERS),
    ("schema", MAX_SCHEMA_CHARACTERS),
    ("profile", MAX_PROFILE_CHARACTERS),
    ("context", MAX_TAG_VALUE_CHARACTERS),
)


def _check(value: str, field: str, most: int) -> None:
    if len(value) > most:
        raise InvalidInput(f"'{field}' exceeds the maximum length of {most} characters", field=field, got=len(value))
    check_text(value, field, at_most=4 * most)


def log_described_in(connection: Connection, run: str, inputs: Sequence[DescribedInput], *, now_us: int, actor: Actor) -> None:
    """``log_described`` inside the caller's transaction, given ``check_described(inputs)``."""
    check_run_in(connection, run)
    table = s.described_inputs
    known = {(row.name, row.digest) for row in connection.execute(select(table.c.name, table.c.digest).where(table.c.run == run))}
    fresh = [item for item in inputs if (item.name, item.digest) not in known]
    if not fresh:
        return
    rows = [
        {"run": run, "name": item.name, "digest": item.digest, "n": n, "context": item.context, "body": _encode(item)}
        for n, item in enumerate(fresh, len(known))
    ]
    connection.execute(insert(table), rows)
    for item in fresh:
        found = _registered_in(connection, item.name, item.digest)
        if found is not None:
            address, digest = found
            log_input_in(connection, run, address, digest, context=item.context or "training", now_us=now_us, actor=actor)


def _registered_in(connection: Connection, name: str, digest: str) -> tuple[str, str] | None:
    """The newest version of ``dataset:NAME`` that a description means: its address and digest."""
    at = s.versions.c
    query = select(at.version, at.digest).where(at.kind == "dataset", at.name == name, at.deleted_us.is_(None))
    versions = connection.execute(query.order_by(at.version.desc()).limit(_NEWEST)).all()
    if not versions or not digest:
        return None
    addresses = {f"dataset:{name}@{row.version}": row.digest for row in versions}
    held: dict[str, list[str]] = {address: [text] for address, text in addresses.items()}
    for owner, kept in connection.execute(select(s.blob_refs.c.owner, s.blob_refs.c.digest).where(s.blob_refs.c.owner.in_(addresses))):
        held[owner].append(kept)
    tagged = select(s.tags.c.subject).where(s.tags.c.key == DIGEST_TAG, s.tags.c.value == digest, s.tags.c.subject.in_(addresses))
    named = {row[0] for row in connection.execute(tagged)}
    for address, ours in addresses.items():
        if address in named or (len(digest) >= _LIKELY and any(text.startswith((digest, f"b3:{digest}")) for text in held[address])):
            return address, ours
    return None


def described_inputs_of(store: Store, run: str) -> list[DescribedInput]:
    """What a run said it read, in the order that it said so."""
    with store.ledger.read() as connection:
        return described_inputs_in(connection, [run]).get(run, [])


def described_inputs_in(connection: Connection, runs: Sequence[str]) -> dict[str, list[DescribedInput]]:
    """What each of these runs said it read, in the order that it said so; runs that said nothing are left out."""
    found: dict[str, list[DescribedInput]] = {}
    for start in range(0, len(runs), IN_ONE):
        part = runs[start : start + IN_ONE]
        query = f"select run, name, digest, context, body from described_inputs where run in ({places(len(part))}) order by run, n"
        for run, name, digest, context, body in rows_of(connection, query, part):
            found.setdefault(run, []).append(_decode(name, digest, context, body))
    return found


def described_datasets(store: Store, experiments: Sequence[int], *, limit: int = MAX_SUMMARIES) -> list[DescribedDataset]:
    """The different datasets that runs of these experiments described, by experiment, name and digest; at most ``limit``."""
    table, runs = s.described_inputs.c, s.runs.c
    query = select(runs.experiment, table.name, table.digest, table.context).distinct().select_from(s.described_inputs)
    query = query.join(s.runs, runs.id == table.run).where(runs.experiment.in_(experiments))
    query = query.order_by(runs.experiment, table.name, table.digest, table.context.nulls_first()).limit(limit)
    with store.ledger.read() as connection:
        return [
            DescribedDataset(experiment_id=row.experiment, name=row.name, digest=row.digest, context=row.context)
            for row in connection.execute(query)
        ]


def _encode(item: DescribedInput) -> bytes:
    return msgspec.json.encode(_Body(item.source_type, item.source, item.schema, item.profile, item.tags))


def _decode(name: str, digest: str, context: str | None, stored: bytes) -> DescribedInput:
    body = _bodies.decode(stored)
    return DescribedInput(
        name=name,
        digest=digest,
        source_type=body.source_type,
        source=body.source,
        schema=body.schema,
        profile=body.profile,
        context=context,
        tags=body.tags,
    )
