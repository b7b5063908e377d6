"""Evaluation datasets: examples that people and programs collect one by one, for judging language models and agents.

They change all the time, so they have no versions; a digest that changes with them says which state a run saw.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from andon.core.actors import Actor
from andon.core.errors import NotFound
from andon.core.texts import check_text
from andon.registry.tags import remove_tag_in, set_tags_in
from andon.store import Store, streams
from andon.store.statements import IN_ONE, places, rows_of, run_sql

MAX_NAME_BYTES = 1_000
MAX_BY_BYTES = 1_000
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class EvaluationDataset(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset without its records. ``fields``: names and types of what its records' inputs, outputs and expectations hold."""

    id: str
    name: str
    digest: str
    fields: dict[str, Any] | None = None
    records: int = 0
    created_us: int
    changed_us: int
    created_by: str | None = None
    changed_by: str | None = None
    tags: dict[str, str] = {}

    @property
    def subject(self) -> str:
        """What its tags are kept under."""
        return subject_of(self.id)


def subject_of(dataset: str) -> str:
    """What a dataset's tags and events are kept under, by its id."""
    return f"evaluation-dataset:{dataset}"


def create_evaluation_dataset(
    store: Store, name: str, *, experiments: Sequence[int] = (), tags: Mapping[str, str] | None = None, by: str | None = None, actor: Actor
) -> EvaluationDataset:
    """Add an empty dataset, about these experiments; durable on return. Raises ``InvalidInput``, ``NotFound`` for an experiment."""
    check_text(name, "name", at_least=1, at_most=MAX_NAME_BYTES)
    check_text(by or "", "created_by", at_most=MAX_BY_BYTES)
    now_us = store.clock.now_us()
    made = EvaluationDataset(
        id=new_id(store, "d"),
        name=name,
        digest=digest_of(name, now_us),
        created_us=now_us,
        changed_us=now_us,
        created_by=by,
        changed_by=by,
        tags=dict(tags or {}),
    )

    def work(connection: Connection) -> EvaluationDataset:
        row = (made.id, name, made.digest, 0, now_us, now_us, by, by)
        columns = "id, name, digest, records, created_us, changed_us, created_by, changed_by"
        run_sql(connection, f"insert into evaluation_datasets ({columns}) values ({places(len(row))})", row)
        set_tags_in(connection, made.subject, made.tags, now_us=now_us, actor=actor, fresh=True)
        streams.append(connection, made.subject, "created", {}, at_us=now_us, actor=actor)
        _link(connection, made.id, experiments)
        return made

    return store.ledger.write(work)


def get_evaluation_dataset(store: Store, dataset: str) -> EvaluationDataset:
    """A dataset by id. Raises ``NotFound``."""
    with store.ledger.read() as connection:
        return get_evaluation_dataset_in(connection, dataset)


def get_evaluation_dataset_in(connection: Connection, dataset: str) -> EvaluationDataset:
    """``get_evaluation_dataset`` inside the caller's transaction."""
    found = get_evaluation_datasets_in(connection, [dataset])
    if not found:
        raise NotFound("there is no such evaluation dataset", field="dataset_id", got=dataset[:80])
    return found[0]


def get_evaluation_datasets_in(connection: Connection, datasets: Sequence[str]) -> list[EvaluationDataset]:
    """Datasets in the order asked for; those that are not there are left out."""
    found: dict[str, EvaluationDataset] = {}
    for start in range(0, len(datasets), IN_ONE):
        part = datasets[start : start + IN_ONE]
        tags: dict[str, dict[str, str]] = {}
        query = f"select subject, key, value from tags where subject in ({places(len(part))}) order by subject, key"
        for subject, key, value in rows_of(connection, query, [subject_of(dataset) for dataset in part]):
            tags.setdefault(subject, {})[key] = value
        columns = "id, name, digest, fields, records, created_us, changed_us, created_by, changed_by"
        for row in rows_of(connection, f"select {columns} from evaluation_datasets where id in ({places(len(part))})", part):
            found[row[0]] = EvaluationDataset(
                id=row[0],
                name=row[1],
                digest=row[2],
                fields=None if row[3] is None else json.loads(row[3]),
                records=row[4],
                created_us=row[5],
                changed_us=row[6],
                created_by=row[7],
                changed_by=row[8],
                tags=tags.get(subject_of(row[0]), {}),
            )
    return [found[dataset] for dataset in datasets if dataset in found]


