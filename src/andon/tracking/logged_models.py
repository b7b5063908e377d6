"""Logged models: what a run made and may be registered later. A model has params, tags and files of its own, and a status.

Its params live beside those of runs, its tags under ``logged-model:ID``, its files under the same owner. What a run measured of it is in
``model_metrics``: the run's points again, with the model and maybe the dataset that they are about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from sqlalchemy import Connection, insert, select, update

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.errors import Conflict, Gone, InvalidInput, NotFound
from andon.core.texts import check_text
from andon.registry import link_in
from andon.registry.tags import remove_tag_in, set_tags_in
from andon.store import Store, streams
from andon.store import schema as s
from andon.store.statements import IN_ONE, places, rows_of
from andon.tracking.batches import check_run_in, write_params_in
from andon.tracking.experiments import get_experiment_in
from andon.tracking.model_points import ModelMetric, ModelPoint, known_models_in, log_model_points_in, model_metrics_in

ModelStatus = Literal["pending", "ready", "failed"]
MAX_NAME_CHARACTERS = 500
MAX_KEY_CHARACTERS = 250
MAX_PARAM_BYTES = 400_000
_STATUSES = ("pending", "ready", "failed")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class RunModel(msgspec.Struct, frozen=True, kw_only=True):
    """A logged model that went into a run or came out of it. ``step`` is of outputs: the training step at which it was logged."""

    model: str
    role: Literal["input", "output"]
    step: int = 0


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A registered version that was made from a logged model. ``title`` is what a foreign client calls the entry, if not by its name."""

    address: str
    name: str
    version: int
    title: str | None = None


class LoggedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A logged model as the ledger has it. ``run`` is the id of the run that made it, as the client said it."""

    id: str
    experiment_id: int
    location: str | None
    """Where the experiment's clients keep artifacts themselves; None: in this store."""
    name: str
    model_type: str | None = None
    run: str | None = None
    status: ModelStatus = "pending"
    message: str | None = None
    created_us: int
    changed_us: int
    deleted_us: int | None = None
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: tuple[ModelMetric, ...] = ()
    """Every point about it, by key, then time."""
    registrations: tuple[Registration, ...] = ()

    @property
    def address(self) -> str:
        """``logged-model:ID``."""
        return address_of(self.id)


def address_of(model: str) -> str:
    """The address of a logged model, by its id."""
    return f"logged-model:{model}"


def new_model_id(store: Store) -> str:
    """``m-`` and 32 hexadecimal digits, which sort by creation."""
    number = 0
    for letter in store.ids.new():
        number = number << 5 | _CROCKFORD.index(letter)
    return f"m-{number:032x}"


def create_logged_model(
    store: Store,
    experiment: int,
    *,
    name: str = "",
    model_type: str | None = None,
    run: str | None = None,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    actor: Actor,
) -> LoggedModel:
    """Add a pending model; durable on return. ``run`` is the id of the run that makes it, which need not be here.

    Raises ``NotFound`` or ``Gone`` for the experiment, ``InvalidInput`` naming the field.
    """
    made, now_us = new_model_id(store), store.clock.now_us()
    return store.ledger.write(
        lambda c: create_logged_model_in(
            c, made, experiment, name=name, model_type=model_type, run=run, params=params, tags=tags, now_us=now_us, actor=actor
        )
    )


