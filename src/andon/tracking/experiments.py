"""Experiments: names that runs belong to. A run holds the number, so renaming moves no run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, update

from andon.core.actors import Actor
from andon.core.addresses import Address, check_experiment
from andon.core.errors import Conflict, Gone, InvalidInput, NotFound
from andon.registry.tags import set_tags_in
from andon.store import Store, streams
from andon.store import schema as s

DEFAULT_ID = 0
DEFAULT = "Default"
"""The experiment of runs that name none; every ledger has it."""
MAX_LOCATION_BYTES = 8_192


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment. ``location`` is a URI where its clients keep artifacts themselves; None: in this store."""

    id: int
    name: str
    location: str | None = None
    created_us: int
    changed_us: int
    deleted_us: int | None = None

    @property
    def address(self) -> str:
        """``experiment:NAME``."""
        return f"experiment:{self.name}"


def create_experiment(
    store: Store, name: str, *, location: str | None = None, tags: Mapping[str, str] | None = None, actor: Actor
) -> Experiment:
    """Add an experiment. Raises ``Conflict`` when the name is taken, also by a deleted one."""
    now_us = store.clock.now_us()
    return store.ledger.write(lambda c: create_experiment_in(c, name, location=location, tags=tags, now_us=now_us, actor=actor))


def create_experiment_in(
    connection: Connection,
    name: str,
    *,
    location: str | None = None,
    tags: Mapping[str, str] | None = None,
    now_us: int,
    actor: Actor,
) -> Experiment:
    """``create_experiment`` inside the caller's transaction."""
    check_experiment(name)
    if location is not None and (len(location.encode(errors="surrogateescape")) > MAX_LOCATION_BYTES or not location.isprintable()):
        raise InvalidInput(f"an experiment's location is a URI of at most {MAX_LOCATION_BYTES} bytes", field="location", got=location[:80])
    found = find_experiment_in(connection, name)
    if found is not None:
        deleted = found.deleted_us is not None
        raise Conflict(
            "there is an experiment of this name already" + (", deleted" if deleted else ""),
            address=found.address,
            next_step="restore it, or choose another name" if deleted else "use it, or choose another name",
        )
    values = {"name": name, "location": location, "created_us": now_us, "changed_us": now_us}
    number = connection.execute(insert(s.experiments).values(**values).returning(s.experiments.c.id)).scalar_one()
    if tags:
        set_tags_in(connection, f"experiment:{name}", tags, now_us=now_us, actor=actor)
    return Experiment(id=number, name=name, location=location, created_us=now_us, changed_us=now_us)


def ensure_experiment_in(connection: Connection, name: str, *, now_us: int) -> int:
    """The number of the experiment ``name``, made if there is none. Raises ``Gone`` when it was deleted."""
    row = connection.execute(select(s.experiments.c.id, s.experiments.c.deleted_us).where(s.experiments.c.name == name)).first()
    if row is None:
        check_experiment(name)
        values = {"name": name, "created_us": now_us, "changed_us": now_us}
        return int(connection.execute(insert(s.experiments).values(**values).returning(s.experiments.c.id)).scalar_one())
    if row.deleted_us is not None:
        raise Gone("this experiment was deleted", address=f"experiment:{name}", next_step="restore it, or choose another name")
    return int(row.id)


def get_experiment(store: Store, experiment: int | str | Address) -> Experiment:
    """An experiment by number, or by name or address; deleted ones too. Raises ``NotFound``."""
    with store.ledger.read() as connection:
        return get_experiment_in(connection, experiment)


def get_experiment_in(connection: Connection, experiment: int | str | Address) -> Experiment:
    """``get_experiment`` inside the caller's transaction."""
    if isinstance(experiment, int):
        row = connection.execute(select(s.experiments).where(s.experiments.c.id == experiment)).first()
        if row is None:
            raise NotFound("there is no experiment of this number", field="experiment_id", got=experiment)
        return _record(row)
    name = experiment.name if isinstance(experiment, Address) else experiment.removeprefix("experiment:")
    found = find_experiment_in(connection, name)
    if found is None:
        raise NotFound("there is no experiment of this name", address=f"experiment:{name}", next_step="run `andon ls experiment`")
    return found


def check_open_in(connection: Connection, experiment: int | str | Address) -> Experiment:
    """An experiment that may be written to. Raises ``NotFound``, or ``Gone`` when it was deleted."""
    found = get_experiment_in(connection, experiment)
    if found.deleted_us is not None:
        raise Gone("this experiment was deleted", address=found.address, next_step="restore it first")
    return found


