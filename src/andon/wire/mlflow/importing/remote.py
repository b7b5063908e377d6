"""A running MLflow server, asked over its REST API: whatever store is behind it."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
from collections.abc import Iterator
from functools import partial
from typing import IO, Any, cast
from urllib.parse import quote, urlencode, urlsplit

from andon.core.errors import InvalidInput, NotFound, Unavailable
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

TIMEOUT_S = 60.0
HISTORY_PAGE = 25_000
_PROMPTS = "tags.`mlflow.prompt.is_prompt` = 'true'"


class Remote:
    """``http://…`` or ``https://…``. The client's own variables say who asks: ``MLFLOW_TRACKING_USERNAME``, ``…_PASSWORD``, ``…_TOKEN``."""

    def __init__(self, url: str) -> None:
        split = urlsplit(url)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise InvalidInput("a server is named by an http or https URL", field="source", got=url[:200])
        self._url, self._split = url.rstrip("/"), split
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {"accept": "application/json"} | _credentials()
        self._versions: dict[str, str] = {}

    @property
    def identity(self) -> str:
        return self._url

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()

    def experiments(self) -> Iterator[Experiment]:
        for one in self._pages(
            "POST", "2.0/mlflow/experiments/search", {"view_type": "ALL", "order_by": ["creation_time ASC"]}, "experiments"
        ):
            yield Experiment(
                id=str(one["experiment_id"]),
                name=one["name"],
                location=one.get("artifact_location"),
                deleted=one.get("lifecycle_stage") == "deleted",
                created_ms=_int(one.get("creation_time")),
                tags=_pairs(one.get("tags")),
            )

    def runs(self, experiment: str) -> Iterator[Run]:
        asked = {"experiment_ids": [experiment], "run_view_type": "ALL", "order_by": ["attributes.start_time ASC", "attributes.run_id ASC"]}
        for one in self._pages("POST", "2.0/mlflow/runs/search", asked, "runs"):
            info, data = one["info"], one.get("data", {})
            tags = _pairs(data.get("tags"))
            yield Run(
                id=info["run_id"],
                experiment=experiment,
                name=info.get("run_name") or tags.get("mlflow.runName", ""),
                user=info.get("user_id", ""),
                status=info.get("status", "RUNNING"),
                started_ms=_int(info.get("start_time")) or 0,
                ended_ms=_int(info.get("end_time")),
                deleted=info.get("lifecycle_stage") == "deleted",
                artifact_uri=info.get("artifact_uri", ""),
                params=_pairs(data.get("params")),
                tags=tags,
                inputs=tuple(_input(item) for item in one.get("inputs", {}).get("dataset_inputs", [])),
                models=(
                    *(RunModel(model=item["model_id"], role="input") for item in one.get("inputs", {}).get("model_inputs", [])),
                    *(
                        RunModel(model=item["model_id"], role="output", step=_int(item.get("step")) or 0)
                        for item in one.get("outputs", {}).get("model_outputs", [])
                    ),
                ),
            )

    def points(self, run: Run) -> Iterator[list[PointRow]]:
        data = self._ask("GET", "2.0/mlflow/runs/get", {"run_id": run.id})["run"].get("data", {})
        for key in sorted(metric["key"] for metric in data.get("metrics", [])):
            asked = {"run_id": run.id, "metric_key": key, "max_results": HISTORY_PAGE}
            page = []
            for one in self._pages("GET", "2.0/mlflow/metrics/get-history", asked, "metrics"):
                about = (one.get("model_id"), one.get("dataset_name"), one.get("dataset_digest"))
                page.append(PointRow(key, real(float(one["value"])), _int(one.get("step")) or 0, _int(one["timestamp"]) or 0, *about))
                if len(page) == PAGE:
                    yield page
                    page = []
            if page:
                yield page

    def logged_models(self, experiment: str) -> Iterator[LoggedModel]:
        try:
            for one in self._pages("POST", "2.0/mlflow/logged-models/search", {"experiment_ids": [experiment]}, "models"):
                info, data = one["info"], one.get("data", {})
                yield LoggedModel(
                    id=info["model_id"],
                    experiment=experiment,
                    name=info["name"],
                    model_type=info.get("model_type") or None,
                    run=info.get("source_run_id") or None,
                    status=info.get("status", "LOGGED_MODEL_PENDING").rpartition("_")[2].lower(),
                    message=info.get("status_message"),
                    created_ms=_int(info["creation_timestamp_ms"]) or 0,
                    changed_ms=_int(info.get("last_updated_timestamp_ms")) or 0,
                    deleted=False,
                    artifact_uri=info["artifact_uri"],
                    params=_pairs(data.get("params")),
                    tags=_pairs(info.get("tags")),
                )
        except NotFound:  # a server of before they were
            return

    def registered_models(self) -> Iterator[RegisteredModel]:
        seen: set[str] = set()
        for asked in ({}, {"filter": _PROMPTS}):
            for one in self._pages("GET", "2.0/mlflow/registered-models/search", dict(asked), "registered_models"):
                if one["name"] in seen:
                    continue
                seen.add(one["name"])
                whole = self._ask("GET", "2.0/mlflow/registered-models/get", {"name": one["name"]})["registered_model"]
                yield RegisteredModel(
                    name=one["name"],
                    description=whole.get("description", ""),
                    created_ms=_int(whole.get("creation_timestamp")),
                    tags=_pairs(whole.get("tags")),
                    aliases={alias["alias"]: int(alias["version"]) for alias in whole.get("aliases", [])},
                )

    def versions(self, name: str) -> Iterator[ModelVersion]:
        quoted = "'" + name.replace("'", "''") + "'" if "'" not in name else f'"{name}"'
        asked = {"filter": f"name = {quoted}", "order_by": ["version_number ASC"]}
        for one in self._pages("GET", "2.0/mlflow/model-versions/search", asked, "model_versions"):
            version = {"name": name, "version": one["version"]}
            found = self._ask("GET", "2.0/mlflow/model-versions/get-download-uri", version)
            yield ModelVersion(
                name=name,
                version=int(one["version"]),
                created_ms=_int(one.get("creation_timestamp")),
                description=one.get("description", ""),
                user=one.get("user_id", ""),
                stage=one.get("current_stage", "None"),
                source=one.get("source", ""),
                location=found.get("artifact_uri"),
                run=one.get("run_id") or None,
                link=one.get("run_link", ""),
                tags=_pairs(one.get("tags")),
                model=one.get("model_id"),
            )

    def traces(self, experiment: str) -> Iterator[Trace]:
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
        try:
            for info in self._pages("POST", "3.0/mlflow/traces/search", {"locations": [place], "max_results": 100}, "traces"):
                yield Trace(id=info["trace_id"], info=info, spans=partial(self._spans, info))
        except NotFound:  # a server of before they were
            return

    def _spans(self, info: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            whole = self._ask("GET", "3.0/mlflow/traces/get", {"trace_id": info["trace_id"]})
            return list(whole.get("trace", {}).get("spans", []))
        except (NotFound, InvalidInput, _ServerFailed) as error:  # 500 is also what a server says whose spans are files
            location = info.get("tags", {}).get("mlflow.artifactLocation")
            if location is None:
                if isinstance(error, _ServerFailed):
                    raise NotFound(f"the server does not give its spans: {error.message}", trace=info["trace_id"]) from None
                return []
            try:
                with self.open(location, "traces.json") as stream:
                    return list(json.load(stream).get("spans", []))
            except NotFound:  # a trace that was begun and has none
                return []
            except _ServerFailed:
                raise NotFound(f"the server does not give its spans: {error.message}", trace=info["trace_id"]) from None

    def files(self, uri: str) -> list[File]:
        root = self._proxied(uri)
        found: list[File] = []
        folders = [""]
        while folders:
            folder = folders.pop()
            said = self._ask("GET", "2.0/mlflow-artifacts/artifacts", {"path": "/".join(part for part in (root, folder) if part)})
            for one in said.get("files", []):
                path = f"{folder}/{one['path']}" if folder else one["path"]
                if one.get("is_dir"):
                    folders.append(path)
                else:
                    found.append(File(path, _int(one.get("file_size")) or 0))
        return sorted(found)

    def open(self, uri: str, path: str) -> IO[bytes]:
        target = "/api/2.0/mlflow-artifacts/artifacts/" + quote(f"{self._proxied(uri)}/{path}")
        return cast("IO[bytes]", io.BufferedReader(_Body(self._send("GET", target, None)), 1 << 20))

    def _proxied(self, uri: str) -> str:
        split = urlsplit(uri)
        if split.scheme != "mlflow-artifacts":
            raise NotFound(
                "the server does not proxy these files", uri=uri, next_step="import from the machine that can read them: the SQLite file"
            )
        return split.path.strip("/")

    def _pages(self, method: str, path: str, asked: dict[str, Any], field: str) -> Iterator[dict[str, Any]]:
        asked = {"max_results": PAGE} | asked
        while True:
            said = self._ask(method, path, asked)
            yield from said.get(field, [])
            token = said.get("next_page_token")
            if not token:
                return
            asked["page_token"] = token

    def _ask(self, method: str, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        target = f"/api/{path}" + ("?" + urlencode(asked, doseq=True) if method == "GET" else "")
        answer = self._send(method, target, None if method == "GET" else json.dumps(asked).encode())
        return dict(json.loads(answer.read() or b"{}"))

    def _send(self, method: str, target: str, body: bytes | None) -> http.client.HTTPResponse:
        headers = self._headers | ({"content-type": "application/json"} if body is not None else {})
        for again in (True, False):
            if self._connection is None:
                kind = http.client.HTTPSConnection if self._split.scheme == "https" else http.client.HTTPConnection
                self._connection = kind(self._split.hostname or "", self._split.port, timeout=TIMEOUT_S)
            try:
                self._connection.request(method, self._split.path.rstrip("/") + target, body, headers)
                answer = self._connection.getresponse()
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                self._connection = None
                if not again:
                    raise Unavailable(f"the server does not answer: {error}", url=self._url) from error
        if answer.status == 200:
            return answer
        said = answer.read().decode("utf-8", "replace")
        if answer.status == 404:
            raise NotFound(f"the server has no such thing: {said[:300]}", url=self._url + target[:200])
        if answer.status in (401, 403):
            raise InvalidInput(
                "the server wants to know who asks", status=answer.status, next_step="set MLFLOW_TRACKING_USERNAME and _PASSWORD"
            )
        if answer.status < 500:
            raise InvalidInput(f"the server refused: {said[:300]}", url=self._url + target[:200])
        raise _ServerFailed(f"the server failed ({answer.status}): {said[:300]}", url=self._url + target[:200])


class _ServerFailed(Unavailable):
    """It answered, with a failure of its own."""


class _Body(io.RawIOBase):
    """An answer's body as a stream; read to its end at the close, so that the connection can be used again."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._answer.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            while self._answer.read(1 << 20):
                pass
        super().close()


def _credentials() -> dict[str, str]:
    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    if token:
        return {"authorization": f"Bearer {token}"}
    if user:
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    return {}


def _input(said: dict[str, Any]) -> Input:
    data = said["dataset"]
    return Input(
        name=data["name"],
        digest=data["digest"],
        source_type=data.get("source_type", ""),
        source=data.get("source", ""),
        schema=data.get("schema"),
        profile=data.get("profile"),
        tags=_pairs(said.get("tags")),
    )


def _pairs(said: Any) -> dict[str, str]:
    return {one["key"]: one.get("value", "") for one in said or ()}


def _int(value: Any) -> int | None:
    return None if value is None else int(value)