def delete_evaluation_dataset(store: Store, dataset: str, *, actor: Actor, reason: str = "") -> bool:
    """Delete a dataset with its records, for good; whether it was there."""
    now_us = store.clock.now_us()

    def work(connection: Connection) -> bool:
        if not run_sql(connection, "delete from evaluation_datasets where id = ?", (dataset,)):
            return False
        for table in ("evaluation_records", "evaluation_experiments"):
            run_sql(connection, f"delete from {table} where dataset = ?", (dataset,))
        run_sql(connection, "delete from tags where subject = ?", (subject_of(dataset),))
        streams.append(connection, subject_of(dataset), "deleted", {}, at_us=now_us, actor=actor, reason=reason)
        return True

    return store.ledger.write(work)


def set_evaluation_tags(store: Store, dataset: str, tags: Mapping[str, str], *, actor: Actor) -> None:
    """Set tags. Raises ``NotFound`` for the dataset."""
    now_us = store.clock.now_us()

    def work(connection: Connection) -> None:
        get_evaluation_dataset_in(connection, dataset)
        set_tags_in(connection, subject_of(dataset), tags, now_us=now_us, actor=actor)

    store.ledger.write(work)


def remove_evaluation_tag(store: Store, dataset: str, key: str, *, actor: Actor) -> bool:
    """Remove a tag; whether it was there."""
    now_us = store.clock.now_us()

    def work(connection: Connection) -> bool:
        there = rows_of(connection, "select 1 from tags where subject = ? and key = ?", (subject_of(dataset), key))
        if there:
            remove_tag_in(connection, subject_of(dataset), key, now_us=now_us, actor=actor)
        return bool(there)

    return store.ledger.write(work)


def experiments_of_dataset(store: Store, dataset: str) -> list[int]:
    """The experiments that a dataset is about, by number."""
    with store.ledger.read() as connection:
        query = "select experiment from evaluation_experiments where dataset = ? order by experiment"
        return [row[0] for row in rows_of(connection, query, (dataset,))]


def link_experiments(store: Store, dataset: str, experiments: Sequence[int], *, linked: bool, actor: Actor) -> EvaluationDataset:
    """Say that a dataset is about these experiments, or (``linked=False``) that it is not. Raises ``NotFound`` for it or one of them."""
    now_us = store.clock.now_us()

    def work(connection: Connection) -> EvaluationDataset:
        get_evaluation_dataset_in(connection, dataset)
        if linked:
            changed = _link(connection, dataset, experiments)
        else:
            rows = [(dataset, number) for number in set(experiments)]
            changed = run_sql(connection, "delete from evaluation_experiments where dataset = ? and experiment = ?", rows) if rows else 0
        if changed:
            run_sql(connection, "update evaluation_datasets set changed_us = ? where id = ?", (now_us, dataset))
            told = {"experiments": sorted(set(experiments))}
            streams.append(connection, subject_of(dataset), "linked" if linked else "unlinked", told, at_us=now_us, actor=actor)
        return get_evaluation_dataset_in(connection, dataset)

    return store.ledger.write(work)


def _link(connection: Connection, dataset: str, experiments: Sequence[int]) -> int:
    """Returns how many were new."""
    known = {row[0] for row in rows_of(connection, "select experiment from evaluation_experiments where dataset = ?", (dataset,))}
    fresh = sorted(set(experiments) - known)
    for number in fresh:
        if not rows_of(connection, "select 1 from experiments where id = ?", (number,)):
            raise NotFound("there is no experiment of this number", field="experiment_id", got=number)
    if fresh:
        run_sql(connection, "insert into evaluation_experiments (dataset, experiment) values (?, ?)", [(dataset, one) for one in fresh])
    return len(fresh)


def digest_of(name: str, now_us: int) -> str:
    """The digest of a dataset's state: of its name and when it last changed."""
    return hashlib.sha256(f"{name}:{now_us}".encode()).hexdigest()[:8]


def new_id(store: Store, prefix: str) -> str:
    """``PREFIX-`` and 32 hexadecimal digits, which sort by creation."""
    number = 0
    for letter in store.ids.new():
        number = number << 5 | _CROCKFORD.index(letter)
    return f"{prefix}-{number:032x}"