def create_logged_model_in(
    connection: Connection,
    model: str,
    experiment: int,
    *,
    name: str = "",
    model_type: str | None = None,
    run: str | None = None,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    now_us: int,
    actor: Actor,
) -> LoggedModel:
    """``create_logged_model`` inside the caller's transaction, given ``new_model_id(store)``."""
    for field, text in (("name", name), ("model_type", model_type), ("run", run)):
        if text is not None and len(text) > MAX_NAME_CHARACTERS:
            raise InvalidInput(f"'{field}' exceeds the maximum length of {MAX_NAME_CHARACTERS} characters", field=field, got=len(text))
        check_text(text or "", field, at_most=4 * MAX_NAME_CHARACTERS)
    around = get_experiment_in(connection, experiment)
    if around.deleted_us is not None:
        raise Gone("this experiment was deleted", address=around.address, deleted_us=around.deleted_us, next_step="restore it first")
    made = LoggedModel(
        id=model,
        experiment_id=experiment,
        location=around.location,
        name=name or f"model-{model[-6:]}",
        model_type=model_type or None,
        run=run or None,
        created_us=now_us,
        changed_us=now_us,
        params=dict(params or {}),
        tags=dict(tags or {}),
    )
    row = {
        "id": made.id,
        "experiment": experiment,
        "name": made.name,
        "model_type": made.model_type,
        "run": made.run,
        "status": made.status,
        "created_us": now_us,
        "changed_us": now_us,
    }
    connection.execute(insert(s.logged_models).values(row))
    if made.run and connection.execute(select(s.runs.c.id).where(s.runs.c.id == made.run)).first() is not None:
        link_in(connection, made.address, f"run:{made.run}", "run", now_us=now_us)
    streams.append(connection, made.address, "created", {}, at_us=now_us, actor=actor)
    if made.params:
        write_params_in(connection, model, _checked(made.params))
    if made.tags:
        set_tags_in(connection, made.address, made.tags, now_us=now_us, actor=actor, fresh=True)
    return made


def get_logged_model(store: Store, model: str) -> LoggedModel:
    """A logged model by id, deleted ones too. Raises ``NotFound``."""
    with store.ledger.read() as connection:
        return get_logged_model_in(connection, model)


def get_logged_model_in(connection: Connection, model: str) -> LoggedModel:
    """``get_logged_model`` inside the caller's transaction."""
    found = get_logged_models_in(connection, [model])
    if not found:
        raise NotFound("there is no such logged model", address=address_of(model))
    return found[0]


def get_logged_models_in(connection: Connection, models: Sequence[str]) -> list[LoggedModel]:
    """Logged models in the order asked for, deleted ones too, with all that hangs on them; those that are not there are left out."""
    found: dict[str, LoggedModel] = {}
    for start in range(0, len(models), IN_ONE):
        part = list(models[start : start + IN_ONE])
        params, tags = _texts_in(connection, part)
        metrics, registrations = model_metrics_in(connection, part), _registrations_in(connection, part)
        query = select(s.logged_models, s.experiments.c.location)
        query = query.join_from(s.logged_models, s.experiments, s.experiments.c.id == s.logged_models.c.experiment)
        for row in connection.execute(query.where(s.logged_models.c.id.in_(part))):
            found[row.id] = LoggedModel(
                id=row.id,
                experiment_id=row.experiment,
                location=row.location,
                name=row.name,
                model_type=row.model_type,
                run=row.run,
                status=row.status,
                message=row.message,
                created_us=row.created_us,
                changed_us=row.changed_us,
                deleted_us=row.deleted_us,
                params=params.get(row.id, {}),
                tags=tags.get(row.id, {}),
                metrics=tuple(metrics.get(row.id, ())),
                registrations=tuple(registrations.get(row.id, ())),
            )
    return [found[model] for model in models if model in found]


def _texts_in(connection: Connection, models: list[str]) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    params: dict[str, dict[str, str]] = {}
    for row in connection.execute(select(s.params).where(s.params.c.run.in_(models)).order_by(s.params.c.key)):
        params.setdefault(row.run, {})[row.key] = row.value
    tags: dict[str, dict[str, str]] = {}
    subjects = [address_of(model) for model in models]
    for row in connection.execute(select(s.tags).where(s.tags.c.subject.in_(subjects)).order_by(s.tags.c.key)):
        tags.setdefault(row.subject.partition(":")[2], {})[row.key] = row.value
    return params, tags