def find_experiment_in(connection: Connection, name: str) -> Experiment | None:
    """An experiment by name, deleted or not, or None."""
    row = connection.execute(select(s.experiments).where(s.experiments.c.name == name)).first()
    return None if row is None else _record(row)


def rename_experiment(store: Store, experiment: int | str, name: str, *, actor: Actor, reason: str = "") -> Experiment:
    """Give an experiment another name; its tags and their history move with it. Raises ``Conflict`` when the name is taken."""
    now_us = store.clock.now_us()
    return store.ledger.write(lambda c: rename_experiment_in(c, experiment, name, now_us=now_us, actor=actor, reason=reason))


def rename_experiment_in(
    connection: Connection, experiment: int | str, name: str, *, now_us: int, actor: Actor, reason: str = ""
) -> Experiment:
    """``rename_experiment`` inside the caller's transaction."""
    check_experiment(name)
    found = get_experiment_in(connection, experiment)
    if found.name == name:
        return found
    other = find_experiment_in(connection, name)
    if other is not None:
        raise Conflict("there is an experiment of this name already", address=other.address, next_step="choose another name")
    connection.execute(update(s.experiments).where(s.experiments.c.id == found.id).values(name=name, changed_us=now_us))
    for table in (s.tags, s.tag_changes):
        connection.execute(update(table).where(table.c.subject == found.address).values(subject=f"experiment:{name}"))
    told = {"from": found.name, "to": name}
    streams.append(connection, stream_of(found.id), "renamed", told, at_us=now_us, actor=actor, reason=reason)
    return msgspec.structs.replace(found, name=name, changed_us=now_us)


def delete_experiment(store: Store, experiment: int | str, *, actor: Actor, reason: str = "") -> None:
    """Hide an experiment and its runs, and refuse writes to them; ``restore_experiment`` brings them back until retention frees them."""
    now_us = store.clock.now_us()
    store.ledger.write(lambda c: hide_experiment_in(c, experiment, now_us=now_us, actor=actor, reason=reason))


def restore_experiment(store: Store, experiment: int | str, *, actor: Actor, reason: str = "") -> None:
    """Bring a deleted experiment back with all its runs."""
    now_us = store.clock.now_us()
    store.ledger.write(lambda c: hide_experiment_in(c, experiment, now_us=now_us, actor=actor, reason=reason, hidden=False))


def hide_experiment_in(
    connection: Connection, experiment: int | str, *, now_us: int, actor: Actor, reason: str = "", hidden: bool = True
) -> None:
    """``delete_experiment``, or with ``hidden=False`` ``restore_experiment``, inside the caller's transaction."""
    found = get_experiment_in(connection, experiment)
    if (found.deleted_us is not None) == hidden:
        return
    at = s.experiments.c.id == found.id
    connection.execute(update(s.experiments).where(at).values(deleted_us=now_us if hidden else None, changed_us=now_us))
    runs, models = s.runs.c, s.logged_models.c
    for table, columns in ((s.runs, runs), (s.logged_models, models)):
        theirs = columns.experiment == found.id
        theirs &= columns.deleted_us.is_(None) if hidden else columns.deleted_us.is_not(None)
        connection.execute(update(table).where(theirs).values(deleted_us=now_us if hidden else None))
    word = "deleted" if hidden else "restored"
    streams.append(connection, stream_of(found.id), word, {}, at_us=now_us, actor=actor, reason=reason)


def stream_of(number: int) -> str:
    """The event stream of an experiment: by number, since names change and events do not."""
    return f"experiment/{number}"


def list_experiments(store: Store, *, deleted: bool | None = False) -> list[Experiment]:
    """Experiments by number; ``deleted``: only those deleted (True), only the others (False), or all (None)."""
    query = select(s.experiments).order_by(s.experiments.c.id)
    if deleted is not None:
        query = query.where(s.experiments.c.deleted_us.is_not(None) if deleted else s.experiments.c.deleted_us.is_(None))
    with store.ledger.read() as connection:
        return [_record(row) for row in connection.execute(query)]


def _record(row: Any) -> Experiment:
    return Experiment(
        id=row.id,
        name=row.name,
        location=row.location,
        created_us=row.created_us,
        changed_us=row.changed_us,
        deleted_us=row.deleted_us,
    )
