"""Runs as the protocol shows them: many at once, in a fixed number of statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from andon.core.clocks import SystemClock
from andon.store.statements import IN_ONE, places, rows_of
from andon.tracking import liveness
from andon.tracking.inputs import described_inputs_in
from andon.tracking.logged_models import run_models_in
from andon.wire.mlflow.rendering_inputs import inputs_json, outputs_json

if TYPE_CHECKING:
    from sqlalchemy import Connection

LARGEST = 1.7976931348623157e308
"""What the protocol's server answers for an infinity, which SQL has no word for; ours keeps it exactly, and says this on the wire."""
_CLOCK = SystemClock()
NAME, PARENT, USER = "mlflow.runName", "mlflow.parentRunId", "mlflow.user"
_BESIDE = ("described_inputs", "run_models")
_INFOS = (
    "select r.id, r.experiment, r.name, r.status, r.started_us, r.ended_us, r.actor, r.parent, r.deleted_us, e.location, l.holder,"
    " l.expires_us, length(r.facts) from runs r join experiments e on e.id = r.experiment"
    " left join leases l on l.name = 'run:' || r.id where r.id in ({})"
)


def runs_json(connection: Connection, ids: Sequence[str], *, alone: bool = False) -> dict[str, dict[str, Any]]:
    """Runs by id, deleted ones too: ``info``, ``data``, ``inputs`` and ``outputs``. Ids that are not there are left out.

    ``alone``: a run that is read by itself says which models went into it, too; in a list none does.
    """
    if len(ids) > IN_ONE:
        return runs_json(connection, ids[:IN_ONE], alone=alone) | runs_json(connection, ids[IN_ONE:], alone=alone)
    if not ids:
        return {}
    spots = places(len(ids))
    infos = {row[0]: row for row in rows_of(connection, _INFOS.format(spots), ids)}
    data: dict[str, dict[str, list[Any]]] = {run: {} for run in infos}
    query = f"select run, key, value, special, at_us, step from series where run in ({spots}) order by run, key"
    for run, key, value, special, at_us, step in rows_of(connection, query, ids):
        if run in data:
            point = {"key": key, "value": shown(value, special) if special else value, "timestamp": at_us // 1000, "step": step}
            data[run].setdefault("metrics", []).append(point)
    for run, key, value in rows_of(connection, f"select run, key, value from params where run in ({spots}) order by run, key", ids):
        if run in data:
            data[run].setdefault("params", []).append({"key": key, "value": value})
    tagged: dict[str, dict[str, str]] = {run: {} for run in infos}
    query = f"select subject, key, value from tags where subject in ({spots}) order by subject, key"
    for subject, key, value in rows_of(connection, query, [f"run:{run}" for run in ids]):
        if subject[4:] in tagged:
            tagged[subject[4:]][key] = value
    # most runs have neither, and to be told so costs less than to read none
    has_inputs, has_models = (rows_of(connection, f"select 1 from {table} where run in ({spots}) limit 1", ids) for table in _BESIDE)
    inputs = described_inputs_in(connection, ids) if has_inputs else {}
    models = run_models_in(connection, ids) if has_models else {}
    made = {}
    for run, row in infos.items():
        told = _tags(row, tagged[run])
        if told:
            data[run]["tags"] = [{"key": key, "value": value} for key, value in told.items()]
        used = models.get(run, [])
        made[run] = {
            "info": info_json(row),
            "data": data[run],
            "inputs": inputs_json(inputs.get(run, []), used if alone else ()),
            "outputs": outputs_json(used),
        }
    return {run: made[run] for run in ids if run in made}


def run_info_json(connection: Connection, run: str) -> dict[str, Any] | None:
    """One run's ``info``; None when there is no such run."""
    rows = rows_of(connection, _INFOS.format("?"), (run,))
    return info_json(rows[0]) if rows else None


def info_json(row: Sequence[Any]) -> dict[str, Any]:
    """``info`` from a row of ``_INFOS``."""
    run, experiment, name, status, started_us, ended_us, actor, _, deleted_us, location, holder, expires_us, _ = row
    if status == "running" and holder and not liveness.is_alive(holder, expires_us, now_us=_CLOCK.now_us()):
        status = "killed"
    info = {
        "run_uuid": run,
        "run_name": name,
        "experiment_id": str(experiment),
        "user_id": user_of(actor),
        "status": status.upper(),
        "start_time": started_us // 1000,
        "end_time": (ended_us or 0) // 1000,
        "artifact_uri": run_artifact_uri(experiment, location, run),
        "lifecycle_stage": "active" if deleted_us is None else "deleted",
        "run_id": run,
    }
    if not ended_us:
        del info["end_time"]
    return info


def _tags(row: Sequence[Any], tags: dict[str, str]) -> dict[str, str]:
    """A run's tags with those that the protocol derives from the run itself: its name, which may have changed since, and its parent."""
    name, actor, parent, facts_bytes = row[2], row[6], row[7], row[12]
    if NAME in tags:
        tags[NAME] = name
    if facts_bytes > 2:  # a run of our own library, which sets no such tags
        tags = {NAME: name, USER: user_of(actor)} | ({PARENT: parent} if parent else {}) | tags
    return tags


def user_of(actor: str) -> str:
    """The protocol's user id: a person's bare name."""
    return actor.removeprefix("person:")


def shown(value: float, special: int) -> float | str:
    """A metric's value on the wire: NaN as text (JSON has no such number), infinities as the largest double.

    >>> shown(0.5, 0), shown(0.0, 1), shown(0.0, 3)
    (0.5, 'NaN', -1.7976931348623157e+308)
    """
    return value if not special else ("NaN", LARGEST, -LARGEST)[special - 1]


def artifact_root(experiment: int, location: str | None) -> str:
    """Where an experiment's artifacts are, as the protocol says it.

    >>> artifact_root(3, None)
    'mlflow-artifacts:/3'
    """
    return location if location is not None else f"mlflow-artifacts:/{experiment}"


def run_artifact_uri(experiment: int, location: str | None, run: str) -> str:
    """Where a run's artifacts are.

    >>> run_artifact_uri(3, "s3://bucket/a?region=x", "r1")
    's3://bucket/a/r1/artifacts?region=x'
    """
    path, mark, query = artifact_root(experiment, location).partition("?")
    return f"{path.rstrip('/')}/{run}/artifacts{mark}{query}"
