"""An ``mlruns`` folder: one file for every param, tag and metric, as MLflow's file store wrote them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import yaml

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
)

TRASH, META = ".trash", "meta.yaml"
_RESERVED = frozenset({"tags", "datasets", "traces", "models"})
_STATUS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_MODEL_STATUS = {1: "pending", 2: "ready", 3: "failed"}


class Folders:
    """An ``mlruns`` folder on this machine. ``artifacts`` is where ``mlflow-artifacts:`` leads, if a server wrote it."""

    def __init__(self, root: Path, artifacts: Path | None = None) -> None:
        self._root = root.resolve()
        if not self._root.is_dir() or not any((entry / META).is_file() for entry in self._root.iterdir() if entry.is_dir()):
            raise InvalidInput("this is no mlruns folder: no experiment is in it", field="source", got=root)
        self._places = Places(self._root.parent, artifacts)
        self._folders: dict[str, Path] = {}

    @property
    def identity(self) -> str:
        return f"file:{self._root}"

    def close(self) -> None:
        """Nothing is open."""

    def experiments(self) -> Iterator[Experiment]:
        for base in (self._root, self._root / TRASH):
            for folder in _folders(base):
                if folder == self._root / "models" or folder.name == TRASH or not (folder / META).is_file():
                    continue
                meta = _yaml(folder / META)
                identity = str(meta["experiment_id"])
                self._folders[identity] = folder
                yield Experiment(
                    id=identity,
                    name=str(meta["name"]),
                    location=meta.get("artifact_location"),
                    deleted=meta.get("lifecycle_stage") == "deleted" or base.name == TRASH,
                    created_ms=meta.get("creation_time"),
                    tags=_texts(folder / "tags"),
                )

    def runs(self, experiment: str) -> Iterator[Run]:
        folder = self._folder(experiment)
        found = [entry for entry in _folders(folder) if entry.name not in _RESERVED and (entry / META).is_file()]
        metas = sorted(((_yaml(entry / META), entry) for entry in found), key=lambda one: (one[0].get("start_time") or 0, one[1].name))
        for meta, entry in metas:
            status = meta.get("status")
            tags = _texts(entry / "tags")
            yield Run(
                id=str(meta.get("run_id") or meta.get("run_uuid")),
                experiment=experiment,
                name=str(meta.get("run_name") or meta.get("name") or tags.get("mlflow.runName", "")),
                user=str(meta.get("user_id") or ""),
                status=_STATUS.get(status, "FINISHED") if isinstance(status, int) else str(status),
                started_ms=int(meta.get("start_time") or 0),
                ended_ms=meta.get("end_time"),
                deleted=meta.get("lifecycle_stage") == "deleted",
                artifact_uri=str(meta.get("artifact_uri") or (entry / "artifacts").as_uri()),
                params=_texts(entry / "params"),
                tags=tags,
                inputs=tuple(self._inputs(folder, entry)),
                models=tuple(_run_models(entry)),
            )

    def points(self, run: Run) -> Iterator[list[PointRow]]:
        folder = self._folder(run.experiment)
        about = _about_models(folder, run.id)
        page: list[PointRow] = []
        for file in _files(folder / run.id / "metrics"):
            key = file.relative_to(folder / run.id / "metrics").as_posix()
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    if not line.strip():
                        continue
                    at, value, step, dataset, digest = _point(line, file)
                    page.append(PointRow(key, value, step, at, about.get((key, step, at)), dataset, digest))
                    if len(page) == PAGE:
                        yield page
                        page = []
        if page:
            yield page

    def logged_models(self, experiment: str) -> Iterator[LoggedModel]:
        for folder in _folders(self._folder(experiment) / "models"):
            if not (folder / META).is_file():
                continue
            meta = _yaml(folder / META)
            status = meta.get("status")
            yield LoggedModel(
                id=str(meta["model_id"]),
                experiment=experiment,
                name=str(meta["name"]),
                model_type=meta.get("model_type") or None,
                run=meta.get("source_run_id"),
                status=_MODEL_STATUS.get(status, "pending") if isinstance(status, int) else str(status).lower(),
                message=meta.get("status_message"),
                created_ms=int(meta["creation_timestamp"]),
                changed_ms=int(meta.get("last_updated_timestamp") or meta["creation_timestamp"]),
                deleted=meta.get("lifecycle_stage") == "deleted",
                artifact_uri=str(meta.get("artifact_location") or (folder / "artifacts").as_uri()),
                params=_texts(folder / "params"),
                tags=_texts(folder / "tags"),
            )

    def registered_models(self) -> Iterator[RegisteredModel]:
        for folder in _folders(self._root / "models"):
            if not (folder / META).is_file():
                continue
            meta = _yaml(folder / META)
            yield RegisteredModel(
                name=str(meta["name"]),
                description=meta.get("description") or "",
                created_ms=meta.get("creation_timestamp"),
                tags=_texts(folder / "tags"),
                aliases={alias: int(version) for alias, version in _texts(folder / "aliases").items()},
            )

    def versions(self, name: str) -> Iterator[ModelVersion]:
        folder = self._root / "models" / name
        found = [_yaml(entry / META) | {"_folder": entry} for entry in _folders(folder) if entry.name.startswith("version-")]
        for meta in sorted(found, key=lambda one: int(one["version"])):
            if meta.get("current_stage") == "Deleted_Internal":
                continue
            yield ModelVersion(
                name=name,
                version=int(meta["version"]),
                created_ms=meta.get("creation_timestamp"),
                description=meta.get("description") or "",
                user=meta.get("user_id") or "",
                stage=meta.get("current_stage") or "None",
                source=meta.get("source") or "",
                location=meta.get("storage_location"),
                run=meta.get("run_id") or None,
                link=meta.get("run_link") or "",
                tags=_texts(meta["_folder"] / "tags"),
                model=meta.get("model_id"),
            )

    def traces(self, experiment: str) -> Iterator[Trace]:
        for folder in _folders(self._folder(experiment) / "traces"):
            if not (folder / "trace_info.yaml").is_file():
                continue
            info = _yaml(folder / "trace_info.yaml")
            info["tags"] = _texts(folder / "tags")
            info["trace_metadata"] = _texts(folder / "request_metadata")
            if isinstance(info.get("request_time"), str):
                info["request_time_ms"] = int(datetime.fromisoformat(info.pop("request_time")).timestamp() * 1e3)
            info["assessments"] = [_yaml(file) for file in _files(folder / "assessments")]
            spans = folder / "artifacts" / "traces.json"
            yield Trace(id=str(info["trace_id"]), info=info, spans=partial(_spans_of, spans))

    def files(self, uri: str) -> list[File]:
        return self._places.files(uri)

    def open(self, uri: str, path: str) -> IO[bytes]:
        return self._places.open(uri, path)

    def _folder(self, experiment: str) -> Path:
        if not self._folders:
            list(self.experiments())
        return self._folders[experiment]

    def _inputs(self, experiment: Path, run: Path) -> Iterator[Input]:
        for entry in _folders(run / "inputs"):
            link = _yaml(entry / META)
            data = experiment / "datasets" / str(link.get("source_id")) / META
            if link.get("source_type") != "DATASET" or not data.is_file():
                continue
            meta = _yaml(data)
            yield Input(
                name=str(meta["name"]),
                digest=str(meta["digest"]),
                source_type=str(meta["source_type"]),
                source=str(meta["source"]),
                schema=meta.get("schema"),
                profile=meta.get("profile"),
                tags={str(key): str(value) for key, value in (link.get("tags") or {}).items()},
            )


def _run_models(run: Path) -> Iterator[RunModel]:
    for folder, role in (("inputs", "input"), ("outputs", "output")):
        for entry in _folders(run / folder):
            link = _yaml(entry / META)
            if link.get("destination_type") == f"MODEL_{role.upper()}":
                yield RunModel(model=str(link["destination_id"]), role=role, step=int(link.get("step") or 0))


def _about_models(experiment: Path, run: str) -> dict[tuple[str, int, int], str]:
    """Which of a run's points are about a logged model: each model keeps its own with the run's id at the end of the line."""
    found: dict[tuple[str, int, int], str] = {}
    for folder in _folders(experiment / "models"):
        for file in _files(folder / "metrics"):
            key = file.relative_to(folder / "metrics").as_posix()
            for line in file.read_text(encoding="utf-8").splitlines():
                parts = line.split(" ")
                if len(parts) >= 4 and run in parts[3:]:
                    found[key, int(parts[2]), int(parts[0])] = folder.name
    return found


def _point(line: str, file: Path) -> tuple[int, float, int, str | None, str | None]:
    parts = line.strip().split(" ")
    try:
        at, value = int(parts[0]), float(parts[1])
        step = int(parts[2]) if len(parts) > 2 else 0
    except (ValueError, IndexError):
        raise InvalidInput("this line of a metric is damaged", file=file, got=line.strip()[:80]) from None
    about = parts[3:5] if len(parts) >= 5 else [None, None]
    return at, value, step, about[0], about[1]


def _folders(base: Path) -> list[Path]:
    return sorted(entry for entry in base.iterdir() if entry.is_dir()) if base.is_dir() else []


def _files(base: Path) -> list[Path]:
    return sorted(Path(place, name) for place, _, names in os.walk(base) for name in names)


def _texts(base: Path) -> dict[str, str]:
    """Files as texts, by their path below ``base``."""
    return {file.relative_to(base).as_posix(): file.read_text(encoding="utf-8") for file in _files(base)}


def _yaml(file: Path) -> dict[str, Any]:
    try:
        read = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise InvalidInput(f"this file is damaged: {error}", file=file) from None
    if not isinstance(read, dict):
        raise InvalidInput("this file holds no record", file=file)
    return read


def _spans_of(file: Path) -> list[dict[str, Any]]:
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return list(said.get("spans", []))
