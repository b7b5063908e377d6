"""Runs: create, update, read, delete, restore; their tags and params one at a time. (Batches and metrics: ``metrics``.)"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from andon.core.actors import Actor
from andon.core.errors import Conflict, Gone, InvalidInput, NotFound
from andon.registry.tags import remove_tag_in, set_tags_in
from andon.store.statements import rows_of
from andon.tracking.batches import check_run_in, params_in, write_params_in
from andon.tracking.command import AROUND
from andon.tracking.records import RunRecord, RunStatus
from andon.tracking.runs import adopt_run_in, change_run_in, create_run_in, hide_run_in, share_facts_in
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid, missing
from andon.wire.mlflow.limits import MAX_PARAM_VALUE, MAX_TAG_VALUE, check_key, fitted
from andon.wire.mlflow.messages import missing_field, required, wrong_field, wrong_value
from andon.wire.mlflow.rendering_runs import NAME, PARENT, run_artifact_uri, run_info_json, runs_json, user_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["ROUTES", "runs_json"]
T = TypeVar("T")
MAX_MS = (2**63 - 1) // 1000
_STATUSES: tuple[RunStatus, ...] = ("running", "scheduled", "finished", "failed", "killed")  # numbered 1, 2, 3, … by the protocol


class Pair(msgspec.Struct, gc=False):
    """A tag or a param."""

    key: str | None = None
    value: str | None = None


class _CreateRun(msgspec.Struct):
    experiment_id: str | None = None
    user_id: str | None = None
    run_name: str | None = None
    start_time: int | None = None
    tags: list[Pair] | None = None


class RunOnly(msgspec.Struct):
    """A message that names a run; ``run_uuid`` is its old spelling."""

    run_id: str | None = None
    run_uuid: str | None = None


class _UpdateRun(RunOnly):
    status: int | str | None = None
    end_time: int | None = None
    run_name: str | None = None


class _RunPair(RunOnly):
    key: str | None = None
    value: str | None = None


def run_of(message: RunOnly) -> str:
    """The id of the run that a message is about. Raises ``WireError`` when it names none."""
    run = message.run_id if message.run_id is not None else message.run_uuid
    if not run:
        raise missing_field("run_id")
    return run


async def write_to(call: Call, run: str, work: Callable[[Connection], T]) -> T:
    """Write to a run in the next group commit; its absence or deletion is said as the protocol's server does."""
    try:
        return await call.write(work)
    except Gone:
        raise invalid(f"The run {run} must be in the 'active' state. Current state is deleted.") from None
    except NotFound:
        raise _no_run(run) from None


def _no_run(run: str) -> WireError:
    return missing(f"Run with id={run} not found")


def check_ms(number: int | None, name: str) -> int | None:
    """Return a time in milliseconds if the ledger can hold it. Raises ``WireError``."""
    if number is not None and not -MAX_MS <= number <= MAX_MS:
        raise wrong_value(name, number, f"It must be milliseconds since 1970, at most {MAX_MS}.")
    return number


def pairs_of(pairs: Iterable[Pair]) -> dict[str, str]:
    """Pairs as a dict, in their order; the last of a key counts."""
    return {pair.key or "": pair.value or "" for pair in pairs}


async def create_run(call: Call) -> Any:
    """A running run in an experiment that is open; its name is the client's, or else made here."""
    message = call.read(_CreateRun)
    experiment, started_ms = experiment_number(message.experiment_id or "0"), check_ms(message.start_time, "start_time")
    tags = pairs_of(message.tags or ())
    name, tagged = message.run_name or "", tags.get(NAME) or ""
    if name and tagged and name != tagged:
        raise invalid(
            "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values"
            f" (run_name='{name}', mlflow.runName='{tagged}')."
        )
    now_us, run, actor = call.store.clock.now_us(), call.store.ids.new(), _actor_of(message.user_id, call.actor)
    tags[NAME] = name = name or tagged or f"run-{run[-6:].lower()}"
    made = RunRecord(
        id=run,
        experiment="",
        experiment_id=experiment,
        name=name,
        status="running",
        started_us=now_us if started_ms is None else started_ms * 1000,
        ended_us=None,
        actor=str(actor),
        parent=None,
        facts=None,
    )

    def work(connection: Connection) -> str | None:
        location = open_location(connection, experiment)
        create_run_in(connection, made, tags=tags, now_us=now_us, actor=actor)
        around = tags.get(AROUND)
        if around and rows_of(connection, "select 1 from runs where id = ?", (around,)):
            share_facts_in(connection, run, around)
        if tags.get(PARENT) or around:
            adopt_run_in(connection, run, tags.get(PARENT) or around, now_us=now_us)
        return location

    info = {
        "run_uuid": run,
        "run_name": name,
        "experiment_id": str(experiment),
        "user_id": user_of(made.actor),
        "status": "RUNNING",
        "start_time": made.started_us // 1000,
        "artifact_uri": run_artifact_uri(experiment, await call.write(work), run),
        "lifecycle_stage": "active",
        "run_id": run,
    }
    data = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
    return {"run": {"info": info, "data": data, "inputs": {}}}