def _registrations_in(connection: Connection, models: list[str]) -> dict[str, list[Registration]]:
    """Versions that were made from these models and are not deleted."""
    at = s.edges.c
    query = select(at.child, at.parent).where(at.parent.in_([address_of(model) for model in models]), at.role == "logged-model")
    edges = [(Address.parse(row.child), row.parent) for row in connection.execute(query.order_by(at.at_us, at.child))]
    names = sorted({child.name for child, _ in edges if child.kind == "model" and child.version is not None})
    if not names:
        return {}
    entries, versions = s.entries.c, s.versions.c
    living = select(entries.name, versions.version, entries.title).join_from(
        s.versions, s.entries, (entries.kind == versions.kind) & (entries.name == versions.name)
    )
    living = living.where(versions.kind == "model", versions.name.in_(names), versions.deleted_us.is_(None))
    titles = {(row.name, row.version): row.title for row in connection.execute(living)}
    found: dict[str, list[Registration]] = {}
    for child, parent in edges:
        key = (child.name, child.version)
        if child.kind == "model" and child.version is not None and key in titles:
            made = Registration(address=str(child), name=child.name, version=child.version, title=titles[key])
            found.setdefault(parent.partition(":")[2], []).append(made)
    return found


def finalize_logged_model(store: Store, model: str, status: ModelStatus, *, actor: Actor) -> LoggedModel:
    """Say that a model is ``ready`` or ``failed``, or ``pending`` again. Raises ``NotFound``, or ``InvalidInput`` for another status."""
    now_us = store.clock.now_us()
    return store.ledger.write(lambda c: finalize_logged_model_in(c, model, status, now_us=now_us, actor=actor))


def finalize_logged_model_in(connection: Connection, model: str, status: ModelStatus, *, now_us: int, actor: Actor) -> LoggedModel:
    """``finalize_logged_model`` inside the caller's transaction."""
    if status not in _STATUSES:
        raise InvalidInput(f"a logged model's status is one of {', '.join(_STATUSES)}", field="status", got=str(status)[:40])
    found = get_logged_model_in(connection, model)
    connection.execute(update(s.logged_models).where(s.logged_models.c.id == model).values(status=status, changed_us=now_us))
    streams.append(connection, found.address, status, {}, at_us=now_us, actor=actor)
    return msgspec.structs.replace(found, status=status, changed_us=now_us)


def delete_logged_model(store: Store, model: str, *, actor: Actor, reason: str = "") -> None:
    """Hide a model from reads and searches until ``restore_logged_model``; deleting it again is nothing. Raises ``NotFound``."""
    _hide(store, model, store.clock.now_us(), actor, reason, hidden=True)


def restore_logged_model(store: Store, model: str, *, actor: Actor, reason: str = "") -> None:
    """Bring a deleted model back. Raises ``NotFound``."""
    _hide(store, model, store.clock.now_us(), actor, reason, hidden=False)


def _hide(store: Store, model: str, now_us: int, actor: Actor, reason: str, *, hidden: bool) -> None:
    def work(connection: Connection) -> None:
        at = s.logged_models.c
        row = connection.execute(select(at.deleted_us).where(at.id == model)).first()
        if row is None:
            raise NotFound("there is no such logged model", address=address_of(model))
        if (row[0] is not None) == hidden:
            return
        values = {"deleted_us": now_us if hidden else None, "changed_us": now_us}
        connection.execute(update(s.logged_models).where(at.id == model).values(values))
        word = "deleted" if hidden else "restored"
        streams.append(connection, address_of(model), word, {}, at_us=now_us, actor=actor, reason=reason)

    store.ledger.write(work)


def log_model_params_in(connection: Connection, model: str, params: Mapping[str, str]) -> None:
    """Add params, each written once. Raises ``NotFound`` for the model, ``Conflict`` naming a param that has another value."""
    check_logged_models_in(connection, [model])
    write_params_in(connection, model, _checked(params))


def set_logged_model_tags_in(connection: Connection, model: str, tags: Mapping[str, str], *, now_us: int, actor: Actor) -> None:
    """Set tags. Raises ``NotFound`` for the model."""
    check_logged_models_in(connection, [model])
    set_tags_in(connection, address_of(model), tags, now_us=now_us, actor=actor)


