"""A SQLite file of MLflow 2 or 3, read as it lies: no server, and none of MLflow's code. Tables that an older release lacks are empty."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from andon.core.errors import InvalidInput
from andon.wire.mlflow.importing.places import Places
from andon.wire.mlflow.importing.records import (
    PAGE,
    Experiment,
    File,
    Input,
    LoggedModel,
    ModelVersion,
    PointRow,
    RegisteredModel,
    Run,
    RunModel,
    Trace,
    real,
)

_RUNS_AT_ONCE = 400
_MODEL_STATUS = {1: "pending", 2: "ready", 3: "failed"}


class Database:
    """``sqlite:///FILE``, opened read-only. ``artifacts`` is the folder that the server proxied artifacts to."""

    def __init__(self, file: Path, artifacts: Path | None = None) -> None:
        if not file.is_file():
            raise InvalidInput("there is no such file", field="source", got=file)
        self._file = file.resolve()
        self._connection = sqlite3.connect(f"file:{self._file.as_posix()}?mode=ro", uri=True, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        try:
            self._columns = {
                name: {row[1] for row in self._connection.execute(f'pragma table_info("{name}")')}
                for (name,) in self._connection.execute("select name from sqlite_master where type = 'table'").fetchall()
            }
        except sqlite3.DatabaseError as error:
            raise InvalidInput(f"this is no SQLite database: {error}", field="source", got=file) from None
        if not {"runs", "experiments", "params", "metrics", "tags"} <= set(self._columns):
            raise InvalidInput("this is no MLflow database: it has no runs", field="source", got=file)
        beside = next((folder for folder in (self._file.parent / "mlartifacts", self._file.parent / "mlruns") if folder.is_dir()), None)
        self._places = Places(self._file.parent, artifacts or beside)

    @property
    def identity(self) -> str:
        return f"file:{self._file}"

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def experiments(self) -> Iterator[Experiment]:
        tags = self._pairs("experiment_tags", "experiment_id")
        for row in self._rows("select * from experiments order by experiment_id"):
            yield Experiment(
                id=str(row["experiment_id"]),
                name=row["name"],
                location=row["artifact_location"],
                deleted=row["lifecycle_stage"] == "deleted",
                created_ms=self._get(row, "creation_time"),
                tags=tags[row["experiment_id"]],
            )

    def runs(self, experiment: str) -> Iterator[Run]:
        query = "select * from runs where experiment_id = ? order by start_time, run_uuid"
        rows = self._rows(query, int(experiment))
        for start in range(0, len(rows), _RUNS_AT_ONCE):
            yield from self._some_runs(rows[start : start + _RUNS_AT_ONCE])

    def _some_runs(self, rows: list[sqlite3.Row]) -> Iterator[Run]:
        ids = [row["run_uuid"] for row in rows]
        params, tags = self._pairs("params", "run_uuid", ids), self._pairs("tags", "run_uuid", ids)
        inputs, models = self._inputs(ids), self._run_models(ids)
        for row in rows:
            run = row["run_uuid"]
            yield Run(
                id=run,
                experiment=str(row["experiment_id"]),
                name=row["name"] or tags[run].get("mlflow.runName", ""),
                user=row["user_id"] or "",
                status=row["status"],
                started_ms=row["start_time"] or 0,
                ended_ms=row["end_time"],
                deleted=row["lifecycle_stage"] == "deleted",
                artifact_uri=row["artifact_uri"] or "",
                params=params[run],
                tags=tags[run],
                inputs=tuple(inputs[run]),
                models=tuple(models[run]),
            )

    def points(self, run: Run) -> Iterator[list[PointRow]]:
        about: dict[tuple[Any, ...], tuple[str, str | None, str | None]] = {}
        if "logged_model_metrics" in self._columns:
            for row in self._rows("select * from logged_model_metrics where run_id = ?", run.id):
                key = (row["metric_name"], row["metric_step"], row["metric_timestamp_ms"])
                about[key] = (row["model_id"], row["dataset_name"], row["dataset_digest"])
        cursor = self._connection.execute(
            "select key, value, step, timestamp, is_nan from metrics where run_uuid = ? order by key, step, timestamp, value", (run.id,)
        )
        while rows := cursor.fetchmany(PAGE):
            yield [PointRow(key, real(value, bool(nan)), step, at, *about.get((key, step, at), ())) for key, value, step, at, nan in rows]

    def logged_models(self, experiment: str) -> Iterator[LoggedModel]:
        if "logged_models" not in self._columns:
            return
        rows = self._rows("select * from logged_models where experiment_id = ? order by creation_timestamp_ms, model_id", int(experiment))
        ids = [row["model_id"] for row in rows]
        params = self._pairs("logged_model_params", "model_id", ids, "param_key", "param_value")
        tags = self._pairs("logged_model_tags", "model_id", ids, "tag_key", "tag_value")
        for row in rows:
            status = row["status"]
            yield LoggedModel(
                id=row["model_id"],
                experiment=experiment,
                name=row["name"],
                model_type=row["model_type"] or None,
                run=row["source_run_id"],
                status=_MODEL_STATUS.get(status, "pending") if isinstance(status, int) else str(status).rpartition("_")[2].lower(),
                message=row["status_message"],
                created_ms=row["creation_timestamp_ms"],
                changed_ms=row["last_updated_timestamp_ms"],
                deleted=row["lifecycle_stage"] == "deleted",
                artifact_uri=row["artifact_location"],
                params=params[row["model_id"]],
                tags=tags[row["model_id"]],
            )

    def registered_models(self) -> Iterator[RegisteredModel]:
        if "registered_models" not in self._columns:
            return
        tags = self._pairs("registered_model_tags", "name")
        aliases: dict[str, dict[str, int]] = defaultdict(dict)
        if "registered_model_aliases" in self._columns:
            for row in self._rows("select * from registered_model_aliases order by name, alias"):
                aliases[row["name"]][row["alias"]] = int(row["version"])
        for row in self._rows("select * from registered_models order by name"):
            yield RegisteredModel(
                name=row["name"],
                description=row["description"] or "",
                created_ms=row["creation_time"],
                tags=tags[row["name"]],
                aliases=aliases[row["name"]],
            )

    def versions(self, name: str) -> Iterator[ModelVersion]:
        tags: dict[int, dict[str, str]] = defaultdict(dict)
        for row in self._rows("select * from model_version_tags where name = ?", name):
            tags[int(row["version"])][row["key"]] = row["value"]
        for row in self._rows("select * from model_versions where name = ? order by version", name):
            if row["current_stage"] == "Deleted_Internal":
                continue
            yield ModelVersion(
                name=name,
                version=int(row["version"]),
                created_ms=row["creation_time"],
                description=row["description"] or "",
                user=row["user_id"] or "",
                stage=row["current_stage"] or "None",
                source=row["source"] or "",
                location=self._get(row, "storage_location"),
                run=row["run_id"] or None,
                link=row["run_link"] or "",
                tags=tags[int(row["version"])],
            )

    def traces(self, experiment: str) -> Iterator[Trace]:
        if "trace_info" not in self._columns or "spans" not in self._columns:
            return
        rows = self._rows("select * from trace_info where experiment_id = ? order by timestamp_ms, request_id", int(experiment))
        for start in range(0, len(rows), _RUNS_AT_ONCE):
            some = rows[start : start + _RUNS_AT_ONCE]
            ids = [row["request_id"] for row in some]
            tags, metadata = self._pairs("trace_tags", "request_id", ids), self._pairs("trace_request_metadata", "request_id", ids)
            for row in some:
                trace = row["request_id"]
                yield Trace(id=trace, info=self._trace_info(row, tags[trace], metadata[trace]), spans=partial(self._spans, trace))

    def _trace_info(self, row: sqlite3.Row, tags: dict[str, str], metadata: dict[str, str]) -> dict[str, Any]:
        location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": str(row["experiment_id"])}}
        info: dict[str, Any] = {
            "trace_id": row["request_id"],
            "trace_location": location,
            "request_time_ms": row["timestamp_ms"],
            "execution_duration_ms": row["execution_time_ms"],
            "state": row["status"],
            "tags": tags,
            "trace_metadata": metadata,
            "client_request_id": self._get(row, "client_request_id"),
            "request_preview": self._get(row, "request_preview"),
            "response_preview": self._get(row, "response_preview"),
        }
        if "assessments" in self._columns:
            rows = self._rows("select * from assessments where trace_id = ? order by created_timestamp, assessment_id", row["request_id"])
            info["assessments"] = [{key: one[key] for key in one.keys()} for one in rows]  # noqa: SIM118 - a row iterates over its values
        return info

    def _spans(self, trace: str) -> list[dict[str, Any]]:
        rows = self._rows("select content from spans where trace_id = ? order by start_time_unix_nano, span_id", trace)
        return [json.loads(row["content"]) for row in rows]

    def files(self, uri: str) -> list[File]:
        return self._places.files(uri)

    def open(self, uri: str, path: str) -> IO[bytes]:
        return self._places.open(uri, path)

    def _inputs(self, ids: list[str]) -> dict[str, list[Input]]:
        found: dict[str, list[Input]] = defaultdict(list)
        if not {"inputs", "datasets", "input_tags"} <= set(self._columns):
            return found
        tags: dict[str, dict[str, str]] = defaultdict(dict)
        places = ", ".join("?" * len(ids))
        joined = f"from inputs i where i.source_type = 'DATASET' and i.destination_type = 'RUN' and i.destination_id in ({places})"
        for row in self._rows(f"select t.* from input_tags t where t.input_uuid in (select i.input_uuid {joined})", *ids):
            tags[row["input_uuid"]][row["name"]] = row["value"]
        query = (
            "select i.input_uuid, i.destination_id, d.* from inputs i join datasets d on d.dataset_uuid = i.source_id"
            f" where i.source_type = 'DATASET' and i.destination_type = 'RUN' and i.destination_id in ({places}) order by i.input_uuid"
        )
        for row in self._rows(query, *ids):
            found[row["destination_id"]].append(
                Input(
                    name=row["name"],
                    digest=row["digest"],
                    source_type=row["dataset_source_type"],
                    source=row["dataset_source"],
                    schema=row["dataset_schema"],
                    profile=row["dataset_profile"],
                    tags=tags[row["input_uuid"]],
                )
            )
        return found

    def _run_models(self, ids: list[str]) -> dict[str, list[RunModel]]:
        found: dict[str, list[RunModel]] = defaultdict(list)
        if "step" not in self._columns.get("inputs", ()):
            return found
        places = ", ".join("?" * len(ids))
        query = f"select * from inputs where source_type = 'RUN_INPUT' and destination_type = 'MODEL_INPUT' and source_id in ({places})"
        for row in self._rows(query + " order by destination_id", *ids):
            found[row["source_id"]].append(RunModel(model=row["destination_id"], role="input"))
        query = f"select * from inputs where source_type = 'RUN_OUTPUT' and destination_type = 'MODEL_OUTPUT' and source_id in ({places})"
        for row in self._rows(query + " order by step, destination_id", *ids):
            found[row["source_id"]].append(RunModel(model=row["destination_id"], role="output", step=row["step"]))
        return found

    def _pairs(
        self, table: str, owner: str, owners: list[str] | None = None, key: str = "key", value: str = "value"
    ) -> defaultdict[Any, dict[str, str]]:
        found: defaultdict[Any, dict[str, str]] = defaultdict(dict)
        if table not in self._columns:
            return found
        where = "" if owners is None else f" where {owner} in ({', '.join('?' * len(owners))})"
        for row in self._rows(f"select * from {table}{where} order by {owner}, {key}", *(owners or ())):
            found[row[owner]][row[key]] = row[value] if row[value] is not None else ""
        return found

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return self._connection.execute(query, values).fetchall()

    @staticmethod
    def _get(row: sqlite3.Row, name: str) -> Any:
        return row[name] if name in row.keys() else None  # noqa: SIM118 - a row iterates over its values