def experiment_number(text: str) -> int:
    """An experiment's id as a number. Raises ``WireError``."""
    try:
        number = int(text)
    except ValueError:
        raise invalid(f"Invalid experiment ID '{text[:200]}'. Experiment ID must be a valid integer.") from None
    if abs(number) >= 2**63:
        raise missing(f"No Experiment with id={text[:200]} exists")
    return number


def open_location(connection: Connection, experiment: int) -> str | None:
    """The location of an experiment that may be written to. Raises ``WireError``."""
    rows = rows_of(connection, "select location, deleted_us from experiments where id = ?", (experiment,))
    if not rows:
        raise missing(f"No Experiment with id={experiment} exists")
    if rows[0][1] is not None:
        raise invalid(f"The experiment {experiment} must be in the 'active' state. Current state is deleted.")
    return cast("str | None", rows[0][0])


def _actor_of(user: str | None, default: Actor) -> Actor:
    try:
        return Actor.parse(f"person:{user}") if user else default
    except InvalidInput:
        return default


async def update_run(call: Call) -> Any:
    """Status, end and name: each only when it is given."""
    message = call.read(_UpdateRun)
    run, now_us, name = run_of(message), call.store.clock.now_us(), message.run_name or None
    status, end_ms = _status(message.status), check_ms(message.end_time, "end_time")
    ended_us = None if end_ms is None else end_ms * 1000

    def work(connection: Connection) -> Any:
        before = rows_of(connection, "select status from runs where id = ?", (run,))
        changed = None if before and before[0][0] == status else status
        change_run_in(connection, run, actor=call.actor, now_us=now_us, status=changed, ended_us=ended_us, name=name)
        if name is not None:
            set_tags_in(connection, f"run:{run}", {NAME: name}, now_us=now_us, actor=call.actor)
        return run_info_json(connection, run)

    return {"run_info": await write_to(call, run, work)}


def _status(given: int | str | None) -> RunStatus | None:
    if given is None:
        return None
    text = str(given)
    if text.isdecimal() and 1 <= int(text) <= len(_STATUSES):
        return _STATUSES[int(text) - 1]
    if text.isupper() and text.lower() in _STATUSES:
        return cast(RunStatus, text.lower())
    raise wrong_field("status", given)


async def get_run(call: Call) -> Any:
    """A run with its data, deleted or not."""
    run = run_of(call.read(RunOnly))
    found = await call.look(lambda connection: runs_json(connection, [run], alone=True))
    if run not in found:
        raise _no_run(run)
    return {"run": found[run]}


async def delete_run(call: Call) -> None:
    """Hide a run; again is nothing."""
    await _hide(call, hidden=True)


async def restore_run(call: Call) -> None:
    """Bring a run back; of one that is there, nothing."""
    await _hide(call, hidden=False)


async def _hide(call: Call, *, hidden: bool) -> None:
    run, now_us = run_of(call.read(RunOnly)), call.store.clock.now_us()
    await write_to(call, run, lambda c: hide_run_in(c, run, now_us=now_us, actor=call.actor, hidden=hidden))


async def log_param(call: Call) -> None:
    """One param, once: the same value again is nothing."""
    message = call.read(_RunPair)
    run = run_of(message)
    required(message, "key")
    params = checked_params([message], "key")

    def work(connection: Connection) -> None:
        check_run_in(connection, run)
        write_params(connection, run, params, alone=True)

    await write_to(call, run, work)