def delete_logged_model_tag_in(connection: Connection, model: str, key: str, *, now_us: int, actor: Actor) -> None:
    """Remove a tag. Raises ``NotFound`` for the model or the tag."""
    check_logged_models_in(connection, [model])
    remove_tag_in(connection, address_of(model), key, now_us=now_us, actor=actor)


def log_run_models_in(connection: Connection, run: str, models: Sequence[RunModel], *, now_us: int, actor: Actor) -> None:  # noqa: ARG001 - every write takes an actor
    """Record which models went into a run or came out of it; again is nothing. Lineage is written for models that are here.

    Raises ``NotFound`` or ``Gone`` for the run, ``Conflict`` for an output that has another step already.
    """
    check_run_in(connection, run)
    table = s.run_models
    known = {(row.model, row.role): row.step for row in connection.execute(select(table).where(table.c.run == run))}
    fresh: dict[tuple[str, str], RunModel] = {}
    for item in models:
        check_text(item.model, "model_id", at_most=MAX_NAME_CHARACTERS)
        before = known.get((item.model, item.role))
        if before is None:
            fresh[item.model, item.role] = item
            known[item.model, item.role] = item.step
        elif before != item.step and item.role == "output":
            raise Conflict("this model came out of the run at another step already", field="step", found=before, got=item.step)
    if not fresh:
        return
    connection.execute(insert(table), [{"run": run, "model": item.model, "role": item.role, "step": item.step} for item in fresh.values()])
    here = known_models_in(connection, [item.model for item in fresh.values()])
    for item in fresh.values():
        if item.model in here and item.role == "input":
            link_in(connection, f"run:{run}", address_of(item.model), "model", now_us=now_us)
        elif item.model in here:
            link_in(connection, address_of(item.model), f"run:{run}", "run", now_us=now_us)


def run_models_in(connection: Connection, runs: Sequence[str]) -> dict[str, list[RunModel]]:
    """Which models went into each of these runs and came out of it, by model; runs with none are left out."""
    found: dict[str, list[RunModel]] = {}
    for start in range(0, len(runs), IN_ONE):
        part = runs[start : start + IN_ONE]
        query = f"select run, model, role, step from run_models where run in ({places(len(part))}) order by run, model"
        for run, model, role, step in rows_of(connection, query, part):
            found.setdefault(run, []).append(RunModel(model=model, role=role, step=step))
    return found


def check_logged_models_in(connection: Connection, models: Sequence[str]) -> None:
    """Raise ``NotFound`` naming a logged model that is not there; deleted ones are."""
    missing = set(models) - known_models_in(connection, models)
    if missing:
        raise NotFound("there is no such logged model", address=address_of(min(missing)[:80]))


def _checked(texts: Mapping[str, str]) -> dict[str, str]:
    for key, value in texts.items():
        if not key or len(key) > MAX_KEY_CHARACTERS:
            raise InvalidInput(f"a key has 1 to {MAX_KEY_CHARACTERS} characters", field="key", got=key[:80])
        check_text(key, "key", at_most=4 * MAX_KEY_CHARACTERS)
        check_text(value, "value", at_most=MAX_PARAM_BYTES)
    return dict(texts)


__all__ = [
    "LoggedModel",
    "ModelMetric",
    "ModelPoint",
    "ModelStatus",
    "Registration",
    "RunModel",
    "address_of",
    "check_logged_models_in",
    "create_logged_model",
    "create_logged_model_in",
    "delete_logged_model",
    "delete_logged_model_tag_in",
    "finalize_logged_model",
    "finalize_logged_model_in",
    "get_logged_model",
    "get_logged_model_in",
    "get_logged_models_in",
    "log_model_params_in",
    "log_model_points_in",
    "log_run_models_in",
    "new_model_id",
    "restore_logged_model",
    "run_models_in",
    "set_logged_model_tags_in",
]