def checked_params(pairs: Iterable[Pair | _RunPair], path: str = "params[{}].key") -> dict[str, str]:
    """Params whose keys are there, within limits. Raises ``WireError`` naming the first that is wrong."""
    made: dict[str, str] = {}
    for n, pair in enumerate(pairs):
        key = pair.key or ""
        check_key(key, path.format(n), "Param key")
        made[key] = fitted(pair.value or "", "Param value", MAX_PARAM_VALUE)
    return made


def write_params(connection: Connection, run: str, params: Mapping[str, str], *, alone: bool = False) -> None:
    """Write params; one that has another value is said as the protocol's server does, a single one (``alone``) differently."""
    try:
        write_params_in(connection, run, params)
    except Conflict:
        known = params_in(connection, run, list(params))
        changed = [{"key": key, "old_value": known[key], "new_value": params[key]} for key in known if known[key] != params[key]]
        if alone:
            key, old, new = changed[0].values()
            told = f"Param with key='{key}' was already logged with value='{old}' for run ID='{run}'. Attempted logging new value '{new}'."
        else:
            told = f"Params were already logged='{changed}' for run ID='{run}'."
        raise invalid(f"Changing param values is not allowed. {told}") from None


async def set_tag(call: Call) -> None:
    """One tag, new or changed."""
    message = call.read(_RunPair)
    run, now_us = run_of(message), call.store.clock.now_us()
    required(message, "key")
    tags = checked_tags([message], "")

    def work(connection: Connection) -> None:
        check_run_in(connection, run)
        write_tags(connection, run, tags, now_us=now_us, actor=call.actor)

    await write_to(call, run, work)


def checked_tags(pairs: Iterable[Pair | _RunPair], path: str = "tags[{}].") -> dict[str, str]:
    """Tags whose keys are there, within limits; the last of a key counts. Raises ``WireError`` naming the first that is wrong."""
    made: dict[str, str] = {}
    for n, pair in enumerate(pairs):
        key, at = pair.key or "", path.format(n)
        check_key(key, f"{at}key", f"{at}key")
        made[key] = fitted(pair.value or "", f"{at}value", MAX_TAG_VALUE)
    return made


def write_tags(connection: Connection, run: str, tags: Mapping[str, str], *, now_us: int, actor: Actor) -> None:
    """Set tags, and what follows from those that the protocol gives a meaning: the run's name and its parent."""
    if NAME in tags:
        if tags[NAME]:
            change_run_in(connection, run, actor=actor, now_us=now_us, name=tags[NAME])
        else:  # the protocol's server leaves a run its name
            tags = {key: value for key, value in tags.items() if key != NAME}
    if PARENT in tags:
        adopt_run_in(connection, run, tags[PARENT], now_us=now_us)
    set_tags_in(connection, f"run:{run}", tags, now_us=now_us, actor=actor)


async def delete_tag(call: Call) -> None:
    """One tag less."""
    message = call.read(_RunPair)
    run, now_us, key = run_of(message), call.store.clock.now_us(), message.key
    required(message, "key")
    assert key is not None

    def work(connection: Connection) -> None:
        check_run_in(connection, run)
        try:
            remove_tag_in(connection, f"run:{run}", key, now_us=now_us, actor=call.actor)
        except NotFound:
            raise missing(f"No tag with name: {key} in run with id {run}") from None
        if key == PARENT:
            adopt_run_in(connection, run, None, now_us=now_us)

    await write_to(call, run, work)


ROUTES = [
    Route("POST", "2.0/mlflow/runs/create", create_run, "inline"),
    Route("POST", "2.0/mlflow/runs/update", update_run, "inline"),
    Route("GET", "2.0/mlflow/runs/get", get_run, "inline"),
    Route("POST", "2.0/mlflow/runs/delete", delete_run, "inline"),
    Route("POST", "2.0/mlflow/runs/restore", restore_run, "inline"),
    Route("POST", "2.0/mlflow/runs/log-parameter", log_param, "inline"),
    Route("POST", "2.0/mlflow/runs/set-tag", set_tag, "inline"),
    Route("POST", "2.0/mlflow/runs/delete-tag", delete_tag, "inline"),
]
